"""ABCD: a random part of the weights goes uphill while the rest goes down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from neurosim.training.method import Step, analog_parameters, check_number, gradients_of
from neurosim.training.standard import Standard


@final
@dataclass(frozen=True)
class BlockCoordinateDescent:
    """Adversarial block coordinate descent: g = ∇L ⊙ (1 − m·(1 + a)),  m ~ Bernoulli(fraction) a weight.

    The weights of the block move uphill with ``a`` times the learning rate, all others down, in one pass.
    Optimisers that normalise gradients (Adam) forget much of ``a``: use ``sgd`` for the published method.

    Args:
        fraction: share of the weights that go uphill in a step.
        ascent: a, their learning rate relative to that of descent.

    Source: Cicek, Soatto, "Input and weight space smoothing for semi-supervised learning", ICCV workshops
    2019 (arXiv 1805.09302), without its smoothing of inputs; a rival in Büchel et al., ICLR 2022.

    >>> BlockCoordinateDescent().passes
    1.0
    """

    fraction: float = 0.1
    ascent: float = 0.1

    def __post_init__(self) -> None:
        check_number("abcd", "fraction", self.fraction, 0.0, 1.0)
        check_number("abcd", "ascent", self.ascent, 0.0, 10.0)

    @property
    def passes(self) -> float:
        """One."""
        return 1.0

    def backward(self, step: Step) -> dict[str, float]:
        """Add the gradient with its block turned round; see :class:`neurosim.training.method.Method`."""
        if self.fraction == 0.0:
            return Standard().backward(step)
        every = {name: p for name, p in step.model.named_parameters() if p.requires_grad}
        analog = analog_parameters(step.model)
        loss = step.loss(step.model(step.inputs))
        for name, g in gradients_of(loss, every).items():
            if name in analog:
                drawn = step.draws_for(f"{name}:block").uniform(tuple(g.shape), device=str(g.device))
                g = torch.where(drawn.to(g) < self.fraction, -self.ascent * g, g)
            p = every[name]
            p.grad = g if p.grad is None else p.grad + g
        return {"loss": loss.item()}
