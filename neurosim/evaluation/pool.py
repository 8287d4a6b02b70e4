"""A small pool of our own: warm workers over sockets, replaced when they die, gone when we are.

The unit of work is a :class:`~neurosim.evaluation.blocks.Task`, a block of chips at all its ages.  Rows come
back age by age; what the parent does with them (it alone writes the ledger) is none of the pool's business.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from neurosim.errors import RunError
from neurosim.evaluation.blocks import Task
from neurosim.evaluation.ledger import Row
from neurosim.evaluation.recipe import Job, Recipe, recipe_of
from neurosim.evaluation.store import Store

ATTEMPTS = 3
"""How often a block of chips is tried before it is given up."""

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from neurosim.evaluation.worker import serve; serve(int(sys.argv[2]))"
)
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


class Pool:
    """An engine of ``workers`` processes on this machine, one torch thread each."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, job: Job, tasks: Sequence[Task]) -> Iterator[list[Row]]:
        """The rows of all tasks as they come.

        Raises :class:`RunError` for tasks that ended their worker three times, after all others are done;
        and at once where workers die one after the other.
        """
        assert job.store is not None
        _starter()  # imports while we pack
        crew = _Crew(recipe_of(job), job.store, deque(_Try(task) for task in tasks), self.workers)
        with contextlib.closing(crew):
            yield from crew.work()


@dataclass
class _Try:
    """A task on its way, and how many workers it has cost."""

    task: Task
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    """A worker's process number, and our end of its socket."""

    pid: int
    connection: Connection


@dataclass
class _Crew:
    """The workers of one evaluation, and what is left for them to do."""

    recipe: Recipe
    store: Store
    queue: deque[_Try]
    size: int
    busy: dict[Connection, tuple[_Worker, _Try]] = field(default_factory=dict)
    idle: list[_Worker] = field(default_factory=list)
    deaths: int = 0
    """Since the last rows came."""
    given_up: list[_Try] = field(default_factory=list)

    def work(self) -> Generator[list[Row]]:
        """Everything in the queue."""
        while self.queue or self.busy:
            while self.queue and len(self.busy) < self.size:
                self._begin(self.idle.pop() if self.idle else self._hire(), self.queue.popleft())
            for connection in wait(list(self.busy), timeout=None if self.busy else 0):
                assert isinstance(connection, Connection)
                yield from self._heed(connection)
        if self.given_up:
            raise self._verdict()

    def close(self) -> None:
        """Let the workers go, whatever they are doing: they end when the socket is closed."""
        for worker in [*self.idle, *(worker for worker, _ in self.busy.values())]:
            worker.connection.close()

    def _begin(self, worker: _Worker, attempt: _Try) -> None:
        self.busy[worker.connection] = (worker, attempt)
        try:
            worker.connection.send(attempt.task)
        except ConnectionError:
            self._lost(worker.connection)

    def _hire(self) -> _Worker:
        worker = _start(self.store.file.fileno())
        with contextlib.suppress(ConnectionError):  # seen again when the task is sent
            worker.connection.send(list(sys.path))
            worker.connection.send((self.recipe, self.store.layout))
        return worker

    def _heed(self, connection: Connection) -> list[list[Row]]:
        """What a worker says; rows, if that is what it says."""
        try:
            kind, value = connection.recv()
        except (EOFError, OSError):
            self._lost(connection)
            return []
        if kind == "rows":
            self.deaths = 0
            self._came(connection, value)
            return [value]
        if kind == "done":
            self.idle.append(self.busy.pop(connection)[0])
        elif kind == "warning":
            warnings.warn(value, stacklevel=2)  # Python shows a sentence once, however many workers say it
        else:
            raise _failure(self.busy[connection][1].task, *value)
        return []

    def _came(self, connection: Connection, rows: list[Row]) -> None:
        """Forget the ages that are done: should this worker die, they are not tried again."""
        attempt = self.busy[connection][1]
        ages = {row.time_s for row in rows}
        left = tuple(age for age in attempt.task.ages if age not in ages)
        attempt.task = Task(attempt.task.chips, left)

    def _lost(self, connection: Connection) -> None:
        """A worker has died: its task is tried again after all others, unless it was its third."""
        _, attempt = self.busy.pop(connection)
        connection.close()
        if not attempt.task.ages:  # it died between its last rows and saying so
            return
        attempt.deaths += 1
        self.deaths += 1
        if self.deaths >= ATTEMPTS * self.size:  # not these chips' fault, or that of all
            self.given_up = [attempt]
            raise self._verdict()
        (self.queue if attempt.deaths < ATTEMPTS else self.given_up).append(attempt)

    def _verdict(self) -> RunError:
        chips = named([chip for attempt in self.given_up for chip in attempt.task.chips])
        how = "killed, or out of memory: fewer workers need less of it"
        if self.given_up[0].deaths < ATTEMPTS:
            return RunError(
                f"{self.deaths} workers in a row ended without a result, the last with {chips} ({how}); "
                "chips that are done are kept"
            )
        return RunError(
            f"{chips} could not be computed: the worker ended in each of {ATTEMPTS} attempts ({how}); "
            "all other chips are done and kept"
        )


def named(chips: Sequence[int]) -> str:
    """Chips in words.

    >>> named([3]), named([3, 4, 9])
    ('chip 3', 'chips 3, 4, 9')
    """
    return f"chip{'s' if len(chips) > 1 else ''} {', '.join(map(str, chips))}"


def _failure(task: Task, kind: type[Exception], sentence: str, trace: str) -> Exception:
    """A worker's exception as one of ours."""
    if not trace:
        return kind(sentence)
    error = RunError(f"a worker failed on {named(task.chips)}: {' '.join(sentence.split())}")
    error.add_note(trace)
    return error


# ---------------------------------------------------------------- the process that starts workers


class _Starter:
    """Our handle of the process that forks workers, see :mod:`neurosim.evaluation.worker`."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps([str(p) for p in sys.path]), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ONE_THREAD},
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a network prints must not be mixed into a command's JSON
                process_group=0,  # Ctrl-C is ours alone
            )

    def start(self, data: int) -> _Worker:
        """A new worker, which has the data open."""
        from neurosim.evaluation.worker import PID

        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._requests, [b"+"], [theirs.fileno(), data])
                answer = self._requests.recv(PID.size, socket.MSG_WAITALL)
            except ConnectionError:
                answer = b""
        if len(answer) < PID.size:
            ours.close()
            raise _StarterEnded
        return _Worker(PID.unpack(answer)[0], Connection(ours.detach()))

    def close(self) -> None:
        """End the process; workers that it started do not mind."""
        self._requests.close()
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()


class _StarterEnded(Exception):
    """It was killed, or could not begin."""


_lock = threading.Lock()
_current: _Starter | None = None


def _starter() -> _Starter:
    """The one of this process; a fork of it makes its own."""
    global _current
    if _current is None or _current.owner != os.getpid():
        _current = _Starter()
    return _current


def _dismiss_starter() -> None:
    global _current
    if _current is not None:
        _current.close()
        _current = None


atexit.register(_dismiss_starter)


def _start(data: int) -> _Worker:
    """A new worker; a starter that was killed is replaced, once."""
    with _lock:
        for _ in range(2):
            try:
                return _starter().start(data)
            except _StarterEnded:
                _dismiss_starter()
            except (
                BaseException
            ):  # Ctrl-C between question and answer: the next answer would be the wrong one
                _dismiss_starter()
                raise
    raise RunError(
        "cannot start workers: the process that starts them ended at once (killed, or as it says above); "
        "workers=1 needs none"
    )
