"""Times as people write them (25 s, 1 h, 1 d, 10 y) and as physics wants them: seconds.

A minute is 60 s, an hour 3600 s, a day 86,400 s and a year 365 days = 31,536,000 s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal

from neurosim.errors import UsageError

SECONDS: dict[str, float] = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "y": 31_536_000.0}
"""Seconds in each unit; a year is 365 days."""

_DURATION = re.compile(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]+)\s*", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds in a text such as ``25s``, ``1.5 h`` or ``10y``.

    Raises :class:`UsageError` for anything else.

    >>> parse_duration("1h"), parse_duration("10 y")
    (3600.0, 315360000.0)
    """
    match = _DURATION.fullmatch(text)
    if match is None or match[2] not in SECONDS:
        raise UsageError(
            f"{text!r} is not a time: expected a number and a unit {', '.join(SECONDS)}, for example 1h"
        )
    seconds = float(match[1]) * SECONDS[match[2]]
    if not math.isfinite(seconds):
        raise UsageError(f"{text!r} is not a time: it is too large for a number of seconds")
    return seconds


def parse_times(text: str) -> list[float]:
    """Seconds of a comma-separated list of times, in the order given.

    Raises :class:`UsageError` if the list is empty, or holds the same time twice or something else.

    >>> parse_times("25s,1h,1d,1y")
    [25.0, 3600.0, 86400.0, 31536000.0]
    """
    if not text.strip():
        raise UsageError("no times given: expected a list such as 25s,1h,1d,1y")
    times: dict[float, str] = {}
    for part in text.split(","):
        seconds = parse_duration(part.strip())
        if seconds in times:
            raise UsageError(f"the time {part.strip()!r} is given twice (first as {times[seconds]!r})")
        times[seconds] = part.strip()
    return list(times)


def format_duration(seconds: float, digits: int = 3) -> str:
    """A time in the largest unit that holds it at least once, rounded to ``digits`` significant digits.

    Raises :class:`UsageError` unless ``seconds`` is finite and not negative.

    >>> [format_duration(t) for t in (25.0, 90.0, 3600, 86_400, 31_557_600, 315_360_000)]
    ['25 s', '1.5 min', '1 h', '1 d', '1 y', '10 y']
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UsageError(f"{seconds!r} is not a time: expected a finite number of seconds, at least 0")
    rounded = float(f"{seconds:.{digits}g}")  # 3599.9 s would be 60 min: shown as 1 h
    unit = "s"
    for name, size in SECONDS.items():
        if max(seconds, rounded) >= size:
            unit = name
    text = f"{Decimal(f'{seconds / SECONDS[unit]:.{digits}g}'):f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


def format_durations(times_s: Sequence[float]) -> list[str]:
    """One label a time, with as few digits (three or more) as keep different times apart.

    >>> format_durations([3600.0, 86400.0]), format_durations([31_536_000, 31_557_600])
    (['1 h', '1 d'], ['1 y', '1.001 y'])
    """
    distinct = len(set(times_s))
    for digits in range(3, 18):
        labels = [format_duration(time, digits) for time in times_s]
        if len(set(labels)) == distinct:
            return labels
    return [f"{time!r} s" for time in times_s]
