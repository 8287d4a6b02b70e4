"""What a table of chips says about the chips that were not sampled: estimates and their intervals.

The unit of chance is the chip.  Every interval is two-sided with level ``confidence`` (0.95):

* mean: Student's t.  Accuracies over a hundred chips average to something close to normal even when one
  chip's are skewed; t needs no random numbers and stays honest for five chips where a bootstrap does not.
* standard deviation: bias-corrected and accelerated bootstrap (Efron 1987), because the chi-squared
  interval holds for normal chips only.  Its resamples are drawn from a fixed generator.
* 5th percentile: order statistics, for any distribution (Conover 1999, section 3.2).  Its lower end does
  not exist below 72 chips, and the percentile itself is not given below 20.
* minimum: what bounds it is how many chips are worse: ``min_covers`` is the fraction of all chips that is
  at least as good as the worst one seen, with level ``confidence`` (Wilks 1941): (1 - confidence)^(1/n).
* yield, the fraction of chips at least as accurate as a bound: Clopper-Pearson, never below its level.

A number the sample is too small for is NaN, with a note under the table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from neurosim.errors import UsageError
from neurosim.evaluation.durations import format_duration
from neurosim.evaluation.table import Table

Array = npt.NDArray[np.float64]

_PERCENTILE = 0.05
_FEWEST_FOR_STD = 8
_RESAMPLES = 4000
_NAN = math.nan


def summarise(table: Table, bound: float | None = None, *, confidence: float = 0.95) -> Table:
    """One row for each age of a table made by :func:`~neurosim.evaluation.evaluate`.

    Columns: time_s, chips; mean, std, p05 and (with a ``bound``) yield, each with ``_low`` and ``_high``;
    min and min_covers.  The module's text says which interval and why.

    Raises :class:`UsageError` for a table without the columns chip, time_s and accuracy, without rows, or
    with a chip twice at one age; a bound outside [0, 1]; a confidence outside (0, 1).

    >>> chips = Table({"chip": [0, 1, 2], "time_s": [25.0] * 3, "accuracy": [0.90, 0.92, 0.94]})
    >>> row = summarise(chips, bound=0.91).rows()[0]
    >>> print(f"{row['mean']:.2f} ({row['mean_low']:.3f} to {row['mean_high']:.3f}), {row['yield']:.2f}")
    0.92 (0.870 to 0.970), 0.67
    """
    if bound is not None and not 0 <= bound <= 1:
        raise UsageError(f"the bound is an accuracy in [0, 1]; got {bound!r}")
    _check_confidence(confidence)
    rows = []
    for time_s, at in _by_time(table, "the table").items():
        rows.append({"time_s": time_s, "chips": len(at), **_summary(np.sort(at[:, 1]), bound, confidence)})
    return Table.from_rows(rows, notes=_notes(rows, confidence))


def compare(tables: Mapping[str, Table], *, confidence: float = 0.95) -> Table:
    """Paired differences between networks on the same chips at the same ages.

    For every two networks, in the order given, and every age: ``difference`` is the mean over chips of
    accuracy(network) - accuracy(against), with its paired-t interval ``low`` to ``high``; ``better`` and
    ``worse`` are the fractions of chips on which ``network`` is; ``p`` is Wilcoxon's signed-rank test
    (two-sided; 1 if no chip differs).

    Raises :class:`UsageError` for fewer than two tables, or tables of other chips, ages or samples: the
    first difference is named.

    >>> old = Table({"chip": [0, 1, 2], "time_s": [25.0] * 3, "accuracy": [0.70, 0.72, 0.74]})
    >>> new = Table({"chip": [0, 1, 2], "time_s": [25.0] * 3, "accuracy": [0.80, 0.83, 0.84]})
    >>> row = compare({"old": old, "new": new}).rows()[0]
    >>> print(f"{row['network']} - {row['against']} = {row['difference']:.3f}, better: {row['better']:.0%}")
    new - old = 0.103, better: 100%
    """
    if len(tables) < 2:
        raise UsageError(f"compare needs at least two tables; got {len(tables)}")
    _check_confidence(confidence)
    (first, reference), *others = ((name, _by_time(table, repr(name))) for name, table in tables.items())
    for name, other in others:
        _check_same(first, reference, name, other)
        _check_samples(first, tables[first], name, tables[name])
    ages = [(first, reference), *others]
    rows = [
        {
            "network": name,
            "against": against,
            "time_s": time_s,
            **_paired(mine[time_s], theirs[time_s], confidence),
        }
        for (against, theirs), (name, mine) in itertools.combinations(ages, 2)
        for time_s in reference
    ]
    return Table.from_rows(rows)


def mean_interval(values: Array, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and its Student-t interval, mean +- t_(n-1) s / sqrt(n); NaN ends for a single value.

    The values are added up exactly, so their order does not matter.

    >>> [round(end, 3) for end in mean_interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.484, 4.484]
    """
    from scipy import stats

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, _NAN, _NAN
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * _std(values) / math.sqrt(count)
    return mean, mean - half, mean + half


def _std(values: Array) -> float:
    if len(values) < 2:
        return _NAN
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((values - mean) ** 2) / (len(values) - 1))


