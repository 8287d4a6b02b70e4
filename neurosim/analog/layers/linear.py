"""Fully connected and bilinear layers."""

from __future__ import annotations

from torch import Tensor, nn

from neurosim.analog.crossbar import Crossbar, add_by_chip
from neurosim.analog.folding import folded
from neurosim.analog.layers.base import OnCrossbars, Site
from neurosim.analog.operators import Contracted, Matmul


class LinearOnCrossbars(OnCrossbars, nn.Linear):
    """``nn.Linear``."""

    kind = nn.Linear

    @staticmethod
    def place(site: Site) -> dict[str, Crossbar]:
        return {"weight": site.crossbar("weight", Matmul())}

    def forward(self, input: Tensor) -> Tensor:
        if self._idle:
            return super().forward(input)
        return self._product("weight", input, *folded(self, self.weight, self.bias))


class BilinearOnCrossbars(OnCrossbars, nn.Bilinear):
    """``nn.Bilinear``: one input drives the rows, the other is contracted with the products digitally."""

    kind = nn.Bilinear

    @staticmethod
    def place(site: Site) -> dict[str, Crossbar]:
        return {"weight": site.crossbar("weight", Contracted())}

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        if self._idle:
            return super().forward(input1, input2)
        crossbar = self._crossbars["weight"]
        if crossbar.bench.active is None:
            products, bias = crossbar.forward(input1, self.weight, None), None
        else:
            held = crossbar.hold(self.weight, self.bias)
            products, bias = crossbar.read(input1, self.weight, held), held.bias
        y = (products.unflatten(-1, (self.out_features, -1)) * input2.unsqueeze(-2)).sum(-1)
        if bias is not None:
            return add_by_chip(y, bias, -1).to(y.dtype)
        return y if self.bias is None else y + self.bias
