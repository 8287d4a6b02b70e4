"""Exact wires: what they cost against badcrossbar, plain products, and training without them.

    python benchmarks/wires.py [--part matrix|product|tiles|training|all] [--repeats 5] [--threads 2]

matrix: the whole effective conductance matrix of one array, float64, against badcrossbar 1.1 (its outputs for
    unit voltages on each row, nothing else); then larger arrays with the exponent of growth.
product: a product with the effective matrix, against the same product with the ideal one; and against the
    iteration that CrossSim runs in every product (written here from its published formula: I = G∘dV, the
    parasitic drop by cumulative sums, until the error is below 1e-3; under-relaxed so that it converges).
tiles: 64 arrays of 128x128 in float32, forward and with the gradient, with peak memory.
training: a step of the paper's CNN (batch 100) through PCM chips on 128x128 tiles, with wires and without.

Each comparison is interleaved: every repetition runs reference and ours one after the other.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import neurosim as ns
from neurosim import models
from neurosim.devices.wires import effective_conductance
from neurosim.training.place import ThroughChips

OHM = {"r_row_ohm": 2.0, "r_col_ohm": 2.0}
FROM, TO = 1e-6, 1e-4  # siemens


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def conductances(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return FROM + (TO - FROM) * torch.rand(shape, dtype=dtype, generator=generator)


def badcrossbar() -> Callable[[Tensor], Tensor] | None:
    """Effective matrix by badcrossbar, or None where it is not installed; wrapped as the tests do."""
    path = Path(__file__).parents[1] / "tests" / "devices" / "wires" / "peers.py"
    spec = importlib.util.spec_from_file_location("peers", path)
    assert spec is not None and spec.loader is not None
    peers = importlib.util.module_from_spec(spec)
    sys.modules["peers"] = peers
    spec.loader.exec_module(peers)
    if not peers.available():
        return None
    return lambda g: torch.from_numpy(
        peers.badcrossbar_effective(g.numpy(), OHM["r_row_ohm"], OHM["r_col_ohm"])
    )


def matrix(repeats: int) -> None:
    peer = badcrossbar()
    g = conductances(128, 128)
    if peer is None:
        print("matrix   badcrossbar is not installed (make install): no peer")
    else:
        difference = float((effective_conductance(g, **OHM) / peer(g) - 1).abs().max())
        theirs, first, next_calls = [], [], []
        work = partial(effective_conductance, g, **OHM)
        for _ in range(repeats):
            theirs.append(seconds(lambda: peer(g)))
            time.sleep(0.5)  # its library's threads go on spinning for a while
            first.append(seconds(work))  # whatever the peer left in caches and allocator
            next_calls.append(statistics.median(seconds(work) for _ in range(3)))
        cold, warm = (
            statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
            for ours in (first, next_calls)
        )
        print(
            f"matrix   128x128 float64  badcrossbar {statistics.median(theirs):.3f} s"
            f"  ours {1e3 * statistics.median(next_calls):.1f} ms: {warm:.0f}x faster"
            f" (first call after it {1e3 * statistics.median(first):.1f} ms: {cold:.0f}x)"
            f"  largest difference {difference:.1e}",
            flush=True,
        )
    took = []
    for size in (64, 128, 256, 512):
        g = conductances(size, size)
        work = partial(effective_conductance, g, **OHM)
        work()
        took.append(statistics.median(seconds(work) for _ in range(repeats)))
        growth = f"  n^{math.log2(took[-1] / took[-2]):.2f}" if len(took) > 1 else ""
        print(f"matrix   {size}x{size} float64  {1e3 * took[-1]:8.1f} ms{growth}", flush=True)


def iterated_product(g: Tensor, x: Tensor, ohm: float) -> tuple[Tensor, int]:
    """CrossSim's way: the drop of voltage found anew in every product, (vectors, rows) -> (vectors, cols)."""
    applied = x[:, :, None].expand(-1, *g.shape)
    across = applied.clone()
    # below the inverse of the iteration's largest eigenvalue for equal devices
    stiffness = ohm * float(g.mean()) * sum((2 * size / math.pi) ** 2 for size in g.shape)
    relax, iterations = 1 / (1 + stiffness), 0
    for iterations in range(1, 101):  # noqa: B007
        current = g * across
        along_row = (ohm * current.flip(2).cumsum(2).flip(2)).cumsum(2)
        along_col = (ohm * current.cumsum(1)).flip(1).cumsum(1).flip(1)
        error = applied - along_row - along_col - across
        across = across + relax * error
        if float(error.abs().max()) < 1e-3:
            break
    return (g * across).sum(1), iterations


