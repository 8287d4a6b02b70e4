"""A block of chips, programmed once and read at all its ages: the unit of work of every evaluation."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neurosim.analog import Deployed, Lot
from neurosim.errors import RunError, UsageError
from neurosim.evaluation.durations import format_duration
from neurosim.evaluation.ledger import Row
from neurosim.evaluation.passes import Passes

# A worker's block is small, so that few chips keep several workers busy and little is lost with one; beyond
# eight, networks so small that chips gain from each other's company gain no more.
_WORKERS_BLOCK = 8

_EXACT_AT_ONCE = 1 << 22
"""Numbers that are held in float64 at once while losses are computed: 32 MB."""


class Task(NamedTuple):
    """Chips to be programmed together, and the ages at which to read them, in ascending order."""

    chips: tuple[int, ...]
    ages: tuple[float, ...]


class Score(NamedTuple):
    """One chip on one batch, summed over its samples, or over all their pixels where those have classes."""

    correct: int
    loss: float


def tasks(
    numbers: Sequence[int], ages: Sequence[float], have: set[tuple[int, float]], size: int
) -> list[Task]:
    """What ``have`` lacks of ``numbers`` × ``ages``, in blocks of ``size`` chips.

    Whole blocks, unless an earlier evaluation of other chips or ages had some of them.
    """
    lacking = {chip: tuple(age for age in ages if (chip, age) not in have) for chip in numbers}
    blocks = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return [
        Task(tuple(chip for chip in block if lacking[chip] == todo), todo)
        for block in blocks
        for todo in dict.fromkeys(lacking[chip] for chip in block)
        if todo
    ]


def block_size(net: Deployed, data: Passes) -> int:
    """How many chips fit into memory at once."""
    return max(1, net.chip_block(data.first()))


def workers_block_size(net: Deployed, data: Passes) -> int:
    """How many chips a worker takes at once: the same for any number of workers, and never felt in a number.

    A chip's product on crossbars has the same shape however many chips are beside it; a product that stays
    digital has the chips in its rows, and a library may round it otherwise for more rows.  So chips go one
    at a time where the network has such a product.
    """
    digital = set(net.digital_parameters())
    products = any(name in digital and weights.ndim > 1 for name, weights in net.named_parameters())
    return 1 if products else min(_WORKERS_BLOCK, block_size(net, data))


def rows_of(net: Deployed, data: Passes, lot: Lot, task: Task) -> Iterator[list[Row]]:
    """The rows of a task, age by age."""
    chips = list(task.chips)
    with net.on(lot[chips], task.ages[0]) as on:
        for number, age in enumerate(task.ages):
            if number:
                on.age(age)
            yield _rows(on, data, chips, age)


def _rows(on: Callable[[Tensor], Tensor], data: Passes, block: Sequence[int], age: float) -> list[Row]:
    """All data through one block of chips at one age."""
    batches = [score(checked(on(x), len(block), y), y) for x, y in data.batches()]
    count, rows = data.targets, []
    for chip, scores in zip(block, zip(*batches, strict=True), strict=True):
        loss = math.fsum(each.loss for each in scores) / count
        if not math.isfinite(loss):
            raise RunError(
                f"chip {chip} at {format_duration(age)} gave outputs that are not finite: "
                "check the network's weights and the data's range"
            )
        rows.append(Row(chip, age, sum(each.correct for each in scores) / count, loss, data.samples))
    return rows


def score(logits: Tensor, targets: Tensor) -> list[Score]:
    """Each chip's score on one batch; logits (chips, batch, classes), targets (batch,); or both with pixels.

    Chip by chip, so that no sum depends on how many chips there are; ``fsum`` rounds once.
    """
    return [
        Score(int((chip.argmax(1) == targets).sum()), math.fsum(_losses(chip, targets))) for chip in logits
    ]


def _losses(logits: Tensor, targets: Tensor) -> Iterator[float]:
    """Each sample's cross-entropy in float64, summed over its pixels if it has any; few samples at once."""
    at_once = max(1, _EXACT_AT_ONCE // logits[0].numel())
    for some, classes in zip(logits.split(at_once), targets.split(at_once), strict=True):
        exact = some.double()
        losses = exact.logsumexp(1) - exact.gather(1, classes[:, None])[:, 0]  # never below 0
        yield from (losses if losses.ndim == 1 else losses.flatten(1).sum(1)).tolist()


def checked(logits: Tensor, chips: int, targets: Tensor) -> Tensor:
    """The same logits, if they are one score a class for every chip and sample, or for every pixel."""
    samples, *pixels = targets.shape
    fits = logits.ndim >= 3 and logits.shape[2] >= 2
    if not fits or (*logits.shape[:2], *logits.shape[3:]) != (chips, samples, *pixels):
        of_pixels = f" at each of {' x '.join(map(str, pixels))} pixels" if pixels else ""
        expected = ", ".join([str(samples), "classes", *map(str, pixels)])
        raise UsageError(
            f"the network's outputs have the shape {tuple(logits.shape[1:])} for {samples} samples: "
            f"expected ({expected}), one score for each of two or more classes{of_pixels}"
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= logits.shape[2]:
        raise UsageError(
            f"the target {low if low < 0 else high} is no class: the network has 0 ... {logits.shape[2] - 1}"
        )
    return logits


def device_of(net: nn.Module) -> torch.device:
    """Where a network computes."""
    first = next(itertools.chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextlib.contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """No gradients, every module in eval mode; each as it was afterwards.

    Not ``inference_mode``: what a layer keeps from here may meet autograd later.
    """
    training = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.no_grad():
            yield
    finally:
        for module, was in training:
            module.training = was


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread, and with it one of our kernels'; as many as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
