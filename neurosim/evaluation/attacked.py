"""Accuracy under attack as tables, with 95 % intervals: of weights, and of inputs made here, tested there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from neurosim.evaluation.input_attacks import CLEAN, DIGITAL, Transfer
from neurosim.evaluation.samples import accuracy_interval, difference_interval
from neurosim.evaluation.statistics import mean_interval
from neurosim.evaluation.table import Table
from neurosim.landscape.attack import Attacked

Array = npt.NDArray[np.float64]


def weights_table(found: Iterable[Attacked]) -> Table:
    """One row for each size of an attack on weights (:func:`neurosim.landscape.attack.attack_weights`).

    Columns, each but the counts with ``_low`` and ``_high`` where an interval is meant: size, samples;
    ``clean``; ``attacked`` at the worst restart, over samples (:mod:`neurosim.evaluation.samples`);
    ``mildest``, the best of the restarts; ``gaussian`` and ``corner``, the mean over random draws (Student's
    t over draws, given these samples), with their ``_min``; ``beyond``, accuracy attacked − accuracy at the
    worst random draw of both kinds, paired over samples.

    >>> import torch
    >>> ones = torch.ones(8, dtype=torch.float64)
    >>> found = Attacked(0.1, ones, 0 * ones, 0 * ones[None], ones[None], ones[None], None)
    >>> row = weights_table([found]).rows()[0]
    >>> row["attacked"], row["beyond"], round(row["beyond_high"], 2)
    (0.0, -1.0, -0.54)
    """
    return Table.from_rows([_weights_row(each) for each in found])


def weights_details(found: Iterable[Attacked]) -> Table:
    """One row for each restart and draw: size, made (clean, attack, ...), number, accuracy and its ends."""
    rows: list[dict[str, Any]] = []
    for each in found:
        kinds = {
            "clean": each.clean[None],
            "attack": each.restarts,
            "gaussian": each.gaussian,
            "corner": each.corner,
        }
        for made, scores in kinds.items():
            for number, score in enumerate(scores):
                ends = _interval("accuracy", accuracy_interval(score.cpu().numpy()))
                rows.append({"size": each.size, "made": made, "number": number, **ends})
    return Table.from_rows(rows)


def inputs_table(found: Iterable[Transfer]) -> Table:
    """One row for each size of an attack on inputs (:func:`neurosim.evaluation.input_attacks.transfer`).

    Columns, each but the counts with ``_low`` and ``_high``: size, samples, chips; ``clean`` and ``digital``,
    clean and attacked inputs on the network off any chip, over samples (Wilson); ``clean_chips``,
    ``to_chips`` (made off the chip, tested on chips), ``own_chip`` (made on the chip it is tested on) and
    ``other_chips`` (made on one chip, tested on another), the mean over chips with Student's t over chips,
    given these samples; of ``other_chips`` over those that the inputs are made on.  NaN where nothing was
    made or there is only one chip.

    >>> import torch
    >>> from neurosim.evaluation.input_attacks import InputAttack
    >>> scores = torch.tensor([[[1.0], [1.0], [1.0]], [[0.0], [1.0], [0.0]], [[1.0], [0.0], [1.0]]])
    >>> found = Transfer(InputAttack(), ("clean", "digital", 0), ("digital", 0, 1), scores)
    >>> row = inputs_table([found]).rows()[0]
    >>> row["digital"], row["to_chips"], row["own_chip"], row["other_chips"]
    (0.0, 0.5, 0.0, 1.0)
    """
    return Table.from_rows([_inputs_row(each) for each in found])


def inputs_details(found: Iterable[Transfer]) -> Table:
    """One row for each place of making and of testing: size, made_on, tested_on, accuracy and its ends."""
    rows: list[dict[str, Any]] = []
    for each in found:
        for made_on in each.made_on:
            for tested_on in each.tested_on:
                ends = _interval("accuracy", accuracy_interval(each.of(made_on, tested_on).numpy()))
                place = {"made_on": str(made_on), "tested_on": str(tested_on)}
                rows.append({"size": each.attack.size, **place, **ends})
    return Table.from_rows(rows)


def _weights_row(found: Attacked) -> dict[str, Any]:
    clean, attacked = found.clean.cpu().numpy(), found.attacked.cpu().numpy()
    row: dict[str, Any] = {"size": found.size, "samples": len(clean)}
    row |= _interval("clean", accuracy_interval(clean))
    row |= _interval("attacked", accuracy_interval(attacked))
    row["mildest"] = float(found.restarts.mean(1).max())
    draws = {"gaussian": found.gaussian.cpu().numpy(), "corner": found.corner.cpu().numpy()}
    for name, scores in draws.items():
        means = scores.mean(1)
        row |= _interval(name, _mean(means))
        row[f"{name}_min"] = float(means.min()) if len(means) else math.nan
    every = np.concatenate(list(draws.values()))
    worst = every[every.mean(1).argmin()] if len(every) else None
    nothing = (math.nan, math.nan, math.nan)
    row |= _interval("beyond", nothing if worst is None else difference_interval(attacked, worst))
    return row


def _inputs_row(found: Transfer) -> dict[str, Any]:
    chips = [place for place in found.tested_on if place != DIGITAL]
    sources = [place for place in found.made_on if place not in (CLEAN, DIGITAL)]
    clean = found.of(CLEAN, DIGITAL).numpy()
    row: dict[str, Any] = {"size": found.attack.size, "samples": len(clean), "chips": len(chips)}
    row |= _interval("clean", accuracy_interval(clean))
    has_digital = DIGITAL in found.made_on
    nothing = (math.nan, math.nan, math.nan)
    row |= _interval(
        "digital", accuracy_interval(found.of(DIGITAL, DIGITAL).numpy()) if has_digital else nothing
    )
    row |= _interval("clean_chips", _mean([found.accuracy(CLEAN, chip) for chip in chips]))
    to_chips = [found.accuracy(DIGITAL, chip) for chip in chips] if has_digital else []
    row |= _interval("to_chips", _mean(to_chips))
    row |= _interval("own_chip", _mean([found.accuracy(chip, chip) for chip in sources]))
    others = [[found.accuracy(s, chip) for chip in chips if chip != s] for s in sources]
    row |= _interval("other_chips", _mean([math.fsum(each) / len(each) for each in others if each]))
    return row


def _mean(values: npt.ArrayLike) -> tuple[float, float, float]:
    """Mean and Student's t, its ends kept in [0, 1]; NaN for nothing.

    Few that are all equal say nothing of their spread: no ends then, rather than ends at the mean.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return math.nan, math.nan, math.nan
    mean, low, high = mean_interval(numbers)
    if np.ptp(numbers) == 0:
        return mean, math.nan, math.nan
    return mean, max(low, 0.0), min(high, 1.0)


def _interval(name: str, found: tuple[float, float, float]) -> dict[str, float]:
    estimate, low, high = found
    return {name: estimate, f"{name}_low": low, f"{name}_high": high}
