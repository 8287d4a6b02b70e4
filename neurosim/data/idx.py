"""IDX, the format of MNIST: big-endian magic number, sizes, then unsigned bytes; here gzipped."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from neurosim.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def read_idx(path: Path, shape: tuple[int, ...], sha256: str) -> Tensor:
    """The uint8 tensor of a gzipped IDX file whose decompressed bytes have the given SHA-256.

    The hash is of the decompressed file, header included, so that any compression of the same data
    passes; not one byte more than ``shape`` needs is kept, however far the file would unpack.

    Raises:
        UsageError: the file cannot be read, is not gzip, or holds anything else.
    """
    import torch

    header = 4 + 4 * len(shape)
    expected = header + math.prod(shape)
    try:
        with gzip.open(path) as file:
            content = bytearray(file.read(expected + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is damaged or not a gzip file ({error})") from error
    if len(content) != expected:
        got = f"{len(content):,}" if len(content) < expected else "more"
        raise UsageError(f"{path} does not hold the published data: expected {expected:,} bytes; got {got}")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UsageError(
            f"{path} does not hold the published data: expected decompressed SHA-256 {sha256}; got {found}"
        )
    return torch.frombuffer(content, dtype=torch.uint8, offset=header).view(shape)
