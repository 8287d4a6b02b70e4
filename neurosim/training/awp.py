"""AWP and AMP: the gradient at weights that were attacked through the task loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor

from neurosim.landscape.ascent import NORMS, SCALES, Norm, Region, Scale, climb
from neurosim.training.method import (
    Step,
    analog_parameters,
    backward_beside,
    check_choice,
    check_integer,
    check_number,
    check_patterns,
    first_slopes,
    keeping_signs,
    laid_out_as,
    slopes_at,
)
from neurosim.training.sharpness import total_norm
from neurosim.training.standard import Standard


@final
@dataclass(frozen=True)
class AdversarialWeightPerturbation:
    """AWP: g = ∇L(Θ + V), V the worst of N steps up the task loss in a region of size γ.

    The region is that of :class:`neurosim.landscape.ascent.Region`; as published a ball for each layer,
    ‖V_l‖₂ ≤ γ‖Θ_l‖₂ (norm ``l2``, scale ``layer-rms``), reached in steps of γ/N.  ``box`` and ``weight``
    make it the box of the weight-attack paper, |V| ≤ γ|Θ|, in which that paper compared it (there its step,
    0.01/N·2, kept it to 0.02|Θ|; here it reaches the wall).

    The clean forward writes running statistics and is the first of the N steps.

    Args:
        size: γ.
        steps: N.
        norm, scale: of the region.
        parameters: further ones that are attacked, as of :class:`neurosim.training.ForwardNoise`.

    Source: Wu, Xia, Wang, "Adversarial weight perturbation helps robust generalization", NeurIPS 2020
    (arXiv 2004.05884), without its attack on inputs; as a rival in Büchel et al., ICLR 2022.

    >>> AdversarialWeightPerturbation(steps=10).passes
    11.0
    """

    size: float = 0.1
    steps: int = 1
    norm: str = "l2"
    scale: str = "layer-rms"
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("awp", "size", self.size, 0.0, 10.0)
        check_integer("awp", "steps", self.steps, 1)
        check_choice("awp", "norm", self.norm, NORMS)
        check_choice("awp", "scale", self.scale, SCALES)
        check_patterns("method 'awp'", self.parameters)

    @property
    def passes(self) -> float:
        """N steps uphill, and the gradient there."""
        return 1.0 if self.size == 0.0 else self.steps + 1.0

    def backward(self, step: Step) -> dict[str, float]:
        """Add the gradient at the attacked weights; see :class:`neurosim.training.method.Method`."""
        weights = analog_parameters(step.model, self.parameters)
        if self.size == 0.0 or not weights:
            return Standard().backward(step)
        region = Region(self.size, cast(Norm, self.norm), cast(Scale, self.scale))
        first = first_slopes(step, weights)

        def slope(at: Mapping[str, Tensor]) -> Mapping[str, Tensor | None]:
            nonlocal first
            found = first or slopes_at(step, keeping_signs(weights, at, self.parameters))
            first = {}
            return {name: found.get(name) for name in at}

        start = {name: torch.zeros_like(p) for name, p in weights.items()}
        deltas = climb(weights, region, start, slope, steps=self.steps)
        theta = [p.detach() for p in weights.values()]
        offsets = {name: s * deltas[name] for name, s in zip(weights, region.scales(theta), strict=True)}
        return {"loss": float(backward_beside(step, offsets, self.parameters))}


@final
@dataclass(frozen=True)
class AdversarialModelPerturbation:
    """AMP: g = ∇L(Θ + Δ), Δ after N steps Δ ← Π(Δ + (ε/N)·∇L/‖∇L‖₂) in the ball ‖Δ‖₂ ≤ ε.

    One absolute ball for all analog parameters together.  With N = 1 it is SAM with ρ = ε.

    Args:
        size: ε (0.5 for ResNets on CIFAR in the paper).
        steps: N (1 in the paper).
        parameters: further ones that are attacked, as of :class:`neurosim.training.ForwardNoise`.

    Source: Zheng, Zhang, Mao, "Regularizing neural networks via adversarial model perturbation", CVPR 2021
    (arXiv 2010.04925); its inner learning rate is ε/N here, so that N steps just reach the wall.

    >>> AdversarialModelPerturbation(steps=2).passes
    3.0
    """

    size: float = 0.5
    steps: int = 1
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("amp", "size", self.size, 0.0, 1e3)
        check_integer("amp", "steps", self.steps, 1)
        check_patterns("method 'amp'", self.parameters)

    @property
    def passes(self) -> float:
        """N steps uphill, and the gradient there."""
        return 1.0 if self.size == 0.0 else self.steps + 1.0

    def backward(self, step: Step) -> dict[str, float]:
        """Add the gradient at the attacked weights; see :class:`neurosim.training.method.Method`."""
        weights = analog_parameters(step.model, self.parameters)
        if self.size == 0.0 or not weights:
            return Standard().backward(step)
        slopes = first_slopes(step, weights)
        offsets = {name: torch.zeros_like(p) for name, p in weights.items()}
        for k in range(self.steps):
            if k:
                at = {name: laid_out_as(p, p.detach() + offsets[name]) for name, p in weights.items()}
                slopes = slopes_at(step, keeping_signs(weights, at, self.parameters))
            norm = total_norm(slopes)
            for name, g in slopes.items():
                offsets[name] += g * (self.size / self.steps / norm)
            shrink = (self.size / total_norm(offsets)).clamp(max=1.0)
            offsets = {name: offset * shrink for name, offset in offsets.items()}
        return {"loss": float(backward_beside(step, offsets, self.parameters))}
