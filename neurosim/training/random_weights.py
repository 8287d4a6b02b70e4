"""Random weight perturbation mixed with the clean loss, and the loss smoothed by a Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch.func import functional_call

from neurosim.training.method import (
    NOISE_SCALES,
    Step,
    check_choice,
    check_integer,
    check_number,
    check_patterns,
    forward_aside,
    perturbed,
)
from neurosim.training.standard import Standard


@final
@dataclass(frozen=True)
class RandomWeightPerturbation:
    """m-RWP: L = (1 − λ)·L(Θ) + λ·L(Θ + s·σ·R),  R ~ N(0, 1), both on the same batch.

    Running statistics are those of the clean half.

    Args:
        sigma: size of the noise (0.01 with filter scaling in the paper).
        mix: λ (0.5 in the paper).
        scale: s, as of :class:`neurosim.training.ForwardNoise`; ``filter`` in the paper (there the l2 norm
            of a filter's weights, here their root mean square, so that σ is a relative spread).
        parameters: further ones that are disturbed, as of :class:`neurosim.training.ForwardNoise`.

    Source: Li et al., "Revisiting random weight perturbation for efficiently improving generalization", TMLR
    2024 (arXiv 2404.00357); its halves are different batches, and its adaptive variance is left out.

    >>> RandomWeightPerturbation().passes
    2.0
    """

    sigma: float = 0.1
    mix: float = 0.5
    scale: str = "filter"
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("rwp", "sigma", self.sigma, 0.0, 10.0)
        check_number("rwp", "mix", self.mix, 0.0, 1.0)
        check_choice("rwp", "scale", self.scale, NOISE_SCALES)
        check_patterns("method 'rwp'", self.parameters)

    @property
    def passes(self) -> float:
        """Two: clean and noisy."""
        return 1.0 if self.sigma == 0.0 or self.mix == 0.0 else 2.0

    def backward(self, step: Step) -> dict[str, float]:
        """Add ∂L/∂Θ to the gradients; see :class:`neurosim.training.method.Method`."""
        if self.passes == 1.0:
            return Standard().backward(step)
        clean = step.loss(step.model(step.inputs))
        weights = perturbed(step, self.sigma, self.scale, "random-perturbation", self.parameters)
        noisy = step.loss(forward_aside(step.model, weights, step.inputs))
        loss = (1.0 - self.mix) * clean + self.mix * noisy
        loss.backward()
        return {"loss": loss.item(), "clean_loss": clean.item(), "noisy_loss": noisy.item()}


@final
@dataclass(frozen=True)
class LowPassFilter:
    """LPF-SGD: the loss smoothed by a Gaussian, ∇(L * N(0, Σ))(Θ), by M draws, each for a part of the batch::

        g = Σ_k n_k/n · ∇L_k(Θ + γ_t·s·R_k)      γ_t = γ·(1 + (a − 1)·(1 − cos π·progress)/2)

    Args:
        gamma: γ, the width of the filter at the start, relative to s.
        growth: a, how much wider it is at the end (15 in the paper).
        draws: M (8 in the paper).
        scale: s; ``filter`` in the paper (norms of filters).
        parameters: further ones that are disturbed, as of :class:`neurosim.training.ForwardNoise`.

    Running statistics are those of the noisy parts.

    Source: Bisla, Wang, Choromanska, "Low-pass filtering SGD for recovering flat optima in the deep learning
    optimization landscape", AISTATS 2022 (arXiv 2201.08025).

    >>> LowPassFilter(gamma=0.01, growth=15).width(1.0)
    0.15
    """

    gamma: float = 0.02
    growth: float = 15.0
    draws: int = 8
    scale: str = "filter"
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("lpf", "gamma", self.gamma, 0.0, 10.0)
        check_number("lpf", "growth", self.growth, 0.0, 1e3)
        check_integer("lpf", "draws", self.draws, 1)
        check_choice("lpf", "scale", self.scale, NOISE_SCALES)
        check_patterns("method 'lpf'", self.parameters)

    @property
    def passes(self) -> float:
        """One: every sample runs once."""
        return 1.0

    def width(self, progress: float) -> float:
        """γ_t when a fraction ``progress`` of the training is done."""
        return self.gamma * (1.0 + (self.growth - 1.0) * (1.0 - math.cos(math.pi * progress)) / 2.0)

    def backward(self, step: Step) -> dict[str, float]:
        """Add the smoothed gradient; see :class:`neurosim.training.method.Method`."""
        width = self.width(step.progress)
        if width == 0.0:
            return Standard().backward(step)
        total = 0.0
        for k, part in enumerate(step.parts(self.draws)):
            weights = perturbed(part, width, self.scale, f"low-pass#{k}", self.parameters)
            logits = functional_call(part.model, weights, (part.inputs,))
            loss = part.loss(logits) * (len(part.inputs) / len(step.inputs))
            loss.backward()
            total += loss.item()
        return {"loss": total}
