"""Methods joined: one objective, and whatever goes with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from neurosim.training.distillation import Distillation
from neurosim.training.method import Average, Constraint, Method, Regulariser, Step
from neurosim.training.standard import Standard


@final
@dataclass(frozen=True)
class Combined:
    """An objective with regularisers, a teacher, a constraint and an average; all but the objective optional.

    The gradient of a step is that of the objective plus those of the regularisers; the teacher changes what
    the objective's task loss is; the constraint acts after the optimiser, and the average after that.

    Args:
        objective: at which weights the task loss is taken.
        regularisers: what is added to it.
        distillation: whose opinion the task loss takes in.
        constraint: where weights may be.
        average: of the weights over steps.

    >>> from neurosim.training import AdversarialWeights, ForwardNoise
    >>> Combined(ForwardNoise(), (AdversarialWeights(steps=3),)).passes
    6.0
    """

    objective: Method = field(default_factory=Standard)
    regularisers: tuple[Regulariser, ...] = ()
    distillation: Distillation | None = None
    constraint: Constraint | None = None
    average: Average | None = None

    @property
    def passes(self) -> float:
        """Of the objective, the regularisers and the teacher."""
        told = 0.0 if self.distillation is None else self.distillation.extra_passes
        return self.objective.passes + sum(r.extra_passes for r in self.regularisers) + told

    def backward(self, step: Step) -> dict[str, float]:
        """Add the gradients of all parts; see :class:`neurosim.training.method.Method`."""
        metrics = self.objective.backward(step)
        for regulariser in self.regularisers:
            added = regulariser.add(step)
            metrics = {**added, **metrics, "loss": metrics["loss"] + added["loss"]}
        return metrics


def as_combined(method: Method) -> Combined:
    """A method alone as a combination of one; a combination as it is."""
    return method if isinstance(method, Combined) else Combined(objective=method)
