"""TRICE: training with right-censored Gaussian noise, for the worst few per cent of chips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch.func import functional_call

from neurosim.training.method import (
    Step,
    analog_parameters,
    check_number,
    check_patterns,
    keeping_signs,
    laid_out_as,
    normal_like,
)
from neurosim.training.noise import ForwardNoise
from neurosim.training.standard import Standard


@final
@dataclass(frozen=True)
class RightCensoredNoise:
    """L = cross-entropy(f(Θ + stop_grad(Θ·η·min(R, c)), X), y),  R ~ N(0, 1).

    Censored on the right: a draw above the threshold c becomes c, so that the mean of the noise lies below 0
    (by φ(c) − c·(1 − Φ(c)) = 0.083 η at c = 1) and training sees weights that came out too small more than
    too large ones.  The censored quantity is the magnitude, which is what a conductance holds.

    Args:
        eta: relative size of the noise.
        threshold: c, in standard deviations (found by search in the paper; infinite is forward noise).
        ramp: fraction of the training over which the noise grows linearly from 0 to ``eta``.
        parameters: further ones that are disturbed, as of :class:`neurosim.training.ForwardNoise`.

    Source: Yan, Qin, Wen, Hu, Shi, "Improving realistic worst-case performance of NVCiM DNN accelerators
    through training with right-censored Gaussian noise", ICCAD 2023 (arXiv 2307.15853), without its search
    for η and c.

    >>> RightCensoredNoise().passes
    1.0
    """

    eta: float = 0.3
    threshold: float = 1.0
    ramp: float = 0.0
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("trice", "eta", self.eta, 0.0, 10.0)
        check_number("trice", "threshold", self.threshold, -10.0, 1e9)
        check_number("trice", "ramp", self.ramp, 0.0, 1.0)
        check_patterns("method 'trice'", self.parameters)

    @property
    def passes(self) -> float:
        """One: the noisy network runs instead of the clean one."""
        return 1.0

    def backward(self, step: Step) -> dict[str, float]:
        """Add ∂L/∂Θ to the gradients; see :class:`neurosim.training.method.Method`."""
        eta = ForwardNoise(self.eta, self.ramp).strength(step.progress)
        if eta == 0.0:
            return Standard().backward(step)
        weights, moved = analog_parameters(step.model, self.parameters), {}
        for name, p in weights.items():
            noise = normal_like(p, step.draws_for(f"{name}:right-censored")).clamp_(max=self.threshold)
            moved[name] = laid_out_as(p, p + noise.mul_(p.detach()).mul_(eta))
        moved = keeping_signs(weights, moved, self.parameters)
        loss = step.loss(functional_call(step.model, moved, (step.inputs,)))
        loss.backward()
        return {"loss": loss.item()}
