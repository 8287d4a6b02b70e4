"""Knowledge distillation: the noisy network learns what a clean one says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.training.method import Soft, check_number


@final
@dataclass(frozen=True)
class Distillation:
    """L_task = (1 − α)·cross-entropy(z, y) + α·T²·KL(softmax(z_t/T) ‖ softmax(z/T)).

    z are the logits of the network wherever the objective takes them (at noisy or attacked weights), z_t
    those of a teacher at its clean weights.  Costs a forward of the teacher, a third of a pass where it is
    as large.

    Args:
        teacher: the folder of the run whose network teaches.
        alpha: how much the teacher counts.
        temperature: T.

    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531); of a noisy student by its clean twin, Zhou et al.,
    "Noisy machines", 2020 (arXiv 2001.04974).

    >>> Distillation("runs/clean").extra_passes
    0.3333333333333333
    """

    teacher: str = ""
    alpha: float = 0.7
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, str):
            raise UsageError(f"method 'distil': expected teacher, a run's folder; got {self.teacher!r}")
        check_number("distil", "alpha", self.alpha, 0.0, 1.0)
        check_number("distil", "temperature", self.temperature, 1e-3, 1e3)

    @property
    def extra_passes(self) -> float:
        """A third: the teacher runs forward."""
        return 0.0 if self.alpha == 0.0 else 1.0 / 3.0

    def soft(self, teacher: nn.Module, inputs: Tensor) -> Soft | None:
        """What the teacher says of these inputs."""
        if self.alpha == 0.0:
            return None
        with torch.no_grad():
            logits = teacher(inputs)
        return Soft(logits, self.alpha, self.temperature)