def product(repeats: int) -> None:
    for dtype in (torch.float32, torch.float64):
        g, x = conductances(128, 128, dtype=dtype), torch.rand(1000, 128, dtype=dtype)
        seen = effective_conductance(g, **OHM)
        ratios = [
            seconds(lambda: [x @ seen for _ in range(200)]) / seconds(lambda: [x @ g for _ in range(200)])  # noqa: B023
            for _ in range(repeats + 2)
        ][2:]
        print(f"product  128x128, 1000 vectors, {dtype}: {statistics.median(ratios):.3f} of a plain product")
    g, x = conductances(128, 128, dtype=torch.float32), torch.rand(100, 128)
    seen = effective_conductance(g, **OHM)
    found, iterations = iterated_product(g, x, OHM["r_row_ohm"])
    error = float((found / (x @ seen) - 1).abs().max())
    ratios = []
    for _ in range(3):
        iterated = seconds(lambda: iterated_product(g, x, OHM["r_row_ohm"]))
        ratios.append(iterated / (seconds(lambda: [x @ seen for _ in range(100)]) / 100))
    print(
        f"product  100 vectors: iterating in every product (CrossSim's formula, {iterations} iterations, "
        f"error {error:.1e}) takes {statistics.median(ratios):.0f} times as long",
        flush=True,
    )


def tiles(repeats: int) -> None:
    g = conductances(64, 128, 128, dtype=torch.float32)
    before = peak()
    took = [seconds(lambda: effective_conductance(g, **OHM)) for _ in range(repeats)]
    print(
        f"tiles    64 of 128x128 float32: {statistics.median(took):.2f} s, "
        f"peak memory {peak():.2f} GB ({before:.2f} before)"
    )
    leaf = g.clone().requires_grad_()

    def both() -> None:
        effective_conductance(leaf, **OHM).sum().backward()

    took = [seconds(both) for _ in range(repeats)]
    print(
        f"tiles    with the gradient: {statistics.median(took):.2f} s, peak memory {peak():.2f} GB",
        flush=True,
    )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def training(repeats: int) -> None:
    x, y = torch.rand(100, 1, 28, 28), torch.arange(100) % 10
    bare = ns.hardware("pcm-joshi-2020", array__rows=128, array__cols=128)
    wired = bare.with_all({"wires.r_row_ohm": 2.0, "wires.r_col_ohm": 2.0})
    every = wired.wires.reuse_steps
    places = {}
    for name, hw in (("without", bare), ("with", wired)):
        net = models.create("cnn", num_classes=10, in_chans=1, image_size=28)
        place = ThroughChips(net.to(memory_format=torch.channels_last), hw, seed=0)
        place.calibrate(lambda: x)
        optimizer = torch.optim.Adam(place.network.parameters())
        places[name] = place, optimizer

    def step(name: str, number: int) -> None:
        place, optimizer = places[name]
        optimizer.zero_grad()
        with place.step(number) as network:
            torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()

    for name in places:
        step(name, 1), step(name, 2)
    took: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(repeats):
        for name in places:
            took[name].append(seconds(lambda: [step(name, number) for number in range(every)]) / every)  # noqa: B023
    ratio = statistics.median(w / b for w, b in zip(took["with"], took["without"], strict=True))
    print(
        f"training CNN, 128x128 tiles: {1e3 * statistics.median(took['without']):.0f} ms a step without,"
        f" {1e3 * statistics.median(took['with']):.0f} ms with (solved every {every} steps): {ratio:.2f}",
        flush=True,
    )


PARTS = {"matrix": matrix, "product": product, "tiles": tiles, "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", default="all", choices=[*PARTS, "all"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, part in PARTS.items():
        if args.part in (name, "all"):
            part(args.repeats)


if __name__ == "__main__":
    main()
