"""Pointwise convolutions in groups, by the products that the CPU is fast at."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn


class GroupedPointwise(nn.Conv2d):
    """``nn.Conv2d`` with 1x1 kernels and groups: the same sums, weights and keys, sooner on a CPU.

    A matrix a group on a vector a group (maps of 1x1) is a batched product there, and a number a channel is
    an elementwise one; for these oneDNN's convolutions take 2.5 and 20 times as long.  All else is
    ``nn.Conv2d``'s own, and on crossbars this layer is an ``nn.Conv2d`` like any other.

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
        if input.device.type != "cpu" or input.dim() != 4:
            return super().forward(input)
        if self.groups == self.in_channels == self.out_channels:
            y = input * self.weight.view(-1, 1, 1)
        elif input.shape[2:] == (1, 1):
            vectors = input.reshape(-1, self.groups, self.in_channels // self.groups)
            matrices = self.weight.view(self.groups, self.out_channels // self.groups, -1)
            y = vectors.transpose(0, 1).bmm(matrices.transpose(1, 2)).transpose(0, 1)
            y = y.reshape(-1, self.out_channels, 1, 1)
        else:
            return super().forward(input)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)
