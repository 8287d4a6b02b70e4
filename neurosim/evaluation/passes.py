"""Reading the data: in order, checked, and the same on every pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from neurosim.errors import UsageError
from neurosim.storage import sha256_tensors

Loader = Iterable[tuple[Tensor, Tensor]]
"""Anything that gives batches (x, y), and the same ones again: a list, Batches, an unshuffled DataLoader."""


KEPT_BYTES = 1 << 30
"""Data up to this size are read once and kept in memory for all chips and ages."""


class Passes:
    """A loader, read in order; every batch checked.

    Data of up to :data:`KEPT_BYTES` are kept, on the network's device; more are read again for every block of
    chips and age, and every pass must equal the first.
    """

    def __init__(self, loader: Loader, device: torch.device) -> None:
        if not isinstance(loader, Iterable):
            raise UsageError(f"cannot read data from {type(loader).__name__}: expected batches (x, y)")
        if isinstance(loader, Iterator):
            raise UsageError(
                f"data from a {type(loader).__name__} can be read once only: "
                "expected something that can be iterated again, such as a list or a DataLoader"
            )
        self._loader = loader
        self.device = device
        self._targets: list[Tensor] = []
        self._complete = False
        self._kept: list[tuple[Tensor, Tensor]] | None = []

    @property
    def samples(self) -> int:
        """Number of samples, once read."""
        return sum(map(len, self._targets))

    @property
    def targets(self) -> int:
        """Number of targets, once read: one a sample, or one a pixel."""
        return sum(y.numel() for y in self._targets)

    @property
    def batch_size(self) -> int:
        """Number of samples in the first batch, once read."""
        return len(self._targets[0])

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch (x, y), on the network's device."""
        if self._complete and self._kept is not None:
            yield from self._kept
            return
        if not self._complete:
            self._targets, self._kept = [], []  # of a pass that was not read to its end
        number = -1
        for number, batch in enumerate(self._loader):
            x, y = _pair(batch, number)
            if not self._complete:
                self._targets.append(y.cpu().clone())
            elif number >= len(self._targets) or not torch.equal(y.cpu(), self._targets[number]):
                raise UsageError(
                    f"the data changed from one pass to the next at batch {number}: "
                    "expected the same batches in the same order each time (no shuffling)"
                )
            here = x.to(self.device), y.to(self.device)
            self._keep(here)
            yield here
        if number < 0 and not self._complete:
            raise UsageError("there is no data to evaluate on: expected at least one batch")
        if number + 1 < len(self._targets):
            raise UsageError(
                f"the data ended after {number + 1} of {len(self._targets)} batches the second time: "
                "expected something that can be iterated again, such as a list or a DataLoader"
            )
        self._complete = True

    def _keep(self, batch: tuple[Tensor, Tensor]) -> None:
        if self._complete or self._kept is None:
            return
        self._kept.append((batch[0].clone(), batch[1]))  # a loader may use its memory again
        if sum(x.numel() * x.element_size() for x, _ in self._kept) > KEPT_BYTES:
            self._kept = None

    def first(self) -> Tensor:
        """The inputs of the first batch, by which memory is planned."""
        if self._complete and self._kept:
            return self._kept[0][0]
        for batch in self._loader:
            return _pair(batch, 0)[0].to(self.device)
        raise UsageError("there is no data to evaluate on: expected at least one batch")

    def digest(self) -> str:
        """SHA-256 over every batch in order."""
        digest = hashlib.sha256()
        for x, y in self.batches():
            digest.update(sha256_tensors({"x": x, "y": y}).encode())
        return digest.hexdigest()


def _pair(batch: object, number: int) -> tuple[Tensor, Tensor]:
    """One batch, checked: inputs and as many whole-number targets, or as many images of them."""
    if not (
        isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)
    ):
        raise UsageError(f"batch {number} is a {type(batch).__name__}: expected a pair of tensors (x, y)")
    x, y = batch
    whole = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if not whole or y.ndim == 0 or (y.ndim > 1 and y.shape[1:].numel() == 1):  # (batch, 1): a forgotten axis
        raise UsageError(
            f"the targets of batch {number} are {y.dtype} of shape {tuple(y.shape)}: "
            "expected one whole number for each sample, or for each of its pixels"
        )
    if x.ndim == 0 or len(x) != len(y) or not y.numel():
        raise UsageError(
            f"batch {number} has inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)}: "
            "expected the same number of both, at least one"
        )
    return x, y.long()
