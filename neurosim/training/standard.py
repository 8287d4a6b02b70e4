"""Ordinary training: the task loss and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from neurosim.training.method import Step


@final
@dataclass(frozen=True)
class Standard:
    """L = cross-entropy(f(Θ, X), y).

    >>> Standard().passes
    1.0
    """

    @property
    def passes(self) -> float:
        """One."""
        return 1.0

    def backward(self, step: Step) -> dict[str, float]:
        """Add ∂L/∂Θ to the gradients; see :class:`neurosim.training.method.Method`."""
        loss = step.loss(step.model(step.inputs))
        loss.backward()
        return {"loss": loss.item()}
