"""What a training step of each method costs: its time per pass against a plain training step.

    python benchmarks/training.py [--rounds 7] [--threads 2] [--only sam,asam] [--block 12]

For the paper's CNN at batch 100, every method of ``neurosim.training.METHODS`` trains in the ordinary loop,
in blocks of steps of about equally many passes; each block stands right beside one of plain training, before
or behind it in turn, so that both see the same machine.  "ratio" is the median over rounds of

    (seconds of a step ÷ its passes) ÷ (seconds of a plain step in the block beside it)

with its extremes; a step may cost 1.05 a pass, so SAM, of two passes, is within 5 % of two plain steps.  The
row ``standard`` is plain training against itself: how far it is from 1 is what the machine does to a ratio.

About five minutes on two idle cores; ``--rounds 1 --block 2`` only shows that everything runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neurosim import models
from neurosim.errors import unknown
from neurosim.training import METHODS, PAPER, ROBUST, AdversarialWeights, Progress, method_from, train

BATCH = 100
GOAL = 1.05
NEEDED: dict[str, dict[str, Any]] = {"distil": {"teacher": "in memory"}, "swa": {"start": 0.0}}
"""What a method cannot be timed without: a teacher; an average that is taken from the first step on."""
MORE: dict[str, Any] = {
    "adversarial (N = 3)": AdversarialWeights(steps=3),
    "PAPER (N = 10)": PAPER,
    "--robust": ROBUST,
}


def rows() -> dict[str, Any]:
    """Every method of the table at its own settings, and a few beside them."""
    return {name: method_from(name, NEEDED.get(name)) for name in METHODS} | MORE


def network(seed: int) -> nn.Module:
    """The paper's CNN."""
    return models.create("cnn", num_classes=10, in_chans=1, image_size=(28, 28), seed=seed)


@dataclass
class Trained:
    """A network that goes on training by one method, a block of steps at a time."""

    method: Any
    model: nn.Module
    teacher: nn.Module

    def seconds(self, steps: int) -> float:
        """Mean seconds of a step of the loop, over ``steps`` after one that is not counted."""
        told: list[float] = []

        def tell(progress: Progress) -> None:
            if progress.row is None:
                told.append(time.perf_counter())

        batch = torch.rand(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))
        train(
            self.model,
            ([batch] * (steps + 1), None),
            method=self.method,
            teacher=self.teacher,
            epochs=1,
            lr=1e-4,
            device="cpu",
            progress=tell,
        )
        return (told[-1] - told[0]) / steps


@dataclass(frozen=True)
class Pair:
    """Seconds of a step in one block, and of a plain step in the block beside it."""

    method: float
    plain: float


def measure(methods: dict[str, Any], rounds: int, block: int) -> dict[str, list[Pair]]:
    """By method, a pair a round; the first round of all warms up and is left out."""
    teacher = network(1).eval()
    plain = Trained(method_from("standard"), network(0), teacher)
    trained = {name: Trained(method, network(0), teacher) for name, method in methods.items()}
    found: dict[str, list[Pair]] = {name: [] for name in methods}
    for number in range(rounds + 1):
        for name, one in trained.items():
            steps = max(1, round((block if number else 2) / one.method.passes))
            together = max(1, round(steps * one.method.passes))
            if number % 2:
                beside, own = plain.seconds(together), one.seconds(steps)
            else:
                own, beside = one.seconds(steps), plain.seconds(together)
            if number:
                found[name].append(Pair(own, beside))
    return found


def line(name: str, passes: float, pairs: list[Pair]) -> str:
    """One row of the table."""
    ratios = sorted(pair.method / passes / pair.plain for pair in pairs)
    ratio = statistics.median(ratios)
    own, plain = (
        statistics.median(values) for values in zip(*((p.method, p.plain) for p in pairs), strict=True)
    )
    times = f"{own * 1e3:9.1f}{plain * 1e3:9.1f}{passes:8.2f}"
    verdict = "met" if ratio <= GOAL else "missed"
    return f"{name:24}{times}{ratio:8.2f}{ratios[0]:8.2f}{ratios[-1]:6.2f}  {verdict}"


def chosen(only: str | None) -> dict[str, Any]:
    """The rows that are asked for."""
    every = rows()
    if only is None:
        return every
    for name in only.split(","):
        if name not in every:
            raise SystemExit(str(unknown("method", name, every)))
    return {name: every[name] for name in only.split(",")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="names of rows, separated by commas")
    parser.add_argument("--block", type=int, default=12, help="passes in a block")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    methods = chosen(options.only)
    begun = time.perf_counter()
    found = measure(methods, options.rounds, options.block)
    print(
        f"paper's CNN, batch {BATCH}, {options.threads} threads, {options.rounds} rounds of"
        f" {options.block} passes, {time.perf_counter() - begun:.0f} s; goal: ratio <= {GOAL}"
    )
    print(f"{'method':24}{'ms/step':>9}{'plain':>9}{'passes':>8}{'ratio':>8}{'least':>8}{'most':>6}  goal")
    for name, pairs in found.items():
        print(line(name, methods[name].passes, pairs))


if __name__ == "__main__":
    main()
