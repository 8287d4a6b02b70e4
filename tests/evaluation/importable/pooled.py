"""What workers of the tests can import: a small network, and chips that kill or fail."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import Deployed
from neurosim.evaluation import blocks, evaluate, pool
from neurosim.random import stream

TIMES = (25.0, 3600.0, 31_536_000.0)


class Small(nn.Module):
    """Two layers, of which ``digital`` may be left off the crossbars."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.digital = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.digital(self.first(x).relu())


def network(**options: Any) -> Deployed:
    net = Small()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(0.4 * stream(0, 0, name, "test").normal(parameter.shape))
    return ns.deploy(net, ns.hardware("pcm-joshi-2020"), calibration=batches()[0][0], **options)


def batches() -> list[tuple[Tensor, Tensor]]:
    x = stream(0, 0, "inputs", "test").uniform((50, 8))
    return list(zip(x.split(20), (4 * x[:, 0]).long().split(20), strict=True))


@dataclass(frozen=True)
class Spoilt:
    """The same as another recipe, but its tasks take time, kill their worker or fail."""

    recipe: Any
    pause_s: float = 0.0
    deadly: frozenset[int] = frozenset()
    """Chips that always kill."""
    once: Path | None = None
    """A file; whoever takes it away dies."""
    failing: int | None = None
    """A chip on which the network fails."""
    warning: str = ""

    def open(self, data: Sequence[tuple[Tensor, Tensor]]) -> Callable[[blocks.Task], Iterator[Any]]:
        work = self.recipe.open(data)

        def act(task: blocks.Task) -> Iterator[Any]:
            for rows in work(task):
                self._spoil(task)
                yield rows

        return act

    def _spoil(self, task: blocks.Task) -> None:
        time.sleep(self.pause_s)
        if self.deadly & set(task.chips) or (self.once is not None and _taken(self.once)):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.failing in task.chips:
            raise ZeroDivisionError("no\nluck")
        if self.warning:
            warnings.warn(self.warning, stacklevel=1)


def _taken(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def main(ledger: str) -> None:
    """A long evaluation by two workers, for a test that kills it; says the starter's process number."""
    recipe_of = pool.recipe_of
    pool.recipe_of = lambda job: Spoilt(recipe_of(job), pause_s=0.05)  # type: ignore[assignment]
    blocks._WORKERS_BLOCK = 2

    def tell(done: int, total: int) -> None:
        print(done, 0 if pool._current is None else pool._current._process.pid, flush=True)

    evaluate(network(), batches(), chips=48, times_s=TIMES, ledger=ledger, workers=2, progress=tell)
