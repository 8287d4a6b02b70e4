"""What another process needs to compute the chips of an evaluation, and how it does."""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from neurosim.analog import Deployed, Lot, deploy
from neurosim.errors import RunError, UsageError
from neurosim.evaluation.blocks import Task, device_of, evaluation_mode, rows_of
from neurosim.evaluation.experiment import network_digest
from neurosim.evaluation.ledger import Row
from neurosim.evaluation.passes import Passes
from neurosim.evaluation.store import Store

_REMEDY = "define its classes and functions in a module of their own, or evaluate in one process (workers=1)"


@dataclass(frozen=True)
class Job:
    """An evaluation in this process: what to put on which chips, and over which data."""

    net: Deployed
    data: Passes
    lot: Lot
    store: Store | None = None
    """The data where other processes can read them; none if this process does everything."""


class Engine(Protocol):
    """Who computes: this process, a pool of workers on this machine, or Ray."""

    def run(self, job: Job, tasks: Sequence[Task]) -> Iterator[list[Row]]:
        """The rows of all tasks, a block of chips at one age at a time, in any order.

        Raises :class:`RunError` if some could not be computed; what was given before stands.
        """
        ...


class InThisProcess:
    """No workers."""

    def run(self, job: Job, tasks: Sequence[Task]) -> Iterator[list[Row]]:
        """One task after the other."""
        for task in tasks:
            yield from rows_of(job.net, job.data, job.lot, task)


@dataclass(frozen=True)
class Recipe:
    """A deployed network and its lot as bytes, for another process of ours; made by :func:`recipe_of`."""

    contents: bytes
    digest: str

    def open(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Callable[[Task], Iterator[list[Row]]]:
        """The network again, ready for tasks; from now on this process keeps it in evaluation mode.

        Raises :class:`UsageError` if it cannot be made here, and :class:`RunError` if it is not the same.
        """
        try:
            # our own bytes, from the process that started this one; nothing of a file
            model, hardware, options, calibration, statistics, seed, settings = pickle.loads(  # noqa: S301
                self.contents
            )
        except Exception as error:  # whatever an import or a stranger's __setstate__ raises
            raise UsageError(f"a worker cannot load the network ({error}): {_REMEDY}") from error
        torch.set_default_dtype(settings["dtype"])
        torch.set_float32_matmul_precision(settings["matmul"])
        net = deploy(model, hardware, **options)
        net.load_calibration_state(calibration)
        if statistics is not None:
            net.reestimate_batchnorm(*statistics[0], **statistics[1])
        if network_digest(net) != self.digest:
            raise RunError(f"a worker made another network than it was given: {_REMEDY}")
        data, lot = Passes(batches, device_of(net)), Lot(net.hardware, seed=seed)

        def work(task: Task) -> Iterator[list[Row]]:
            with evaluation_mode(net):
                yield from rows_of(net, data, lot, task)

        return work


def recipe_of(job: Job) -> Recipe:
    """A recipe for this job's network.

    Raises :class:`UsageError` if the network cannot travel: made of classes or functions that another process
    cannot import, or that refuse to be pickled.
    """
    net = job.net
    settings = {"dtype": torch.get_default_dtype(), "matmul": torch.get_float32_matmul_precision()}
    state = net.calibration_state(), net.statistics_inputs
    parts = (net.plain(), net.hardware, net.options, *state, job.lot.seed, settings)
    file = io.BytesIO()
    try:
        _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(parts)
    except UsageError:
        raise
    except Exception as error:  # a closure, a lambda, an open file, a class that refuses
        reason = " ".join(str(error).split())
        raise UsageError(f"this network cannot be sent to a worker ({reason}): {_REMEDY}") from error
    return Recipe(file.getvalue(), network_digest(net))


class _Pickler(pickle.Pickler):
    """Says at once what a worker would fail on: workers do not run the user's script again."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | types.FunctionType) and obj.__module__ == "__main__":
            raise UsageError(
                f"this network cannot be sent to a worker ({obj.__qualname__} is defined in the script that "
                f"runs): {_REMEDY}"
            )
        return NotImplemented
