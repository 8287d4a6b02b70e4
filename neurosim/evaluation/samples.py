"""What the samples of a test say about other samples: intervals of accuracies and of their differences.

Here the unit of chance is the sample (:mod:`neurosim.evaluation.statistics` is about chips).  A score of a
sample is 1 if its class is right, else 0; or the fraction of its pixels that are right.  Intervals are
two-sided with level ``confidence`` (0.95):

* accuracy, of zeros and ones: Wilson's score interval (1927), which stays in [0, 1] and does not shrink to a
  point at 0 and 1; of fractions: Student's t.
* difference on the same samples, of zeros and ones: Newcombe's method 10 (1998), built from two of Wilson's
  and the correlation between both; of fractions: Student's t of the differences.

An attack that was made on these samples has seen them: its intervals are those of attacks that are made on
other samples in the same way, not of other samples under this one attack.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from neurosim.errors import UsageError
from neurosim.evaluation.statistics import mean_interval

Array = npt.NDArray[np.float64]
Interval = tuple[float, float, float]
"""An estimate, and the lower and upper end of its interval."""


def wilson(right: int, count: int, confidence: float = 0.95) -> Interval:
    """Fraction and Wilson's score interval, where z is the normal quantile::

        (p + z²/2n ± z·√(p(1 − p)/n + z²/4n²)) / (1 + z²/n)

    Raises :class:`UsageError` for no samples, or more right ones than samples.

    >>> [round(x, 4) for x in wilson(10, 10)]
    [1.0, 0.7225, 1.0]
    """
    if not 0 <= right <= count or count < 1:
        raise UsageError(f"expected 0 to n right ones of n samples, n of at least 1; got {right} of {count}")
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), right / count
    middle = p + z * z / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    low, high = ((middle + sign * half) / (1 + z * z / count) for sign in (-1, 1))
    # exact at the ends, where rounding would leave them a hair inside
    return p, (0.0 if right == 0 else low), (1.0 if right == count else high)


def accuracy_interval(scores: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean score of samples and its interval.

    >>> [round(x, 3) for x in accuracy_interval([1.0, 1.0, 0.0, 1.0])]
    [0.75, 0.301, 0.954]
    """
    values = _scores(scores)
    if _binary(values):
        return wilson(int(values.sum()), len(values), confidence)
    mean, low, high = mean_interval(values, confidence)
    return mean, max(low, 0.0), min(high, 1.0)


def difference_interval(mine: npt.ArrayLike, theirs: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of mine − theirs on the same samples, and its interval.

    Raises :class:`UsageError` for other numbers of samples.

    >>> mine, theirs = [1.0] * 48 + [0.0] * 2, [1.0] * 36 + [0.0] * 12 + [1.0] * 2
    >>> [round(x, 4) for x in difference_interval(mine, theirs)]
    [0.2, 0.0569, 0.3404]
    """
    a, b = _scores(mine), _scores(theirs)
    if len(a) != len(b):
        raise UsageError(f"expected two scores of each sample; got {len(a)} and {len(b)}")
    if _binary(a) and _binary(b):
        return _newcombe(a, b, confidence)
    return mean_interval(a - b, confidence)


def _newcombe(a: Array, b: Array, confidence: float) -> Interval:
    count = len(a)
    p, low_p, high_p = wilson(int(a.sum()), count, confidence)
    q, low_q, high_q = wilson(int(b.sum()), count, confidence)
    phi = _correlation(a, b)

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(one * one - 2 * phi * one * other + other * other, 0.0))

    return p - q, p - q - reach(p - low_p, high_q - q), p - q + reach(high_p - p, q - low_q)


def _correlation(a: Array, b: Array) -> float:
    """φ of the two-by-two table, shrunk where it is positive, as method 10 says."""
    both, only_a = float(a @ b), float(a @ (1 - b))
    only_b, neither = float(b @ (1 - a)), float((1 - a) @ (1 - b))
    size = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if size == 0:
        return 0.0
    cross = both * neither - only_a * only_b
    return (max(cross - len(a) / 2, 0.0) if cross > 0 else cross) / math.sqrt(size)


def _scores(scores: npt.ArrayLike) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.all((values >= 0) & (values <= 1)):
        raise UsageError(
            f"expected a score in [0, 1] for each of at least one sample; got shape {values.shape}"
        )
    return values


def _binary(values: Array) -> bool:
    return bool(np.all((values == 0) | (values == 1)))
