"""Killed with -9 at random moments and resumed: the same rows to the last bit, and nothing computed twice.

One server process imports everything once and forks a child for each life, because importing torch takes
seconds and a life a fraction of one.  The server itself computes nothing, so that forking it is safe.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurosim.evaluation import Ledger, Row

SERVER = """
import os, sys, time
import torch
import neurosim as ns
from neurosim.evaluation import evaluate, passes, Ledger
from neurosim.random import stream

folder, pause = sys.argv[1], float(sys.argv[2])
passes.KEPT_BYTES = 0  # the passes over the data tell what was computed

class Loader:
    def __iter__(self):
        for number in range(4):
            x = stream(0, number, "inputs", "test").uniform((16, 8))
            yield x, (4 * x[:, 0]).long()
            time.sleep(pause)
        note("pass")

def note(text):  # one short append: whole, or not there
    with open(folder + "/log", "a") as file:
        file.write(text + "\\n")

def life(ledger):
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    for name, parameter in net.named_parameters():
        parameter.data = 0.4 * stream(0, 0, name, "test").normal(parameter.shape)
    x = torch.cat([x for x, _ in Loader()])
    net = ns.deploy(net, ns.hardware("pcm-joshi-2020"), calibration=x)
    net.chip_block = lambda inputs: 4
    note("start")
    evaluate(net, Loader(), chips=22, times_s=(25.0, 3600.0, 86400.0), ledger=ledger,
             progress=lambda done, total: note(f"done {done}"))

for ledger in map(str.strip, sys.stdin):
    child = os.fork()
    if not child:
        try:
            life(ledger)
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            code = 1
        os._exit(code)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""

UNITS = 6 * 3  # blocks of four chips (the last of two), ages


class Lives:
    """One child after the other, evaluating into a ledger."""

    def __init__(self, server: subprocess.Popen[str], log: Path) -> None:
        self._server, self._log = server, log

    def live(self, ledger: Path, passes: int = 0, then_s: float | None = None) -> tuple[int, list[str]]:
        """The child's wait status and what it noted; killed ``then_s`` after so many passes."""
        self._log.write_text("")
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(f"{ledger}\n")
        self._server.stdin.flush()
        child = int(self._server.stdout.readline())
        if then_s is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended before
                while len(self._noted()) < 1 or self._noted().count("pass") < passes:
                    time.sleep(0.002)
                    os.kill(child, 0)
                time.sleep(then_s)
                os.kill(child, signal.SIGKILL)
        status = int(self._server.stdout.readline())
        return status, self._noted()[1:]

    def _noted(self) -> list[str]:
        lines = self._log.read_text().splitlines()
        return lines[lines.index("start") :] if "start" in lines else []


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path), "0.004"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as server:
        yield Lives(server, tmp_path / "log")
        assert server.stdin
        server.stdin.close()
    assert server.returncode == 0


def rows(path: Path) -> list[Row]:
    with Ledger(path, read_only=True) as ledger:
        (key,) = ledger.keys() or [""]
        return ledger.rows(key) if key else []


def computed(lines: list[str]) -> int:
    """Blocks at an age of which the data were read to the end; the ledger's key takes the first pass."""
    return max(lines.count("pass") - 1, 0)


def check_kills(lives: Lives, folder: Path, kills: int) -> None:
    status, lines = lives.live(folder / "whole.sqlite")
    assert status == 0
    assert computed(lines) == UNITS
    whole = rows(folder / "whole.sqlite")
    assert len(whole) == 22 * 3

    path, draw, died, passes, kept = folder / "killed.sqlite", random.Random(0), 0, 0, 0
    while died < kills:
        # a pass takes 20 ms: up to the delay of two it may be killed in any part of one, or in a commit
        status, lines = lives.live(path, draw.randint(0, 1 + UNITS // kills), draw.uniform(0, 0.04))
        died += 1
        passes += computed(lines)
        reported = [int(line.split()[1]) for line in lines if line.startswith("done")]
        if reported:
            assert reported[0] == kept, "a resumed evaluation starts from what the ledger holds"
        after = rows(path) if path.exists() and path.stat().st_size else []
        assert set(after) <= set(whole), "a row of a killed evaluation is a row of the whole one"
        assert len(after) >= max([kept, *reported]), "a kill loses nothing that was reported done"
        kept = len(after)
        if status == 0:
            break
        assert status == signal.SIGKILL
    status, lines = lives.live(path)
    passes += computed(lines)
    assert status == 0
    assert rows(path) == whole
    assert UNITS <= passes <= UNITS + died, "at most the block in flight is computed again"
    assert computed(lives.live(path)[1]) == 0
    assert died > 1, "the kills came too late to test anything"


def test_five_kills(lives: Lives, tmp_path: Path) -> None:
    check_kills(lives, tmp_path, 5)


@pytest.mark.slow
def test_twenty_kills(lives: Lives, tmp_path: Path) -> None:
    check_kills(lives, tmp_path, 20)
