"""A small table of named columns: what an evaluation gives, and what statistics and figures take."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from neurosim.errors import RunError, UsageError, unknown
from neurosim.storage import atomic_path

Column = npt.NDArray[Any]
Scalar = int | float | str | bool

_SHOWN = 60  # rows of a long table that str() shows


class Table:
    """Columns of equal length, each int64, float64, bool or text; never changed after it is made.

    ``notes`` are sentences printed under the table (what a number means, why one is missing); they are
    no part of the data.  A missing number is NaN, shown as ``-`` and written as an empty field.

    Raises :class:`UsageError` if there is no column, a column is not one-dimensional, holds something
    other than numbers or text, or has another length than the first.

    >>> table = Table({"chip": [0, 1], "accuracy": [0.5, 0.75]})
    >>> print(table)
    chip  accuracy
       0    0.5000
       1    0.7500
    >>> table.column("accuracy").mean()
    np.float64(0.625)
    """

    def __init__(self, columns: Mapping[str, Sequence[Scalar] | Column], notes: Sequence[str] = ()) -> None:
        if not columns:
            raise UsageError("a table needs at least one column; got none")
        self._columns = {name: _column(name, values) for name, values in columns.items()}
        self.notes = tuple(notes)
        (first, reference), *rest = self._columns.items()
        for name, values in rest:
            if len(values) != len(reference):
                raise UsageError(
                    f"column {name!r} has {len(values)} rows and column {first!r} has {len(reference)}: "
                    "expected the same number"
                )

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Mapping[str, Scalar] | Sequence[Scalar]],
        names: Sequence[str] | None = None,
        notes: Sequence[str] = (),
    ) -> Self:
        """A table of rows, each a mapping, or a sequence in the order of ``names``.

        ``names`` may be left out for mappings (the first row's order is taken); it is needed when there
        are no rows.  Raises :class:`UsageError` if a row has other columns than ``names``.

        >>> Table.from_rows([(0, 0.5), (1, 0.75)], ["chip", "accuracy"]).column("chip").tolist()
        [0, 1]
        """
        listed = list(rows)
        if names is None:
            if not listed or not isinstance(listed[0], Mapping):
                raise UsageError("a table without rows, or of rows without names, needs names of columns")
            names = list(listed[0])
        columns: dict[str, list[Scalar]] = {name: [] for name in names}
        for number, row in enumerate(listed):
            if set(row) != set(names) if isinstance(row, Mapping) else len(row) != len(names):
                raise UsageError(f"row {number} is {row!r}: expected the columns {', '.join(names)}")
            values = [row[name] for name in names] if isinstance(row, Mapping) else row
            for name, value in zip(names, values, strict=True):
                columns[name].append(value)
        return cls(columns, notes)

    @property
    def names(self) -> list[str]:
        """The columns' names, in order."""
        return list(self._columns)

    def column(self, name: str) -> Column:
        """One column as a read-only array of shape (rows,); an unknown name gets a suggestion."""
        if name not in self._columns:
            raise unknown("column", name, self._columns)
        return self._columns[name]

    __getitem__ = column

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dictionaries of plain Python values."""
        return [dict(zip(self._columns, values, strict=True)) for values in self._tuples()]

    def where(self, **equal: Scalar) -> Table:
        """The rows whose columns equal the given values.

        >>> len(Table({"chip": [0, 1], "accuracy": [0.5, 0.75]}).where(chip=1))
        1
        """
        keep = np.ones(len(self), dtype=bool)
        for name, value in equal.items():
            keep &= self.column(name) == value
        return Table({name: values[keep] for name, values in self._columns.items()}, self.notes)

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV, whole or not at all; floats in their shortest exact form."""
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self._columns)
            writer.writerows(["" if value != value else value for value in row] for row in self._tuples())

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as Parquet, whole or not at all; needs the extra ``parquet``."""
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise RunError(
                "writing Parquet needs pyarrow: install it with pip install 'neurosim[parquet]'"
            ) from error
        with atomic_path(path) as temporary:
            parquet.write_table(pa.table(dict(self._columns)), temporary)

    def _tuples(self) -> Iterator[tuple[Any, ...]]:
        return zip(*(values.tolist() for values in self._columns.values()), strict=True)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __eq__(self, other: object) -> bool:
        """Same names in the same order, same kinds, same values bit for bit (NaN equals NaN)."""
        if not isinstance(other, Table):
            return NotImplemented
        return self.names == other.names and all(
            mine.dtype.kind == theirs.dtype.kind
            and np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
            for mine, theirs in zip(self._columns.values(), other._columns.values(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Table of {len(self)} rows: {', '.join(self._columns)}>"

    def __str__(self) -> str:
        cells = [[name, *_texts(values[:_SHOWN])] for name, values in self._columns.items()]
        widths = [max(map(len, column)) for column in cells]
        text = [values.dtype.kind == "U" for values in self._columns.values()]
        lines = [
            "  ".join(
                cell.ljust(width) if left else cell.rjust(width)
                for cell, width, left in zip(line, widths, text, strict=True)
            ).rstrip()
            for line in zip(*cells, strict=True)
        ]
        if len(self) > _SHOWN:
            lines.append(f"... and {len(self) - _SHOWN} more rows")
        return "\n".join([*lines, *self.notes])


def _column(name: str, values: Sequence[Scalar] | Column) -> Column:
    """A private read-only copy as int64, float64, bool or text."""
    array = np.array(values) if len(values) else np.array([], dtype=getattr(values, "dtype", np.float64))
    kinds = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_, "U": np.str_}
    if array.ndim != 1 or array.dtype.kind not in kinds or _mixed(values, array):
        raise UsageError(f"column {name!r} must be a list of numbers or of texts; got {_short(values)}")
    array = array.astype(kinds[array.dtype.kind])
    array.setflags(write=False)
    return array


def _mixed(values: Sequence[Scalar] | Column, array: Column) -> bool:
    """NumPy turns [1, 'a'] into texts and [True, 2] into integers without a word."""
    if isinstance(values, np.ndarray):
        return False
    if array.dtype.kind == "U":
        return not all(isinstance(value, str) for value in values)
    return array.dtype.kind != "b" and any(isinstance(value, bool) for value in values)


def _short(values: object) -> str:
    text = repr(values)
    return text if len(text) <= 80 else text[:77] + "..."


def _texts(values: Column) -> list[str]:
    """One column's cells, with one number of decimals for the whole column."""
    if values.dtype.kind != "f":
        return [str(value) for value in values.tolist()]
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    if np.all(size == np.round(size)) and np.all(size < 1e15):
        form = ".0f"
    elif np.all(size < 1e4) and np.all(size >= 1e-4):
        form = ".4f"
    else:
        form = ".4g"
    return ["-" if value != value else format(value, form) for value in values.tolist()]
