"""Faults that a tester found: a CSV file, a row for every broken device of every tested chip.

    chip,parameter,leg,output,input,state
    0,layers.1.weight,+,3,17,open
    1,,,,,

``parameter`` and ``leg`` name the devices as the streams do: the legs of a parameter are ``+`` and ``-``, of
further planes (slices, pairs) ``[1]+``, ``[1]-``, …; ``output`` and ``input`` count from 0 in the weight as
(outputs, everything else).  A row with a chip alone says that the chip was tested.  ``state`` is low, high or
open.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neurosim.errors import UsageError, unknown

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = ("chip", "parameter", "leg", "output", "input", "state")
STATES = {"low": 1, "high": 2, "open": 3}
_LARGEST_BYTES = 1 << 30


class FaultMap(NamedTuple):
    """What a file says.

    Attributes:
        chips: numbers of the chips that were tested.
        broken: (chip, "parameter" + leg) → rows of (output, input, state).
    """

    chips: frozenset[int]
    broken: dict[tuple[int, str], list[tuple[int, int, int]]]


def digest_of(path: Path) -> str:
    """SHA-256 of the file, in hexadecimal."""
    return hashlib.sha256(_bytes(path)).hexdigest()


def check(path: str, sha256: str) -> None:
    """Read a map, and say what is wrong with it.

    Raises:
        UsageError: as :func:`fault_map`.
    """
    if digest_of(Path(path)) != sha256:
        raise UsageError(
            f"fault map {path!r} is not the one this hardware was described with: it has changed"
        )
    fault_map(path, sha256)


@lru_cache(maxsize=8)
def fault_map(path: str, sha256: str) -> FaultMap:
    """The map in a file, read once.

    Raises:
        UsageError: it cannot be read, is not what it was when the hardware was described, or a line is wrong.
    """
    content = _bytes(Path(path))
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(
            f"fault map {path!r} is not the one this hardware was described with: it has changed"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"fault map {path!r}: expected text in UTF-8") from None
    rows = csv.reader(io.StringIO(text, newline=""))
    lines = _lines(rows, path)
    header = tuple(name.strip() for name in next(lines, []))
    if header != COLUMNS:
        raise UsageError(
            f"fault map {path!r}: expected the columns {','.join(COLUMNS)}; got {','.join(header)!r}"
        )
    chips: set[int] = set()
    broken: dict[tuple[int, str], dict[tuple[int, int], int]] = {}
    for row in lines:
        where = f"fault map {path!r}, line {rows.line_num}"
        chip, key, (output, entry, state) = _row(row, where)
        chips.add(chip)
        if not key:
            continue
        if broken.setdefault((chip, key), {}).setdefault((output, entry), state) != state:
            raise UsageError(f"{where}: this device of {key!r} is listed before in another state")
    if not chips:
        raise UsageError(f"fault map {path!r} names no chip")
    legs = {key: [(*place, state) for place, state in found.items()] for key, found in broken.items()}
    return FaultMap(frozenset(chips), legs)


def _lines(rows: Any, path: str) -> Iterator[list[str]]:
    """Rows that hold something; what the csv module refuses in a sentence of ours."""
    try:
        yield from (row for row in rows if row)
    except csv.Error as error:
        raise UsageError(f"fault map {path!r}, line {rows.line_num}: {error}") from error


def check_names(found: FaultMap, path: str, known: Iterable[str]) -> None:
    """UsageError if the map names devices that a network does not have: a healthy chip by a typing error.

    Args:
        found, path: the map and its file.
        known: "parameter" + leg of everything that is on devices.
    """
    names = set(known)
    for _, name in found.broken:
        if name not in names:
            raise UsageError(f"fault map {path!r}: {unknown('devices', name, names)}")


def _row(row: Sequence[str], where: str) -> tuple[int, str, tuple[int, int, int]]:
    cells = [cell.strip() for cell in row]
    if len(cells) != len(COLUMNS):
        raise UsageError(f"{where}: expected {len(COLUMNS)} columns; got {len(cells)}")
    chip = _number(cells[0], "chip", where)
    if not any(cells[1:]):
        return chip, "", (0, 0, 0)
    if cells[5] not in STATES:
        raise UsageError(f"{where}: expected state low, high or open; got {cells[5]!r}")
    if cells[2][-1:] not in ("+", "-") or not cells[1]:
        raise UsageError(
            f"{where}: expected a parameter and a leg such as + or [1]-; got {cells[1]!r}, {cells[2]!r}"
        )
    place = _number(cells[3], "output", where), _number(cells[4], "input", where), STATES[cells[5]]
    return chip, cells[1] + cells[2], place


def _number(text: str, name: str, where: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise UsageError(f"{where}: expected a whole number of 0 or more as {name}; got {text!r}")
    return int(text)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise UsageError(f"fault map {str(path)!r} is larger than 1 GiB")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read fault map {str(path)!r}: {error.strerror}") from error


def states_of(found: FaultMap, path: str, chips: Sequence[int], name: str, shape: tuple[int, int]) -> Tensor:
    """States of the devices of one leg, uint8 (chips, outputs, inputs); 0 where they work.

    Raises:
        UsageError: a chip that was not tested, or a place that this parameter does not have.
    """
    import torch

    state = torch.zeros(len(chips), *shape, dtype=torch.uint8)
    for k, chip in enumerate(chips):
        if chip not in found.chips:
            known = sorted(found.chips)
            listed = (
                f"{known[0]} to {known[-1]}"
                if known == list(range(known[0], known[-1] + 1))
                else str(known[:20])
            )
            raise UsageError(f"fault map {path!r} does not name chip {chip}: it was tested for {listed}")
        for output, entry, code in found.broken.get((chip, name), ()):
            if output >= shape[0] or entry >= shape[1]:
                raise UsageError(
                    f"fault map {path!r}: {name!r} has {shape[0]} outputs x {shape[1]} inputs; "
                    f"got output {output}, input {entry}"
                )
            state[k, output, entry] = code
    return state


def rows_of(chips: Sequence[int], states: Iterable[tuple[str, str, Tensor]]) -> list[dict[str, object]]:
    """Rows of a map, from (parameter, leg, states as :func:`states_of` gives them)."""
    names = {code: name for name, code in STATES.items()}
    rows: list[dict[str, object]] = [
        {"chip": chip, "parameter": "", "leg": "", "output": "", "input": "", "state": ""} for chip in chips
    ]
    for parameter, leg, state in states:
        for k, output, entry in state.nonzero().tolist():
            rows.append(
                {
                    "chip": chips[k], "parameter": parameter, "leg": leg, "output": output, "input": entry,
                    "state": names[int(state[k, output, entry])],
                }
            )  # fmt: skip
    return rows


def to_csv(rows: Iterable[dict[str, object]]) -> str:
    """A map as the text of its file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
