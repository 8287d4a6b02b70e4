"""The loss over a data set at any weights: the landscape itself, before anything is measured on it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurosim.errors import RunError, UsageError
from neurosim.landscape.parameters import (
    analog_parameters,
    forward_aside,
    keeping_signs,
    laid_out_as,
    task_loss,
)

Data = Iterable[tuple[Tensor, Tensor]]
"""Anything that gives batches (inputs, targets), and the same ones again: a list, ``Batches``."""


@dataclass(frozen=True)
class Score:
    """What a network makes of a data set: mean cross-entropy and accuracy over ``targets`` targets."""

    loss: float
    accuracy: float
    targets: int


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode inside, and in its own mode afterwards.

    >>> net = nn.Sequential(nn.Dropout(), nn.Linear(1, 1).eval())
    >>> with evaluating(net):
    ...     net[0].training
    False
    >>> net[0].training, net[1].training
    (True, False)
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def chip_weights(model: nn.Module, also: Sequence[str] = ()) -> dict[str, Tensor]:
    """Θ: the parameters that sit on chips and those that ``also`` names, detached, by name.

    Raises:
        UsageError: there are none, or a pattern matches none.
    """
    found = {name: parameter.detach() for name, parameter in analog_parameters(model, also).items()}
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no parameters that sit on chips: expected trained ones outside"
            " normalisation layers"
        )
    return found


def moved_along(
    weights: Mapping[str, Tensor],
    steps: Iterable[tuple[float, Mapping[str, Tensor]]],
    also: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Θ + Σ a·d over pairs (a, d); a direction d may leave parameters out, which it then does not move.

    Time constants and the like that ``also`` names keep their sign:
    :func:`neurosim.landscape.parameters.keeping_signs`.

    >>> moved_along({"w": torch.ones(2)}, [(2.0, {"w": torch.tensor([1.0, 0.0])})])
    {'w': tensor([3., 1.])}
    """
    there = dict(weights)
    for size, direction in steps:
        for name, step in direction.items():
            there[name] = laid_out_as(weights[name], there[name] + size * step)
    return keeping_signs(weights, there, also)


def batches_of(data: Data, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch, on the network's device.

    Raises:
        UsageError: no batch, or data that can be read once only.
    """
    if isinstance(data, Iterator):
        raise UsageError(
            f"data from a {type(data).__name__} can be read once only: expected something that can be"
            " iterated again, such as a list or neurosim.data.Batches"
        )
    some = next(model.parameters(), None)
    device = torch.device("cpu") if some is None else some.device
    empty = True
    for inputs, targets in data:
        empty = False
        yield inputs.to(device), targets.to(device)
    if empty:
        raise UsageError("there is no data to measure a loss on: expected at least one batch")


def score_at(model: nn.Module, data: Data, parameters: Mapping[str, Tensor] | None = None) -> Score:
    """Loss and accuracy over a data set, the network in evaluation mode and at other parameters.

    The mean is over all targets (samples, or pixels of all samples) and does not depend on how they are
    batched, but for rounding.  The network and its buffers stay as they are.

    Args:
        model: any network that gives logits (batch, classes[, ...]).
        data: batches (inputs, targets).
        parameters: by name, in place of the network's own; the others stay.

    Raises:
        UsageError: no data, or shapes that do not fit.
        RunError: the loss is no finite number.

    >>> net = nn.Linear(2, 2, bias=False)
    >>> zero = {"weight": torch.zeros(2, 2)}
    >>> round(score_at(net, [(torch.ones(3, 2), torch.tensor([0, 1, 0]))], zero).loss, 4)
    0.6931
    """
    loss, correct, count = 0.0, 0, 0
    with evaluating(model), torch.no_grad():
        for inputs, targets in batches_of(data, model):
            logits = forward_aside(model, parameters or {}, inputs)
            loss += float(task_loss(logits, targets)) * targets.numel()
            correct += int((logits.argmax(1) == targets).sum())
            count += targets.numel()
    if not math.isfinite(loss):
        raise RunError(f"the loss of {type(model).__name__} is {loss}: expected a finite number")
    return Score(loss / count, correct / count, count)
