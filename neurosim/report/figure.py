"""Accuracy across chips at each age, the networks side by side: one figure, ready for a slide.

Each dot is one chip; a bar spans the 5th to the 95th percentile of the chips; a ring marks the median;
a dashed line is the network off the chip.  Colours are those of Okabe and Ito (2008), told apart by
colour-blind readers too.  The same tables give the same bytes.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurosim.errors import RunError, UsageError
from neurosim.evaluation.durations import format_durations
from neurosim.evaluation.table import Table
from neurosim.storage import atomic_path

Array = npt.NDArray[np.float64]

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Vermillion, blue, bluish green, reddish purple, orange, sky blue (Okabe and Ito 2008)."""
INK, GREY, PALE = "#1F2430", "#5F6673", "#E4E7EC"

_SIZE = (11.0, 6.2)  # inches: 16 : 9, as a slide
_TOP, _BOTTOM, _LEFT = 92.0, 62.0, 72.0  # margins in points
_GAP = 8.0  # points between labels
_FORMATS = ("svg", "png")
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "text.parse_math": False,  # a network may be called $x
    "svg.hashsalt": "neurosim",
    "svg.fonttype": "path",
    "figure.dpi": 150,
}


@dataclass(frozen=True)
class _Series:
    """One network: its name, colour, its chips' accuracies in per cent at each place on the x axis."""

    name: str
    colour: str
    values: dict[float, Array]
    digital: float | None

    def percentiles(self) -> list[tuple[float, Array]]:
        return [(x, np.percentile(values, [5, 50, 95])) for x, values in sorted(self.values.items())]


