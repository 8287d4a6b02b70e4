"""Files that are whole or absent: atomic writes, checked tensors, append-only JSON lines.

A tensor file is safetensors; its metadata holds a SHA-256 over every name, type, shape, byte and
other metadata, so that one file proves itself and no crash can separate it from its checksum.
Nothing here unpickles.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

DIGEST_KEY = "neurosim.sha256"


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it over ``path``.

    On any exception the temporary file is removed and ``path`` is as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` atomically as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """SHA-256 over names, types, shapes, bytes and metadata, independent of insertion order."""
    import torch

    digest = hashlib.sha256()
    for key, value in sorted((metadata or {}).items()):
        digest.update(json.dumps(["meta", key, value]).encode())
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(json.dumps(["tensor", name, str(data.dtype), list(data.shape)]).encode())
        digest.update(memoryview(data.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors and string metadata atomically, with their checksum inside the file."""
    from safetensors.torch import save_file

    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    meta = dict(metadata or {})
    meta[DIGEST_KEY] = sha256_tensors(plain, meta)
    with atomic_path(path) as temporary:
        try:
            save_file(plain, str(temporary), metadata=meta)
        except Exception as error:  # safetensors raises its own type for a full disk
            raise RunError(f"cannot write {path}: {error}") from error


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file written by :func:`save_tensors`; refuse it, by name, if anything was altered."""
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path} is missing: expected a tensor file written by neurosim")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # any parse failure of a damaged file
        raise RunError(f"{path} is damaged or not a safetensors file ({error})") from error
    expected = metadata.pop(DIGEST_KEY, None)
    if expected is None:
        raise RunError(f"{path} carries no checksum: expected a tensor file written by neurosim")
    if sha256_tensors(tensors, metadata) != expected:
        raise RunError(f"{path} is damaged: its contents do not match the checksum inside it")
    return tensors, metadata


def append_json(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line and fsync it."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """All whole JSON lines of a file; a torn last line (a crash while appending) is dropped."""
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines) - 1:
                break
            raise RunError(f"{path}:{number + 1} is not a JSON line ({error})") from error
    return rows
