"""What a row of the table of data sets is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RemoteFile:
    """One file: its name, size in bytes and SHA-256, and the addresses to try in turn.

    No address: the file was made from published ones and nobody serves it in this form.
    """

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set as its publisher wrote it, before any split of ours.

    Images are uint8 (N, H, W) or (N, H, W, C), from 0 to ``full_scale``; time series are float32 (N, T, C)
    and taken as they are.  Labels are int64, (N,) or (N, H, W).  ``validation`` is ``None`` where the
    publisher made no such split; it is then split off ``train``, by whole ``groups`` (int64, one a training
    example) where these are given.  ``identity`` stands for the data in place of a checksum of the tensors,
    where these come out of floating-point formulas and may differ in the last bit between machines.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor] | None
    test: tuple[Tensor, Tensor]
    full_scale: int = 255
    groups: Tensor | None = None
    identity: str = ""


@dataclass(frozen=True)
class DataSet:
    """A row of the table: what ``neurosim data list`` prints, and how to find, fetch and read it.

    ``folders`` are the names under which the files may lie inside a data folder (``""`` is the folder
    itself); the first is where :func:`neurosim.data.get` puts them.  ``read`` receives the folder that
    holds ``files``, and refuses content that is not the published one.  ``classes`` are the names of the
    classes 0, 1, ..., where they have names.
    """

    name: str
    summary: str
    licence: str
    source: str
    files: tuple[RemoteFile, ...]
    folders: tuple[str, ...]
    read: Callable[[Path], Raw]
    classes: tuple[str, ...] = ()

    @property
    def embedded(self) -> bool:
        """Whether it comes with an installed package, so that nothing need be fetched."""
        return not self.files

    @property
    def fetchable(self) -> bool:
        """Whether every file has an address that ``neurosim data get`` can ask."""
        return all(file.urls for file in self.files)
