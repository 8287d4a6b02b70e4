"""Products on the last axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from neurosim.analog.operators.operator import Operator


@dataclass(frozen=True)
class Matmul(Operator):
    """y = x Wᵀ + b on the last axis: ``nn.Linear``.

    Attributes:
        transposed: the weight is kept as (inputs, outputs) instead: y = x W + b.
    """

    transposed: bool = False

    def ideal(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, self.matrix(weight), bias)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.t() if self.transposed else weight

    def cells_signature(self) -> object:
        return self.transposed

    def batched(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])

    def prepare(self, x: Tensor) -> Tensor:
        return x.contiguous()

    def partial(self, x: Tensor, matrix: Tensor, rows: slice) -> Tensor:
        return torch.mm(x[:, rows], matrix[:, rows].t())

    def products(self, x: Tensor, matrices: Tensor, rows: slice) -> Tensor:
        by_chip = x.unflatten(0, (len(matrices), -1))
        return torch.bmm(by_chip[..., rows], matrices[..., rows].transpose(1, 2))

    def vectors(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)

    def vectors_per_item(self, x: Tensor) -> int:
        return 1

    def restore(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return y.reshape(*x.shape[:-1], y.shape[-1])


@dataclass(frozen=True)
class Contracted(Matmul):
    """The first half of y_o = x₁ᵀ A_o x₂: x₁ drives the rows of all A_o side by side (``nn.Bilinear``).

    The products, (…, outputs · second inputs), are then contracted with x₂ digitally.
    """

    adds_bias: ClassVar[bool] = False

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.transpose(1, 2).reshape(-1, weight.shape[1])
