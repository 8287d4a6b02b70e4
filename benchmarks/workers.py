"""Seconds of 64 chips with one worker ÷ with two, one torch thread each: 2 is perfect, 1.8 is the goal.

A small convolutional network (two convolutions of 8 and 16 channels, one dense layer) on PCM, 8,000 images,
two ages.  One worker computes in this process; two are started anew each time, and their start, the loading
of numba's kernels and the sending of data count.  Repetitions are interleaved, so that all see the same
machine; the rows are compared to the last bit.

    python benchmarks/workers.py [--chips 64] [--workers 1,2] [--repeats 3] [--samples 8000]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
from torch import nn

import neurosim as ns
from neurosim.evaluation import Table, evaluate


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 25, 10),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chips", type=int, default=64)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=8000)
    args = parser.parse_args()
    counts = [int(count) for count in args.workers.split(",")]
    x = torch.rand(args.samples, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    data = list(zip(x.split(500), (10 * x[:, 0, 0, 0]).long().split(500), strict=True))
    net = ns.deploy(network(), ns.hardware("pcm-joshi-2020"), calibration=x[:500])

    def chips(workers: int, count: int = args.chips) -> tuple[float, Table]:
        start = time.perf_counter()
        table = evaluate(net, data, chips=count, times_s=(25.0, 3600.0), workers=workers)
        return time.perf_counter() - start, table

    for count in counts:  # kernels and torch are loaded, and the process that starts workers is there
        chips(count, 2)
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(args.repeats):
        found = [(count, *chips(count)) for count in counts]
        for count, took, table in found:
            seconds[count].append(took)
            assert table == found[0][2], f"{count} workers gave other numbers"
    first = counts[0]
    for count in counts:
        ratios = [one / took for one, took in zip(seconds[first], seconds[count], strict=True)]
        print(
            f"{args.chips} chips, {count} workers on {os.cpu_count()} processors: "
            f"{statistics.median(seconds[count]):6.2f} s  ratio {statistics.median(ratios):.2f}"
            f" (best {max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
