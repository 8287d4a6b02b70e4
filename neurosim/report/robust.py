"""Training methods side by side: tables as in the paper, accuracy over mismatch, accuracy over cost.

A comparison holds the accuracy of every chip of every trained network.  Chips of all training seeds are
pooled, as in the paper, and its standard deviation divides by their number.  Intervals are those of
:mod:`neurosim.evaluation.statistics`: over chips, for the networks at hand.  Differences are paired: the same
chip under two networks trained with the same seed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurosim.errors import UsageError
from neurosim.evaluation import Table, compare, summarise
from neurosim.report.figure import (
    COLOURS,
    GREY,
    INK,
    PALE,
    _apart,
    _picture,
    _plain,
    _save,
    _short,
    _width,
)

Array = npt.NDArray[np.float64]

Numbers = tuple[float, float | None, float | None]
"""Mean, standard deviation and minimum, in per cent, as published."""
_SEED = 2**32  # chips of the next seed are numbered from the next multiple
_NAN = math.nan


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        title: of tables and figures.
        setting: what was varied, in words or as ``device.relative_std``.
        levels: its values, in ascending order.
        cost_level: the one at which accuracy is drawn against cost.
        reference: the method that others are compared with; it may be missing.
        chips: columns method, seed, level, chip, accuracy (0 to 1), samples.
        costs: columns method, seed, passes (over the training data), seconds, best_epoch,
            validation_accuracy.
        published: by method and level.
        remarks: by method.
        missing: what is not done yet, for a note.
    """

    title: str
    setting: str
    levels: Sequence[float]
    cost_level: float
    reference: str
    chips: Table
    costs: Table
    published: Mapping[str, Mapping[float, Numbers]] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not len(self.chips):
            raise UsageError("a comparison needs at least one chip; got none")

    @property
    def methods(self) -> list[str]:
        """Those that have chips, in the order of the table."""
        return list(dict.fromkeys(self.chips.column("method").tolist()))

    def seeds(self, method: str) -> list[int]:
        """Those with which a method was trained."""
        return sorted(set(self.chips.where(method=method).column("seed").tolist()))

    def pooled(self, method: str, level: float, seeds: Iterable[int] | None = None) -> Table:
        """All chips of a method at a level, numbered apart for each seed; what statistics take."""
        at = self.chips.where(method=method, level=float(level))
        kept = np.isin(at.column("seed"), list(self.seeds(method) if seeds is None else seeds))
        return Table(
            {
                "chip": _SEED * at.column("seed")[kept] + at.column("chip")[kept],
                "time_s": np.zeros(int(kept.sum())),
                "accuracy": at.column("accuracy")[kept],
                "samples": at.column("samples")[kept],
            }
        )

    def mean(self, method: str, level: float) -> float:
        """The mean accuracy, in per cent."""
        return 100.0 * float(_sorted(self.pooled(method, level)).mean())

    def least(self, method: str, level: float) -> float:
        """That of the worst chip, in per cent."""
        return 100.0 * float(_sorted(self.pooled(method, level))[0])

    def cost(self, method: str, column: str) -> float:
        """The mean over the seeds of a column of ``costs``."""
        return float(self.costs.where(method=method).column(column).mean())


