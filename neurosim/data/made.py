"""What takes seconds to make out of published files is kept in the user's cache, or made anew."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from neurosim import storage
from neurosim.data import places
from neurosim.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


def identity(decides: Mapping[str, str]) -> str:
    """SHA-256 over all that decides what is made: files by their hashes, formulas by their names.

    >>> identity({"file": "ab", "formula": "mean"}) == identity({"formula": "mean", "file": "ab"})
    True
    """
    return hashlib.sha256(json.dumps(sorted(decides.items())).encode()).hexdigest()


def kept(
    name: str, decides: Mapping[str, str], make: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """What ``make()`` returns, or the same from ``<cache>/made/<name>-<identity>.safetensors``.

    A file that is damaged, or of something else, is made anew; one that cannot be written (a full or
    read-only disk) costs only the time of making it next time.

    Args:
        name: what the file's name begins with.
        decides: what decides the tensors; with the versions of NumPy and SciPy added it names the file.
        make: gives tensors by name.
    """
    import numpy as np
    import scipy

    whole = {**decides, "numpy": np.__version__, "scipy": scipy.__version__}
    path = places.cache_folder().parent / "made" / f"{name}-{identity(whole)[:16]}.safetensors"
    if path.is_file():
        with contextlib.suppress(RunError):
            tensors, metadata = storage.load_tensors(path)
            if metadata == whole:
                return tensors
    tensors = dict(make())
    with contextlib.suppress(RunError):
        storage.save_tensors(path, tensors, whole)
    return tensors
