"""SAM and ASAM: the gradient at the worst weights one step away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from neurosim.training.method import (
    Step,
    analog_parameters,
    backward_beside,
    check_number,
    check_patterns,
    first_slopes,
)
from neurosim.training.standard import Standard


@final
@dataclass(frozen=True)
class SharpnessAware:
    """SAM: g = ∇L(Θ + ρ·∇L(Θ)/‖∇L(Θ)‖₂), the norm over all analog parameters.

    The clean forward writes the running statistics of normalisation layers, the second leaves none; the
    affine parameters of normalisation layers are not moved.  Logged is the loss at the worst weights.

    Args:
        rho: length of the step uphill (0.05 in the paper).
        parameters: further ones that are moved, as of :class:`neurosim.training.ForwardNoise`.

    Source: Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-aware minimization for efficiently improving
    generalization", ICLR 2021 (arXiv 2010.01412).

    >>> SharpnessAware().passes
    2.0
    """

    rho: float = 0.05
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("sam", "rho", self.rho, 0.0, 1e3)
        check_patterns("method 'sam'", self.parameters)

    @property
    def passes(self) -> float:
        """Two: uphill, and there."""
        return 1.0 if self.rho == 0.0 else 2.0

    def backward(self, step: Step) -> dict[str, float]:
        """Add the gradient at the worst weights; see :class:`neurosim.training.method.Method`."""
        return _sharp(step, self.rho, None, self.parameters)


@final
@dataclass(frozen=True)
class AdaptiveSharpnessAware:
    """ASAM: SAM in a ball that scales with the weights::

        T = |Θ| + ν           g = ∇L(Θ + ρ·T²·∇L(Θ)/‖T·∇L(Θ)‖₂)

    Args:
        rho: length of the step uphill in weights scaled by T (0.5 for CIFAR-10, 2 for CIFAR-100).
        nu: what keeps small weights in play (0.01 in the paper).
        parameters: further ones that are moved, as of :class:`neurosim.training.ForwardNoise`.

    Source: Kwon, Kim, Park, Choi, "ASAM: adaptive sharpness-aware minimization for scale-invariant learning
    of deep neural networks", ICML 2021 (arXiv 2102.11600).

    >>> AdaptiveSharpnessAware().passes
    2.0
    """

    rho: float = 2.0
    nu: float = 0.01
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("asam", "rho", self.rho, 0.0, 1e3)
        check_number("asam", "nu", self.nu, 0.0, 10.0)
        check_patterns("method 'asam'", self.parameters)

    @property
    def passes(self) -> float:
        """Two: uphill, and there."""
        return 1.0 if self.rho == 0.0 else 2.0

    def backward(self, step: Step) -> dict[str, float]:
        """Add the gradient at the worst weights; see :class:`neurosim.training.method.Method`."""
        return _sharp(step, self.rho, self.nu, self.parameters)


def _sharp(step: Step, rho: float, nu: float | None, also: tuple[str, ...]) -> dict[str, float]:
    weights = analog_parameters(step.model, also)
    if rho == 0.0 or not weights:
        return Standard().backward(step)
    slopes = first_slopes(step, weights)
    scaled = slopes
    if nu is not None:
        scales = {name: weights[name].detach().abs().add_(nu) for name in slopes}
        scaled = {name: g * scales[name] for name, g in slopes.items()}
    norm = total_norm(scaled)
    if nu is not None:
        slopes = {name: g * scales[name] for name, g in scaled.items()}
    loss = backward_beside(step, {name: g * (rho / norm) for name, g in slopes.items()}, also)
    return {"loss": float(loss)}


def total_norm(slopes: dict[str, Tensor]) -> Tensor:
    """‖·‖₂ over all parameters; 1 where it is 0, for nothing is uphill then."""
    norm = torch.stack([g.norm() for g in slopes.values()]).norm()
    return torch.where(norm > 0, norm, torch.ones_like(norm))
