"""Reading single rows: embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from neurosim.analog.operators.matmul import Matmul
from neurosim.analog.operators.operator import Operator


@dataclass(frozen=True)
class Lookup(Matmul):
    """y = Wᵀ e_i for an index i: ``nn.Embedding``.  One word line is at full input, all others rest.

    The weight is (entries, width): its rows are the rows of the crossbar, unlike those of a product.
    An index takes the place of a vector; as one-hot vectors they would be the same product.

    Attributes:
        entries: rows of the weight.

    >>> lookup, weight = Lookup(entries=3), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> index = torch.tensor([2, 0])
    >>> torch.equal(lookup.vectors(index)[:, 0] @ weight, lookup.ideal(index, weight, None))
    True
    """

    by_row: ClassVar[bool] = True
    entries: int = field(kw_only=True)

    def ideal(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.embedding(x, weight)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.t()

    def batched(self, x: Tensor) -> Tensor:
        return x.reshape(-1)

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def partial(self, x: Tensor, matrix: Tensor, rows: slice) -> Tensor:
        inside = (x >= rows.start) & (x < rows.stop)
        return torch.where(inside[:, None], matrix.t()[x], matrix.new_zeros(()))

    def products(self, x: Tensor, matrices: Tensor, rows: slice) -> Tensor:
        return Operator.products(self, x, matrices, rows)

    def vectors(self, x: Tensor) -> Tensor:
        return F.one_hot(x, self.entries).to(torch.get_default_dtype()).unsqueeze(1)

    def restore(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return y.reshape(*x.shape, y.shape[-1])
