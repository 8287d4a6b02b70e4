"""Surrogate gradients: what backward takes for the derivative of a step function.

Forward a spike is s = H(x), 1 where x > 0 and else 0.  Backward ds/dx is replaced by one of :data:`KINDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurosim.errors import UsageError, unknown

Slope = Callable[[Tensor, float, float], Tensor]


def _triangle(x: Tensor, height: float, steepness: float) -> Tensor:
    return height * (1 - steepness * x.abs()).clamp(min=0)


def _fast_sigmoid(x: Tensor, height: float, steepness: float) -> Tensor:
    return height / (1 + steepness * x.abs()).square()


def _arctan(x: Tensor, height: float, steepness: float) -> Tensor:
    return height / (1 + (steepness * x).square())


def _exponential(x: Tensor, height: float, steepness: float) -> Tensor:
    return height * (-steepness * x.abs()).exp()


KINDS: dict[str, Slope] = {
    "triangle": _triangle,
    "fast-sigmoid": _fast_sigmoid,
    "arctan": _arctan,
    "exponential": _exponential,
}


@dataclass(frozen=True)
class Surrogate:
    """A derivative of the spike s = H(x) with respect to x, γ being ``height`` and k ``steepness``::

        triangle       γ·max(0, 1 − k·|x|)     Esser et al., PNAS 2016; Bellec et al., NeurIPS 2018
        fast-sigmoid   γ/(1 + k·|x|)²          Zenke and Ganguli, Neural Computation 2018
        arctan         γ/(1 + (k·x)²)          Fang et al., ICCV 2021
        exponential    γ·exp(−k·|x|)           Shrestha and Orchard, NeurIPS 2018

    x = v − B for the potential v and the threshold B, or, where ``relative``, x = (v − B)/B, which has no
    unit: a chip with a larger threshold then has a wider surrogate.

    Attributes:
        kind: one of the four.
        height, steepness: above 0; the height is that at the threshold.
        relative: whether x is in units of the threshold, which must then stay above 0.

    Raises:
        UsageError: an unknown kind, or a number out of bounds.

    >>> Surrogate("triangle", 0.3).slope(torch.tensor([-2.0, -0.5, 0.0, 0.5]))
    tensor([0.0000, 0.1500, 0.3000, 0.1500])
    """

    kind: str = "fast-sigmoid"
    height: float = 1.0
    steepness: float = 1.0
    relative: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("surrogate", str(self.kind), list(KINDS))
        for name in ("height", "steepness"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise UsageError(f"expected {name} of a surrogate to be a number above 0; got {value!r}")

    @property
    def number(self) -> int:
        """Its place in :data:`KINDS`: what kernels call it."""
        return list(KINDS).index(self.kind)

    def slope(self, x: Tensor) -> Tensor:
        """The derivative at x."""
        return KINDS[self.kind](x, self.height, self.steepness)

    def spike(self, v: Tensor, threshold: Tensor) -> Tensor:
        """H(v − B), with this derivative in both, B being the threshold.

        >>> v = torch.tensor([0.5, 1.5], requires_grad=True)
        >>> s = Surrogate("arctan").spike(v, torch.tensor(1.0))
        >>> s.sum().backward()
        >>> s.detach(), v.grad
        (tensor([0., 1.]), tensor([0.8000, 0.8000]))
        """
        # (v − B)/B and v − B have one sign, but not once rounded: the step is always that of v − B
        x = (v - threshold) / threshold if self.relative else v - threshold
        found: Tensor = _Spike.apply(v > threshold, x, self)
        return found


class _Spike(torch.autograd.Function):
    """A step function of x with a surrogate derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(above: Tensor, x: Tensor, surrogate: Surrogate) -> Tensor:
        return above.to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, x, ctx.surrogate = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        (x,) = ctx.saved_tensors
        return None, grads[0] * ctx.surrogate.slope(x), None
