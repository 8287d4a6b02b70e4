"""The ledger keeps rows exactly, refuses what is not its own, and survives damage without a wrong number."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosim.errors import RunError, UsageError
from neurosim.evaluation import Ledger, Row

KEY, OTHER = "a" * 64, "b" * 64


def make_rows(count: int = 200) -> list[Row]:
    draw = random.Random(0)
    return [
        Row(chip, time_s, draw.random(), draw.random() * 3, 10_000)
        for chip in range(count // 2)
        for time_s in (25.0, 31_536_000.0)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chips.sqlite"


def test_rows_come_back_exactly(path: Path) -> None:
    rows = make_rows()
    with Ledger(path) as ledger:
        assert ledger.add(KEY, reversed(rows)) == len(rows)
        assert ledger.add(KEY, rows) == 0
        ledger.describe(KEY, {"hardware": "pcm"})
    for read_only in (False, True):
        with Ledger(path, read_only=read_only) as ledger:
            assert ledger.rows(KEY) == rows
            assert ledger.rows(OTHER) == []
            assert ledger.keys() == [KEY]
            assert ledger.experiments() == {KEY: {"hardware": "pcm"}}


row = st.builds(
    Row,
    chip=st.integers(0, 2**32 - 1),
    time_s=st.floats(0, 1e300),
    accuracy=st.floats(0, 1),
    loss=st.floats(0, allow_infinity=False),
    samples=st.integers(1, 2**63 - 1),
)


@given(st.lists(row, unique_by=lambda row: (row.chip, row.time_s)))
def test_any_row_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    with Ledger(tmp_path_factory.mktemp("ledger") / "chips.sqlite") as ledger:
        ledger.add(KEY, rows)
        assert ledger.rows(KEY) == sorted(rows)


def test_a_closed_ledger_is_one_file(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.add(KEY, make_rows())
    assert [file.name for file in path.parent.iterdir()] == ["chips.sqlite"]


def test_add_is_all_or_nothing(path: Path) -> None:
    rows = make_rows(4)
    with Ledger(path) as ledger:
        ledger.add(KEY, rows[:1])
        with pytest.raises(UsageError, match=r"already holds Row\(chip=0.*which differs"):
            ledger.add(KEY, [rows[1], rows[0]._replace(loss=9.0)])
        assert ledger.rows(KEY) == rows[:1]
        with pytest.raises(KeyboardInterrupt):
            ledger.add(KEY, interrupted(rows))
        assert ledger.rows(KEY) == rows[:1]
        assert ledger.add(KEY, rows) == len(rows) - 1


def interrupted(rows: list[Row]):
    yield rows[1]
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"chip": -1}, "the chip must be"),
        ({"chip": 2**32}, "the chip must be"),
        ({"chip": 1.0}, "whole numbers"),
        ({"chip": True}, "whole numbers"),
        ({"time_s": -1.0}, "the time must be"),
        ({"time_s": float("nan")}, "the time must be"),
        ({"time_s": 25}, "must be floats"),
        ({"accuracy": 1.5}, "the accuracy must be"),
        ({"accuracy": float("nan")}, "the accuracy must be"),
        ({"loss": float("inf")}, "the loss must be"),
        ({"loss": -0.5}, "the loss must be"),
        ({"samples": 0}, "samples must be"),
        ({"samples": "1); DROP TABLE chip"}, "whole numbers"),
    ],
)
def test_unsound_rows_are_refused(path: Path, change: dict, sentence: str) -> None:
    with Ledger(path) as ledger, pytest.raises(UsageError, match=sentence):
        ledger.add(KEY, [make_rows()[0]._replace(**change)])


def test_unsound_keys_are_refused(path: Path) -> None:
    with Ledger(path) as ledger:
        with pytest.raises(UsageError, match="64 hexadecimal digits"):
            ledger.add("key", [])
        with pytest.raises(UsageError, match="64 hexadecimal digits"):
            ledger.describe("A" * 64, {})


def test_one_writer_many_readers(path: Path) -> None:
    rows = make_rows()
    with Ledger(path) as writer:
        writer.add(KEY, rows[:10])
        with pytest.raises(RunError, match="being written by another process"):
            Ledger(path)
        with Ledger(path, read_only=True) as reader:
            assert reader.rows(KEY) == rows[:10]
            writer.add(KEY, rows)
            assert reader.rows(KEY) == rows
            with pytest.raises(UsageError, match="opened to be read only"):
                reader.add(KEY, rows)
    with Ledger(path) as writer:
        assert writer.rows(KEY) == rows


KILLED = """
import os, signal, sqlite3, sys
from neurosim.evaluation import Ledger, Row
ledger = Ledger(sys.argv[1])
ledger.add("a" * 64, [Row(0, 25.0, 0.5, 0.5, 10)])
if sys.argv[2] == "journal":  # as if killed while closing: back to a rollback journal, and that one hot
    ledger._db.execute("PRAGMA journal_mode = DELETE")
    ledger._db.execute("PRAGMA cache_size = 1")
    ledger._db.execute("PRAGMA cache_spill = 1")
    ledger._db.execute("BEGIN IMMEDIATE")
    for chip in range(1, 2000):
        ledger._add("a" * 64, Row(chip, 25.0, 0.5, 0.5, 10))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("left", ["wal", "journal"])
