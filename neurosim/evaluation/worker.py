"""The other end of the pool: a process that starts workers by forking, and what a worker does.

The starter imports torch and neurosim once, computes nothing (so that forking it is safe) and forks a worker
whenever it is asked to: in milliseconds, where importing torch takes seconds.  It is like the ``forkserver``
of :mod:`multiprocessing`, with three things that one lacks: workers do not run the user's script again,
Ctrl-C at a terminal does not reach them, and its libraries are told to use one thread before they load.

A worker talks over one socket.  It reads the module path, then a recipe and where the data lie, then tasks;
it sends pairs: ``rows`` as they come, ``done`` after a task, ``warning`` and ``error``.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from neurosim.devices.fit_range import FitRangeWarning
from neurosim.errors import RunError, UsageError
from neurosim.evaluation.recipe import Recipe
from neurosim.evaluation.store import Layout, mapped
from neurosim.random import normal_group

PID = struct.Struct("q")


def serve(control: int) -> None:
    """Fork a worker for every pair of descriptors (its socket, its data) that comes; end with the sender."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies: a worker's end is seen on its socket
    _load_numba()
    gc.freeze()  # what is here now is never collected: its pages stay shared with the workers
    with socket.socket(fileno=control) as requests:
        while True:
            _, descriptors, _, _ = socket.recv_fds(requests, 1, 2)
            if not descriptors:
                return
            pid = os.fork()
            if not pid:
                requests.close()
                _live(*descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            requests.sendall(PID.pack(pid))


def _load_numba() -> None:
    """Call a kernel without threads (they would not survive forking): no worker has to load numba anew."""
    zero = np.uint32(0)
    normal_group(np.empty(64, np.float32), zero, zero, zero, zero, zero)


def _live(descriptor: int, data: int) -> None:
    """A worker's life; never returns."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _die_first()
        torch.set_num_threads(1)
        threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
        with Connection(descriptor) as parent:
            _work(parent, data)
    except (EOFError, ConnectionError):  # the parent has ended, or has what it wanted
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _work(parent: Connection, data: int) -> None:
    def tell(message: Warning | str, *details: Any) -> None:
        kept = message if isinstance(message, FitRangeWarning) else str(message)
        parent.send(("warning", kept))

    warnings.showwarning = tell  # type: ignore[assignment]
    sys.path[:] = parent.recv()
    recipe, layout = parent.recv()
    work = _attempt(parent, lambda: _opened(recipe, data, layout))
    while work is not None:
        task = parent.recv()
        _attempt(parent, lambda: _do(parent, work, task))  # noqa: B023


def _opened(recipe: Recipe, data: int, layout: Layout) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitRangeWarning)  # said when the parent deployed the network
        return recipe.open(mapped(data, layout))


def _do(parent: Connection, work: Any, task: Any) -> None:
    for rows in work(task):
        parent.send(("rows", rows))
    parent.send(("done", None))


def _attempt(parent: Connection, act: Callable[[], Any]) -> Any:
    """What ``act`` gives, or None after its failure was reported."""
    try:
        return act()
    except (EOFError, ConnectionError):
        raise
    except (UsageError, RunError) as error:
        parent.send(("error", (type(error), str(error), "")))
    except Exception as error:
        parent.send(("error", (RunError, f"{type(error).__name__}: {error}", traceback.format_exc())))
    return None


def _end_with_parent(descriptor: int) -> None:
    """Wait for the other end of the socket to be closed, by the parent or by its death; then end at once."""
    hangup = select.poll()
    hangup.register(descriptor, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
    while not hangup.poll():
        pass
    os._exit(0)


def _die_first() -> None:
    """Ask Linux to end a worker, which is replaced, rather than its parent when memory runs out."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")
