"""Lots and chips: which of the endless row of chips a network is put on."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from neurosim.devices import Hardware
from neurosim.errors import UsageError
from neurosim.random import check_chips


@dataclass(frozen=True)
class Chips:
    """Some chips of one lot, by number.  Made by indexing a :class:`Lot`.

    >>> from neurosim.devices import hardware
    >>> Lot(hardware("ideal"))[2:5].numbers
    (2, 3, 4)
    """

    lot: Lot
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Lot:
    """An endless row of chips: a hardware and a seed.

    ``lot[3]``, ``lot[0:16]`` and ``lot[[1, 5]]`` are :class:`Chips`.  Chip 17 of lot 0 is the same chip
    on every machine, whether drawn alone or with a thousand others.

    Raises:
        UsageError: seed is not an integer; a chip number is negative or above 2³²−1; a slice has no
            end; no chip or the same chip twice is asked for.
    """

    hardware: Hardware
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.hardware, Hardware):
            raise UsageError(f"expected a Hardware, from neurosim.hardware(name); got {self.hardware!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise UsageError(f"expected a lot seed, an integer; got {self.seed!r}")

    def __getitem__(self, index: int | slice | Sequence[int]) -> Chips:
        numbers = check_chips(_numbers(index))
        if not numbers:
            raise UsageError(f"expected at least one chip; got lot[{index!r}]")
        if len(set(numbers)) < len(numbers):
            raise UsageError("expected each chip once; got a number twice")
        return Chips(self, numbers)


def _numbers(index: int | slice | Sequence[int]) -> Sequence[int]:
    if isinstance(index, slice):
        return _slice(index)
    if isinstance(index, Sequence):
        return list(index)
    try:
        return [index if isinstance(index, bool) else operator.index(index)]
    except TypeError:
        raise UsageError(f"expected a chip number, a slice or a list of numbers; got {index!r}") from None


def _slice(index: slice) -> range:
    if index.stop is None:
        raise UsageError("a lot is endless: expected a slice with an end, such as lot[0:16]")
    try:
        start = 0 if index.start is None else index.start
        numbers = range(start, index.stop, 1 if index.step is None else index.step)
    except (TypeError, ValueError):  # not integers, or a step of zero
        raise UsageError(f"expected a slice of chip numbers, such as lot[0:16]; got lot[{index!r}]") from None
    check_chips([numbers[0], numbers[-1]] if numbers else [])  # before a number is made of each
    return numbers