@pytest.mark.parametrize("read_only", [True, False])
def test_what_a_killed_writer_left_is_recovered(path: Path, left: str, read_only: bool) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(path), left], check=False)
    assert path.with_name(f"chips.sqlite-{left}").stat().st_size
    with Ledger(path, read_only=read_only) as ledger:
        assert ledger.rows(KEY) == [Row(0, 25.0, 0.5, 0.5, 10)]


READER = """
import os, sys
from neurosim.evaluation import Ledger
if os.getuid() == 0:
    os.setuid(65534)  # to root nothing is read-only
print(len(Ledger(sys.argv[1], read_only=True).rows("a" * 64)), flush=True)
Ledger(sys.argv[1])
"""


def test_a_folder_that_is_read_only() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "chips.sqlite")
        with Ledger(path) as ledger:
            ledger.add(KEY, make_rows())
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        program = [sys.executable, "-c", READER, str(path)]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        Path(folder).chmod(0o755)
    assert done.stdout == "200\n", done.stderr
    assert "RunError: cannot write the ledger" in done.stderr


def test_another_process_is_told(path: Path) -> None:
    program = f"from neurosim.evaluation import Ledger; Ledger({str(path)!r})"
    with Ledger(path):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "RunError: " in done.stderr
    assert "being written by another process" in done.stderr
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_closed_ledger_says_so(path: Path) -> None:
    ledger = Ledger(path)
    ledger.close()
    ledger.close()
    with pytest.raises(UsageError, match="is closed"):
        ledger.rows(KEY)


