"""Ordinary training: the task loss and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from neurosim.training.method import DrawsFor, task_loss


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

    def backward(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, draws_for: DrawsFor, progress: float
    ) -> dict[str, float]:
        """Add ∂L/∂Θ to the gradients; see :class:`neurosim.training.method.Method`."""
        loss = task_loss(model(inputs), targets)
        loss.backward()
        return {"loss": loss.item()}
