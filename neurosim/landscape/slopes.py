"""How steep the loss is along random lines: the flatness of the paper's Table S1.

Büchel, Faber, Muir, ICLR 2022 (arXiv 2106.05009): the loss over the test data at Θ + α·v, with
v = 0.2·|Θ|·n and n standard normal, for α from -2 to 2, five lines.  How many α there are (50, equally
spaced, both ends included) is that of the authors' code.  How they took the slope we could not read: we found
no code for it in the published repository.  Ours is the difference of neighbours,

::

    |slope|_k = |L(Θ + α_{k+1}·v) - L(Θ + α_k·v)| / (α_{k+1} - α_k)

and averaged over all 49 pairs of a line, then over lines.  For a loss that rises to both sides it is how
far it rises, so that one high wall counts like many small bumps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.landscape.losses import Data, chip_weights, moved_along, score_at
from neurosim.landscape.parameters import normal_like
from neurosim.random import stream

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Protocol:
    """How lines are laid through Θ and read; the defaults are those of Table S1.

    Attributes:
        spread: standard deviation of v, as a part of |Θ|, element by element.
        reach: α from -reach to reach.
        points: α on a line, equally spaced, both ends included.
        repeats: lines.

    Raises:
        UsageError: ``spread`` or ``reach`` not above 0, fewer than two points, or no line.

    >>> Protocol().repeats, Protocol().alphas()[[0, -1]].tolist()
    (5, [-2.0, 2.0])
    """

    spread: float = 0.2
    reach: float = 2.0
    points: int = 50
    repeats: int = 5

    def __post_init__(self) -> None:
        for name, value in (("spread", self.spread), ("reach", self.reach)):
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"expected {name} of a line above 0; got {value!r}")
        for name, count, least in (("points", self.points, 2), ("repeats", self.repeats, 1)):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise UsageError(f"expected {name} to be a whole number of at least {least}; got {count!r}")

    def alphas(self) -> Array:
        """α, (points,)."""
        return np.linspace(-self.reach, self.reach, self.points)


TABLE_S1 = Protocol()
"""The protocol of the paper's Table S1."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Losses and accuracies (repeats, points) along lines, at ``alphas`` (points,)."""

    alphas: Array
    losses: Array
    accuracies: Array

    @property
    def slopes(self) -> Array:
        """Mean |slope| of each line, (repeats,); in units of loss per α."""
        found: Array = np.abs(np.diff(self.losses, axis=1) / np.diff(self.alphas)).mean(axis=1)
        return found

    @property
    def slope(self) -> float:
        """Mean |slope| over all lines: the number of Table S1."""
        return float(self.slopes.mean())

    @property
    def slope_std(self) -> float:
        """Standard deviation of :attr:`slopes` from line to line; NaN for a single line."""
        return float(self.slopes.std(ddof=1)) if len(self.losses) > 1 else math.nan


def relative_normal(weights: dict[str, Tensor], seed: int, number: int, effect: str) -> dict[str, Tensor]:
    """|Θ|·n by name, n of the streams (seed, number, name of the parameter, effect)."""
    return {
        name: weight.abs() * normal_like(weight, stream(seed, number, name, effect))
        for name, weight in weights.items()
    }


def loss_along_lines(
    model: nn.Module,
    data: Data,
    protocol: Protocol = TABLE_S1,
    *,
    parameters: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Lines:
    """The loss over a data set along random lines through the weights, L(Θ + α·v), v = spread·|Θ|·n.

    Only parameters that sit on chips move (all trained ones but the affine ones of normalisation layers);
    the network is in evaluation mode and stays as it is.  Line k draws n from the streams
    (``seed``, k, parameter, ``"flatness-line"``).

    Args:
        model: any network that gives logits.
        data: batches (inputs, targets).
        protocol: by default that of Table S1: 5 x 50 passes over the data.
        parameters: patterns of names of further parameters that move, such as ``"*.neurons.tau_*"``.
        seed: other lines.
        progress: told (passes done, passes in all).

    Raises:
        UsageError: no data, shapes that do not fit, nothing that sits on chips, or a pattern that matches no
            parameter.
        RunError: the loss is no finite number somewhere on a line.

    >>> import torch
    >>> net = nn.Linear(2, 2)
    >>> lines = loss_along_lines(net, [(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))])
    >>> lines.losses.shape, lines.slope > 0
    ((5, 50), True)
    """
    weights = chip_weights(model, parameters)
    alphas = protocol.alphas()
    losses, accuracies = np.empty((2, protocol.repeats, protocol.points))
    for line in range(protocol.repeats):
        direction = relative_normal(weights, seed, line, "flatness-line")
        for k, alpha in enumerate(alphas):
            there = moved_along(weights, [(float(alpha) * protocol.spread, direction)], parameters)
            score = score_at(model, data, there)
            losses[line, k], accuracies[line, k] = score.loss, score.accuracy
            if progress is not None:
                progress(line * protocol.points + k + 1, protocol.repeats * protocol.points)
    return Lines(alphas, losses, accuracies)
