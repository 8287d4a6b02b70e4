"""Reading a small TOML file of a stranger: size cap, one-sentence errors, and lines for every key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neurosim.errors import UsageError

LARGEST_BYTES = 256_000
_LONGEST_STATEMENT_LINES = 100  # bounds the time spent on a hostile file


def read_text(path: Path, kind: str) -> str:
    """The text of a regular UTF-8 file of at most 256 kB; anything else is a UsageError of one sentence."""
    try:
        if not path.is_file():
            what = "it is not a regular file" if path.exists() else "no such file"
            raise UsageError(f"cannot read {kind} file {str(path)!r}: {what}")
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {kind} file {str(path)!r}: {reason}") from error
    if len(data) > LARGEST_BYTES:
        raise UsageError(f"{kind} file {str(path)!r} is too large: expected at most {LARGEST_BYTES} bytes")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{kind} file {str(path)!r} is not UTF-8 text (byte {error.start})") from error


def parse(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text; a syntax error is a UsageError with its line."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise UsageError(f"{source} is not valid TOML: nested too deeply") from error
    except ValueError as error:  # tomllib's own error, or an integer of thousands of digits
        last = text.rstrip("\n").count("\n") + 1
        reason = str(error).replace("at end of document", f"at line {last}, the end of the file")
        raise UsageError(f"{source} is not valid TOML: {reason}") from error


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line that sets ``path``, or else its nearest parent that the text names; None if none does.

    >>> line_of('[array]\\nrows = 3\\n', ("array", "rows"))
    2
    >>> line_of('[array]\\nrows = 3\\n', ("array", "cols"))
    1
    """
    lines: dict[tuple[str, ...], int] = {}
    for line, keys in statements(text):
        for depth in range(1, len(keys) + 1):
            lines.setdefault(keys[:depth], line)
        lines[keys] = line  # where a thing is set outranks where a table inside it began
    for depth in range(len(path), 0, -1):
        if path[:depth] in lines:
            return lines[path[:depth]]
    return None


def statements(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, full key path) of each table header and each assignment of a valid TOML text.

    Each statement is found by giving tomllib lines until they parse, so strings, comments and arrays
    over several lines can never be mistaken for keys.
    """
    table: tuple[str, ...] = ()
    lines = text.split("\n")
    index = 0
    while index < len(lines):
        length, content = _statement(lines, index)
        if length == 0:  # a value over more lines than anyone writes: later keys go without a line
            return
        line, index = index + 1, index + length
        header = lines[line - 1].lstrip().startswith("[")
        keys = _keys(content)
        if header:
            table = keys
        if keys:
            yield line, keys if header else (*table, *keys)


def _statement(lines: list[str], start: int) -> tuple[int, dict[str, Any]]:
    """(how many lines, parsed alone) of the statement that begins at ``start``."""
    for length in range(1, min(_LONGEST_STATEMENT_LINES, len(lines) - start) + 1):
        try:
            return length, tomllib.loads("\n".join(lines[start : start + length]))
        except (ValueError, RecursionError):
            continue
    return 0, {}


def _keys(content: dict[str, Any]) -> tuple[str, ...]:
    """The key path of a one-statement document; an inline table counts as its value."""
    keys: list[str] = []
    value: Any = content
    while isinstance(value, dict) and len(value) == 1:
        key, value = next(iter(value.items()))
        keys.append(key)
    return tuple(keys)
