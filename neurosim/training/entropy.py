"""Entropy-SGD: the gradient of the local entropy, by Langevin dynamics inside each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from neurosim.training.method import (
    Step,
    analog_parameters,
    check_integer,
    check_number,
    forward_aside,
    gradients_of,
    laid_out_as,
    normal_like,
)
from neurosim.training.standard import Standard


@final
@dataclass(frozen=True)
class EntropySGD:
    """−∇ log ∫ exp(−L(Θ') − γ/2·‖Θ − Θ'‖²) dΘ' = γ(Θ − ⟨Θ'⟩), ⟨Θ'⟩ by L steps of Langevin dynamics::

        Θ'_{l+1} = Θ'_l − η'(∇L(Θ'_l) + γ(Θ'_l − Θ)) + √η'·ε·R,   R ~ N(0, 1)
        μ_{l+1}  = α·μ_l + (1 − α)·Θ'_{l+1},                       Θ'_0 = μ_0 = Θ

    The gradient handed on is γ_eff(Θ − μ_L) with γ_eff = 1/(η'(L − (α − α^{L+1})/(1 − α))): where the loss
    is a plane, without noise and to first order in η'γ, it is ∇L itself, so learning rates keep their
    meaning.  All steps read the same batch.  Affine parameters of normalisation layers take the gradient of
    the first step, whose forward alone writes running statistics.

    Args:
        steps: L (5 to 20 in the paper); 0 is ordinary training.
        inner_lr: η'.
        gamma: γ, the scope.
        alpha: α, the memory of the average (0.75 in the paper).
        thermal: ε, the size of the noise (1e-4 to 1e-3 in the paper).

    Source: Chaudhari et al., "Entropy-SGD: biasing gradient descent into wide valleys", ICLR 2017
    (arXiv 1611.01838).

    >>> EntropySGD(steps=5).passes
    5.0
    """

    steps: int = 5
    inner_lr: float = 0.1
    gamma: float = 1e-2
    alpha: float = 0.75
    thermal: float = 1e-3

    def __post_init__(self) -> None:
        check_integer("entropy-sgd", "steps", self.steps, 0)
        check_number("entropy-sgd", "inner_lr", self.inner_lr, 1e-9, 1e3)
        check_number("entropy-sgd", "gamma", self.gamma, 0.0, 1e6)
        check_number("entropy-sgd", "alpha", self.alpha, 0.0, 0.999)
        check_number("entropy-sgd", "thermal", self.thermal, 0.0, 10.0)

    @property
    def passes(self) -> float:
        """L."""
        return float(max(1, self.steps))

    def backward(self, step: Step) -> dict[str, float]:
        """Add the gradient of the local entropy; see :class:`neurosim.training.method.Method`."""
        weights = analog_parameters(step.model)
        if self.steps == 0 or not weights:
            return Standard().backward(step)
        every = {name: p for name, p in step.model.named_parameters() if p.requires_grad}
        theta = {name: p.detach() for name, p in weights.items()}
        here = {name: p.clone() for name, p in theta.items()}
        mean = {name: p.clone() for name, p in theta.items()}
        loss = step.loss(step.model(step.inputs))
        first = loss.item()
        slopes = gradients_of(loss, every)
        for name in slopes.keys() - weights.keys():
            _add_gradient(every[name], slopes[name])
        for k in range(self.steps):
            if k:
                place = {n: laid_out_as(theta[n], p.detach()).requires_grad_() for n, p in here.items()}
                slopes = gradients_of(step.loss(forward_aside(step.model, place, step.inputs)), place)
            for name, at in here.items():
                if name in slopes:
                    at -= self.inner_lr * (slopes[name] + self.gamma * (at - theta[name]))
                    noise = normal_like(at, step.draws_for(f"{name}:langevin#{k}"))
                    at += noise.mul_(math.sqrt(self.inner_lr) * self.thermal)
                mean[name].lerp_(at, 1.0 - self.alpha)
        scale = 1.0 / (self.inner_lr * self._reach())
        for name, p in weights.items():
            if name in slopes:
                _add_gradient(p, (theta[name] - mean[name]) * scale)
        return {"loss": first}

    def _reach(self) -> float:
        """(Θ − μ_L)/(η'·∇L) on a plane: Σ_l (1 − α)·α^{L−l}·l."""
        return sum((1.0 - self.alpha) * self.alpha ** (self.steps - k) * k for k in range(1, self.steps + 1))


def _add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