def accuracy_over_time(
    tables: Mapping[str, Table],
    *,
    path: str | Path,
    digital: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Path:
    """Draw tables of :func:`neurosim.evaluation.evaluate` side by side; gives ``path`` (.svg or .png).

    ``tables`` maps each network's name to its table (columns chip, time_s, accuracy), ``digital`` a name to
    the network's accuracy off the chip; ``title`` should say what the figure shows.  Ages are equally
    spaced, in ascending order.

    Raises :class:`UsageError` for no table or more than six, a table without rows, a ``digital`` name that
    is no table's, accuracies outside [0, 1], or another kind of file; :class:`RunError` if matplotlib is
    missing or the file cannot be written.

    >>> import tempfile
    >>> table = Table({"chip": [0, 1, 2], "time_s": [25.0] * 3, "accuracy": [0.90, 0.91, 0.95]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     accuracy_over_time({"robust": table}, path=Path(folder, "chips.svg")).name
    'chips.svg'
    """
    path, kind = _picture(path)
    _check(tables, digital or {})
    _check_times(tables)
    ages = sorted({float(time) for table in tables.values() for time in table.column("time_s")})
    steps = _Steps(
        "time_s",
        ages,
        format_durations(ages),
        "time since the chips were programmed",
        f" after {format_durations(ages)[-1]}",
    )
    if title is None:
        title = "Accuracy across analog chips" + (" as they age" if len(ages) > 1 else "")

    def draw(figure: Any) -> None:
        if len(ages) == 1:
            _draw_one_age(figure, tables, digital or {}, ages[0])
        else:
            _draw_steps(figure, tables, digital or {}, steps)

    return _save(path, kind, draw, title, _reading(tables, digital or {}))


def accuracy_over_setting(
    tables: Mapping[str, Table],
    setting: str,
    *,
    path: str | Path,
    digital: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Path:
    """Draw accuracy across chips against a setting of the hardware, the networks side by side.

    As :func:`accuracy_over_time`, but x is the column named ``setting`` (numbers), of which each table has
    one row a chip and value; values are equally spaced, in ascending order.

    Raises :class:`UsageError` and :class:`RunError` as there, and for a column that is missing or no number.

    >>> import tempfile
    >>> table = Table({"std": [0.0, 0.0, 0.3, 0.3], "chip": [0, 1] * 2, "accuracy": [0.9, 0.9, 0.7, 0.8]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     accuracy_over_setting({"robust": table}, "std", path=Path(folder, "sweep.svg")).name
    'sweep.svg'
    """
    path, kind = _picture(path)
    _check(tables, digital or {})
    values = sorted({value for table in tables.values() for value in _numbers(table, setting)})
    labels = [f"{value:g}" for value in values]
    steps = _Steps(setting, values, labels, setting, f" at {labels[-1]}")

    def draw(figure: Any) -> None:
        _draw_steps(figure, tables, digital or {}, steps)

    return _save(
        path,
        kind,
        draw,
        title or f"Accuracy across analog chips over {setting}",
        _reading(tables, digital or {}),
    )


@dataclass(frozen=True)
class _Steps:
    """What lies along x: a column of the tables, its values in order, and how they are written."""

    column: str
    values: Sequence[float]
    labels: Sequence[str]
    heading: str
    last: str


def _numbers(table: Table, setting: str) -> list[float]:
    column = table.column(setting)
    if column.dtype.kind not in "if" or not np.all(np.isfinite(column)):
        raise UsageError(
            f"expected numbers in the column {setting!r} of the table; got {column[:3].tolist()}"
        )
    return [float(value) for value in column]


def _picture(path: str | Path) -> tuple[Path, str]:
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise UsageError(f"cannot draw {path}: expected a name that ends in .svg or .png")
    return path, kind


def _save(path: Path, kind: str, draw: Callable[[Any], None], title: str, reading: str) -> Path:
    """A figure with its title, whole or not at all."""
    try:
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RunError("drawing needs matplotlib: install it with pip install 'neurosim[report]'") from error
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=_SIZE, facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        _write_title(figure, title, reading)
        metadata = {"Title": _plain(title), "Creator": "neurosim", "Date": None} if kind == "svg" else None
        with atomic_path(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for it
            figure.savefig(temporary, format=kind, metadata=metadata)
    return path


def _draw_steps(
    figure: Any, tables: Mapping[str, Table], digital: Mapping[str, float], steps: _Steps
) -> None:
    """Ages or values along x; in each, the networks side by side; names at the right, where lines end."""
    step = 0.72 / len(tables)
    networks = []
    for number, (name, table) in enumerate(tables.items()):
        shift = (number - len(tables) / 2 + 0.22) * step  # the bar stands left in its share, the dots right
        places = {value: index + shift for index, value in enumerate(steps.values)}
        networks.append(_series(number, name, table, digital, places, steps.column))
    labels = [_label(network, steps.last) for network in networks]
    if len(labels) > 4:  # there is no room for what is off the chip; its line is there
        labels = [lines[:2] for lines in labels]
    room = max(_width(line, size) for lines in labels for line, size, _ in lines) + 44
    axes = _axes(figure, right=room)
    for network in networks:
        _draw_off_chip(axes, network, -0.5, len(steps.values) - 0.5)
        _draw_chips(axes, network, width=0.62 * step)
        _draw_medians(axes, network)
    axes.set_xlim(-0.5, len(steps.values) - 0.5)
    axes.set_xticks(range(len(steps.values)), steps.labels)
    axes.set_xlabel(_plain(steps.heading), labelpad=10)
    _finish_y(axes, networks)
    _write_labels(figure, axes, networks, labels)


def _draw_one_age(figure: Any, tables: Mapping[str, Table], digital: Mapping[str, float], age: float) -> None:
    """One age: a place on the x axis for each network, its name below and its numbers beside it."""
    from matplotlib.patheffects import withStroke

    networks = [
        _series(number, name, table, digital, {age: number - 0.22})
        for number, (name, table) in enumerate(tables.items())
    ]
    axes = _axes(figure, right=24)
    for network in networks:
        ((x, (_, median, _)),) = network.percentiles()
        _draw_off_chip(axes, network, x - 0.12, x + 0.36)
        _draw_chips(axes, network, width=0.3)
        _draw_medians(axes, network)
        for number, (text, size, colour) in enumerate(_label(network, "")[1:]):
            axes.annotate(
                text,
                (x + 0.4, median),
                (0, 2 - number * (size + 5)),
                textcoords="offset points",
                color=colour if number else network.colour,
                size=(size if number else size + 3) * min(1.0, 4 / (len(networks) + 1)),
                weight="normal" if number else "bold",
                path_effects=[withStroke(linewidth=4, foreground="white")],
            )
    axes.set_xlim(-0.5, max(len(networks) - 0.5, 0.9))
    axes.set_xticks(range(len(networks)), [_short(network.name) for network in networks])
    for tick, network in zip(axes.get_xticklabels(), networks, strict=True):
        tick.set(color=network.colour, weight="bold", size=16 if len(networks) < 4 else 11)
    axes.set_xlabel(f"{format_durations([age])[0]} after the chips were programmed", labelpad=10)
    _finish_y(axes, networks)


def _axes(figure: Any, right: float) -> Any:
    """Axes with fixed margins in points; only a pale horizontal grid."""
    width, height = (72 * inches for inches in _SIZE)
    axes = figure.add_axes(
        (_LEFT / width, _BOTTOM / height, 1 - (_LEFT + right) / width, 1 - (_TOP + _BOTTOM) / height)
    )
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=GREY, linewidth=1.0)
    axes.tick_params(axis="both", length=0, labelsize=14, labelcolor=INK, pad=8)
    axes.grid(axis="y", color=PALE, linewidth=1.0)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=GREY, size=13)
    return axes


def _draw_off_chip(axes: Any, network: _Series, left: float, right: float) -> None:
    if network.digital is not None:
        ends = [network.digital, network.digital]
        axes.plot([left, right], ends, color=network.colour, linewidth=1.6, linestyle=(0, (5, 3)), zorder=1.5)


def _draw_chips(axes: Any, network: _Series, width: float) -> None:
    """One dot a chip, right of its place: many are small and pale, few are large and dark."""
    for x, values in network.values.items():
        crowd = min(1.0, 60 / len(values))
        axes.scatter(
            x + width * (0.14 + 0.86 * _spread(values)),
            values,
            s=9 + 15 * crowd,
            color=network.colour,
            alpha=0.22 + 0.28 * crowd,
            linewidths=0,
            zorder=2,
        )


def _draw_medians(axes: Any, network: _Series) -> None:
    """The bar from the 5th to the 95th percentile, the ring at the median, a line from ring to ring."""
    spans, colour = network.percentiles(), network.colour
    medians = [median for _, (_, median, _) in spans]
    axes.plot([x for x, _ in spans], medians, color=colour, linewidth=1.6, alpha=0.65, zorder=1.8)
    for x, (low, median, high) in spans:
        axes.plot([x, x], [low, high], color="white", linewidth=6.5, solid_capstyle="round", zorder=3)
        axes.plot([x, x], [low, high], color=colour, linewidth=4.0, solid_capstyle="round", zorder=3.1)
        axes.plot(
            x,
            median,
            "o",
            markersize=8.5,
            color="white",
            markeredgecolor=colour,
            markeredgewidth=2.6,
            zorder=4,
        )


def _finish_y(axes: Any, networks: Sequence[_Series]) -> None:
    """Every dot and dashed line in view, with air; whole per cents where possible; never beyond 100 %."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    shown = np.concatenate(
        [values for network in networks for values in network.values.values()]
        + [np.array([network.digital]) for network in networks if network.digital is not None]
    )
    low, high = float(shown.min()), float(shown.max())
    air = max(0.07 * (high - low), 0.25)
    axes.set_ylim(max(low - air, -1.0), min(high + air, 101.0))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))


def _write_labels(
    figure: Any, axes: Any, networks: Sequence[_Series], labels: Sequence[list[tuple[str, float, str]]]
) -> None:
    """Each network's name and numbers beside the end of its line, moved apart where they would touch."""
    from matplotlib.lines import Line2D

    height = 72 * _SIZE[1]
    bottom, top = (height * edge for edge in (axes.get_position().y0, axes.get_position().y1))
    low, high = axes.get_ylim()
    ends = [network.percentiles()[-1] for network in networks]
    wanted = [bottom + (top - bottom) * (median - low) / (high - low) for _, (_, median, _) in ends]
    heights = [sum(_leading(size) for _, size, _ in lines) + _GAP for lines in labels]
    middles = _apart(wanted, heights, bottom - 30, top + 16)
    left = 72 * _SIZE[0] * axes.get_position().x1 + 26
    for network, lines, middle, want, tall in zip(networks, labels, middles, wanted, heights, strict=True):
        if abs(middle - want) > 10:
            x = [(left + shift) / (72 * _SIZE[0]) for shift in (-22, -6)]
            y = [want / height, middle / height]
            figure.add_artist(Line2D(x, y, color=network.colour, linewidth=1.6, alpha=0.65))
        baseline = middle + (tall - _GAP) / 2
        for text, size, colour in lines:
            baseline -= _leading(size)
            figure.text(
                left / (72 * _SIZE[0]),
                (baseline + 0.3 * size) / height,
                text,
                size=size,
                color=colour,
                weight="bold" if size > 15 else "normal",
            )


def _label(network: _Series, when: str) -> list[tuple[str, float, str]]:
    """Lines of text with size and colour: the name, its last median, its accuracy off the chip."""
    _, (_, median, _) = network.percentiles()[-1]
    lines = [(_short(network.name), 17.0, network.colour), (_percent(median) + when, 13.0, INK)]
    if network.digital is not None:
        lines.append((f"{_percent(network.digital)} off chip", 13.0, GREY))
    return lines


def _write_title(figure: Any, title: str, reading: str) -> None:
    height = 72 * _SIZE[1]
    x = 22 / (72 * _SIZE[0])
    for text, size, below, weight, colour in (
        (textwrap.shorten(_plain(title), 90, placeholder=" …") or " ", 21.0, 38, "bold", INK),
        (reading, 12.5, 64, "normal", GREY),
    ):
        fits = min(size, size * (72 * _SIZE[0] - 44) / max(_width(text, size, weight), 1.0))
        figure.text(x, 1 - below / height, text, size=fits, weight=weight, color=colour)


def _reading(tables: Mapping[str, Table], digital: Mapping[str, float]) -> str:
    """How to read the figure, in one line."""
    counts = {len(np.unique(table.column("chip"))) for table in tables.values()}
    dot = (
        f"Each dot: one of {counts.pop()} sampled chips" if len(counts) == 1 else "Each dot: one sampled chip"
    )
    parts = [dot, "bar: 5th to 95th percentile", "ring: median"]
    return "  ·  ".join([*parts, *(["dashed: the network off the chip"] if digital else [])])


def _series(
    number: int,
    name: str,
    table: Table,
    digital: Mapping[str, float],
    places: Mapping[float, float],
    column: str = "time_s",
) -> _Series:
    at, accuracy = table.column(column), 100 * table.column("accuracy").astype(np.float64)
    values = {x: np.sort(accuracy[at == value]) for value, x in places.items() if np.any(at == value)}
    off_chip = 100 * float(digital[name]) if name in digital else None
    return _Series(name, COLOURS[number], values, off_chip)


def _spread(values: Array) -> Array:
    """How far each dot stands from its bar, in [0, 1]: far where chips are many (half a sina plot).

    Sorted values take the base-2 van der Corput sequence in turn, scaled by a kernel density.
    """
    from scipy.stats import gaussian_kde

    sequence = np.array([int(f"{number:020b}"[::-1], 2) / 2**20 for number in range(1, len(values) + 1)])
    if len(values) < 3 or values[0] == values[-1]:
        return sequence
    density = gaussian_kde(values)(values)
    return sequence * density / density.max()


def _apart(wanted: Sequence[float], heights: Sequence[float], bottom: float, top: float) -> list[float]:
    """The nearest middles at which blocks of these heights do not overlap, inside [bottom, top] if they fit.

    >>> _apart([10.0, 12.0], [8.0, 8.0], 0.0, 100.0)
    [7.0, 15.0]
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    # pool adjacent blocks that touch: each pool sits at the mean of what its members want
    pools: list[list[int]] = []
    for index in order:
        pools.append([index])
        while (
            len(pools) > 1
            and _span(pools[-2], wanted, heights, bottom, top)[1]
            > (_span(pools[-1], wanted, heights, bottom, top)[0])
        ):
            last = pools.pop()
            pools[-1] += last
    middles = [0.0] * len(wanted)
    for pool in pools:
        edge = _span(pool, wanted, heights, bottom, top)[0]
        for index in pool:
            middles[index] = edge + heights[index] / 2
            edge += heights[index]
    return middles


def _span(
    pool: Sequence[int], wanted: Sequence[float], heights: Sequence[float], bottom: float, top: float
) -> tuple[float, float]:
    """Lower and upper edge of blocks stacked as near as possible to where they want to be."""
    tall = sum(heights[index] for index in pool)
    offset, wish = 0.0, 0.0
    for index in pool:
        wish += wanted[index] - offset - heights[index] / 2
        offset += heights[index]
    low = max(min(wish / len(pool), top - tall), bottom)
    return low, low + tall


def _width(text: str, size: float, weight: str = "bold") -> float:
    """Width of a text in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), text, size=size, prop=FontProperties(weight=weight)).get_extents().width)