def summary(found: Comparison) -> Table:
    """A row for each method and level; accuracies in [0, 1].

    Columns: method, level, seeds, chips (of all seeds); mean, p05 with ``_low`` and ``_high``; std (as in
    the paper, over all chips, divided by their number), min; ``seed_low`` and ``seed_high``, the lowest and
    highest mean of a seed; published_mean, published_std, published_min; passes.

    >>> chips = Table({"method": ["a"] * 2, "seed": [0, 0], "level": [0.1, 0.1], "chip": [0, 1],
    ...                "accuracy": [0.8, 0.9], "samples": [10, 10]})
    >>> costs = Table({"method": ["a"], "seed": [0], "passes": [4.0], "seconds": [1.0]})
    >>> row = summary(Comparison("t", "x", [0.1], 0.1, "a", chips, costs)).rows()[0]
    >>> round(row["mean"], 3), round(row["std"], 3), row["min"]
    (0.85, 0.05, 0.8)
    """
    rows = []
    for method in found.methods:
        for level in found.levels:
            table = found.pooled(method, level)
            with warnings.catch_warnings():  # of the interval of std, which is not taken from there
                warnings.simplefilter("ignore")
                told = summarise(table).rows()[0]
            each = [float(_sorted(found.pooled(method, level, [s])).mean()) for s in found.seeds(method)]
            published = found.published.get(method, {}).get(level, (_NAN, _NAN, _NAN))
            rows.append(
                {
                    "method": method,
                    "level": float(level),
                    "seeds": len(each),
                    "chips": len(table),
                    **{name: told[name] for name in ("mean", "mean_low", "mean_high")},
                    "std": float(_sorted(table).std()),
                    **{name: told[name] for name in ("min", "p05", "p05_low", "p05_high")},
                    "seed_low": min(each),
                    "seed_high": max(each),
                    **{
                        f"published_{name}": _NAN if value is None else value / 100.0
                        for name, value in zip(("mean", "std", "min"), published, strict=True)
                    },
                    "passes": found.cost(method, "passes"),
                }
            )
    return Table.from_rows(rows)


def differences(found: Comparison) -> Table | None:
    """Each method against the reference, at each level, over the seeds that both have; None without pairs.

    Columns: method, against, level, seeds, chips; difference of the mean accuracy with its paired interval
    ``low`` to ``high``; better and worse, fractions of chips; seeds_better, in how many seeds the mean is
    higher; p, Wilcoxon's.
    """
    rows = []
    against = found.reference
    if against not in found.methods:
        return None
    for method in found.methods:
        shared = sorted(set(found.seeds(method)) & set(found.seeds(against)))
        if method == against or not shared:
            continue
        for level in found.levels:
            tables = {against: found.pooled(against, level, shared)}
            tables[method] = found.pooled(method, level, shared)
            row = compare(tables).rows()[0]
            better = [
                _sorted(found.pooled(method, level, [seed])).mean()
                > _sorted(found.pooled(against, level, [seed])).mean()
                for seed in shared
            ]
            rows.append(
                {
                    "method": method,
                    "against": against,
                    "level": float(level),
                    "seeds": len(shared),
                    **{name: row[name] for name in ("chips", "difference", "low", "high")},
                    **{name: row[name] for name in ("better", "worse")},
                    "seeds_better": sum(map(bool, better)),
                    "p": row["p"],
                }
            )
    return Table.from_rows(rows) if rows else None


def _sorted(table: Table) -> Array:
    """Accuracies in ascending order, so that sums do not depend on that of the chips."""
    return np.sort(table.column("accuracy").astype(np.float64))


# the page


def markdown(found: Comparison, told: Table, paired: Table | None) -> str:
    """The comparison as a page: ``told`` is :func:`summary`'s table and ``paired`` :func:`differences`'."""
    parts = [f"# {found.title}", _heading(found), _accuracies(found, told)]
    parts += ["## 5th percentile", _percentile_text(told), _percentiles(found, told)]
    if paired is not None:
        parts += [f"## Difference to {found.reference}", _PAIRED, _paired(found, paired)]
    parts += ["## Cost", _COST, _costs(found, told)]
    notes = [f"- {method}: {text}" for method, text in found.remarks.items() if method in found.methods]
    if found.missing:
        notes.append(f"- not done yet: {'; '.join(found.missing)}")
    if notes:
        parts += ["## Notes", "\n".join(notes)]
    return "\n\n".join(parts) + "\n"


