"""The same work done by Ray: on this machine, or on the cluster whose address is in ``RAY_ADDRESS``.

Ray starts and replaces the processes; the recipe and the data lie in its object store, one copy a machine.
As with the pool, a block of chips is tried three times, and the parent alone writes the ledger.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from neurosim.errors import RunError, UsageError
from neurosim.evaluation.blocks import Task
from neurosim.evaluation.ledger import Row
from neurosim.evaluation.pool import ATTEMPTS, named
from neurosim.evaluation.recipe import Job, Recipe, recipe_of
from neurosim.evaluation.store import Layout, placed


class RayEngine:
    """An engine of ``workers`` Ray tasks at a time, of one processor each; by default as many as there are.

    Raises :class:`RunError` if Ray is not installed.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers
        _ray()

    def run(self, job: Job, tasks: Sequence[Task]) -> Iterator[list[Row]]:
        """The rows of all tasks, a whole task at a time.

        Raises :class:`RunError` if Ray cannot be reached, or gave a task up.
        """
        assert job.store is not None
        ray = _ray()
        recipe = recipe_of(job)
        ours = not ray.is_initialized()
        if ours:
            _connect(ray, self.workers)
        try:
            workers = self.workers or int(ray.cluster_resources().get("CPU", 1))
            yield from _run(ray, recipe, job, tasks, workers)
        finally:
            if ours:
                ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RunError(
            "--engine ray needs Ray, which is not installed: pip install 'neurosim[ray]' (or leave out the "
            "engine; workers on this machine need nothing more)"
        ) from error
    return ray


def _connect(ray: Any, workers: int | None) -> None:
    address = os.environ.get("RAY_ADDRESS", "local")
    _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone unless asked to
    here: dict[str, Any] = {}
    if address == "local":
        path = os.pathsep.join(map(str, sys.path))  # a cluster's machines have paths of their own
        here = {"num_cpus": workers, "include_dashboard": False}
        here["runtime_env"] = {"env_vars": {"PYTHONPATH": path}}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except Exception as error:  # Ray has no one kind for it
        reason = " ".join(str(error).split())
        raise RunError(f"cannot reach Ray at {address!r}: {reason}") from error


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise RunError(
            f"cannot reach Ray at RAY_ADDRESS={address} ({error}): expected host:port of a running head "
            "node; unset it to use this machine"
        ) from error


def _run(ray: Any, recipe: Recipe, job: Job, tasks: Sequence[Task], workers: int) -> Iterator[list[Row]]:
    assert job.store is not None
    here = ray.put((recipe, job.store.layout))
    data = ray.put(job.store.contents())
    remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_compute)
    queue = list(reversed(tasks))
    busy: dict[Any, Task] = {}
    try:
        while queue or busy:
            while queue and len(busy) < workers:
                task = queue.pop()
                busy[remote.remote(here.hex(), here, data, task)] = task
            (done, *_), _ = ray.wait(list(busy))
            yield from _result(ray, done, busy.pop(done))
    finally:
        for reference in busy:
            ray.cancel(reference, force=True)


def _result(ray: Any, reference: Any, task: Task) -> list[list[Row]]:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UsageError | RunError):
            raise type(cause)(str(cause)) from error
        raise RunError(f"a worker failed on {named(task.chips)}: {type(cause).__name__}: {cause}") from error
    except ray.exceptions.RayError as error:
        raise RunError(
            f"{named(task.chips)} could not be computed: Ray gave up after {ATTEMPTS} attempts "
            f"({type(error).__name__}); chips that are done are kept"
        ) from error


_opened: dict[str, Callable[[Task], Iterator[list[Row]]]] = {}
"""In a process of Ray, which lives on from task to task: the last recipe, opened."""


def _compute(name: str, here: tuple[Recipe, Layout], data: bytes, task: Task) -> list[list[Row]]:
    if name not in _opened:
        import torch

        torch.set_num_threads(1)
        recipe, layout = here
        _opened.clear()
        _opened[name] = recipe.open(placed(bytearray(data), layout))
    return list(_opened[name](task))
