"""The layers that go on crossbars: one row a type in :data:`LAYERS`, one small builder each.

A layer keeps its class (as a subclass), its parameters and its keys; only its forward is new.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn as nn
from torch import Tensor

from neurosim.analog.bench import Bench
from neurosim.analog.crossbar import Crossbar
from neurosim.analog.operators import Convolution2d, Matmul
from neurosim.devices import Hardware


class CrossbarLinear(nn.Linear):
    """``nn.Linear`` whose products a crossbar computes while chips are on the bench."""

    crossbar: Crossbar

    def forward(self, input: Tensor) -> Tensor:
        return self.crossbar.forward(input, self.weight, self.bias)


class CrossbarConv2d(nn.Conv2d):
    """``nn.Conv2d`` whose products a crossbar computes while chips are on the bench."""

    crossbar: Crossbar

    def forward(self, input: Tensor) -> Tensor:
        return self.crossbar.forward(input, self.weight, self.bias)


CrossbarLayer = CrossbarLinear | CrossbarConv2d


def _linear(name: str, layer: nn.Module, hardware: Hardware, bench: Bench) -> None:
    assert isinstance(layer, nn.Linear)
    crossbar = Crossbar.of(name, layer.weight, 1, Matmul(), hardware, bench)
    layer.__class__ = CrossbarLinear
    layer.crossbar = crossbar  # type: ignore[assignment]


def _conv2d(name: str, layer: nn.Module, hardware: Hardware, bench: Bench) -> None:
    assert isinstance(layer, nn.Conv2d)
    operator = Convolution2d(
        channels=layer.in_channels,
        kernel=_two(layer.kernel_size),
        stride=_two(layer.stride),
        dilation=_two(layer.dilation),
        groups=layer.groups,
        pads=_pads(layer),
        mode=layer.padding_mode,
    )
    crossbar = Crossbar.of(name, layer.weight, layer.groups, operator, hardware, bench)
    layer.__class__ = CrossbarConv2d
    layer.crossbar = crossbar  # type: ignore[assignment]


def _two(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]


def _pads(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """(left, right, top, bottom), as ``F.pad`` takes them."""
    if not isinstance(layer.padding, str):
        height, width = _two(layer.padding)
        return width, width, height, height
    if layer.padding == "valid":
        return 0, 0, 0, 0
    # "same", by torch's rule: the odd pixel goes to the right and the bottom
    height, width = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return width // 2, width - width // 2, height // 2, height - height // 2


# Exact types: a subclass may compute something else in its forward, and stays digital.
LAYERS: dict[type[nn.Module], Callable[[str, nn.Module, Hardware, Bench], None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
}
