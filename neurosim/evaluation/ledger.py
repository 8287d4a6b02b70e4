"""The ledger: every evaluated (chip, time) kept in one SQLite file, so that nothing is computed twice.

A row is keyed by *(key, chip, time_s)*, where the key is a SHA-256 of everything that decides the
numbers (see :func:`neurosim.evaluation.montecarlo.evaluate`).  A block of rows is one transaction in
WAL mode (synchronous NORMAL): a process killed at any moment loses at most the block in flight.
Every row carries its own checksum, because SQLite has none: a flipped bit in an accuracy is found.

WAL is not for network file systems: give each worker its own ledger and :meth:`Ledger.merge` them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from neurosim.errors import RunError, UsageError

APPLICATION_ID = 0x4E53494D
"""SQLite's mark of a file's owner: the letters NSIM."""
SCHEMA_VERSION = 1

_SCHEMA = {
    "experiment": "CREATE TABLE experiment (key TEXT PRIMARY KEY, description TEXT NOT NULL) STRICT",
    "chip": (
        "CREATE TABLE chip (key TEXT NOT NULL, chip INTEGER NOT NULL, time_s REAL NOT NULL, "
        "accuracy REAL NOT NULL, loss REAL NOT NULL, samples INTEGER NOT NULL, checksum INTEGER NOT NULL, "
        "PRIMARY KEY (key, chip, time_s)) STRICT, WITHOUT ROWID"
    ),
}
_KEY = re.compile(r"[0-9a-f]{64}")


class Row(NamedTuple):
    """One chip at one age: accuracy in [0, 1], mean cross-entropy in nats, number of samples."""

    chip: int
    time_s: float
    accuracy: float
    loss: float
    samples: int


class Ledger:
    """The ledger in the file ``path``; made if it does not exist, unless ``read_only``.

    One process writes at a time; others may read meanwhile.  Use it as a context manager, or ``close`` it.

    Raises :class:`RunError` if the file is missing (``read_only``), damaged, written by a newer neurosim,
    being written by another process, or cannot be written, and :class:`UsageError` if it is not a ledger.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "chips.sqlite")) as ledger:
    ...     new = ledger.add("0" * 64, [Row(chip=3, time_s=25.0, accuracy=0.5, loss=0.7, samples=10)])
    ...     ledger.rows("0" * 64)
    [Row(chip=3, time_s=25.0, accuracy=0.5, loss=0.7, samples=10)]
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"{self.path} is not a file: expected a ledger, or a path where one can be made")
        if read_only and not self.path.exists():
            raise RunError(f"{self.path} is missing: expected a ledger written by neurosim evaluate")
        with contextlib.ExitStack() as stack:
            if not read_only:
                stack.enter_context(_sole_writer(self.path))
            with self._errors():
                self._db = _connect(self.path, read_only)
                stack.callback(self._close_database)
                self._open()
            self._resources = stack.pop_all()

    def add(self, key: str, rows: Iterable[Row]) -> int:
        """Keep rows under ``key``, all or none; how many were new.  One already there must be the same.

        Raises :class:`UsageError` for a row that is not sound, or that differs from the one kept, and
        :class:`RunError` if they cannot be written.
        """
        if not _KEY.fullmatch(key):
            raise UsageError(f"a ledger's key is 64 hexadecimal digits; got {key!r}")
        with self._transaction():
            return sum(self._add(key, row) for row in rows)

    def _add(self, key: str, row: Row) -> bool:
        fault = _fault(row)
        if fault:
            raise UsageError(f"cannot keep {row}: {fault}")
        row = Row(row.chip, row.time_s + 0.0, row.accuracy + 0.0, row.loss + 0.0, row.samples)  # no -0.0
        kept = self._db.execute(
            "SELECT chip, time_s, accuracy, loss, samples FROM chip "
            "WHERE key = ? AND chip = ? AND time_s = ?",
            (key, row.chip, row.time_s),
        ).fetchone()
        if kept is None:
            values = (key, *row, _checksum(key, row))
            self._db.execute("INSERT INTO chip VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        elif kept != tuple(row):
            raise UsageError(f"{self.path} already holds {Row(*kept)}, which differs from {row}")
        return kept is None

    def rows(self, key: str) -> list[Row]:
        """All rows of ``key``, by chip, then time; every one checked.

        Raises :class:`RunError` if one is not what neurosim wrote.
        """
        with self._errors():
            found = self._db.execute(
                "SELECT chip, time_s, accuracy, loss, samples, checksum FROM chip "
                "WHERE key = ? ORDER BY chip, time_s",
                (key,),
            ).fetchall()
        rows = []
        for *values, checksum in found:
            row = Row(*values)
            if _fault(row) or checksum != _checksum(key, row):
                raise self._damaged(f"the row {row} is not as it was written")
            rows.append(row)
        return rows

    def keys(self) -> list[str]:
        """The keys that have rows, sorted."""
        with self._errors():
            found = self._db.execute("SELECT DISTINCT key FROM chip ORDER BY key").fetchall()
        for (key,) in found:
            if not _KEY.fullmatch(key):
                raise self._damaged(f"{key!r} is not a key")
        return [key for (key,) in found]

    def describe(self, key: str, description: Mapping[str, Any]) -> None:
        """Keep what ``key`` was made of, in words and numbers; the first description stays."""
        if not _KEY.fullmatch(key):
            raise UsageError(f"a ledger's key is 64 hexadecimal digits; got {key!r}")
        text = json.dumps(description, sort_keys=True, allow_nan=False)
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO experiment VALUES (?, ?)", (key, text))

    def experiments(self) -> dict[str, dict[str, Any]]:
        """The keys in this ledger and their descriptions, in the order of the keys."""
        with self._errors():
            found = self._db.execute("SELECT key, description FROM experiment ORDER BY key").fetchall()
        described: dict[str, dict[str, Any]] = {}
        for key, text in found:
            try:
                description = json.loads(text)
            except ValueError as error:
                raise self._damaged(f"the description of {key!r} is not JSON") from error
            if not (_KEY.fullmatch(key) and isinstance(description, dict)):
                raise self._damaged(f"the description of {key!r} is not as it was written")
            described[key] = description
        return described

    def merge(self, *others: str | Path) -> int:
        """Copy the rows of other ledgers into this one, all or none; how many were new.

        The order of merging does not matter.  Raises :class:`UsageError` if a row is in two and differs.
        """
        with self._transaction():
            return sum(map(self._merge, others))

    def _merge(self, other: str | Path) -> int:
        with Ledger(other, read_only=True) as source:
            for key, description in source.experiments().items():
                self.describe(key, description)
            return sum(self.add(key, source.rows(key)) for key in source.keys())  # noqa: SIM118

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Check whose file this is, or make the tables of a new one."""
        database = self._db
        found = dict(database.execute("SELECT name, sql FROM sqlite_schema").fetchall())
        owner, version = _pragma(database, "application_id"), _pragma(database, "user_version")
        if not found and not owner and not self.read_only:
            # WAL first: a kill between the two leaves an empty database, which is still nobody's
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            with self._transaction():
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                for statement in _SCHEMA.values():
                    database.execute(statement)
            return
        if owner != APPLICATION_ID:
            raise UsageError(
                f"{self.path} is not a neurosim ledger: expected one, or a path where none is yet"
            )
        if version > SCHEMA_VERSION:
            raise RunError(
                f"{self.path} was written by a newer neurosim (ledger version {version}; this one reads "
                f"up to {SCHEMA_VERSION}): update neurosim, or evaluate into another file"
            )
        tables = {name: sql for name, sql in found.items() if not name.startswith("sqlite_autoindex_")}
        if version != SCHEMA_VERSION or tables != _SCHEMA:
            raise self._damaged("its tables are not those neurosim makes")
        faults = [text for (text,) in database.execute("PRAGMA integrity_check(1)")]
        if faults != ["ok"]:
            raise self._damaged(str(faults[0]).splitlines()[0] if faults else "it cannot be checked")
        if not self.read_only:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")

    def _damaged(self, fault: str) -> RunError:
        return RunError(f"{self.path} is damaged ({fault}): move it away and evaluate again")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Everything inside is kept, or nothing; inside another transaction, part of that one."""
        if self.read_only:
            raise UsageError(f"{self.path} was opened to be read only")
        with self._errors():
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in one sentence what SQLite says in two words."""
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise UsageError(f"{self.path} is closed, or used by another thread ({error})") from error
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (
                sqlite3.SQLITE_CORRUPT,
                sqlite3.SQLITE_NOTADB,
            ):
                raise self._damaged(str(error)) from error
            verb = "read" if self.read_only else "write"
            raise RunError(f"cannot {verb} the ledger {self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_NOTADB:
                raise UsageError(
                    f"{self.path} is not a neurosim ledger: expected one, or a path where none is yet"
                ) from error
            raise self._damaged(str(error)) from error
        except UnicodeDecodeError as error:  # sqlite3 quoting a damaged schema
            raise self._damaged("its schema is not text") from error

    def _close_database(self) -> None:
        if not self.read_only:
            # one plain file again, which a read-only folder can hold; a reader elsewhere may prevent it
            with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    # a reader may have to roll back what a killed writer left, so it too asks for mode rw;
    # of a file that is write-protected SQLite gives what it can
    address = f"{path.absolute().as_uri()}?mode={'rw' if read_only else 'rwc'}"
    database = sqlite3.connect(address, uri=True, isolation_level=None, timeout=10.0)
    database.text_factory = lambda text: text.decode("utf-8", errors="replace")
    database.execute("PRAGMA trusted_schema = OFF")
    if read_only:
        database.execute("PRAGMA query_only = ON")
    return database


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


@contextlib.contextmanager
def _sole_writer(path: Path) -> Iterator[None]:
    """Hold ``<path>-lock``; the kernel lets go of it when this process ends, however it ends.

    A file of its own: closing any other handle of the database would drop SQLite's own locks (POSIX).
    """
    lock = path.with_name(path.name + "-lock")
    descriptor = None
    while descriptor is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _lock(lock)
        except BlockingIOError as error:
            raise RunError(
                f"{path} is being written by another process: wait for it to end, or give another ledger"
            ) from error
        except OSError as error:
            raise RunError(f"cannot write the ledger {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(lock: Path) -> int | None:
    """A handle that holds the lock; None if its last holder removed the file under us."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), lock.stat()):
            return descriptor
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _checksum(key: str, row: Row) -> int:
    """A signed 64-bit checksum over the key and the row's exact bits."""
    data = struct.pack("<64sqdddq", key.encode(), *row)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def _fault(row: Row) -> str | None:
    """What is wrong with a row, if anything: types first, then ranges."""
    wholes = (row.chip, row.samples)
    numbers = (row.time_s, row.accuracy, row.loss)
    checks = (
        (all(type(value) is int for value in wholes), "chip and samples must be whole numbers"),
        (all(type(value) is float for value in numbers), "time_s, accuracy and loss must be floats"),
        (lambda: 0 <= row.chip < 2**32, "the chip must be in 0 ... 2^32 - 1"),
        (lambda: 0 < row.samples < 2**63, "samples must be at least 1"),
        (lambda: math.isfinite(row.time_s) and row.time_s >= 0, "the time must be finite and at least 0"),
        (lambda: 0 <= row.accuracy <= 1, "the accuracy must be in [0, 1]"),
        (lambda: math.isfinite(row.loss) and row.loss >= 0, "the loss must be finite and at least 0"),
    )
    for check, fault in checks:
        if not (check() if callable(check) else check):
            return fault
    return None
