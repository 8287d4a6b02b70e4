"""Climb to bad weights nearby: projected gradient ascent in a box or a ball around the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from neurosim.errors import UsageError, unknown
from neurosim.landscape.parameters import laid_out_as

Norm = Literal["box", "l2"]
Scale = Literal["weight", "layer-rms", "layer-max", "one"]
NORMS = ("box", "l2")
SCALES = ("weight", "layer-rms", "layer-max", "one")
Gradient = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor | None]]
"""The slope of what is climbed, at weights by name: name -> its shape; None for a weight nothing needs."""


@final
@dataclass(frozen=True)
class Region:
    """Where attacked weights may be: Θ* = Θ + s·δ with δ in a box or ball of size ζ, parameter by parameter.

    ::

        s = |Θ|                 scale "weight": each weight moves in proportion to itself
        s = √mean(Θ²)           scale "layer-rms": all of one parameter alike
        s = max|Θ|              scale "layer-max"
        s = 1                   scale "one": absolute
        |δ_i| ≤ ζ               norm "box"
        √mean(δ²) ≤ ζ           norm "l2"

    The ball is measured by the root mean square, so that ζ means the same in a large and a small layer and
    is the size of a Gaussian draw of relative spread ζ; with "layer-rms" it is ‖Θ* − Θ‖₂ ≤ ζ‖Θ‖₂, the
    layer-wise ball of AWP (Wu, Xia, Wang, NeurIPS 2020, arXiv 2004.05884).

    >>> Region(0.1).norm, Region(0.1).scale
    ('box', 'weight')
    """

    size: float
    norm: Norm = "box"
    scale: Scale = "weight"

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, (int, float)) or not 0 <= self.size <= 10:
            raise UsageError(f"expected 0 <= size of an attack on weights <= 10; got {self.size!r}")
        if self.norm not in NORMS:
            raise unknown("norm of an attack on weights,", str(self.norm), NORMS)
        if self.scale not in SCALES:
            raise unknown("scale of an attack on weights,", str(self.scale), SCALES)

    def scales(self, weights: list[Tensor]) -> list[Tensor]:
        """s of every weight, broadcastable to it."""
        if self.scale == "weight":
            return list(torch._foreach_abs(weights))
        if self.scale == "layer-rms":
            return [w.detach().square().mean().sqrt() for w in weights]
        if self.scale == "layer-max":
            return [w.detach().abs().amax() if w.numel() else w.new_zeros(()) for w in weights]
        return [w.new_ones(()) for w in weights]

    def uphill(self, gradients: list[Tensor], scales: list[Tensor]) -> list[Tensor]:
        """Steepest ascent in δ, of size 1: sign(∂/∂δ) in a box, ∂/∂δ over its root mean square in a ball."""
        if self.norm == "box":
            return list(torch._foreach_sign(gradients))  # s ≥ 0 does not change a sign
        slopes = [g * s for g, s in zip(gradients, scales, strict=True)]
        sizes = [slope.square().mean().sqrt() for slope in slopes]
        return [
            slope / torch.where(size > 0, size, torch.ones_like(size))
            for slope, size in zip(slopes, sizes, strict=True)
        ]

    def project_(self, deltas: list[Tensor]) -> None:
        """Bring δ back into the region, in place."""
        if self.norm == "box":
            torch._foreach_clamp_min_(deltas, -self.size)
            torch._foreach_clamp_max_(deltas, self.size)
            return
        for delta in deltas:
            size = delta.square().mean().sqrt()
            delta.mul_(torch.where(size > self.size, self.size / size, torch.ones_like(size)))


def moved(weights: list[Tensor], scales: list[Tensor], deltas: list[Tensor]) -> list[Tensor]:
    """Θ + s·δ, laid out in memory as Θ; differentiable."""
    return [laid_out_as(w, torch.addcmul(w, s, d)) for w, s, d in zip(weights, scales, deltas, strict=True)]


def climb(
    weights: Mapping[str, Tensor],
    region: Region,
    start: Mapping[str, Tensor],
    gradient: Gradient,
    *,
    steps: int,
    step_size: float | None = None,
) -> dict[str, Tensor]:
    """Projected gradient ascent, δ_t = Π(δ_{t-1} + α·uphill(∂/∂δ)), in ``steps`` steps.

    Args:
        weights: Θ by name; not changed.
        region: where Θ* = Θ + s·δ may be.
        start: δ_0 by name; not changed, and not projected before the first step.
        gradient: gives ∂/∂Θ* of what is climbed, at Θ*.
        steps: N, each one call of ``gradient``.
        step_size: α; by default ζ/N, with which N steps just reach the wall of the region.

    Returns:
        δ_N by name.

    >>> top = climb({"w": torch.ones(2)}, Region(0.5), {"w": torch.zeros(2)},
    ...     lambda at: {"w": torch.tensor([1.0, -3.0])}, steps=2)
    >>> top["w"]
    tensor([ 0.5000, -0.5000])
    """
    names = list(weights)
    theta = [weights[name].detach() for name in names]
    scales = region.scales(theta)
    deltas = [start[name].clone(memory_format=torch.preserve_format) for name in names]
    alpha = region.size / steps if step_size is None else step_size
    for _ in range(steps):
        found = gradient(dict(zip(names, moved(theta, scales, deltas), strict=True)))
        slopes = [found[name] for name in names]
        reached = [k for k, slope in enumerate(slopes) if slope is not None]
        if reached:  # torch refuses to work on no tensors
            up = region.uphill([slopes[k] for k in reached], [scales[k] for k in reached])  # type: ignore[misc]
            torch._foreach_add_([deltas[k] for k in reached], up, alpha=alpha)
        region.project_(deltas)
    return dict(zip(names, deltas, strict=True))


def length(deltas: Mapping[str, Tensor]) -> float:
    """√Σδ² over all parameters."""
    return math.sqrt(sum(float(d.square().sum()) for d in deltas.values()))
