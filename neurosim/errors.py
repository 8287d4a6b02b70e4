"""The two errors a user may meet, and the sentence that suggests a near name.

Every other exception that escapes neurosim is a defect of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Wrong use: an argument, name or file content that was not what is expected.  Exit code 2."""


class RunError(RuntimeError):
    """Right use, but the work could not be done (disk full, damaged file).  Exit code 1."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """One sentence for an unknown name, with the nearest known one.

    >>> str(unknown("model", "cnnn", ["mlp", "cnn"]))
    "unknown model 'cnnn': did you mean 'cnn'? (known: cnn, mlp)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}(known: {', '.join(names)})")
