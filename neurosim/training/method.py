"""What a training method is, and the few things methods share.

A method turns one batch into gradients.  It knows the task loss and the network as a function of its
parameters; it knows nothing of optimisers, epochs or files (those are the loop's), nor of chips: a
network on a chip is only another function of the same parameters.

Methods have parts of five kinds, of which :class:`neurosim.training.combined.Combined` joins some: an
*objective* (the task loss, at which weights?), *regularisers* added to it, a *criterion* (what the task loss
is), a *constraint* on the weights after each step, and an *average* of the weights over steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from neurosim.errors import UsageError
from neurosim.landscape.parameters import (
    DrawsFor,
    analog_parameters,
    check_patterns,
    digital_parameters,
    divergence,
    forward_aside,
    keeping_signs,
    laid_out_as,
    normal_like,
    one_a_row,
    task_loss,
    uniform_like,
    widened,
)

__all__ = [
    "Average",
    "Constraint",
    "DrawsFor",
    "Method",
    "Regulariser",
    "Soft",
    "Step",
    "analog_parameters",
    "check_integer",
    "check_number",
    "check_patterns",
    "digital_parameters",
    "divergence",
    "forward_aside",
    "keeping_signs",
    "laid_out_as",
    "normal_like",
    "one_a_row",
    "task_loss",
    "uniform_like",
    "widened",
]


@dataclass(frozen=True)
class Soft:
    """What a teacher says of a batch, and how much it counts: see :mod:`neurosim.training.distillation`."""

    logits: Tensor
    weight: float
    temperature: float

    def part(self, chosen: slice) -> Soft:
        """That of some samples."""
        return replace(self, logits=self.logits[chosen])


@dataclass(frozen=True)
class Step:
    """One batch, and all that a method may use.

    Attributes:
        model: gives logits (batch, classes) for ``inputs``, as a function of its parameters; or
            (batch, classes, ...), with axes of pixels behind.
        inputs: (batch, ...).
        targets: int64 class numbers, (batch,) or (batch, ...), one a pixel.
        draws_for: the streams of this step.
        progress: fraction of the training that is done, in [0, 1].
        number: of the step, from 0.
        soft: a teacher's opinion, if there is one.
        memory: tensors that a method keeps from step to step; the loop saves them in checkpoints.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    draws_for: DrawsFor
    progress: float = 0.0
    number: int = 0
    soft: Soft | None = None
    memory: MutableMapping[str, Tensor] = field(default_factory=dict)

    def loss(self, logits: Tensor) -> Tensor:
        """What training makes small at given logits: the task loss, or its mixture with the teacher's."""
        task = task_loss(logits, self.targets)
        if self.soft is None:
            return task
        t = self.soft.temperature
        told = divergence(self.soft.logits / t, widened(logits) / t)
        return (1.0 - self.soft.weight) * task + (self.soft.weight * t * t) * told

    def parts(self, count: int) -> list[Step]:
        """The batch in ``count`` parts of nearly equal size; fewer, if it has fewer samples.

        Batch normalisation has no statistics of one sample: parts then have two at least.
        """
        least = 2 if any(isinstance(m, _BatchNorm) and m.training for m in self.model.modules()) else 1
        count = max(1, min(count, len(self.inputs) // least))
        edges = [round(k * len(self.inputs) / count) for k in range(count + 1)]
        return [self._part(slice(a, b)) for a, b in itertools.pairwise(edges)]

    def _part(self, chosen: slice) -> Step:
        soft = None if self.soft is None else self.soft.part(chosen)
        return replace(self, inputs=self.inputs[chosen], targets=self.targets[chosen], soft=soft)


class Method(Protocol):
    """Turns one batch into gradients.

    ``passes`` counts the forward-and-backward passes of one step, so that costs can be compared.
    """

    @property
    def passes(self) -> float:
        """Forward-and-backward passes per step."""
        ...

    def backward(self, step: Step) -> dict[str, float]:
        """Add this step's gradient to ``p.grad`` of every parameter of ``step.model``.

        Returns:
            What to log; must hold ``"loss"``, the value that was minimised.
        """
        ...


class Regulariser(Protocol):
    """Adds a term to the loss of whatever objective it is joined with."""

    @property
    def extra_passes(self) -> float:
        """Passes per step that the term costs."""
        ...

    def add(self, step: Step) -> dict[str, float]:
        """Add the term's gradient to ``p.grad``; what to log, with ``"loss"`` what it adds to the loss."""
        ...


class Constraint(Protocol):
    """Keeps weights where they may be."""

    def apply_(self, model: nn.Module) -> None:
        """Change the weights in place; called after every optimiser step."""
        ...


class Average(Protocol):
    """Averages weights over steps; the average is what is validated and saved."""

    def share(self, count: int, progress: float) -> float | None:
        """The share of the present weights in the new average; None while nothing is averaged.

        ``count`` is how many weights the average has taken in.
        """
        ...


def perturbed(
    step: Step,
    eta: float,
    scale: str = "weight",
    effect: str = "forward-noise",
    also: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Θ + stop_grad(s·η·R), R ~ N(0, 1): the disturbed parameters with noise, whose gradient is that of Θ.

    ``scale`` is one of :data:`neurosim.landscape.ascent.SCALES`, or ``filter``: see :func:`sizes`.  ``also``
    names parameters beside the trained ones: see :func:`neurosim.landscape.parameters.analog_parameters`.
    """
    weights, moved = analog_parameters(step.model, also), {}
    for name, p in weights.items():
        noise = normal_like(p, step.draws_for(f"{name}:{effect}"))
        moved[name] = laid_out_as(p, p + noise.mul_(sizes(p.detach(), scale)).mul_(eta))
    return keeping_signs(weights, moved, also)


def sizes(weight: Tensor, scale: str) -> Tensor:
    """What noise is measured in, broadcastable to the weight.

    ``weight``: |Θ|; ``filter``: the root mean square of each output's weights, that of its own for a
    parameter with one axis; ``layer-rms``, ``layer-max``: of the whole parameter; ``one``: 1.
    """
    if scale == "weight":
        return weight.abs()
    if scale == "one":
        return weight.new_ones(())
    if scale == "layer-max":
        return weight.abs().amax() if weight.numel() else weight.new_zeros(())
    if scale == "layer-rms" or weight.dim() < 2:
        return weight.square().mean().sqrt()
    return weight.square().mean(dim=tuple(range(1, weight.dim())), keepdim=True).sqrt()


NOISE_SCALES = ("weight", "filter", "layer-rms", "layer-max", "one")


def gradients_of(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """∂loss/∂p by name, without those that the loss does not need; ``p.grad`` stays as it is."""
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


def first_slopes(step: Step, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """∂L/∂Θ at the present weights, of those that are not trained too; this forward writes statistics."""
    leaves = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in weights.items()}
    return gradients_of(step.loss(functional_call(step.model, leaves, (step.inputs,))), leaves)


def slopes_at(step: Step, at: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """∂L/∂Θ at other weights; running statistics stay."""
    place = {name: p.detach().requires_grad_() for name, p in at.items()}
    return gradients_of(step.loss(forward_aside(step.model, place, step.inputs)), place)


def backward_beside(step: Step, offsets: Mapping[str, Tensor], also: Sequence[str] = ()) -> Tensor:
    """Add ∂L/∂Θ at Θ + offset, offsets constant, to the gradients; running statistics stay.  Gives L."""
    weights = analog_parameters(step.model, also)
    moved = {name: laid_out_as(p, p + offsets[name]) for name, p in weights.items() if name in offsets}
    loss = step.loss(forward_aside(step.model, keeping_signs(weights, moved, also), step.inputs))
    loss.backward()
    return loss.detach()


def check_number(owner: str, name: str, value: object, low: float, high: float) -> None:
    """UsageError unless ``value`` is a number with low ≤ value ≤ high."""
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not low <= number <= high:
        raise UsageError(f"method {owner!r}: expected {low:g} <= {name} <= {high:g}; got {name}={value!r}")


def check_integer(owner: str, name: str, value: object, low: int) -> None:
    """UsageError unless ``value`` is an integer ≥ low."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UsageError(f"method {owner!r}: expected {name}, an integer >= {low}; got {name}={value!r}")


def check_choice(owner: str, name: str, value: object, known: tuple[str, ...]) -> None:
    """UsageError unless ``value`` is one of the known words."""
    if value not in known:
        raise UsageError(
            f"method {owner!r}: expected {name}, one of {', '.join(known)}; got {name}={value!r}"
        )
