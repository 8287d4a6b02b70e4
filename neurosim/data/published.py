"""A file that is what was published, or one sentence that says it is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim import storage
from neurosim.data.row import RemoteFile
from neurosim.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


def require(folder: Path, file: RemoteFile) -> Path:
    """The path of ``file`` in ``folder``; another content is a ``UsageError``."""
    path = folder / file.name
    try:
        found = storage.sha256_file(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if found != file.sha256:
        raise UsageError(f"{path} is not the published file: expected SHA-256 {file.sha256}; got {found}")
    return path


def arrays(folder: Path, file: RemoteFile, names: tuple[str, ...]) -> list[np.ndarray[Any, Any]]:
    """The named arrays of an ``.npz`` file whose SHA-256 is right; nothing is unpickled."""
    import numpy as np

    with np.load(require(folder, file), allow_pickle=False) as archive:
        return [archive[name] for name in names]
