"""Connections from the outputs of a layer back to its inputs, and what a forward pass may know of them.

A layer that runs over all time steps at once needs the recurrent weight as a matrix; one that runs a step at
a time needs products alone.  :func:`feedback_of` says which a square ``nn.Linear`` has to offer.  It is open:
whoever computes a layer in another way, such as on crossbars, registers what that way offers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurosim.errors import UsageError


@dataclass(frozen=True, eq=False)
class Feedback:
    """What is known of the products with a square layer for the length of one forward pass.

    Attributes:
        read: the product with one step's vectors, (samples, N) to (samples, N); where chips differ their
            samples lie one after the other.
        matrix: W, (N, N), or (chips, N, N) where chips differ, if read(x) = W·x + added for all x of zeros
            and ones; else None.
        added: what every product has on top, (N,) or (chips, N); None for nothing.
    """

    read: Callable[[Tensor], Tensor]
    matrix: Tensor | None = None
    added: Tensor | None = None

    @property
    def by_chip(self) -> bool:
        """Whether chips have matrices of their own."""
        return self.matrix is not None and self.matrix.dim() == 3


class OffDiagonal(nn.Linear):
    """Connections among the N neurons of a layer, none of which is with itself: y = (W − diag W)·x + b.

    The diagonal of the weight has no gradient, and no devices on crossbars.

    Args:
        size: N.
        bias: whether there is a b.

    Shapes: (…, N) -> (…, N).

    >>> layer = OffDiagonal(2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[5.0, 1.0], [2.0, 5.0]]))
    >>> layer(torch.tensor([1.0, 0.0])).tolist()
    [0.0, 2.0]
    """

    def __init__(self, size: int, bias: bool = False) -> None:
        super().__init__(size, size, bias=bias)

    @property
    def counted(self) -> Tensor:
        """The weight with zeros on the diagonal."""
        return off_diagonal(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.counted, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, bias={self.bias is not None}"


def off_diagonal(weight: Tensor) -> Tensor:
    """Square matrices with zeros on the diagonal, (…, N, N).

    >>> off_diagonal(torch.ones(2, 2)).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return weight.masked_fill(torch.eye(weight.shape[-1], dtype=torch.bool, device=weight.device), 0.0)


@singledispatch
def feedback_of(layer: nn.Module) -> Feedback:
    """What the products with a layer are at this moment, weights of the moment included.

    A module that is no ``nn.Linear``, or has hooks, or computes something of its own, can be called and no
    more is known of it.

    >>> feedback = feedback_of(OffDiagonal(3))
    >>> feedback.matrix.shape, feedback_of(nn.Sequential(OffDiagonal(3))).matrix
    (torch.Size([3, 3]), None)
    """
    return Feedback(layer)


@feedback_of.register
def _(layer: nn.Linear) -> Feedback:
    _check_square(layer)
    return feedback_of_linear(layer) if type(layer).forward is nn.Linear.forward else Feedback(layer)


@feedback_of.register
def _(layer: OffDiagonal) -> Feedback:
    return feedback_of_linear(layer) if type(layer).forward is OffDiagonal.forward else Feedback(layer)


def feedback_of_linear(layer: nn.Linear) -> Feedback:
    """That of a layer which computes what its class does, unless somebody listens or put a forward on it."""
    if layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__:
        return Feedback(layer)
    weight = layer.counted if isinstance(layer, OffDiagonal) else layer.weight
    return Feedback(layer, weight, layer.bias)


def _check_square(layer: nn.Linear) -> None:
    if layer.in_features != layer.out_features:
        raise UsageError(
            "expected recurrent connections from as many neurons as to; got "
            f"{layer.in_features} and {layer.out_features}"
        )
