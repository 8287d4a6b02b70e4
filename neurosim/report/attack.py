"""Figures of attacks: accuracy against the size of an attack, of weights or of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neurosim.errors import UsageError
from neurosim.evaluation.table import Table
from neurosim.report.figure import COLOURS, GREY, INK, PALE, _picture, _save, _short

Array = npt.NDArray[np.float64]


class _Line(NamedTuple):
    """A column of the tables, how it is drawn and what it is called."""

    column: str
    style: Any
    width: float
    name: str


_OF_WEIGHTS = (
    _Line("attacked", "-", 2.6, "worst weights found"),
    _Line("corner", (0, (1, 1.5)), 1.8, "random corners of the region"),
    _Line("gaussian", (0, (5, 3)), 1.8, "random draws, as of chips"),
)
_OF_INPUTS = (
    _Line("digital", "-", 2.6, "off chip, tested there"),
    _Line("own_chip", (0, (5, 3)), 1.8, "on a chip, tested on it"),
    _Line("to_chips", (0, (1, 1.5)), 1.8, "off chip, tested on chips"),
    _Line("other_chips", (0, (5, 2, 1, 2)), 1.8, "on a chip, tested on others"),
)
_READING = "Mean accuracy and its 95 % interval"
_APART = 0.006
"""By how much lines are moved sideways, of the largest size, so that their intervals can be told apart."""


def weights_figure(
    tables: Mapping[str, Table], *, path: str | Path, title: str = "Accuracy with attacked weights"
) -> Path:
    """Accuracy over the size of attacks on weights, one colour a network; gives ``path`` (.svg or .png).

    ``tables`` are those of :func:`neurosim.evaluation.attacked.weights_table` by name of the network, one to
    six.  Size 0 is the clean network.

    Raises :class:`UsageError` for another number of tables or kind of file, :class:`RunError` if matplotlib
    is missing or the file cannot be written.

    >>> import tempfile, torch
    >>> from neurosim.evaluation.attacked import weights_table
    >>> from neurosim.landscape.attack import Attacked
    >>> ones = torch.ones(8, dtype=torch.float64)
    >>> table = weights_table([Attacked(0.1, ones, 0 * ones, 0 * ones[None], ones[None], ones[None], None)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     weights_figure({"robust": table}, path=Path(folder, "attack.svg")).name
    'attack.svg'
    """
    return _figure(
        tables, _OF_WEIGHTS, path, title, "ζ, size of the attack, relative to each weight", _READING
    )


def inputs_figure(
    tables: Mapping[str, Table],
    *,
    path: str | Path,
    title: str = "Accuracy on attacked inputs",
    heading: str = "ε, size of the attack, inputs from 0 to 1",
) -> Path:
    """Accuracy over the size of attacks on inputs, by where they are made and where they are tested.

    As :func:`weights_figure`, of tables of :func:`neurosim.evaluation.attacked.inputs_table`.
    """
    return _figure(
        tables, _OF_INPUTS, path, title, heading, f"{_READING}  ·  lines: where the attack was made"
    )


def _figure(
    tables: Mapping[str, Table],
    lines: tuple[_Line, ...],
    path: str | Path,
    title: str,
    heading: str,
    reading: str,
) -> Path:
    if not 1 <= len(tables) <= len(COLOURS):
        raise UsageError(f"the figure shows 1 to {len(COLOURS)} networks; got {len(tables)}")
    target, kind = _picture(path)

    def draw(figure: Any) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.ticker import FuncFormatter

        axes = figure.add_axes((0.08, 0.13, 0.58, 0.64))
        used = [line for line in lines if any(_shown(table, line) for table in tables.values())]
        for colour, table in zip(COLOURS, tables.values(), strict=False):
            for number, line in enumerate(used):
                _draw(axes, table, line, colour, _APART * (number - (len(used) - 1) / 2))
        axes.set_ylim(-1.0, 101.0)
        axes.set_xlim(left=0.0)
        sizes = sorted({0.0, *(float(size) for table in tables.values() for size in table.column("size"))})
        axes.set_xticks(sizes, [f"{size:.3g}" for size in sizes])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.set_xlabel(heading, color=GREY, size=13, labelpad=8)
        axes.grid(axis="y", color=PALE)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=13, labelcolor=INK)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set(color=GREY)
        keys = [
            Line2D([], [], color=colour, linewidth=6, label=_short(name))
            for colour, name in zip(COLOURS, tables, strict=False)
        ]
        keys += [
            Line2D([], [], color=INK, linestyle=line.style, linewidth=line.width, label=line.name)
            for line in used
        ]
        figure.legend(
            handles=keys,
            loc="upper left",
            bbox_to_anchor=(0.675, 0.78),
            frameon=False,
            fontsize=12.5,
            labelcolor=INK,
            handlelength=2.8,
            labelspacing=0.8,
        )

    return _save(target, kind, draw, title, reading)


def _draw(axes: Any, table: Table, line: _Line, colour: str, shift: float) -> None:
    """One line from the clean accuracy on, with the interval of each size."""
    if not _shown(table, line):
        return
    order = np.argsort(_numbers(table, "size"), kind="stable")
    sizes = _numbers(table, "size")[order]
    middle, low, high = (100 * _numbers(table, line.column + end)[order] for end in ("", "_low", "_high"))
    clean = "clean" if line.column in ("attacked", "corner", "gaussian", "digital") else "clean_chips"
    first = 100 * float(_numbers(table, clean)[0])
    places = sizes + shift * sizes.max()
    axes.plot(
        [0.0, *places], [first, *middle], color=colour, linestyle=line.style, linewidth=line.width, zorder=2
    )
    known = np.isfinite(low) & np.isfinite(high)
    axes.vlines(places[known], low[known], high[known], color=colour, linewidth=4.0, alpha=0.35, zorder=3)
    axes.plot(places, middle, "o", color=colour, markersize=4.5, zorder=4)


def _shown(table: Table, line: _Line) -> bool:
    return bool(np.any(np.isfinite(_numbers(table, line.column))))


def _numbers(table: Table, column: str) -> Array:
    return table.column(column).astype(np.float64)
