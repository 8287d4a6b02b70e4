"""Milliseconds of a training step through chips, against how many chips share a batch; forward and backward.

The MLP 784-512-512-10 and the paper's CNN, batch 100, PCM with converters (``pcm-joshi-2020``), two threads,
interleaved.  Every step programs its chips anew: k chips are k times the programming, and the products of
100 / k samples each.

    python benchmarks/chips_per_batch.py [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from networks import network
from torch import nn

import neurosim as ns
from neurosim.training.place import Digital, ThroughChips


def step(place: Digital | ThroughChips, number: int, x: torch.Tensor, y: torch.Tensor) -> float:
    start = time.perf_counter()
    with place.step(number) as net:
        F.cross_entropy(net(x), y).backward()
    place.network.zero_grad()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hardware = ns.hardware("pcm-joshi-2020")
    for name in ("mlp", "cnn"):
        plain, inputs = network(name)
        x, y = inputs[:100], torch.arange(100) % 10
        places: dict[str, Digital | ThroughChips] = {"no chip": Digital(plain)}
        for chips in (1, 4, 10, 25, 100):
            place = ThroughChips(plain, hardware, 0, chips)
            place.calibrate(lambda: x)  # noqa: B023
            places[f"{chips} chips"] = place
        took: dict[str, list[float]] = {title: [] for title in places}
        for place in places.values():
            assert isinstance(place.network, nn.Module)
            step(place, 0, x, y)
        for repeat in range(args.repeats):
            for title, place in places.items():
                step(place, 2 * repeat, x, y)  # pays for the memory that the one before gave back
                took[title].append(step(place, 2 * repeat + 1, x, y))
        one = statistics.median(took["1 chips"])
        cells = [
            f"{t} {statistics.median(v):.1f} ms ({statistics.median(v) / one:.2f})" for t, v in took.items()
        ]
        print(f"{name}: " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
