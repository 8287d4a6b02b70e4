"""What every linear operator on a crossbar offers.

An operator knows shapes only.  Rows of the matrix are the inputs of one vector, columns its outputs;
a convolution reads one vector per output pixel.  Groups lie block-diagonally: ``rows`` counts the
inputs of one group, ``columns`` the outputs of all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

# A piece of work (products of a few vectors) should stay in a core's cache between its stages.
_PIECE_BYTES = 2 << 20


class Operator(ABC):
    """A linear operator with a weight that :meth:`matrix` lays out as (columns, rows).

    Attributes:
        adds_bias: whether each column has a bias of its own, which the read then adds on its way; else the
            layer adds it to what it makes of the products.
        by_row: whether the devices, and with them scales per output, are those of rows: a lookup.
    """

    adds_bias: ClassVar[bool] = True
    by_row: ClassVar[bool] = False

    @abstractmethod
    def ideal(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What plain torch computes."""

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as (columns, rows)."""
        return weight.reshape(weight.shape[0], -1)

    def cells(self, weight: Tensor) -> Tensor:
        """The weight as devices hold it: (outputs, rest)."""
        return self.matrix(weight).t() if self.by_row else self.matrix(weight)

    def cells_signature(self) -> object:
        """What must be equal for another operator to read the same crossbar."""
        return self.by_row

    @abstractmethod
    def batched(self, x: Tensor) -> Tensor:
        """The input with exactly one leading axis, which carries chips and samples."""

    @abstractmethod
    def prepare(self, x: Tensor) -> Tensor:
        """A batched input in the memory order that :meth:`partial` reads fastest."""

    @abstractmethod
    def partial(self, x: Tensor, matrix: Tensor, rows: slice) -> Tensor:
        """Products of some rows, (vectors, columns), contiguous; ``matrix`` is (columns, all rows)."""

    def products(self, x: Tensor, matrices: Tensor, rows: slice) -> Tensor:
        """:meth:`partial` on several chips, (chips, vectors, columns), each with its share of ``x``.

        Equal to that of each chip alone up to rounding.
        """
        each = zip(torch.chunk(x, len(matrices)), matrices, strict=True)
        return torch.stack([self.partial(items, matrix, rows) for items, matrix in each])

    @abstractmethod
    def vectors(self, x: Tensor) -> Tensor:
        """The vectors that word lines carry, (vectors, groups, rows), of a batched input."""

    @abstractmethod
    def vectors_per_item(self, x: Tensor) -> int:
        """Vectors that one entry of the leading axis of a batched input is read as."""

    @abstractmethod
    def restore(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Products (vectors, columns) back in the shape, and order in memory, that torch would return.

        ``x`` is the input as the layer got it, ``weight`` the layer's.
        """

    def items_per_piece(self, x: Tensor, columns: int) -> int:
        """Entries of the leading axis whose products fill about one cache."""
        return max(1, _PIECE_BYTES // (4 * columns * max(1, self.vectors_per_item(x))))
