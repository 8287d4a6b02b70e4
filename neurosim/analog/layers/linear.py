"""Fully connected and bilinear layers."""

from __future__ import annotations

from torch import Tensor, nn

from neurosim.analog.affine import affine
from neurosim.analog.crossbar import Crossbar, add_by_chip
from neurosim.analog.folding import folded
from neurosim.analog.layers.base import OnCrossbars, Site, watched
from neurosim.analog.operators import Contracted, Matmul
from neurosim.feedback import Feedback, OffDiagonal, feedback_of, off_diagonal


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


class OffDiagonalOnCrossbars(OnCrossbars, OffDiagonal):
    """``neurosim.feedback.OffDiagonal``: there are no devices on the diagonal."""

    kind = OffDiagonal

    @staticmethod
    def place(site: Site) -> dict[str, Crossbar]:
        return {"weight": site.crossbar("weight", Matmul(), diagonal=False)}

    def _weight_of(self, key: str) -> Tensor:
        return self.counted

    def forward(self, input: Tensor) -> Tensor:
        if self._idle:
            return super().forward(input)
        return self._product("weight", input, *folded(self, self.counted, self.bias))


@feedback_of.register(LinearOnCrossbars)
@feedback_of.register(OffDiagonalOnCrossbars)
def _(layer: LinearOnCrossbars | OffDiagonalOnCrossbars) -> Feedback:
    """Of crossbars: what the chips hold, realised once for all steps."""
    crossbar = layer._crossbars["weight"]
    if watched(layer) or crossbar.bench.observing:
        return Feedback(layer)
    own = layer.counted if isinstance(layer, OffDiagonalOnCrossbars) else layer.weight
    if crossbar.idle:
        return Feedback(layer, own, layer.bias)
    weight, bias = folded(layer, own, layer.bias)
    held = crossbar.hold(weight, bias)
    matrix, added = affine(crossbar, held)
    if matrix is not None and not crossbar.diagonal:
        matrix = off_diagonal(matrix)  # what rounding leaves there
    return Feedback(lambda x: crossbar.read(x, weight, held), matrix, added)


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
