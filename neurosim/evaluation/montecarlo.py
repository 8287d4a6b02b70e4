"""Chips x times x data -> a table: how accurate is this network on each chip, at each age?"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from neurosim.analog import Deployed, Lot
from neurosim.errors import UsageError
from neurosim.evaluation.blocks import (
    block_size,
    checked,
    device_of,
    evaluation_mode,
    one_thread,
    score,
    tasks,
    workers_block_size,
)
from neurosim.evaluation.engines import engine_of
from neurosim.evaluation.experiment import experiment
from neurosim.evaluation.ledger import Ledger, Row
from neurosim.evaluation.passes import Loader, Passes
from neurosim.evaluation.recipe import Engine, InThisProcess, Job
from neurosim.evaluation.store import Store
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
    workers: int | None = None,
    engine: str | Engine | None = None,
) -> Table:
    """Accuracy and loss of a deployed network on every chip at every age.

    For chip *c* of lot ``seed`` at *t* seconds after programming, over all N samples (x, y) of ``loader``::

        accuracy(c, t) = mean_n [argmax f_ct(x_n) = y_n]
        loss(c, t) = mean_n -log softmax(f_ct(x_n))[y_n]

    in float64, summed exactly, so a chip's numbers do not depend on which chips are evaluated beside it.

    Where each pixel has a class (targets (batch, ...), outputs (batch, classes, ...)), *n* runs over all
    pixels of all samples; ``samples`` is still the number of images.

    ``loader`` gives batches of inputs (batch, ...) and targets (batch,), and must give the same ones in the
    same order each time it is iterated: it is read once per block of chips and age.  ``chips`` is a count
    (the first ones) or a list of numbers.  ``calibration`` inputs fix the converters' ranges if the network
    is not calibrated yet.  With a ``ledger`` (or the path of one) finished blocks are kept as they come and
    never computed again.  ``progress`` is called with the rows done and the rows in all.

    ``workers`` None computes in this process, with all of torch's threads.  A number computes with one thread
    a worker, and gives the same numbers to the last bit whatever it is: 1 in this process, more in as many
    processes of this machine, which take blocks of chips and share one copy of the data (kept in memory; the
    loader is then read once).  A worker that dies is replaced and its chips are tried again, three times in
    all.  What is promised to be equal are equal numbers of threads: a matrix product may be rounded otherwise
    with two.  ``engine="ray"`` has Ray run the workers, on this machine or on the cluster of ``RAY_ADDRESS``.

    Returns columns chip, time_s, accuracy, loss, samples; ordered by chip, then time.

    Raises :class:`UsageError` for a network that is not deployed, chips or times that are empty, repeated or
    out of range, data that is empty, of a wrong shape, or not the same each time, and for a network that
    cannot be sent to workers; and :class:`RunError` if a chip's outputs are not finite, the ledger cannot be
    used, or a chip killed three workers.

    >>> import torch
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
    compute = engine_of(engine, workers)
    with evaluation_mode(net), contextlib.ExitStack() as stack:
        data, store = Passes(loader, device_of(net)), None
        if compute is not None:
            stack.enter_context(one_thread())
            store = stack.enter_context(Store(data.batches()))
            data = Passes(store, data.device)
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
        job = Job(net, data, Lot(net.hardware, seed=seed), store)
        for new in stack.enter_context(contextlib.closing(_missing(job, compute, numbers, ages, rows))):
            if ledger is not None:
                ledger.add(key, new)
            rows += new
            report(len(rows), len(numbers) * len(ages))
    return Table.from_rows(sorted(rows), Row._fields)


def _missing(
    job: Job, compute: Engine | None, numbers: Sequence[int], ages: Sequence[float], rows: Sequence[Row]
) -> Generator[list[Row]]:
    """Compute what ``rows`` lacks."""
    have = {(row.chip, row.time_s) for row in rows}
    if len(have) < len(numbers) * len(ages):
        size = (block_size if compute is None else workers_block_size)(job.net, job.data)
        yield from (compute or InThisProcess()).run(job, tasks(numbers, ages, have, size))


def digital_accuracy(net: nn.Module, loader: Loader) -> float:
    """The accuracy of the network itself (of samples, or of pixels), off any chip: the reference of a figure.

    A deployed network computes outside ``net.on(...)`` exactly what the original does.

    >>> import torch
    >>> digital_accuracy(nn.Identity(), [(torch.eye(2), torch.tensor([0, 0]))])
    0.5
    """
    data = Passes(loader, device_of(net))
    with evaluation_mode(net):
        scores = [score(checked(net(x)[None], 1, y), y)[0] for x, y in data.batches()]
    return sum(each.correct for each in scores) / data.targets


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
