"""The loss on a plane through the weights, spanned by two directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from neurosim.errors import UsageError, unknown
from neurosim.landscape.losses import Data, chip_weights, moved_along, score_at
from neurosim.landscape.parameters import normal_like
from neurosim.landscape.slopes import relative_normal
from neurosim.random import stream

Array = npt.NDArray[np.float64]
Direction = Mapping[str, Tensor]
"""A step in the weights by name of the parameter; parameters that are left out do not move."""
Scale = Literal["weight", "filter"]
SCALES = ("weight", "filter")


@dataclass(frozen=True, eq=False)
class Plane:
    """Losses and accuracies (points of b, points of a) at Θ + a·d₁ + b·d₂; ``at`` (points,) are a and b."""

    at: Array
    losses: Array
    accuracies: Array


def random_direction(
    model: nn.Module,
    number: int,
    *,
    scale: Scale = "weight",
    parameters: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Tensor]:
    """A random direction as large as the weights, over all parameters that sit on chips.

    ``parameters`` are patterns of names of further ones.

    ::

        d = |Θ|·n                    scale "weight": each weight in proportion to itself, as mismatch does
        d_f = n_f·‖Θ_f‖/‖n_f‖        scale "filter": each filter as long as the weights of that filter

    n is standard normal, from the streams (``seed``, ``number``, parameter, ``"flatness-plane"``).  A
    filter is what makes one output (one index of the first axis); a vector of biases is taken as one.  The
    second is that of Li, Xu, Taylor, Studer, Goldstein, NeurIPS 2018 (arXiv 1712.09913), who leave biases
    where they are; ours move, because they sit on the chip too.

    Raises:
        UsageError: an unknown scale, or nothing that sits on chips.

    >>> net = nn.Linear(3, 2)
    >>> d = random_direction(net, 0, scale="filter")
    >>> import torch
    >>> torch.allclose(d["weight"].norm(dim=1), net.weight.norm(dim=1))
    True
    """
    weights = chip_weights(model, parameters)
    if scale == "weight":
        return relative_normal(weights, seed, number, "flatness-plane")
    if scale != "filter":
        raise unknown("scale of a direction,", str(scale), SCALES)
    return {
        name: _as_long(normal_like(weight, stream(seed, number, name, "flatness-plane")), weight)
        for name, weight in weights.items()
    }


def _as_long(drawn: Tensor, weight: Tensor) -> Tensor:
    """Each filter of ``drawn`` as long as the same filter of ``weight``."""
    if weight.dim() < 2:
        return drawn * (weight.norm() / drawn.norm())
    lengths = [t.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1)) for t in (weight, drawn)]
    return drawn * (lengths[0] / lengths[1])


def loss_over_plane(
    model: nn.Module,
    data: Data,
    directions: tuple[Direction, Direction] | None = None,
    *,
    reach: float = 0.4,
    points: int = 21,
    scale: Scale = "weight",
    parameters: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Plane:
    """Loss and accuracy over a data set on a grid of weights Θ + a·d₁ + b·d₂, a and b from -reach to reach.

    With the random directions of scale ``"weight"``, a and b are sizes ζ of mismatch; the default reach,
    0.4, is that of Table S1 (α = 2 with a spread of 0.2).  Given directions may be anything: the attack
    Θ* - Θ (whose tip is a = 1), or an eigenvector of the curvature.  The network is in evaluation mode and
    stays as it is.

    Args:
        model: any network that gives logits.
        data: batches (inputs, targets).
        directions: two steps in the weights; by default two random ones.
        reach: above 0.
        points: along each axis; an odd number has Θ itself in the middle.
        scale: of random directions.
        parameters: patterns of names of further parameters that move, such as ``"*.neurons.tau_*"``.
        seed: other random directions.
        progress: told (passes done, passes in all).

    Raises:
        UsageError: a direction that does not fit the network, a wrong number, no data.
        RunError: the loss is no finite number somewhere.

    >>> import torch
    >>> plane = loss_over_plane(nn.Linear(2, 2), [(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))], points=3)
    >>> plane.losses.shape, plane.at.tolist()
    ((3, 3), [-0.4, 0.0, 0.4])
    """
    if not (math.isfinite(reach) and reach > 0):
        raise UsageError(f"expected reach of a plane above 0; got {reach!r}")
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise UsageError(f"expected points to be a whole number of at least 2; got {points!r}")
    weights = chip_weights(model, parameters)
    first, second = directions or (
        random_direction(model, 0, scale=scale, parameters=parameters, seed=seed),
        random_direction(model, 1, scale=scale, parameters=parameters, seed=seed),
    )
    _check_direction(first, weights)
    _check_direction(second, weights)
    at = np.linspace(-reach, reach, points)
    losses, accuracies = np.empty((2, points, points))
    for row, b in enumerate(at):
        for column, a in enumerate(at):
            there = moved_along(weights, [(float(a), first), (float(b), second)], parameters)
            score = score_at(model, data, there)
            losses[row, column], accuracies[row, column] = score.loss, score.accuracy
            if progress is not None:
                progress(row * points + column + 1, points * points)
    return Plane(at, losses, accuracies)


def _check_direction(direction: Direction, weights: Mapping[str, Tensor]) -> None:
    for name, step in direction.items():
        if name not in weights:
            raise unknown("parameter in a direction,", name, weights)
        if step.shape != weights[name].shape:
            raise UsageError(
                f"the direction of {name!r} has shape {tuple(step.shape)}: expected that of the parameter,"
                f" {tuple(weights[name].shape)}"
            )