_PAIRED = (
    "Points of the mean accuracy, with the paired 95 % interval over the same chips under networks of the "
    "same training seed; in brackets, in how many seeds the mean is higher. The intervals speak of these "
    "networks: how another seed would have turned out is what the seeds show."
)
_COST = (
    "Passes are forward-and-backward passes over the training data; seconds are of training and validation "
    "on the machine at hand. Both include those of a teacher and of the network that training began from. "
    "The accuracy is the mean with its 95 % interval over chips."
)


def _heading(found: Comparison) -> str:
    seeds = {len(found.seeds(method)) for method in found.methods}
    chips = len(set(found.chips.column("chip").tolist()))
    samples = sorted(set(found.chips.column("samples").tolist()))
    text = (
        f"Accuracy in % over {chips} chips under each of {_either(seeds)} training seeds, {_either(samples)} "
        f"samples: mean ± standard deviation (minimum). Columns: {found.setting}."
    )
    listed = any(found.published.get(method) for method in found.methods)
    return text + (" In italics, what was published." if listed else "")


def _either(numbers: Iterable[int]) -> str:
    return " to ".join(str(number) for number in dict.fromkeys([min(numbers), max(numbers)]))


def _grid(found: Comparison, rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    head = ["", *(f"{level:g}" for level in found.levels)]
    lines = [_line(head), _line(["---"] + ["---:"] * len(found.levels))]
    return "\n".join([*lines, *(_line([name, *cells]) for name, cells in rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _accuracies(found: Comparison, told: Table) -> str:
    best = {
        level: max(row["mean"] for row in told.where(level=float(level)).rows()) for level in found.levels
    }

    def rows() -> Iterator[tuple[str, Sequence[str]]]:
        for method in found.methods:
            cells = []
            for row in told.where(method=method).rows():
                text = _cell(100 * row["mean"], 100 * row["std"], 100 * row["min"])
                cells.append(f"**{text}**" if row["mean"] == best[row["level"]] else text)
            yield method, cells
            published = found.published.get(method)
            if published:
                yield (
                    f"*{method}, published*",
                    [f"*{_cell(*published[level])}*" if level in published else "" for level in found.levels],
                )

    return _grid(found, rows())


def _cell(mean: float, std: float | None, least: float | None) -> str:
    """As the paper writes it.

    >>> _cell(84.19, 2.63, 74.25), _cell(72.67, None, None)
    ('84.19 ± 2.63 (74.25)', '72.67')
    """
    spread = "" if std is None else f" ± {std:.2f}"
    return f"{mean:.2f}{spread}" + ("" if least is None else f" ({least:.2f})")


def _percentile_text(told: Table) -> str:
    fewest = int(told.column("chips").min())
    text = "19 of 20 chips are better; with the 95 % interval of order statistics."
    return text + (" It needs 20 chips." if fewest < 20 else "")


def _percentiles(found: Comparison, told: Table) -> str:
    def cell(row: Mapping[str, Any]) -> str:
        if math.isnan(row["p05"]):
            return "-"
        low, high = (_number(row[f"p05_{end}"]) for end in ("low", "high"))
        return f"{100 * row['p05']:.2f} ({low} to {high})"

    return _grid(found, ((m, [cell(row) for row in told.where(method=m).rows()]) for m in found.methods))


def _number(value: float) -> str:
    return "…" if math.isnan(value) else f"{100 * value:.2f}"


def _paired(found: Comparison, paired: Table) -> str:
    def cell(row: Mapping[str, Any]) -> str:
        middle = f"{100 * row['difference']:+.2f}"
        ends = "" if math.isnan(row["low"]) else f", {100 * row['low']:+.2f} to {100 * row['high']:+.2f}"
        return f"{middle}{ends} ({row['seeds_better']} of {row['seeds']})"

    methods = list(dict.fromkeys(paired.column("method").tolist()))
    return _grid(found, ((m, [cell(row) for row in paired.where(method=m).rows()]) for m in methods))


def _costs(found: Comparison, told: Table) -> str:
    at = {row["method"]: row for row in told.where(level=float(found.cost_level)).rows()}
    head = ["", "passes", "seconds", "validation, %", f"accuracy at {found.cost_level:g}, %"]
    lines = [_line(head), _line(["---"] + ["---:"] * 4)]
    for method in sorted(found.methods, key=lambda one: found.cost(one, "passes")):
        row = at[method]
        mean = f"{100 * row['mean']:.2f} ({_number(row['mean_low'])} to {_number(row['mean_high'])})"
        validation = f"{100 * found.cost(method, 'validation_accuracy'):.2f}"
        cells = [f"{found.cost(method, 'passes'):.4g}", f"{found.cost(method, 'seconds'):.0f}", validation]
        lines.append(_line([method, *cells, mean]))
    return "\n".join(lines)


# accuracy over the setting


def accuracy_figure(found: Comparison, *, path: str | Path) -> Path:
    """Mean accuracy over the setting, a band down to the worst chip, crosses where numbers were published.

    Up to six methods share one pair of axes; of more, each has its own, with the others in grey.

    Args:
        found: the comparison.
        path: a name that ends in .svg or .png.

    Raises:
        UsageError: another kind of file.
        RunError: matplotlib is missing, or the file cannot be written.
    """
    target, kind = _picture(path)
    methods = found.methods
    together = len(methods) <= len(COLOURS)

    def draw(figure: Any) -> None:
        if together:
            _draw_together(figure, found)
        else:
            _draw_apart(figure, found)

    parts = ["Line: mean over chips and training seeds", "band: down to the worst chip"]
    if any(found.published.get(method) for method in methods):
        parts.append("cross: as published")
    if not together:
        parts.append("grey: all other methods")
    parts += _out_of_view(found)
    return _save(target, kind, draw, found.title, "  ·  ".join(parts))


def failed(found: Comparison) -> list[str]:
    """Methods whose training came to nothing: at the first level less than half as accurate as the best."""
    first = {method: found.mean(method, found.levels[0]) for method in found.methods}
    return [method for method, mean in first.items() if mean < max(first.values()) / 2]


def _out_of_view(found: Comparison) -> list[str]:
    names = ", ".join(f"{_short(one)} ({found.mean(one, found.levels[0]):.3g} %)" for one in failed(found))
    return [f"below: {names}"] if names else []


def _draw_together(figure: Any, found: Comparison) -> None:
    size = 13.0
    room = (max(_width(_short(method), size) for method in found.methods) + 40) / _points(figure)[0]
    axes = figure.add_axes((0.07, 0.13, 0.91 - room, 0.68))
    _plain_axes(axes, 13)
    for colour, method in zip(COLOURS, found.methods, strict=False):
        _draw_method(axes, found, method, colour, band=0.16 if len(found.methods) < 5 else 0.10)
    _limits(axes, found)
    axes.set_xlabel(_plain(found.setting), size=13, color=GREY, labelpad=8)
    last = found.levels[-1]
    width, height = _points(figure)
    bottom = axes.get_ylim()[0]  # where the name of a line that runs below it stands
    ends = [
        axes.transData.transform((last, max(found.mean(method, last), bottom))) for method in found.methods
    ]
    scale = 72.0 / figure.dpi
    tops = [float(end[1]) * scale for end in ends]
    middles = _apart(tops, [size * 1.5] * len(tops), 0.13 * height, 0.84 * height)
    for colour, method, end, middle in zip(COLOURS, found.methods, ends, middles, strict=False):
        x = float(end[0]) * scale
        figure.text((x + 16) / width, (middle - 0.36 * size) / height, _short(method), size=size,
                    color=colour, weight="bold")  # fmt: skip
        if abs(middle - float(end[1]) * scale) > 3:
            _leader(figure, (x + 5, float(end[1]) * scale), (x + 14, middle), colour)


def _draw_apart(figure: Any, found: Comparison) -> None:
    methods = found.methods
    across = math.ceil(math.sqrt(1.7 * len(methods)))
    down = math.ceil(len(methods) / across)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    width, height = _points(figure)
    figure.subplots_adjust(
        left=52 / width, right=1 - 18 / width, bottom=52 / height, top=1 - 108 / height, hspace=0.42,
        wspace=0.10,
    )  # fmt: skip
    for number, axes in enumerate(panels.flat):
        if number >= len(methods):
            axes.set_visible(False)
            continue
        _plain_axes(axes, 9)
        method = methods[number]
        for other in methods:
            if other != method:
                means = [found.mean(other, level) for level in found.levels]
                axes.plot(found.levels, means, color="#C4C9D2", linewidth=0.7, zorder=1.2)
        _draw_method(axes, found, method, COLOURS[1], band=0.22, marker=3.5)
        bold = 1.12 * _width(_short(method), 10.5)
        size = min(10.5, 10.5 * ((width - 70) / across - 8) / bold)
        axes.set_title(_short(method), size=size, color=INK, weight="bold", loc="left", pad=4)
    for number in range(len(methods) - across, len(methods)):  # the last of each column carries the numbers
        panels.flat[number].tick_params(labelbottom=True)
    _limits(panels[0, 0], found)
    figure.text(0.5, 14 / height, _plain(found.setting), size=12, color=GREY, ha="center")


def _draw_method(
    axes: Any, found: Comparison, method: str, colour: str, band: float, marker: float = 6.0
) -> None:
    levels = list(found.levels)
    means = [found.mean(method, level) for level in levels]
    least = [found.least(method, level) for level in levels]
    axes.fill_between(levels, least, means, color=colour, alpha=band, linewidth=0, zorder=1.5)
    axes.plot(levels, means, "o-", color=colour, linewidth=1.9, markersize=marker, zorder=3)
    published = found.published.get(method, {})
    if published:
        axes.plot(
            list(published),
            [numbers[0] for numbers in published.values()],
            "x",
            color=INK,
            markersize=marker + 1,
            markeredgewidth=1.3,
            zorder=4,
        )


def _limits(axes: Any, found: Comparison) -> None:
    """All means, worst chips and published means in view, but for those of trainings that failed."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    methods = [method for method in found.methods if method not in failed(found)]
    shown = [found.least(method, level) for method in methods for level in found.levels]
    shown += [found.mean(method, level) for method in methods for level in found.levels]
    shown += [numbers[0] for method in methods for numbers in found.published.get(method, {}).values()]
    air = max(0.04 * (max(shown) - min(shown)), 0.25)
    axes.set_ylim(max(min(shown) - air, -1.0), min(max(shown) + air, 101.0))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    if len(found.levels) > 1:
        span = found.levels[-1] - found.levels[0]
        axes.set_xlim(found.levels[0] - 0.03 * span, found.levels[-1] + 0.03 * span)


# accuracy over cost


def cost_figure(found: Comparison, *, path: str | Path) -> Path:
    """Accuracy at ``cost_level`` over the cost of training: in passes over the data, and in seconds.

    The vertical scale is the logarithm of the error, for the good methods lie close together.  A line joins
    the methods that no other beats in both; every method is named.

    Args:
        found: the comparison.
        path: a name that ends in .svg or .png.

    Raises:
        UsageError: another kind of file.
        RunError: matplotlib is missing, or the file cannot be written.
    """
    target, kind = _picture(path)

    def draw(figure: Any) -> None:
        width, height = _points(figure)
        panels = figure.subplots(1, 2, sharey=True)
        figure.subplots_adjust(
            left=56 / width, right=1 - 20 / width, bottom=58 / height, top=1 - 92 / height, wspace=0.06
        )
        seen = [method for method in found.methods if method not in failed(found)]
        heights = {method: _height(found.mean(method, found.cost_level)) for method in seen}
        for axes, column, heading in zip(
            panels,
            ("passes", "seconds"),
            ("passes over the training data", "seconds of training"),
            strict=True,
        ):
            costs = {method: found.cost(method, column) for method in seen}
            _draw_costs(figure, axes, costs, heights, found.reference)
            axes.set_xlabel(heading, size=13, color=GREY, labelpad=8)

    title = f"{found.title}: accuracy at {found.cost_level:g} and what training costs"
    reading = [
        f"Mean over chips at {_plain(found.setting)} = {found.cost_level:g}, on a scale of log error",
        "line and bold: nothing is better and cheaper",
        "ring: the reference",
        *_out_of_view(found),
    ]
    return _save(target, kind, draw, title, "  ·  ".join(reading))


def _height(accuracy: float) -> float:
    """−log10 of the error in per cent, of at least 0.01 %."""
    return -math.log10(max(100.0 - accuracy, 0.01))


def _draw_costs(
    figure: Any, axes: Any, costs: Mapping[str, float], heights: Mapping[str, float], reference: str
) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    front = pareto(costs, heights)
    _plain_axes(axes, 12)
    axes.set_xscale("log")
    low, high = min(costs.values()), max(costs.values())
    stretch = max((high / low) ** 0.05, 1.15)
    axes.set_xlim(low / stretch, high * stretch**4)  # names stand right of their points
    lowest, highest = min(heights.values()), max(heights.values())
    air = 0.1 * max(highest - lowest, 0.01)
    axes.set_ylim(lowest - air, highest + air)
    axes.yaxis.set_major_locator(FixedLocator([_height(value) for value in _ticks(lowest, highest)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 - 10**-value:.4g} %"))
    axes.yaxis.set_minor_locator(NullLocator())
    ticks = _round_numbers(*axes.get_xlim())
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    line = sorted((costs[method], heights[method]) for method in front)
    axes.plot(*zip(*line, strict=True), color=COLOURS[0], linewidth=1.4, alpha=0.5, zorder=1.5,
              drawstyle="steps-post")  # fmt: skip
    for method, cost in costs.items():
        colour = COLOURS[0] if method in front else COLOURS[1]
        ring = {"markeredgecolor": INK, "markeredgewidth": 1.6} if method == reference else {}
        axes.plot(cost, heights[method], "o", color=colour, markersize=7, zorder=3, **ring)
    _name_points(figure, axes, {m: (costs[m], heights[m]) for m in costs}, front)


def pareto(costs: Mapping[str, float], values: Mapping[str, float]) -> set[str]:
    """Those that no other beats in one without being beaten in the other; equal ones are all in.

    >>> sorted(pareto({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.5, "b": 0.8, "c": 0.7}))
    ['a', 'b']
    """
    return {
        one
        for one in costs
        if not any(
            costs[other] <= costs[one]
            and values[other] >= values[one]
            and (costs[other], values[other]) != (costs[one], values[one])
            for other in costs
        )
    }


def _ticks(lowest: float, highest: float) -> list[float]:
    """Accuracies for the vertical scale, about six of them, round ones."""
    from matplotlib.ticker import MaxNLocator

    air = 0.1 * max(highest - lowest, 0.01)
    candidates = [0, 20, 40, 50, 60, 70, 75, 80, 85, 88, 90, 92, 94, 95, 96, 97, 98, 99, 99.5, 99.9]
    if sum(lowest - air <= _height(value) <= highest + air for value in candidates) < 4:
        ends = 100.0 - 10**-lowest, 100.0 - 10**-highest
        candidates = [float(value) for value in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(*ends)]
    kept: list[float] = []
    for value in candidates:
        fits = value < 100 and lowest - air <= _height(value) <= highest + air
        if fits and (not kept or _height(value) - _height(kept[-1]) > 0.6 * air):
            kept.append(value)
    return kept


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between two numbers; more of them where these are few."""
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(1 + k / 10 for k in range(90))):
        first = math.floor(math.log10(low))
        found = [step * 10.0**e for e in range(first, first + 12) for step in steps]
        inside = [value for value in found if low <= value <= high]
        if len(inside) >= 3:
            return inside[:: max(1, len(inside) // 8)]
    return inside


_LABEL = 9.5  # points


def _name_points(figure: Any, axes: Any, points: Mapping[str, tuple[float, float]], front: set[str]) -> None:
    """Each name beside its point, where it hides no other name and no point; a thin line where it is far."""
    from matplotlib.patheffects import withStroke

    scale = 72.0 / figure.dpi
    halo = [withStroke(linewidth=3, foreground="white")]
    box = axes.get_window_extent()
    inside = (box.x0 * scale, box.y0 * scale, box.x1 * scale + 14, box.y1 * scale + 10)
    spots = {
        name: tuple(float(v) * scale for v in axes.transData.transform(at)) for name, at in points.items()
    }
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots.values()]
    for name in sorted(spots, key=lambda one: (one not in front, -spots[one][1], one)):
        x, y = spots[name]
        weight = "bold" if name in front else "normal"
        wide = _width(_short(name), _LABEL, weight)
        left, bottom = _free_place(x, y, wide, taken, inside)
        taken.append((left - 2, bottom - 1, left + wide + 2, bottom + _LABEL + 1))
        width, height = _points(figure)
        figure.text(left / width, (bottom + 0.2 * _LABEL) / height, _short(name), size=_LABEL, weight=weight,
                    color=COLOURS[0] if name in front else INK, path_effects=halo)  # fmt: skip
        middle = bottom + _LABEL / 2
        if abs(middle - y) > 6:
            near = left - 2 if left > x else left + wide + 2
            _leader(figure, (x, y), (near, middle), "#9AA1AD")


def _free_place(
    x: float,
    y: float,
    wide: float,
    taken: Sequence[tuple[float, float, float, float]],
    inside: tuple[float, float, float, float],
) -> tuple[float, float]:
    """Lower left corner of a label: the nearest of many that overlaps nothing; else beside the point."""
    found: list[tuple[float, float, float]] = []
    for away in (8.0, 18.0, 32.0):
        for side, penalty in ((x + away, 0.0), (x - away - wide, 6.0)):
            for shift in range(-160, 161, 3):
                bottom = y + shift - _LABEL / 2
                found.append((abs(shift) + penalty + 0.5 * away, side, bottom))
    for _, left, bottom in sorted(found):
        edges = (left - 2, bottom - 1, left + wide + 2, bottom + _LABEL + 1)
        if edges[0] < inside[0] or edges[1] < inside[1] or edges[2] > inside[2] or edges[3] > inside[3]:
            continue
        if not any(
            edges[0] < b[2] and b[0] < edges[2] and edges[1] < b[3] and b[1] < edges[3] for b in taken
        ):
            return left, bottom
    return x + 8.0, y - _LABEL / 2


# small parts


def _points(figure: Any) -> tuple[float, float]:
    """Width and height of a figure in points."""
    wide, high = figure.get_size_inches()
    return 72.0 * float(wide), 72.0 * float(high)


def _leader(figure: Any, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    from matplotlib.lines import Line2D

    width, height = _points(figure)
    xs, ys = zip(start, end, strict=True)
    figure.add_artist(
        Line2D([x / width for x in xs], [y / height for y in ys], color=colour, linewidth=0.7, zorder=2)
    )


def _plain_axes(axes: Any, size: float) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=GREY, linewidth=0.9)
    axes.tick_params(axis="both", which="both", length=0, labelsize=size, labelcolor=INK, pad=5)
    axes.grid(axis="y", color=PALE, linewidth=0.9)
    axes.set_axisbelow(True)