def _leading(size: float) -> float:
    return 1.36 * size


def _percent(value: float) -> str:
    return f"{value:.1f} %"


def _plain(text: str) -> str:
    """Printable characters only: SVG has no place for the others."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _short(name: str) -> str:
    name = _plain(name) or "(no name)"
    return name if len(name) <= 22 else name[:21] + "…"


def _check(tables: Mapping[str, Table], digital: Mapping[str, float]) -> None:
    if not 1 <= len(tables) <= len(COLOURS):
        raise UsageError(f"the figure shows 1 to {len(COLOURS)} networks; got {len(tables)}")
    for name, table in tables.items():
        if not len(table):
            raise UsageError(f"the table of {name!r} has no rows: expected at least one chip")
        table.column("chip")
        _check_accuracies(name, table.column("accuracy"))
    for name, value in digital.items():
        if name not in tables:
            raise UsageError(f"digital accuracy is given for {name!r}, which is none of {', '.join(tables)}")
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise UsageError(f"the digital accuracy of {name!r} must be in [0, 1]; got {value!r}")


def _check_times(tables: Mapping[str, Table]) -> None:
    for name, table in tables.items():
        times = table.column("time_s")
        if times.dtype.kind not in "if" or not np.all(np.isfinite(times) & (times >= 0)):
            raise UsageError(f"the table of {name!r} has times that are not finite and at least 0 s")


def _check_accuracies(name: str, values: Any) -> None:
    if values.dtype.kind not in "if" or not np.all((values >= 0) & (values <= 1)):
        raise UsageError(f"the table of {name!r} has accuracies outside [0, 1]")
