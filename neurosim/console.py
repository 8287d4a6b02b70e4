"""What the command line writes: results on stdout as text or JSON, progress on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosim.evaluation import Table
    from neurosim.training import Progress as TrainingProgress


def columns(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns of text, the first as wide as it needs to be."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def patterns(found: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for every table of patterns that is not empty.

    >>> patterns({"layers": ["blocks.*", "head"], "parameters": []})
    ["layers: 'blocks.*', 'head'"]
    """
    return [f"{table}: {', '.join(map(repr, names))}" for table, names in found.items() if names]


def emit(value: Any, text: str, as_json: bool) -> None:
    """A command's result on stdout: ``text`` for people, or ``value`` as one line of JSON."""
    print(json.dumps(plain(value), allow_nan=False) if as_json else text, flush=True)


def plain(value: Any) -> Any:
    """The same with null for NaN, which JSON has not."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and value != value else value


class Progress:
    """How far long work is, on stderr: a bar on a terminal, else a plain line every few seconds."""

    EVERY_S = 5.0

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._bar: Any = None
        self._task: Any = None
        self._said = time.monotonic()
        self._epoch = ""

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=None, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int | None, note: str = "") -> None:
        """Say that ``done`` of ``total`` is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)
        elif time.monotonic() - self._said >= self.EVERY_S:
            self._said = time.monotonic()
            of = f"{done}" if total is None else f"{done} of {total}"
            say(f"{self._what}: {of} {self._unit}" + (f", {note}" if note else ""))

    def of_training(self, step: TrainingProgress) -> None:
        """Say how far a training is."""
        if step.row is not None:  # an epoch has ended
            accuracy = step.row.get("validation_accuracy")
            self._epoch = f"epoch {step.epoch}" + (
                "" if accuracy is None else f", validation accuracy {percent(accuracy)} %"
            )
            return
        note = f"loss {step.metrics['loss']:.4f}" + (f", {self._epoch}" if self._epoch else "")
        if step.batches is None:
            self.show(step.epoch - 1, step.epochs, note)
        else:
            self.show((step.epoch - 1) * step.batches + step.batch, step.epochs * step.batches, note)


def say(sentence: str) -> None:
    """A line on stderr, if there still is one."""
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)


def warn(message: Warning | str, *details: Any) -> None:
    """What ``warnings.showwarning`` does while a command runs: one line on stderr."""
    say(f"warning: {message}")


def percent(accuracy: float | None, digits: int = 2) -> str:
    """An accuracy in [0, 1] as people write it.

    >>> percent(0.9876), percent(None)
    ('98.76', '-')
    """
    return "-" if accuracy is None or accuracy != accuracy else f"{100 * accuracy:.{digits}f}"


def quantity(number: int) -> str:
    """A large count as people write it.

    >>> quantity(668672), quantity(52_812_800), quantity(4_089_184_256), quantity(12)
    ('669 k', '52.8 M', '4.09 G', '12')
    """
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells below each other, two spaces between columns; numbers stand right.

    >>> print(aligned([("name", "n"), ("a", "1"), ("bc", "1,000")]))
    name      n
    a         1
    bc    1,000
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = [
        len(rows) > 1 and all(row[i][:1].isdigit() or row[i] == "" for row in rows[1:])
        for i in range(len(widths))
    ]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def readable(summaries: Mapping[str, Table], digital: Mapping[str, float]) -> str:
    """Each network's summary over chips, in per cent; ``digital`` are the accuracies off any chip."""
    from neurosim.evaluation import Table, format_durations

    rows: list[dict[str, str]] = []
    notes: dict[str, None] = {}
    for label, table in summaries.items():
        notes |= dict.fromkeys(table.notes)
        ages = format_durations(table.column("time_s").tolist())
        for age, row in zip(ages, table.rows(), strict=True):
            rows.append({"network": label, "age": age, "off chip": percent(digital[label]), **_cells(row)})
    return "\n".join([str(Table.from_rows(rows)), *notes])


def _cells(row: Mapping[str, float]) -> dict[str, str]:
    """One row of a summary; after the mean, half the width of its 95 % interval."""

    cells = {name: percent(row[name]) for name in ("mean", "std", "p05", "min")}
    cells["mean"] += f" ± {percent((row['mean_high'] - row['mean_low']) / 2)}"
    if "yield" in row:
        cells[f"yield at {percent(row['bound'], 0)}"] = (
            f"{percent(row['yield'])} ({percent(row['yield_low'])} to {percent(row['yield_high'])})"
        )
    return cells


def readable_differences(differences: Table) -> str:
    """Paired differences between networks on the same chips, in points of per cent."""
    from neurosim.evaluation import Table, format_durations

    ages = format_durations(differences.column("time_s").tolist())
    rows = [
        {
            "difference": f"{row['network']} - {row['against']}",
            "age": age,
            "mean": f"{100 * row['difference']:+.2f}",
            "95 % interval": f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}",
            "better on": f"{100 * row['better']:.0f} % of chips",
            "p": f"{row['p']:.1g}",
        }
        for age, row in zip(ages, differences.rows(), strict=True)
    ]
    return str(Table.from_rows(rows))
