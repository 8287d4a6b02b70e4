"""Chips x times x data -> a table: how accurate is this network on each chip, at each age?"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from neurosim.analog import Deployed, Lot
from neurosim.errors import RunError, UsageError
from neurosim.evaluation.durations import format_duration
from neurosim.evaluation.experiment import experiment
from neurosim.evaluation.ledger import Ledger, Row
from neurosim.evaluation.passes import Loader, Passes
from neurosim.evaluation.table import Table

Progress = Callable[[int, int], None]
Number = TypeVar("Number", int, float)


def evaluate(
    net: Deployed,
    loader: Loader,
    *,
    chips: int | Iterable[int] = 100,
    times_s: Iterable[float] = (0.0,),
    seed: int = 0,
    ledger: Ledger | str | Path | None = None,
    calibration: Tensor | None = None,
    progress: Progress | None = None,
) -> Table:
    """Accuracy and loss of a deployed network on every chip at every age.

    For chip *c* of lot ``seed`` at *t* seconds after programming, over all N samples (x, y) of ``loader``::

        accuracy(c, t) = mean_n [argmax f_ct(x_n) = y_n]
        loss(c, t) = mean_n -log softmax(f_ct(x_n))[y_n]

    in float64, summed exactly, so a chip's numbers do not depend on which chips are evaluated beside it.

    ``loader`` gives batches of inputs (batch, ...) and targets (batch,), and must give the same ones in the
    same order each time it is iterated: it is read once per block of chips and age.  ``chips`` is a count
    (the first ones) or a list of numbers.  ``calibration`` inputs fix the converters' ranges if the network
    is not calibrated yet.  With a ``ledger`` (or the path of one) finished blocks are kept as they come and
    never computed again.  ``progress`` is called with the rows done and the rows in all.

    Returns columns chip, time_s, accuracy, loss, samples; ordered by chip, then time.

    Raises :class:`UsageError` for a network that is not deployed, chips or times that are empty, repeated or
    out of range, and data that is empty, of a wrong shape, or not the same each time, and
    :class:`RunError` if a chip's outputs are not finite or the ledger cannot be used.

    >>> import neurosim as ns
    >>> net = ns.deploy(torch.nn.Linear(4, 3), ns.hardware("ideal"))
    >>> batches = [(torch.ones(2, 4), torch.tensor([0, 1]))]
    >>> evaluate(net, batches, chips=3, times_s=[0.0, 3600.0]).column("chip").tolist()
    [0, 0, 1, 1, 2, 2]
    """
    if not isinstance(net, Deployed):
        raise UsageError(
            f"evaluate needs a network on analog hardware; got {type(net).__name__}: "
            "use deploy(model, hardware)"
        )
    numbers, ages = _chips(chips), _times(times_s)
    data = Passes(loader, _device(net))
    with _evaluation_mode(net), contextlib.ExitStack() as stack:
        if calibration is not None and not net.calibrated:
            net.calibrate(calibration)
        if isinstance(ledger, str | Path):
            ledger = stack.enter_context(Ledger(ledger))
        key, rows = "", list[Row]()
        if ledger is not None:
            key, description = experiment(net, data, seed)
            ledger.describe(key, description)
            rows = [row for row in ledger.rows(key) if row.chip in set(numbers) and row.time_s in set(ages)]
        report = progress or (lambda done, total: None)
        report(len(rows), len(numbers) * len(ages))
        for new in _missing(net, data, Lot(net.hardware, seed=seed), numbers, ages, rows):
            if ledger is not None:
                ledger.add(key, new)
            rows += new
            report(len(rows), len(numbers) * len(ages))
    return Table.from_rows(sorted(rows), Row._fields)


def digital_accuracy(net: nn.Module, loader: Loader) -> float:
    """The accuracy of the network itself, off any chip: the reference of a figure.

    A deployed network computes outside ``net.on(...)`` exactly what the original does.

    >>> digital_accuracy(nn.Identity(), [(torch.eye(2), torch.tensor([0, 0]))])
    0.5
    """
    data = Passes(loader, _device(net))
    with _evaluation_mode(net):
        scores = [_score(_checked(net(x)[None], 1, y), y)[0] for x, y in data.batches()]
    return sum(score.correct for score in scores) / data.samples


class _Score(NamedTuple):
    correct: int
    loss: float  # summed over the batch


def _missing(
    net: Deployed, data: Passes, lot: Lot, numbers: Sequence[int], ages: Sequence[float], rows: Sequence[Row]
) -> Iterator[list[Row]]:
    """Compute what ``rows`` lacks: a block of chips, programmed once, at one age after the other."""
    have = {(row.chip, row.time_s) for row in rows}
    lacking = {chip: tuple(age for age in ages if (chip, age) not in have) for chip in numbers}
    if not any(lacking.values()):
        return
    size = max(1, net.chip_block(data.first()))
    for start in range(0, len(numbers), size):
        block = numbers[start : start + size]
        # whole blocks, unless an earlier evaluation of other chips or ages had some of them
        for todo in dict.fromkeys(lacking[chip] for chip in block):
            if todo:
                yield from _aged(net, data, lot, [chip for chip in block if lacking[chip] == todo], todo)


def _aged(
    net: Deployed, data: Passes, lot: Lot, block: list[int], ages: Sequence[float]
) -> Iterator[list[Row]]:
    with net.on(lot[block], ages[0]) as on:
        for number, age in enumerate(ages):
            if number:
                on.age(age)
            yield _rows(on, data, block, age)


def _rows(on: Callable[[Tensor], Tensor], data: Passes, block: Sequence[int], age: float) -> list[Row]:
    """All data through one block of chips at one age."""
    batches = [_score(_checked(on(x), len(block), y), y) for x, y in data.batches()]
    samples, rows = data.samples, []
    for chip, scores in zip(block, zip(*batches, strict=True), strict=True):
        loss = math.fsum(score.loss for score in scores) / samples
        if not math.isfinite(loss):
            raise RunError(
                f"chip {chip} at {format_duration(age)} gave outputs that are not finite: "
                "check the network's weights and the data's range"
            )
        rows.append(Row(chip, age, sum(score.correct for score in scores) / samples, loss, samples))
    return rows


def _score(logits: Tensor, targets: Tensor) -> list[_Score]:
    """Each chip's score on one batch; logits (chips, batch, classes), targets (batch,).

    Chip by chip, so that no sum depends on how many chips there are; ``fsum`` rounds once.
    """
    scores = []
    for chip in logits:
        exact = chip.double()
        losses = exact.logsumexp(1) - exact.gather(1, targets[:, None])[:, 0]  # never below 0
        scores.append(_Score(int((chip.argmax(1) == targets).sum()), math.fsum(losses.tolist())))
    return scores


def _checked(logits: Tensor, chips: int, targets: Tensor) -> Tensor:
    if logits.ndim != 3 or logits.shape[:2] != (chips, len(targets)) or logits.shape[2] < 2:
        raise UsageError(
            f"the network's outputs have the shape {tuple(logits.shape[1:])} for {len(targets)} samples: "
            f"expected ({len(targets)}, classes), one score for each of two or more classes"
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= logits.shape[2]:
        raise UsageError(
            f"the target {low if low < 0 else high} is no class: the network has 0 ... {logits.shape[2] - 1}"
        )
    return logits


def _chips(chips: object) -> list[int]:
    if isinstance(chips, int) and not isinstance(chips, bool):
        if chips <= 0:
            raise UsageError(f"chips must be at least 1; got {chips}")
        return list(range(chips))
    if isinstance(chips, bool | str) or not isinstance(chips, Iterable):
        raise UsageError(f"chips must be a count or a list of chip numbers; got {chips!r}")
    numbers = [int(chip) if hasattr(chip, "__index__") else chip for chip in chips]
    for chip in numbers:
        if type(chip) is not int or not 0 <= chip < 2**32:
            raise UsageError(f"a chip's number is a whole number from 0 to 2^32 - 1; got {chip!r}")
    return _unique(numbers, "chip")


def _times(times_s: object) -> list[float]:
    if isinstance(times_s, str) or not isinstance(times_s, Iterable):
        raise UsageError(f"times_s must be a list of times in seconds; got {times_s!r}")
    ages = list(times_s)
    for age in ages:
        if isinstance(age, str) or not (math.isfinite(age) and age >= 0):
            raise UsageError(f"an age must be a finite time of at least 0 s; got {age!r}")
    return _unique([float(age) + 0.0 for age in ages], "time")


def _unique(values: list[Number], kind: str) -> list[Number]:
    """The values in ascending order, if there are any and none is repeated."""
    if not values:
        raise UsageError(f"no {kind}s given: expected at least one {kind}")
    ordered = sorted(values)
    for value, following in itertools.pairwise(ordered):
        if value == following:
            raise UsageError(f"the {kind} {value!r} is given twice")
    return ordered


def _device(net: nn.Module) -> torch.device:
    tensors = [*net.parameters(), *net.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


@contextlib.contextmanager
def _evaluation_mode(net: nn.Module) -> Iterator[None]:
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
