"""DAMP: several multiplicative copies of the weights per batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.func import functional_call

from neurosim.errors import UsageError
from neurosim.training.method import (
    Step,
    analog_parameters,
    check_integer,
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
class MultiplicativeCopies:
    """DAMP: the batch in parts, each through its own noisy weights, gradients averaged.

    ::

        L = Σ_k n_k/n · cross-entropy(f(Θ·(1 + σ·R_k), X_k), y_k),   R_k ~ N(0, 1)

    Gradients pass through the multiplication (∂/∂Θ carries the factor 1 + σ·R_k), as DAMP's do; forward
    noise stops them there.  Costs one pass, for each sample runs once; the gradient has less of the
    noise's variance than that of one draw for the whole batch.

    Normalisation layers keep the statistics of the noisy parts.

    Args:
        sigma: relative size of the noise (0.2 for ResNet-18 on CIFAR in the paper).
        copies: parts of a batch.
        ramp: fraction of the training over which the noise grows linearly from 0 to ``sigma``.
        antithetic: the parts in pairs, the second of each at Θ·(1 − σ·R_k): what noise adds to the gradient
            in first order cancels (antithetic variates: Hammersley and Morton, Math. Proc. Camb. Phil. Soc.
            52, 1956).  Half as many draws.
        parameters: further ones that are disturbed, as of :class:`neurosim.training.ForwardNoise`.

    Source: Trinh, Heinonen, Acerbi, Kaski, "Improving robustness to corruptions with multiplicative weight
    perturbations", NeurIPS 2024 (arXiv 2406.16540).

    >>> MultiplicativeCopies(0.2, copies=4).passes
    1.0
    """

    sigma: float = 0.2
    copies: int = 4
    ramp: float = 0.0
    antithetic: bool = False
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.antithetic, bool):
            raise UsageError(f"method 'damp': expected antithetic, true or false; got {self.antithetic!r}")
        check_number("damp", "sigma", self.sigma, 0.0, 10.0)
        check_number("damp", "ramp", self.ramp, 0.0, 1.0)
        check_integer("damp", "copies", self.copies, 1)
        check_patterns("method 'damp'", self.parameters)

    @property
    def passes(self) -> float:
        """One: every sample runs once."""
        return 1.0

    def backward(self, step: Step) -> dict[str, float]:
        """Add ∂L/∂Θ to the gradients; see :class:`neurosim.training.method.Method`."""
        sigma = ForwardNoise(self.sigma, self.ramp).strength(step.progress)
        if sigma == 0.0:
            return Standard().backward(step)
        weights, total = analog_parameters(step.model, self.parameters), 0.0
        drawn: dict[str, Tensor] = {}
        for k, part in enumerate(step.parts(self.copies)):
            if self.antithetic and k % 2:
                drawn = {name: r.neg_() for name, r in drawn.items()}
            else:
                number = k // 2 if self.antithetic else k
                drawn = {
                    name: normal_like(p, step.draws_for(f"{name}:damp#{number}")).mul_(sigma)
                    for name, p in weights.items()
                }
            moved = {name: laid_out_as(p, p * (1 + drawn[name])) for name, p in weights.items()}
            moved = keeping_signs(weights, moved, self.parameters)
            share = len(part.inputs) / len(step.inputs)
            loss = part.loss(functional_call(step.model, moved, (part.inputs,))) * share
            loss.backward()
            total += loss.item()
        return {"loss": total}
