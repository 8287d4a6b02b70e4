"""A network on many chips, its ledger, and shards of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neurosim.errors import RunError, UsageError
from neurosim.runs.batches import batch_size_for
from neurosim.runs.subjects import Placement, Run, Subject

if TYPE_CHECKING:
    from neurosim.devices import Hardware
    from neurosim.evaluation import Table


@dataclass(frozen=True)
class Evaluation:
    """What a run's network does on chips: the table of chips, and its accuracy off any chip.

    ``products_error`` is that of :meth:`neurosim.analog.Deployed.products_error` on the first chip at the
    first age, where products are not of float32.
    """

    table: Table
    digital_accuracy: float
    hardware: Hardware
    products_error: float | None = None


def evaluate_run(
    run: Subject,
    hardware: Hardware,
    *,
    chips: int | Sequence[int],
    times_s: Sequence[float],
    seed: int = 0,
    limit: int | None = None,
    data_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    engine: str | None = None,
    ledger: str | Path | None = None,
    placement: Placement | None = None,
) -> Evaluation:
    """The network of a run (or of the user's own) on chips of this hardware, over its test data (the first
    ``limit`` samples).

    Every chip goes into the run's ledger (or another one) when it is done, and what the ledger holds is not
    computed again: a stopped evaluation goes on where it stopped.  ``workers`` and ``engine`` are those of
    :func:`neurosim.evaluate`; with either, converter ranges too are found with one thread.
    """
    from neurosim.analog import Lot
    from neurosim.data import Batches
    from neurosim.evaluation import digital_accuracy, evaluate, one_thread

    splits = run.splits(data_dir)
    test = Batches(splits.test if limit is None else splits.test[:limit], batch_size_for(splits))
    threads = contextlib.nullcontext() if workers is None and engine in (None, "local") else one_thread()
    with run.at_work(), threads:
        net = run.deploy(hardware, splits, placement)
        table = evaluate(
            net,
            test,
            chips=chips,
            times_s=times_s,
            seed=seed,
            ledger=ledger or run.ledger,
            progress=progress,
            workers=workers,
            engine=engine,
        )
        off = None
        if net.options["products"] != "float32":
            first = Lot(hardware, seed)[int(table.column("chip")[0])]
            some = splits.test[: batch_size_for(splits)].inputs
            off = net.products_error(first, some, time_s=min(times_s))
        return Evaluation(table, digital_accuracy(net, test), hardware, off)


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count`` of an evaluation: every ``count``-th chip, from the ``index``-th.

    >>> Shard.parse("2/3").chips(range(8)), Shard.parse("2/3").ledger
    ([1, 4, 7], 'chips-shard-2-of-3.sqlite')
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From a text such as ``2/3``.

        Raises:
            UsageError: anything else, or an index that is not from 1 to the count.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and len(text) < 20 and 1 <= int(index) <= int(count)):
            raise UsageError(f"expected a shard such as 2/3, from 1/3 to 3/3; got {text!r}")
        return cls(int(index), int(count))

    def chips(self, numbers: Sequence[int]) -> list[int]:
        """Its share of some chips, equal to any other's but for one.

        Raises:
            UsageError: there are fewer chips than shards before it.
        """
        if not (mine := list(numbers[self.index - 1 :: self.count])):
            raise UsageError(f"shard {self} has no chips: there are only {len(numbers)}")
        return mine

    @property
    def ledger(self) -> str:
        """The name of its ledger: a file of its own, because only one process can write one."""
        return f"chips-shard-{self.index}-of-{self.count}.sqlite"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def merge_ledgers(run: Run, ledgers: Sequence[str | Path]) -> int:
    """Take the chips in other ledgers (of shards) into the run's own, all or none; how many rows were new.

    The order does not matter; a row that is there already is taken once.

    Raises:
        UsageError: no ledgers, something that is no ledger, one with chips of another network than the run's,
            or two different rows for one chip.
        RunError: a ledger is missing or damaged.
    """
    from neurosim.analog import deploy
    from neurosim.devices import hardware
    from neurosim.evaluation import Ledger
    from neurosim.evaluation.experiment import key_of, weights_digest

    if not ledgers:
        raise UsageError("no ledgers to merge: expected at least one, such as chips-shard-1-of-3.sqlite")
    network = weights_digest(deploy(run.model(), hardware("ideal")))
    for path in map(Path, ledgers):
        if path.exists() and run.ledger.exists() and path.samefile(run.ledger):
            raise UsageError(f"{path} is the run's own ledger: expected those of its shards")
        with Ledger(path, read_only=True) as ledger:
            described = ledger.experiments()
            for key in ledger.keys():  # noqa: SIM118
                if key_of(described.get(key, {})) != key:
                    raise RunError(f"{path} is damaged: it does not say what its rows {key[:12]}... are of")
                if described[key].get("network") != network:
                    raise UsageError(
                        f"{path} holds chips of another network than {run.folder}: expected a ledger that "
                        "neurosim evaluate --shard wrote for this run"
                    )
    with Ledger(run.ledger) as kept:
        return kept.merge(*ledgers)
