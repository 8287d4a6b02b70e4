"""Averages of the weights over steps: what is validated and saved is the average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from neurosim.training.method import check_number


@final
@dataclass(frozen=True)
class MovingAverage:
    """EMA: Θ̄ ← d·Θ̄ + (1 − d)·Θ after each step, with d = min(decay, (1 + t)/(10 + t)) after t steps.

    Running statistics of normalisation layers are averaged in the same way.  Costs no pass.

    Args:
        decay: how slowly the average follows; 0 is no average.

    Source: Polyak, Juditsky 1992; the warm-up of d is that of TensorFlow's ``ExponentialMovingAverage``.

    >>> MovingAverage(0.999).share(0, 0.0)
    0.9
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        check_number("ema", "decay", self.decay, 0.0, 0.999999)

    def share(self, count: int, progress: float) -> float | None:
        """1 − d; see :class:`neurosim.training.method.Average`."""
        return 1.0 - min(self.decay, (1.0 + count) / (10.0 + count))


@final
@dataclass(frozen=True)
class StochasticAverage:
    """SWA: the plain mean of the weights after every step from a fraction ``start`` of the training on.

    Before that the network itself is validated.  Running statistics of normalisation layers are averaged
    too, where the paper runs one more epoch to take them anew.

    Args:
        start: fraction of the training after which the average begins (0.75 in the paper).

    Source: Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018
    (arXiv 1803.05407), which takes one set of weights an epoch.

    >>> StochasticAverage(0.5).share(3, 0.9)
    0.25
    """

    start: float = 0.75

    def __post_init__(self) -> None:
        check_number("swa", "start", self.start, 0.0, 1.0)

    def share(self, count: int, progress: float) -> float | None:
        """1/(n + 1) with n the weights averaged so far; see :class:`neurosim.training.method.Average`."""
        return None if progress < self.start else 1.0 / (count + 1.0)