def _summary(values: Array, bound: float | None, confidence: float) -> dict[str, Any]:
    """One age; ``values`` sorted, so that the bootstrap does not see the chips' order."""
    row: dict[str, Any] = {}
    row["mean"], row["mean_low"], row["mean_high"] = mean_interval(values, confidence)
    row["std"], row["std_low"], row["std_high"] = _std_interval(values, confidence)
    row["min"] = float(values[0])
    row["min_covers"] = (1 - confidence) ** (1 / len(values))
    row["p05"], row["p05_low"], row["p05_high"] = _percentile_interval(values, confidence)
    if bound is not None:
        from scipy import stats

        good = int(np.count_nonzero(values >= bound))
        ends = stats.binomtest(good, len(values)).proportion_ci(confidence, method="exact")
        row.update(bound=float(bound))
        row.update(
            {"yield": good / len(values), "yield_low": float(ends.low), "yield_high": float(ends.high)}
        )
    return row


def _std_interval(values: Array, confidence: float) -> tuple[float, float, float]:
    from scipy import stats

    std = _std(values)
    if len(values) < _FEWEST_FOR_STD or values[0] == values[-1]:
        return std, _NAN, _NAN
    # a statistic of its own: resamples of a few equal accuracies may have no spread at all
    result = stats.bootstrap(
        (values,),
        lambda sample, axis: np.std(sample, axis=axis, ddof=1),
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return std, float(result.confidence_interval.low), float(result.confidence_interval.high)


def _percentile_interval(values: Array, confidence: float) -> tuple[float, float, float]:
    from scipy import stats

    if len(values) < round(1 / _PERCENTILE):
        return _NAN, _NAN, _NAN
    ends = stats.quantile_test(values, p=_PERCENTILE).confidence_interval(confidence)
    return float(np.quantile(values, _PERCENTILE)), float(ends.low), float(ends.high)


def _paired(mine: Array, theirs: Array, confidence: float) -> dict[str, Any]:
    """Differences on the same chips; ``mine`` and ``theirs`` are (chips, 2), sorted by chip."""
    from scipy import stats

    differences = mine[:, 1] - theirs[:, 1]
    difference, low, high = mean_interval(differences, confidence)
    p = float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0
    return {
        "chips": len(differences),
        "difference": difference,
        "low": low,
        "high": high,
        "better": float(np.mean(differences > 0)),
        "worse": float(np.mean(differences < 0)),
        "p": p,
    }


def _by_time(table: Table, name: str) -> dict[float, Array]:
    """For each age in ascending order, (chips, 2): chip and accuracy, sorted by chip."""
    chips, times, accuracies = (table.column(column) for column in ("chip", "time_s", "accuracy"))
    if not len(table):
        raise UsageError(f"{name} has no rows: expected at least one chip")
    for column in (times, accuracies):
        if column.dtype.kind not in "if" or not np.all(np.isfinite(column)):
            raise UsageError(f"{name} has times or accuracies that are not finite numbers")
    ages = {}
    for time_s in np.unique(times):
        at = times == time_s
        order = np.argsort(chips[at], kind="stable")
        ages[float(time_s)] = np.stack([chips[at][order], accuracies[at][order]], axis=1).astype(np.float64)
        numbers = ages[float(time_s)][:, 0]
        repeated = numbers[1:][numbers[1:] == numbers[:-1]]
        if len(repeated):
            raise UsageError(f"{name} has chip {int(repeated[0])} twice at {format_duration(float(time_s))}")
    return ages


def _check_same(first: str, mine: dict[float, Array], second: str, theirs: dict[float, Array]) -> None:
    for time_s in sorted({*mine, *theirs}):
        for one, ages, other in ((first, theirs, second), (second, mine, first)):
            if time_s not in ages:
                raise UsageError(
                    f"{one!r} has the age {format_duration(time_s)} and {other!r} has not: "
                    "compare needs the same chips at the same ages"
                )
        unshared = np.setxor1d(mine[time_s][:, 0], theirs[time_s][:, 0])
        if len(unshared):
            one, other = (first, second) if unshared[0] in mine[time_s][:, 0] else (second, first)
            raise UsageError(
                f"{one!r} has chip {int(unshared[0])} at {format_duration(time_s)} and {other!r} has not: "
                "compare needs the same chips at the same ages"
            )


def _check_samples(first: str, mine: Table, second: str, theirs: Table) -> None:
    if "samples" in mine.names and "samples" in theirs.names:
        one, other = set(mine.column("samples").tolist()), set(theirs.column("samples").tolist())
        if one != other:
            raise UsageError(
                f"{first!r} was evaluated on {sorted(one)[0]} samples and {second!r} on {sorted(other)[0]}: "
                "compare needs the same data"
            )


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UsageError(f"the confidence is a probability between 0 and 1; got {confidence!r}")


def _notes(rows: list[dict[str, Any]], confidence: float) -> list[str]:
    fewest = min(row["chips"] for row in rows)
    notes = []
    if fewest < 2:
        notes.append("one chip has no spread: no interval for its mean, no standard deviation.")
    elif fewest < _FEWEST_FOR_STD:
        notes.append(f"std has no interval below {_FEWEST_FOR_STD} chips.")
    needed = round(1 / _PERCENTILE)
    lower = math.ceil(math.log((1 - confidence) / 2) / math.log(1 - _PERCENTILE))
    if fewest < needed:
        notes.append(f"p05 needs at least {needed} chips: below, no sampled chip stands for the worst 5 %.")
    elif fewest < lower:
        notes.append(f"p05 has no lower end below {lower} chips at {confidence:.0%} confidence.")
    return notes
