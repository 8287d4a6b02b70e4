"""Intervals over samples, against scipy, published examples and their own coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neurosim.errors import UsageError
from neurosim.evaluation.samples import accuracy_interval, difference_interval, wilson


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (9063, 10000)])
def test_wilson_is_that_of_scipy(right, count, confidence):
    ends = stats.binomtest(right, count).proportion_ci(confidence, method="wilson")
    assert wilson(right, count, confidence) == pytest.approx((right / count, ends.low, ends.high), abs=1e-12)


def paired(both: int, mine: int, theirs: int, neither: int) -> tuple[list[float], list[float]]:
    return (
        [1.0] * (both + mine) + [0.0] * (theirs + neither),
        [1.0] * both + [0.0] * mine + [1.0] * theirs + [0.0] * neither,
    )


# Newcombe, Statistics in Medicine 17 (1998) 2635, method 10, of the table of 36, 12, 2, 0
def test_the_paired_difference_is_newcombe_s():
    low, high = difference_interval(*paired(36, 12, 2, 0))[1:]
    assert (round(low, 4), round(high, 4)) == (0.0569, 0.3404)


def test_the_paired_difference_is_antisymmetric():
    a, b = paired(30, 9, 4, 7)
    estimate, low, high = difference_interval(a, b)
    assert difference_interval(b, a) == pytest.approx((-estimate, -high, -low))


def test_no_difference_still_has_an_interval():
    estimate, low, high = difference_interval([1.0] * 50, [1.0] * 50)
    assert estimate == 0 and low < 0 < high
    assert difference_interval([1.0, 0.0], [1.0, 0.0])[0] == 0


def test_paired_intervals_cover_as_often_as_they_say():
    numbers = np.random.default_rng(0)
    probabilities = np.array([0.55, 0.25, 0.05, 0.15])  # both, mine, theirs, neither
    truth = probabilities[1] - probabilities[2]
    covered = 0
    for _ in range(1000):
        counts = numbers.multinomial(80, probabilities)
        _, low, high = difference_interval(*paired(*counts))
        covered += low <= truth <= high
    assert 0.93 <= covered / 1000 <= 0.98


def test_fractions_have_student_s_interval():
    scores = np.array([0.2, 0.5, 0.9, 0.7])
    t = stats.t.interval(0.95, 3, scores.mean(), stats.sem(scores))
    assert accuracy_interval(scores) == pytest.approx((scores.mean(), max(t[0], 0.0), min(t[1], 1.0)))
    other = np.array([0.1, 0.6, 0.5, 0.7])
    d = scores - other
    ends = stats.t.interval(0.95, 3, d.mean(), stats.sem(d))
    assert difference_interval(scores, other) == pytest.approx((d.mean(), *ends))


@pytest.mark.parametrize("scores", [[], [[1.0]], [1.5], [-0.1], [np.nan]])
def test_what_is_no_score_is_refused(scores):
    with pytest.raises(UsageError, match="expected a score in"):
        accuracy_interval(scores)


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="expected two scores of each sample; got 1 and 2"):
        difference_interval([1.0], [1.0, 0.0])
    for right, count in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(UsageError, match="expected 0 to n right ones"):
            wilson(right, count)
