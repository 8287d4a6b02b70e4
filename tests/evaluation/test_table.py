"""The small table."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurosim.errors import RunError, UsageError
from neurosim.evaluation import Table


def small() -> Table:
    return Table(
        {"chip": [0, 10], "time_s": [25.0, 25.0], "accuracy": [0.5, 0.123456789], "name": ["a", "bb"]}
    )


def test_columns_and_rows() -> None:
    table = small()
    assert table.names == ["chip", "time_s", "accuracy", "name"]
    assert len(table) == 2
    assert table["chip"].dtype == np.int64
    assert table.rows()[1] == {"chip": 10, "time_s": 25.0, "accuracy": 0.123456789, "name": "bb"}
    assert Table.from_rows(table.rows()) == table
    assert table.where(chip=10).column("name").tolist() == ["bb"]


def test_str_is_aligned() -> None:
    assert str(small()).splitlines() == [
        "chip  time_s  accuracy  name",
        "   0      25    0.5000  a",
        "  10      25    0.1235  bb",
    ]


def test_str_shows_missing_numbers_notes_and_the_rest_of_a_long_table() -> None:
    table = Table(
        {"x": [math.nan, 0.25], "year_s": [31_536_000.0, 1.0], "p": [1e-12, 1.0]}, notes=["x is young."]
    )
    assert str(table).splitlines() == [
        "     x    year_s      p",
        "     -  31536000  1e-12",
        "0.2500         1      1",
        "x is young.",
    ]
    assert str(Table({"x": range(100)})).splitlines()[-1] == "... and 40 more rows"


def test_equality() -> None:
    assert small() == small()
    assert Table({"x": [math.nan]}) == Table({"x": [math.nan]})
    assert Table({"x": [1]}) != Table({"x": [1.0]})
    assert Table({"x": [1], "y": [2]}) != Table({"y": [2], "x": [1]})
    assert small() != "a table"


def test_a_table_does_not_change() -> None:
    values = np.array([0.5])
    table = Table({"x": values})
    values[0] = 1.0
    assert table["x"][0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        table["x"][0] = 2.0


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({}, "at least one column"),
        ({"x": [1], "y": [1, 2]}, "column 'y' has 2 rows and column 'x' has 1"),
        ({"x": [[1]]}, "column 'x' must be a list of numbers or of texts"),
        ({"x": [None]}, "column 'x' must be"),
        ({"x": [1, "a"]}, "column 'x' must be"),
        ({"x": [True, 2]}, "column 'x' must be"),
        ({"x": [1j]}, "column 'x' must be"),
    ],
)
def test_refuses(columns: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Table(columns)


def test_refuses_rows() -> None:
    with pytest.raises(UsageError, match=r"row 1 is .*expected the columns a"):
        Table.from_rows([{"a": 1}, {"b": 1}])
    with pytest.raises(UsageError, match=r"row 0 is .*expected the columns a, b"):
        Table.from_rows([(1,)], ["a", "b"])
    with pytest.raises(UsageError, match="needs names of columns"):
        Table.from_rows([])
    assert len(Table.from_rows([], ["a"])) == 0


def test_unknown_column_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="unknown column 'acuracy': did you mean 'accuracy'"):
        small().column("acuracy")


@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.floats(allow_infinity=False, allow_nan=True)), min_size=1)
)
def test_csv_is_exact(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "chips.csv"
    table = Table.from_rows(rows, ["chip", "x"])
    table.to_csv(path)
    with path.open(newline="") as file:
        read = [(int(chip), float(x) if x else math.nan) for chip, x in list(csv.reader(file))[1:]]
    assert Table.from_rows(read, ["chip", "x"]) == table


def test_csv_in_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        small().to_csv(tmp_path / "file" / "chips.csv")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RunError, match=r"install it with pip install 'neurosim\[parquet\]'"):
        small().to_parquet(tmp_path / "chips.parquet")
    assert not list(tmp_path.iterdir())


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    small().to_parquet(tmp_path / "chips.parquet")
    read = parquet.read_table(tmp_path / "chips.parquet").to_pydict()
    assert Table(read) == small()
