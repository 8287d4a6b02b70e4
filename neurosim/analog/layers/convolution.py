"""Convolutions and transposed convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from neurosim.analog.crossbar import Crossbar, add_by_chip
from neurosim.analog.folding import folded
from neurosim.analog.layers.base import OnCrossbars, Site
from neurosim.analog.operators import Convolution, TransposedConvolution
from neurosim.analog.operators.convolution import lifted


class _Convolution(OnCrossbars):
    """Any of ``nn.Conv1d``, ``nn.Conv2d``, ``nn.Conv3d``."""

    whole = ("forward", "_conv_forward")

    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def place(site: Site) -> dict[str, Crossbar]:
        layer = site.layer
        assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        return {"weight": site.crossbar("weight", Convolution.of(layer), groups=layer.groups)}

    def forward(self, input: Tensor) -> Tensor:
        if self._idle:
            found: Tensor = super().forward(input)
            return found
        return self._product("weight", input, *folded(self, self.weight, self.bias))


class Conv1dOnCrossbars(_Convolution):
    """``nn.Conv1d``."""

    kind = nn.Conv1d


class Conv2dOnCrossbars(_Convolution):
    """``nn.Conv2d``."""

    kind = nn.Conv2d


class Conv3dOnCrossbars(_Convolution):
    """``nn.Conv3d``."""

    kind = nn.Conv3d


class _TransposedConvolution(OnCrossbars):
    """Any of ``nn.ConvTranspose1d``, ``nn.ConvTranspose2d``, ``nn.ConvTranspose3d``."""

    weight: Tensor
    bias: Tensor | None
    kernel_size: tuple[int, ...]

    @staticmethod
    def place(site: Site) -> dict[str, Crossbar]:
        layer = site.layer
        assert isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
        operator = TransposedConvolution.of(layer)
        return {"weight": site.crossbar("weight", operator, groups=layer.groups)}

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self._idle:
            found: Tensor = super().forward(input, output_size)
            return found
        crossbar = self._crossbars["weight"]
        weight, bias = folded(self, self.weight, self.bias)
        crossbar.operator = self._operator(crossbar.operator, input, output_size)
        if crossbar.bench.active is None:
            return crossbar.forward(input, weight, bias)
        held = crossbar.hold(weight, bias)
        y = crossbar.read(input, weight, held)
        return y if held.bias is None else add_by_chip(y, held.bias, -1 - len(self.kernel_size)).to(y.dtype)

    def _operator(self, operator: object, x: Tensor, output_size: list[int] | None) -> TransposedConvolution:
        """The operator whose output has the size asked for."""
        assert isinstance(operator, TransposedConvolution)
        layer = cast("nn.ConvTranspose2d", self)
        found = nn.modules.conv._ConvTransposeNd._output_padding(
            layer,
            x,
            output_size,
            list(layer.stride),
            [int(p) for p in layer.padding],
            list(layer.kernel_size),
            len(layer.kernel_size),
            list(layer.dilation),
        )
        return replace(operator, output_padding=lifted(tuple(found), 0))


class ConvTranspose1dOnCrossbars(_TransposedConvolution):
    """``nn.ConvTranspose1d``."""

    kind = nn.ConvTranspose1d


class ConvTranspose2dOnCrossbars(_TransposedConvolution):
    """``nn.ConvTranspose2d``."""

    kind = nn.ConvTranspose2d


class ConvTranspose3dOnCrossbars(_TransposedConvolution):
    """``nn.ConvTranspose3d``."""

    kind = nn.ConvTranspose3d
