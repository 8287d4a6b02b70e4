"""Examples in memory, their batches, and the three parts of a data set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from neurosim.errors import UsageError
from neurosim.random import stream

Task = Literal["classification", "segmentation"]


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Images with their classes, one an image or one a pixel; or time series with a class each.

    Args:
        inputs: images, float32 (N, C, H, W), every value in [0, 1]; or time series, float32 (N, T, C), T
            steps of C channels, any finite values.
        targets: int64, classes from 0: (N,) for classification, (N, H, W) for segmentation.  There is
            no label for "ignore".
        groups: int64 (N,), the patient, plate or block that an example comes from, where that is known.

    Raises:
        UsageError: empty, another type or shape, unequal lengths, NaN, or pixels outside [0, 1].

    >>> examples = Examples(torch.zeros(5, 1, 8, 8), torch.arange(5))
    >>> len(examples), examples[1:3].targets
    (5, tensor([1, 2]))
    >>> Examples(torch.zeros(5, 1, 8, 8), torch.zeros(5, 8, 8, dtype=torch.int64)).task
    'segmentation'
    >>> Examples(torch.zeros(5, 100, 2), torch.arange(5))
    Examples(n=5, steps=100, channels=2)
    """

    inputs: Tensor
    targets: Tensor
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        inputs, targets = self.inputs, self.targets
        if inputs.dtype != torch.float32 or inputs.dim() not in (3, 4):
            raise UsageError(
                "expected inputs float32 (N, C, H, W), or (N, T, C) for time series; "
                f"got {_name(inputs.dtype)} {tuple(inputs.shape)}"
            )
        _check_targets(inputs, targets)
        _check_groups(inputs, self.groups)
        if inputs.numel() == 0:
            raise UsageError(f"expected at least one example; got inputs of shape {tuple(inputs.shape)}")
        _check_values(inputs, self.is_series)
        if int(targets.min()) < 0:
            raise UsageError(f"expected classes from 0; got {int(targets.min())}")

    @property
    def task(self) -> Task:
        """``"classification"``: a class an image; ``"segmentation"``: a class a pixel."""
        return "classification" if self.targets.dim() == 1 else "segmentation"

    @property
    def is_series(self) -> bool:
        """Whether the inputs are time series (N, T, C), not images."""
        return self.inputs.dim() == 3

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> Examples:
        """Several examples: ``examples[:100]``, ``examples[[3, 5]]`` or a tensor of indices or flags."""
        if isinstance(index, int):
            raise UsageError(
                f"expected a slice or a list of indices; for one example use [{index}:{index + 1}]"
            )
        try:
            groups = None if self.groups is None else self.groups[index]
            return Examples(self.inputs[index], self.targets[index], groups)
        except IndexError as error:
            raise UsageError(f"expected indices below {len(self)}; got {index!r}") from error

    def __repr__(self) -> str:
        if self.is_series:
            n, steps, channels = self.inputs.shape
            return f"Examples({n=}, {steps=}, {channels=})"
        n, channels, height, width = self.inputs.shape
        return f"Examples({n=}, {channels=}, {height=}, {width=})"

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over examples and pixels (or steps of time).

        They are what ``models.create`` takes.

        Computed in float64, 1,024 examples at a time; a constant channel is given a deviation of 1.

        >>> Examples(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1])).mean_std()
        ((0.5,), (0.5,))
        """
        inputs = self.inputs.transpose(1, 2).unsqueeze(3) if self.is_series else self.inputs  # (N, C, T, 1)
        blocks = inputs.split(1024)
        count = inputs[:, 0].numel()
        mean = sum((block.double().sum(dim=(0, 2, 3)) for block in blocks), torch.zeros(())) / count
        centre = mean.view(-1, 1, 1)
        squares = ((block.double() - centre).square().sum(dim=(0, 2, 3)) for block in blocks)
        std = (sum(squares, torch.zeros(())) / count).sqrt()
        std = torch.where(std > 1e-6, std, torch.ones_like(std))
        return tuple(mean.tolist()), tuple(std.tolist())


def _check_values(inputs: Tensor, is_series: bool) -> None:
    """Time series are finite, pixels lie in [0, 1]; NaN is neither."""
    low, high = (bound.item() for bound in torch.aminmax(inputs))
    if is_series and not (math.isfinite(low) and math.isfinite(high)):  # one NaN makes both NaN
        raise UsageError(f"expected finite inputs; got values from {low:g} to {high:g}")
    if not is_series and not (low >= 0 and high <= 1):
        raise UsageError(f"expected every input in [0, 1]; got values from {low:g} to {high:g}")


def _check_targets(inputs: Tensor, targets: Tensor) -> None:
    """int64 (N,) or (N, H, W), as long as the inputs and as large as their images."""
    got = f"{_name(targets.dtype)} {tuple(targets.shape)}"
    if targets.dtype != torch.int64 or targets.dim() not in (1, 3):
        raise UsageError(f"expected targets int64 (N,) or (N, H, W); got {got}")
    if len(inputs) != len(targets):
        raise UsageError(f"expected one target an input; got {len(inputs)} inputs, {len(targets)} targets")
    if targets.dim() == 3 and targets.shape[1:] != inputs.shape[2:]:
        raise UsageError(
            f"expected one class a pixel of inputs {tuple(inputs.shape)}; got targets {tuple(targets.shape)}"
        )


def _check_groups(inputs: Tensor, groups: Tensor | None) -> None:
    if groups is not None and (groups.dtype != torch.int64 or groups.shape != inputs.shape[:1]):
        raise UsageError(
            f"expected groups int64 ({len(inputs)},); got {_name(groups.dtype)} {tuple(groups.shape)}"
        )


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set, which share no example (and no group, where groups are known).

    ``num_classes`` counts the classes of images, or those of pixels for segmentation.  ``sha256`` is of
    the data as published (every image and label, in order, before any split of ours), so it is the same
    for every seed.  ``class_names`` are those of the classes 0, 1, ..., or empty where they have none.
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples
    num_classes: int
    sha256: str
    class_names: tuple[str, ...] = ()

    @property
    def is_series(self) -> bool:
        """Whether the inputs are time series (N, T, C), not images."""
        return self.train.is_series

    @property
    def task(self) -> Task:
        """``"classification"``: a class an image; ``"segmentation"``: a class a pixel."""
        return self.train.task

    @property
    def in_chans(self) -> int:
        """Channels of the images or time series."""
        return self.train.inputs.shape[2 if self.is_series else 1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels; (T, 1) of time series of T steps."""
        if self.is_series:
            return self.train.inputs.shape[1], 1
        return self.train.inputs.shape[2], self.train.inputs.shape[3]

    def few(self, per_class: int, seed: int = 0) -> Splits:
        """The same with few training examples; validation and test are untouched.

        Args:
            per_class: training examples of each class; images in all for segmentation.
            seed: of the choice.  The fewer examples of one seed are among the more of the same seed.
                Where groups are known, no group is taken from twice before every one with that class was
                taken from once, and so on.

        Raises:
            UsageError: a class (or, for segmentation, the training part) has fewer.

        >>> from neurosim.data import load
        >>> load("digits").few(10).train.targets.bincount().tolist()
        [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
        """
        return replace(self, train=self.train[few_indices(self.train, per_class, seed)])

    def loaders(self, batch_size: int, seed: int = 0) -> Loaders:
        """Batches of each part; the training part is shuffled by ``seed``, the others read in order.

        >>> from neurosim.data import load
        >>> loaders = load("digits").loaders(batch_size=100)
        >>> len(loaders.train), len(loaders.validation), len(loaders.test)
        (13, 2, 4)
        """
        return Loaders(
            Batches(self.train, batch_size, shuffle_seed=seed),
            Batches(self.validation, batch_size),
            Batches(self.test, batch_size),
        )


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of (inputs, targets), in an order that depends on the seed and the epoch alone.

    Args:
        examples: what to read.
        batch_size: examples a batch; the last batch holds the rest.
        shuffle_seed: ``None`` reads in order; a seed reads epoch ``e`` in the order of
            ``stream(shuffle_seed, e, "data", "shuffle").permutation(n)``.

    Iterating is epoch 0; nothing is remembered between iterations.

    >>> batches = Batches(Examples(torch.zeros(5, 1, 2, 2), torch.arange(5)), batch_size=2)
    >>> len(batches), [targets.tolist() for _, targets in batches]
    (3, [[0, 1], [2, 3], [4]])
    """

    examples: Examples
    batch_size: int
    shuffle_seed: int | None = None

    def __post_init__(self) -> None:
        size = self.batch_size
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"expected batch_size to be a whole number of at least 1; got {size!r}")

    def __len__(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.epoch(0)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, counted from 0."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise UsageError(f"expected an epoch of at least 0; got {epoch!r}")
        return self._read(self._order(epoch))

    def _order(self, epoch: int) -> Tensor | None:
        if self.shuffle_seed is None:
            return None
        return stream(self.shuffle_seed, epoch, "data", "shuffle").permutation(len(self.examples))

    def _read(self, order: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = self.examples.inputs, self.examples.targets
        for start in range(0, len(self.examples), self.batch_size):
            here = slice(start, start + self.batch_size)
            if order is None:
                yield inputs[here], targets[here]
            else:
                chosen = order[here].to(inputs.device)
                yield inputs[chosen], targets[chosen]


def split_indices(count: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of (train, validation): two disjoint parts of a permutation fixed by ``seed``.

    Validation holds ``round(count * fraction)`` indices; the classes are not stratified.

    Raises:
        UsageError: ``fraction`` leaves a part empty.

    >>> train, validation = split_indices(10, 0.2, seed=0)
    >>> len(train), len(validation), sorted([*train.tolist(), *validation.tolist()]) == list(range(10))
    (8, 2, True)
    """
    held = round(count * fraction)
    if not 0 < held < count:
        raise UsageError(f"validation_fraction={fraction!r} of {count} examples leaves a part empty")
    order = stream(seed, 0, "data", "split").permutation(count)
    return order[held:], order[:held]


