"""``.npz`` files in MedMNIST's layout, from strangers: everything is checked before it is unpacked.

Members ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` and, optionally,
``val_images`` and ``val_labels``.  Images are uint8 (N, H, W) or (N, H, W, C) with C of 1, 3 or 4;
labels are integers (N,) or (N, 1), from 0.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim.data.row import Raw
from neurosim.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MAX_BYTES = 2**30
_MAX_HEADER = 10_000
_MAX_MEMBERS = 1_000
_MAX_CLASSES = 65_536
_REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")
_OPTIONAL = ("val_images", "val_labels")


def read_npz(path: str | Path, max_bytes: int = MAX_BYTES) -> Raw:
    """Read a file in MedMNIST's layout; nothing is unpickled.

    Args:
        path: the file.
        max_bytes: the most that all arrays together may unpack to (1 GiB, which is 4 GiB as float32).
            The sizes that the archive and each array's header declare are checked before unpacking,
            and no more than that is unpacked.

    Raises:
        UsageError: one sentence, for whatever is not as described above.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path} is missing: expected an .npz file in MedMNIST's layout")
    try:
        if (size := path.stat().st_size) > max_bytes:
            raise UsageError(f"{path} has {size:,} bytes: expected at most {max_bytes:,}")
        with zipfile.ZipFile(path) as archive:
            arrays = _read_members(path, archive, max_bytes)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # whatever zipfile and numpy meet in a damaged or hostile file
        raise UsageError(f"{path} is damaged or not an .npz file ({_one_line(error)})") from error
    return Raw(
        _part(path, arrays, "train"),
        _part(path, arrays, "val") if "val_images" in arrays else None,
        _part(path, arrays, "test"),
    )


def _read_members(path: Path, archive: zipfile.ZipFile, max_bytes: int) -> dict[str, np.ndarray[Any, Any]]:
    members = _by_key(path, archive)
    wanted = [*_REQUIRED, *(_OPTIONAL if any(key in members for key in _OPTIONAL) else ())]
    if missing := [key for key in wanted if key not in members]:
        held = (", ".join(sorted(members)) or "nothing")[:300]
        raise UsageError(f"{path} lacks {', '.join(missing)}: expected MedMNIST's layout; it holds {held!r}")
    total = sum(members[key].file_size for key in wanted)
    if total > max_bytes:
        raise UsageError(f"{path} would unpack to {total:,} bytes: expected at most {max_bytes:,}")
    return {key: _read_array(path, archive, members[key], key) for key in wanted}


def _by_key(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by array name: each once, and compressed as NumPy does or not at all."""
    members: dict[str, zipfile.ZipInfo] = {}
    if len(archive.infolist()) > _MAX_MEMBERS:
        raise UsageError(f"{path} has {len(archive.infolist()):,} members: expected at most {_MAX_MEMBERS:,}")
    for member in archive.infolist():
        key = member.filename.removesuffix(".npy")
        if key in members:
            raise UsageError(f"{path} holds {key[:100]!r} twice: expected each array once")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UsageError(
                f"{path}: {key[:100]!r} has compression {member.compress_type}: expected deflate"
            )
        members[key] = member
    return members


def _read_array(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, key: str
) -> np.ndarray[Any, Any]:
    """Check the header of one array against the size of its member, then read it."""
    import numpy as np

    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_HEADER)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file, max_header_size=_MAX_HEADER)
        else:
            raise UsageError(f"{path}: {key} has .npy version {version}: expected (1, 0) or (2, 0)")
        _check_type(path, key, shape, dtype)
        declared = file.tell() + math.prod(shape) * dtype.itemsize
    if declared != member.file_size:
        raise UsageError(
            f"{path}: {key} claims shape {_brief(shape)}, which needs {declared:,} bytes; "
            f"it has {member.file_size:,}"
        )
    with archive.open(member) as file:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(
            file, allow_pickle=False, max_header_size=_MAX_HEADER
        )
        file.read(1)  # reaching the end checks the CRC-32
    return array


def _check_type(path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if any(size < 1 for size in shape):
        raise UsageError(f"{path}: {key} has shape {_brief(shape)}: expected every size to be at least 1")
    if key.endswith("_images"):
        if dtype != "uint8":
            raise UsageError(f"{path}: {key} has type {_brief(dtype)}: expected uint8")
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
            raise UsageError(
                f"{path}: {key} has shape {_brief(shape)}: "
                "expected (N, H, W) or (N, H, W, C) with C of 1, 3 or 4"
            )
        return
    if dtype.kind not in "iu":
        raise UsageError(f"{path}: {key} has type {_brief(dtype)}: expected whole numbers")
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise UsageError(
            f"{path}: {key} has shape {_brief(shape)}: expected (N,) or (N, 1), one class an image"
        )


def _part(path: Path, arrays: dict[str, np.ndarray[Any, Any]], name: str) -> tuple[Tensor, Tensor]:
    import numpy as np
    import torch

    images, labels = arrays[f"{name}_images"], arrays[f"{name}_labels"].reshape(-1)
    if len(images) != len(labels):
        raise UsageError(f"{path}: {name} has {len(images)} images but {len(labels)} labels")
    if labels.min() < 0 or labels.max() >= _MAX_CLASSES:
        raise UsageError(
            f"{path}: {name}_labels run from {labels.min()} to {labels.max()}: "
            f"expected classes from 0 to {_MAX_CLASSES - 1}"
        )
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))


def _one_line(error: BaseException) -> str:
    return _brief(" ".join(str(error).split()), 200)


def _brief(value: object, length: int = 80) -> str:
    """At most ``length`` characters of what a stranger wrote."""
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."
