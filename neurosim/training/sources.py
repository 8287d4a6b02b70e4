"""Where batches come from: every kind of loader, made one kind at the door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, cast, final, runtime_checkable

import torch
from torch import Tensor

from neurosim.errors import UsageError

Batch = tuple[Tensor, Tensor]


@runtime_checkable
class Ordered(Protocol):
    """A loader that knows the order of each epoch, such as ``neurosim.data.Batches``."""

    def epoch(self, number: int, /) -> Iterator[Any]:
        """The batches of one epoch, the same whenever asked."""
        ...


@final
@dataclass(frozen=True)
class Source:
    """Batches (x, y) of one split; ``length`` is their number per epoch, None when unknown."""

    loader: Iterable[Any] | Ordered
    what: str
    length: int | None

    def batches(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first ``skip`` of them."""
        loader = self.loader
        rows = loader.epoch(epoch) if isinstance(loader, Ordered) else iter(loader)
        for _ in islice(rows, skip):  # now, not at the first use: reading may draw from torch's generator
            pass
        return (self._checked(row) for row in rows)

    def _checked(self, row: object) -> Batch:
        pair = isinstance(row, (tuple, list)) and len(row) == 2
        if not pair or not all(isinstance(part, Tensor) for part in cast(tuple[object, object], row)):
            raise UsageError(
                f"{self.what} data: expected batches (inputs, targets) of tensors; got {_brief(row)}"
            )
        x, y = cast(Batch, row)
        if x.dim() < 2 or y.dtype != torch.int64 or y.shape[:1] != x.shape[:1]:
            raise UsageError(
                f"{self.what} data: expected inputs (batch, ...) and int64 targets (batch,), or (batch, ...)"
                f" with a class for each pixel; got {_brief(x)} and {_brief(y)}"
            )
        if len(x) == 0:
            raise UsageError(f"{self.what} data: expected at least one sample in a batch; got an empty batch")
        return x, y


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__


def source(loader: Any, what: str) -> Source:
    """Make a loader a :class:`Source`.

    Args:
        loader: iterable of (inputs, targets), again and again; one with ``.epoch(number)`` gives the
            order of each epoch, a plain one is seeded through torch's generator by the training loop.
        what: "training" or "validation", for messages.

    Raises:
        UsageError: not iterable, an iterator that can be read only once, or empty.
    """
    if isinstance(loader, Iterator):
        raise UsageError(
            f"{what} data: expected a loader that can be read every epoch; got an iterator, read once"
        )
    if not isinstance(loader, (Iterable, Ordered)):
        raise UsageError(
            f"{what} data: expected an iterable of (inputs, targets); got {type(loader).__name__}"
        )
    length: int | None = None
    if isinstance(loader, Sized):
        try:
            length = len(loader)
        except TypeError:  # a torch DataLoader over an iterable data set has __len__ and refuses
            length = None
    if length == 0:
        raise UsageError(f"{what} data: expected at least one batch; got none")
    return Source(loader, what, length)


def both(loaders: Any) -> tuple[Source, Source | None]:
    """The training source and, if there is one, the validation source.

    Args:
        loaders: an object with ``.train`` and perhaps ``.validation``, a mapping with these keys, or a
            pair (train, validation); None for no validation.
    """
    if isinstance(loaders, Mapping):
        train, validation = loaders.get("train"), loaders.get("validation")
    elif isinstance(loaders, tuple) and len(loaders) == 2:
        train, validation = loaders
    else:
        train, validation = getattr(loaders, "train", None), getattr(loaders, "validation", None)
    if train is None:
        raise UsageError(
            "expected loaders with .train and .validation, a dict with these keys or a pair;"
            f" got {type(loaders).__name__}"
        )
    return source(train, "training"), None if validation is None else source(validation, "validation")
