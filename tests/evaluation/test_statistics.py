"""Summaries and comparisons: their algebra, their refusals, and that their intervals cover as claimed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neurosim.errors import UsageError
from neurosim.evaluation import Table, compare, summarise
from neurosim.evaluation.statistics import mean_interval

RATES = 4.42  # two-sided normal quantile of a false alarm in 1e5: the error rate of each coverage test


def make(accuracies, times=(25.0,), first: int = 0, samples: int = 1000) -> Table:
    rows = [
        (first + chip, time_s, float(accuracy), 0.5, samples)
        for time_s in times
        for chip, accuracy in enumerate(accuracies)
    ]
    return Table.from_rows(rows, ["chip", "time_s", "accuracy", "loss", "samples"])


def test_numbers_by_hand() -> None:
    accuracies = np.linspace(0.80, 0.899, 100)
    row = summarise(make(accuracies), bound=0.85).rows()[0]
    assert row["time_s"] == 25.0
    assert row["chips"] == 100
    assert math.isclose(row["mean"], 0.8495)
    assert math.isclose(row["std"], np.std(accuracies, ddof=1))
    assert math.isclose(row["p05"], np.quantile(accuracies, 0.05))
    assert row["min"] == 0.80
    assert math.isclose(row["min_covers"], 0.05 ** (1 / 100))
    assert row["yield"] == 0.5
    # Clopper and Pearson (1934): beta quantiles
    assert math.isclose(row["yield_low"], stats.beta.ppf(0.025, 50, 51))
    assert math.isclose(row["yield_high"], stats.beta.ppf(0.975, 51, 50))
    half = stats.t.ppf(0.975, 99) * np.std(accuracies, ddof=1) / 10
    assert math.isclose(row["mean_low"], 0.8495 - half)
    assert math.isclose(row["mean_high"], 0.8495 + half)
    assert row["p05_low"] in accuracies
    assert row["p05_low"] < row["p05"] < row["p05_high"]
    assert row["std_low"] < row["std"] < row["std_high"]


def test_one_row_an_age_in_order() -> None:
    table = summarise(make([0.5, 0.6, 0.7], times=(3600.0, 25.0)))
    assert table.column("time_s").tolist() == [25.0, 3600.0]
    assert "yield" not in table.names


@pytest.mark.parametrize(
    ("chips", "missing", "note"),
    [
        (1, {"mean_low", "mean_high", "std", "std_low", "p05", "p05_low"}, "one chip has no spread"),
        (5, {"std_low", "std_high", "p05", "p05_low", "p05_high"}, "p05 needs at least 20 chips"),
        (19, {"p05", "p05_low", "p05_high"}, "p05 needs at least 20 chips"),
        (71, {"p05_low"}, "p05 has no lower end below 72 chips at 95% confidence"),
        (72, set(), ""),
    ],
)
def test_what_few_chips_cannot_say_is_missing_and_noted(chips: int, missing: set[str], note: str) -> None:
    table = summarise(make(np.linspace(0.5, 0.9, chips)), bound=0.6)
    row = table.rows()[0]
    nans = {name for name, value in row.items() if value != value}
    assert missing <= nans
    assert note in str(table)
    if not missing:
        assert not nans
        assert not table.notes


def test_equal_chips() -> None:
    row = summarise(make([0.9] * 100), bound=0.9).rows()[0]
    assert row["mean"] == row["mean_low"] == row["mean_high"] == row["p05"] == row["min"] == 0.9
    assert row["std"] == 0
    assert math.isnan(row["std_low"])
    assert row["yield"] == row["yield_high"] == 1.0
    assert 0.95 < row["yield_low"] < 1.0


def test_chips_that_are_all_but_equal() -> None:
    summarise(make([0.9] * 99 + [0.9001]), bound=0.9)  # resamples without spread: no warning


accuracies = st.lists(st.integers(0, 1000).map(lambda correct: correct / 1000), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None)
@given(accuracies, st.randoms(use_true_random=False))
def test_summarise_does_not_see_the_order_of_rows(values: list[float], draw) -> None:
    table = make(values, times=(25.0, 3600.0))
    rows = table.rows()
    draw.shuffle(rows)
    assert summarise(Table.from_rows(rows), bound=0.5) == summarise(table, bound=0.5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=40))
def test_compare_is_antisymmetric(pairs: list[tuple[int, int]]) -> None:
    a, b = (make([pair[side] / 1000 for pair in pairs]) for side in (0, 1))
    forth, back = compare({"a": a, "b": b}).rows()[0], compare({"b": b, "a": a}).rows()[0]
    assert (forth["network"], forth["against"]) == (back["against"], back["network"]) == ("b", "a")
    assert forth["difference"] == -back["difference"]
    assert np.array_equal([forth["low"], forth["high"]], [-back["high"], -back["low"]], equal_nan=True)
    assert (forth["better"], forth["worse"]) == (back["worse"], back["better"])
    assert math.isclose(forth["p"], back["p"])


def test_compare_pairs_chips_by_number_whatever_the_order() -> None:
    a, b = make([0.5, 0.6, 0.7, 0.8]), make([0.6, 0.7, 0.8, 0.7])
    shuffled = Table.from_rows(list(reversed(b.rows())))
    assert compare({"a": a, "b": b}) == compare({"a": a, "b": shuffled})
    row = compare({"a": a, "b": b}).rows()[0]
    assert math.isclose(row["difference"], 0.05)
    assert (row["better"], row["worse"], row["chips"]) == (0.75, 0.25, 4)
    expected = stats.ttest_rel([0.6, 0.7, 0.8, 0.7], [0.5, 0.6, 0.7, 0.8]).confidence_interval()
    assert math.isclose(row["low"], expected.low)
    assert math.isclose(row["high"], expected.high)


def test_compare_of_equal_tables_and_of_three() -> None:
    table = make(np.linspace(0.5, 0.9, 30), times=(25.0, 3600.0))
    rows = compare({"a": table, "b": table, "c": table}).rows()
    assert [(row["network"], row["against"], row["time_s"]) for row in rows] == [
        (network, against, time_s)
        for network, against in (("b", "a"), ("c", "a"), ("c", "b"))
        for time_s in (25.0, 3600.0)
    ]
    assert all(row["difference"] == row["low"] == row["high"] == row["better"] == 0 for row in rows)
    assert all(row["p"] == 1 for row in rows)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (make([0.5, 0.6]), "'a' has chip 2 at 25 s and 'b' has not"),
        (make([0.5, 0.6, 0.7, 0.8]), "'b' has chip 3 at 25 s and 'a' has not"),
        (make([0.5, 0.6, 0.7], first=1), "'a' has chip 0 at 25 s and 'b' has not"),
        (make([0.5, 0.6, 0.7], times=(25.0, 3600.0)), "'b' has the age 1 h and 'a' has not"),
        (make([0.5, 0.6, 0.7], times=(3600.0,)), "'a' has the age 25 s and 'b' has not"),
        (make([0.5, 0.6, 0.7], samples=10), "'a' was evaluated on 1000 samples and 'b' on 10"),
        (Table({"chip": [], "time_s": [], "accuracy": []}), "'b' has no rows"),
        (
            Table({"chip": [1, 1], "time_s": [25.0] * 2, "accuracy": [0.5] * 2}),
            "'b' has chip 1 twice at 25 s",
        ),
        (Table({"chip": [1], "time_s": [25.0], "accuracy": [math.nan]}), "'b' has .* not finite"),
        (Table({"chip": [1], "time_s": [25.0]}), "unknown column 'accuracy'"),
    ],
)
def test_compare_names_the_first_difference(other: Table, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        compare({"a": make([0.5, 0.6, 0.7]), "b": other})


def test_refusals() -> None:
    table = make([0.5])
    with pytest.raises(UsageError, match="at least two tables; got 1"):
        compare({"a": table})
    with pytest.raises(UsageError, match=r"bound is an accuracy in \[0, 1\]; got 90"):
        summarise(table, bound=90)
    with pytest.raises(UsageError, match="got nan"):
        summarise(table, bound=math.nan)
    with pytest.raises(UsageError, match="between 0 and 1; got 95"):
        summarise(table, confidence=95)
    with pytest.raises(UsageError, match="the table has no rows"):
        summarise(Table({"chip": [], "time_s": [], "accuracy": []}))


def covered(trials: int, hits: int, rate: float, *, at_least: bool = False) -> bool:
    """Whether hits in trials agree with coverage ``rate``; wrong with probability 1e-5."""
    slack = RATES * math.sqrt(trials * rate * (1 - rate)) + 1
    return hits >= trials * rate - slack and (at_least or hits <= trials * rate + slack)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("chips", [5, 30])
def test_coverage_of_the_mean_of_normal_chips_is_exact(chips: int, confidence: float) -> None:
    draws = np.random.default_rng(1).normal(0.9, 0.02, (2000, chips))
    ends = [mean_interval(draw, confidence) for draw in draws]
    assert covered(len(draws), sum(low <= 0.9 <= high for _, low, high in ends), confidence)


def test_coverage_of_the_mean_of_skewed_chips_is_near() -> None:
    """Accuracies as chips have them, a tail of bad ones (beta, skewness -1): 95 % within 2 points."""
    chips = stats.beta(8, 0.8)
    draws = chips.rvs((2000, 100), random_state=np.random.default_rng(2))
    ends = [mean_interval(draw) for draw in draws]
    hits = sum(low <= chips.mean() <= high for _, low, high in ends)
    assert covered(len(draws), hits, 0.93, at_least=True)


def test_coverage_of_the_percentile_and_the_yield_is_never_below() -> None:
    """Whatever the distribution, even in steps of a hundredth (ties)."""
    chips = stats.beta(8, 0.8)
    draws = np.round(chips.rvs((400, 100), random_state=np.random.default_rng(3)), 2)
    percentile = np.round(chips.ppf(0.05), 2)  # rounding is monotonic: it commutes with quantiles
    good = chips.sf(0.845)  # P(round(x, 2) >= 0.85)
    hits_percentile = hits_yield = hits_min = 0
    for draw in draws:
        row = _without_bootstrap(draw)
        hits_percentile += row["p05_low"] <= percentile <= row["p05_high"]
        hits_yield += row["yield_low"] <= good <= row["yield_high"]
        hits_min += chips.sf(row["min"] - 0.005) >= row["min_covers"]
    assert covered(len(draws), hits_percentile, 0.95, at_least=True)
    assert covered(len(draws), hits_yield, 0.95, at_least=True)
    assert covered(len(draws), hits_min, 0.95, at_least=True)


def _without_bootstrap(draw):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neurosim.evaluation.statistics._FEWEST_FOR_STD", 10**9)
        return summarise(make(draw), bound=0.85).rows()[0]


@pytest.mark.slow
def test_coverage_of_the_standard_deviation_is_near() -> None:
    """BCa of 100 chips: 95 % within 4 points, for normal chips and for chips with a tail."""
    for chips in (stats.norm(0.9, 0.02), stats.beta(8, 2)):
        draws = chips.rvs((300, 100), random_state=np.random.default_rng(4))
        rows = [summarise(make(draw)).rows()[0] for draw in draws]
        hits = sum(row["std_low"] <= chips.std() <= row["std_high"] for row in rows)
        assert covered(len(draws), hits, 0.91, at_least=True)
