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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from neurosim.errors import RunError, UsageError

if TYPE_CHECKING:
    import torch
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
    digest = hashlib.sha256()
    for key, value in sorted((metadata or {}).items()):
        digest.update(json.dumps(["meta", key, value]).encode())
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(json.dumps(["tensor", name, str(data.dtype), list(data.shape)]).encode())
        digest.update(_bytes_of(data))
    return digest.hexdigest()


def _dtype_codes() -> dict[torch.dtype, str]:
    """torch types and their names in a safetensors header."""
    import torch

    return {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
        torch.uint8: "U8", torch.bool: "BOOL",
    }  # fmt: skip


def _bytes_of(tensor: Tensor) -> memoryview:
    import torch

    raw: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(raw)


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors and string metadata atomically, with their checksum inside the file.

    The layout is safetensors (https://huggingface.co/docs/safetensors), written here because the
    library orders metadata by a random hash: equal contents must be equal bytes.

    Args:
        path: the file; its folder is made if need be.
        tensors: name -> tensor, any shape, on any device.
        metadata: name -> text.

    Raises:
        UsageError: a tensor's type has no place in the format, or it holds no data.
        RunError: the file could not be written; ``path`` is as it was.
    """
    codes = _dtype_codes()
    for name, tensor in tensors.items():
        if tensor.dtype not in codes:
            raise UsageError(
                f"cannot store tensor {name!r} of type {tensor.dtype}: expected one of {list(codes)}"
            )
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    meta = dict(metadata or {})
    meta[DIGEST_KEY] = sha256_tensors(plain, meta)
    header: dict[str, Any] = {"__metadata__": dict(sorted(meta.items()))}
    # widest types first, so that every tensor lies aligned
    order = sorted(plain, key=lambda name: (-plain[name].element_size(), name))
    offset = 0
    for name in order:
        size = plain[name].numel() * plain[name].element_size()
        header[name] = {
            "dtype": codes[plain[name].dtype],
            "shape": list(plain[name].shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    # not ASCII-escaped: "\u00e9" and "\u00E9" would be two spellings, one bit apart, of one name
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            file.write(_bytes_of(plain[name]))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file written by :func:`save_tensors`; refuse it, by name, if anything was altered."""
    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path} is missing: expected a tensor file written by neurosim")
    tensors, metadata = _parsed(path)
    if not _proven(path, tensors, metadata):
        raise RunError(f"{path} carries no checksum: expected a tensor file written by neurosim")
    return tensors, metadata


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file of anybody's; one written by :func:`save_tensors` is checked as there.

    Raises:
        UsageError: no such file, or a pickle (``.pt``, ``.pth``), which can run code and is never opened.
        RunError: the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}: expected tensors in a safetensors file")
    try:
        tensors, metadata = _parsed(path)
    except RunError as error:
        if _is_pickle(path):
            target = path.with_suffix(".safetensors").name
            raise UsageError(
                f"{path} is a pickle, which can run code when it is opened: convert it with "
                f"safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), {target!r})"
            ) from error
        raise
    _proven(path, tensors, metadata)
    return tensors


def _parsed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except Exception as error:  # any parse failure of a damaged file
        raise RunError(f"{path} is damaged or not a safetensors file ({error})") from error


def _proven(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bool:
    """Whether the file carries our checksum, which is taken out of its metadata and must be right."""
    expected = metadata.pop(DIGEST_KEY, None)
    if expected is not None and sha256_tensors(tensors, metadata) != expected:
        raise RunError(f"{path} is damaged: its contents do not match the checksum inside it")
    return expected is not None


def _is_pickle(path: Path) -> bool:
    """By its name, or by its first bytes: a zip of torch.save, or a plain pickle since protocol 2."""
    with open(path, "rb") as file:
        start = file.read(4)
    named = path.suffix.lower() in (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin")
    return named or start == b"PK\x03\x04" or start[:1] == b"\x80"


def append_json(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line and fsync it; a torn last line (a crash while appending) is cut off first.

    Raises:
        ValueError: the row holds NaN, an infinity or something that is not JSON; nothing is written.
        RunError: the file could not be written.
    """
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    try:
        with open(path, "ab+") as file:
            _mend(file)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _mend(file: BinaryIO) -> None:
    """End an open file with a whole line: complete a last line that lacks only its newline, cut another."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    whole, _, last = file.read().rpartition(b"\n")
    try:
        json.loads(last)
    except ValueError:
        file.truncate(len(whole) + 1 if whole else 0)
    else:
        file.write(b"\n")


def write_json_lines(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file by these JSON lines, atomically."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """All whole JSON lines of a file; a torn last line (a crash while appending) is dropped.

    Raises:
        RunError: another line is not a JSON object, by file and line number.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) - 1:
                break
            raise RunError(f"{path}:{number + 1} is not a JSON line ({error})") from error
        if not isinstance(row, dict):
            raise RunError(f"{path}:{number + 1} is not a JSON object: {line[:60]!r}")
        rows.append(row)
    return rows
