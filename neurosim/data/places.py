"""Where data sets lie on this machine: the folder given, ``NEUROSIM_DATA``, or the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from neurosim.data.row import DataSet
from neurosim.errors import UsageError

VARIABLE = "NEUROSIM_DATA"


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/neurosim/data``, by default ``~/.cache/neurosim/data``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "neurosim" / "data"


def roots(folder: str | Path | None = None) -> list[Path]:
    """The data folders to look in, in order; each data set's hash makes them equivalent."""
    named = [Path(root).expanduser() for root in (folder, os.environ.get(VARIABLE)) if root]
    return [*named, cache_folder()]


def find(row: DataSet, folder: str | Path | None = None) -> Path | None:
    """The first folder that holds every file of the data set, or ``None``."""
    for root in roots(folder):
        for name in row.folders:
            candidate = root / name
            if all((candidate / file.name).is_file() for file in row.files):
                return candidate
    return None


def require(row: DataSet, folder: str | Path | None = None) -> Path:
    """Like :func:`find`; a missing data set is a ``UsageError`` that says where it was looked for."""
    found = find(row, folder)
    if found is None:
        looked = ", ".join(str(root) for root in roots(folder))
        hint = "" if os.environ.get(VARIABLE) else f", or set {VARIABLE} to the folder that has it"
        get = f"fetch it with `neurosim data get {row.name}`"
        if not row.fetchable:
            names = ", ".join(file.name for file in row.files)
            get = f"no publisher serves {names}; put it there"
        raise UsageError(f"data set {row.name!r} was not found (looked in {looked}): {get}{hint}")
    return found