def split_groups(groups: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of (train, validation), no group in both; each part in an order fixed by ``seed``.

    Validation holds ``round(fraction * number of groups)`` groups, at least one: the groups, in order of
    their numbers, are cut into that many stretches of equal length, up to one group, and one group is
    drawn from each.  So validation spreads over the whole data even if neighbours are of one class.

    Raises:
        UsageError: ``fraction`` leaves no group for training.

    >>> train, validation = split_groups(torch.tensor([0, 0, 1, 1, 2, 2, 3]), 0.5, seed=0)
    >>> len(set(validation.tolist()) & {0, 1, 2, 3}), len(train) + len(validation)
    (2, 7)
    """
    numbers = groups.unique()
    held = max(1, round(len(numbers) * fraction))
    if held >= len(numbers):
        raise UsageError(f"validation_fraction={fraction!r} of {len(numbers)} groups leaves a part empty")
    ranks = stream(seed, 0, "data", "groups").permutation(len(numbers))
    stretch = torch.arange(len(numbers)) * held // len(numbers)
    drawn = [numbers[of][ranks[of].argmin()] for of in (stretch == k for k in range(held))]
    order = stream(seed, 0, "data", "split").permutation(len(groups))
    validation = torch.isin(groups[order], torch.stack(drawn))
    return order[~validation], order[validation]


def few_indices(examples: Examples, per_class: int, seed: int) -> Tensor:
    """Indices, in order, of ``per_class`` examples of each class; see :meth:`Splits.few`.

    Raises:
        UsageError: not a whole number of at least 1, or more than there are.
    """
    if isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 1:
        raise UsageError(f"expected per_class to be a whole number of at least 1; got {per_class!r}")
    order = stream(seed, 0, "data", "few").permutation(len(examples))
    if examples.task == "segmentation":
        return _spread(examples, order, per_class, "images").sort().values
    classes = examples.targets[order]
    chosen = [
        _spread(examples, order[classes == label], per_class, f"of class {label}")
        for label in range(int(classes.max()) + 1)
    ]
    return torch.cat(chosen).sort().values


def _spread(examples: Examples, order: Tensor, count: int, what: str) -> Tensor:
    """The first ``count`` of ``order``, dealt out group by group where groups are known."""
    if len(order) < count:
        raise UsageError(f"per_class={count} is more than the {len(order)} training examples {what}")
    if examples.groups is not None:
        seen: Counter[int] = Counter()
        rounds = []
        for group in examples.groups[order].tolist():
            rounds.append(seen[group])
            seen[group] += 1
        order = order[torch.tensor(rounds).argsort(stable=True)]
    return order[:count]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, eq=False)
class Loaders:
    """Batches of the three parts of a data set: what :func:`neurosim.train` takes."""

    train: Batches
    validation: Batches
    test: Batches