def test_what_is_missing_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is missing"):
        Ledger(tmp_path / "none", read_only=True)
    with pytest.raises(UsageError, match="is not a file"):
        Ledger(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write the ledger"):
        Ledger(tmp_path / "file" / "chips.sqlite")


@pytest.mark.parametrize(
    "content", [b"chip,time_s,accuracy\n" * 100, b"\x00" * 4096, random.Random(1).randbytes(5000)]
)
def test_another_kind_of_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for read_only in (False, True):
        with pytest.raises((UsageError, RunError), match="is not a neurosim ledger"):
            Ledger(path, read_only=read_only)
    assert path.read_bytes() == content


def edit(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        database.execute(statement)
    database.close()


def test_another_database_is_refused_and_left_alone(path: Path) -> None:
    edit(path, "CREATE TABLE chip (a, b)", "INSERT INTO chip VALUES (1, 2)")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is not a neurosim ledger"):
        Ledger(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "kind", "sentence"),
    [
        ("PRAGMA user_version = 2", RunError, "written by a newer neurosim"),
        ("PRAGMA user_version = 0", RunError, "its tables are not those"),
        ("PRAGMA application_id = 7", UsageError, "is not a neurosim ledger"),
        ("DROP TABLE chip", RunError, "its tables are not those"),
        ("CREATE TABLE more (x)", RunError, "its tables are not those"),
        ("CREATE TRIGGER t AFTER INSERT ON chip BEGIN DELETE FROM chip; END", RunError, "its tables are not"),
    ],
)
def test_altered_schemas_are_refused(path: Path, statement: str, kind: type, sentence: str) -> None:
    Ledger(path).close()
    edit(path, statement)
    for read_only in (False, True):
        with pytest.raises(kind, match=sentence):
            Ledger(path, read_only=read_only)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE chip SET accuracy = 0.75",
        "UPDATE chip SET accuracy = 7.5",
        "UPDATE chip SET loss = 9e999",
        "UPDATE chip SET chip = chip + 1000",
        "UPDATE chip SET samples = -1",
        "UPDATE chip SET checksum = checksum + 1",
    ],
)
def test_altered_rows_are_refused(path: Path, statement: str) -> None:
    with Ledger(path) as ledger:
        ledger.add(KEY, make_rows())
    edit(path, statement)
    with Ledger(path) as ledger, pytest.raises(RunError, match=r"is damaged .*is not as it was written"):
        ledger.rows(KEY)


@pytest.mark.parametrize("text", ["not JSON", "[1]", "1"])
def test_altered_descriptions_are_refused(path: Path, text: str) -> None:
    with Ledger(path) as ledger:
        ledger.describe(KEY, {"a": 1})
    edit(path, f"UPDATE experiment SET description = '{text}'")
    with Ledger(path) as ledger, pytest.raises(RunError, match="is damaged"):
        ledger.experiments()


def damage(data: bytes, draw: random.Random) -> bytes:
    kind = draw.randrange(4)
    at = draw.randrange(len(data))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + draw.randbytes(64) + data[at + 64 :]
    return data[:at] + bytes(512) + data[at + 512 :]


def test_damage_is_found_or_harmless(tmp_path: Path, path: Path) -> None:
    """400 truncations, flipped bits, random and zeroed bytes: a named error, or no row that differs."""
    rows = make_rows(600)
    with Ledger(path) as ledger:
        ledger.add(KEY, rows)
        ledger.describe(KEY, {"hardware": "pcm"})
    data, true, draw = path.read_bytes(), set(rows), random.Random(0)
    found = 0
    for number in range(400):
        copy = tmp_path / f"{number}.sqlite"
        copy.write_bytes(damage(data, draw))
        try:
            with Ledger(copy, read_only=bool(number % 2)) as ledger:
                assert set(ledger.rows(KEY)) <= true
                ledger.experiments()
                ledger.keys()
        except (RunError, UsageError) as error:
            found += 1
            assert str(copy) in str(error)
            assert "\n" not in str(error)
    assert found > 200


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_shards_merge_in_any_order(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("shards")
    rows = make_rows(20)
    for shard in range(3):
        with Ledger(folder / f"{shard}.sqlite") as ledger:
            ledger.add(KEY, rows[shard::3] + rows[:2])  # some rows in every shard
            ledger.describe(KEY, {"a": 1})
    with Ledger(folder / "all.sqlite") as ledger:
        new = [ledger.merge(folder / f"{shard}.sqlite") for shard in data.draw(st.permutations(range(3)))]
        assert sum(new) == len(rows)
        assert ledger.rows(KEY) == rows
        assert ledger.experiments() == {KEY: {"a": 1}}
    shutil.rmtree(folder)


def test_merge_refuses_a_contradiction(tmp_path: Path) -> None:
    rows = make_rows(4)
    with Ledger(tmp_path / "a") as one, Ledger(tmp_path / "b") as other:
        one.add(KEY, rows[3:])
        other.add(KEY, [*rows[:3], rows[3]._replace(accuracy=0.0)])
    with Ledger(tmp_path / "a") as one:
        with pytest.raises(UsageError, match="which differs"):
            one.merge(tmp_path / "b")
        assert one.rows(KEY) == rows[3:]
