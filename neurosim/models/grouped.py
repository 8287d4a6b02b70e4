"""Pointwise convolutions in groups."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from neurosim.pointwise import pointwise


class GroupedPointwise(nn.Conv2d):
    """``nn.Conv2d`` with 1x1 kernels: the same sums, weights and keys, sooner on a CPU (:func:`pointwise`).

    On crossbars it is an ``nn.Conv2d`` like any other.

    Args:
        inputs, outputs: channels; multiples of ``groups``.
        groups: blocks on the diagonal.
        bias: whether there is one.

    Shapes: (B, inputs, H, W) -> (B, outputs, H, W).

    >>> import torch
    >>> layer, x = GroupedPointwise(6, 4, groups=2), torch.rand(5, 6, 1, 1)
    >>> torch.allclose(layer(x), nn.Conv2d.forward(layer, x), atol=1e-6)
    True
    """

    same_sums: ClassVar[tuple[str, ...]] = ("forward",)

    def __init__(self, inputs: int, outputs: int, *, groups: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, groups=groups, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return pointwise(input, self.weight, self.bias, self.groups)
