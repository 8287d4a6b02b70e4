"""Checks of the size options that several models share."""

from __future__ import annotations

from collections.abc import Sequence

from neurosim.errors import UsageError


def widths(option: str, value: Sequence[int], length: int | None = None) -> tuple[int, ...]:
    """``value`` as a tuple of whole numbers of at least 1 (exactly ``length`` of them, if given).

    >>> widths("hidden", [64, 32])
    (64, 32)
    """
    count = "" if length is None else f"{length} "
    wanted = f"expected {option} to be a list of {count}whole numbers of at least 1; got {value!r}"
    if not isinstance(value, (list, tuple)):
        raise UsageError(wanted)
    if length is not None and len(value) != length:
        raise UsageError(wanted)
    if any(isinstance(item, bool) or not isinstance(item, int) or item < 1 for item in value):
        raise UsageError(wanted)
    return tuple(value)
