"""The data of an evaluation, once in memory, read by as many processes as like."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, NamedTuple, Self

import torch
from torch import Tensor

_ALIGNMENT = 64


class Place(NamedTuple):
    """Where a tensor lies in a store."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


Layout = tuple[tuple[Place, Place], ...]
"""Where the inputs and the targets of each batch lie."""


class Store:
    """Batches in a file without a name: in memory, and gone with the last process that has it open.

    Iterating gives the batches, which share the file's memory.

    >>> with Store([(torch.ones(2, 3), torch.tensor([0, 1]))]) as store:
    ...     [(x.shape, y.tolist()) for x, y in store]
    [(torch.Size([2, 3]), [0, 1])]
    """

    def __init__(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.file = _unnamed_file()
        self.layout: Layout = tuple((self._put(x), self._put(y)) for x, y in batches)
        self.file.flush()
        self._batches = mapped(self.file.fileno(), self.layout)

    def _put(self, tensor: Tensor) -> Place:
        # a clone keeps the order of the axes in memory (channels last), and has no gaps
        dense = tensor.detach().cpu().clone()
        self.file.write(bytes(-self.file.tell() % _ALIGNMENT))
        place = Place(self.file.tell(), dense.dtype, tuple(dense.shape), tuple(dense.stride()))
        self.file.write(dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy().data)
        return place

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self._batches)

    def contents(self) -> bytes:
        """The whole file, for those who cannot open it."""
        self.file.seek(0)
        return self.file.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()  # the batches hold the memory, not the file


def mapped(descriptor: int, layout: Layout) -> Sequence[tuple[Tensor, Tensor]]:
    """The batches in an open file; what is written to them stays with this process."""
    return placed(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY), layout)


def placed(memory: mmap.mmap | bytearray, layout: Layout) -> Sequence[tuple[Tensor, Tensor]]:
    """The batches in a piece of memory."""

    def tensor(place: Place) -> Tensor:
        count = torch.Size(place.shape).numel()
        flat = torch.frombuffer(memory, dtype=place.dtype, count=count, offset=place.offset)
        return flat.as_strided(place.shape, place.strides)

    return [(tensor(x), tensor(y)) for x, y in layout]


def _unnamed_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("neurosim-data"), "w+b")
    return tempfile.TemporaryFile()
