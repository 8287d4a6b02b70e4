"""Programming speed of every device, and evaluation at six ages against the products alone.

    python benchmarks/devices.py [--million 10] [--chips 100] [--threads 2] [--only pcm,sonos]
    python benchmarks/devices.py --ages [--repeats 7] [--threads 2]

The first writes one tensor of ``--million`` weights, chip after chip, each class of device with the constants
of its defaults, and never holds more than one chip; prints millions of devices a second and the peak memory.
Each class runs in a process of its own, so that peaks do not mix.  The goal is 50 million a second.

The second evaluates one block of chips at six ages.  What it costs is divided by six plain forwards a chip of
the same network (the products of six evaluations), and by six evaluations at one age each, which program
every time; all three run one after the other in every repetition.  The goal is 1.2 of the products.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import torch
from networks import network

import neurosim as ns
from neurosim.devices import DEVICES, Device
from neurosim.devices.pairs import program_fractions
from neurosim.memory import keep_freed_memory
from neurosim.random import Draws, follow_torch_threads

AGES_S = (60.0, 3600.0, 86_400.0, 604_800.0, 2_592_000.0, 31_536_000.0)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write(device: Device, weight: torch.Tensor, chip: int) -> None:
    """Both legs of the pairs of a chip, as a deployed network writes them."""
    program_fractions(device, weight, (Draws(0, (chip,), "w+"), Draws(0, (chip,), "w-")))


@torch.no_grad()
def program(kind: str, million: float, chips: int, threads: int) -> None:
    """One row: this process does nothing else."""
    torch.set_num_threads(threads)
    follow_torch_threads()
    device, count = DEVICES[kind](), round(million * 1e6)
    weight = torch.linspace(-1.0, 1.0, count)
    keep_freed_memory()  # as a deployed network does
    write(device, weight[:1000], 0)  # kernels compile
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    took = [seconds(lambda: write(device, weight, chip)) for chip in range(chips)]  # noqa: B023
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rate, median = 2 * count * chips / sum(took) / 1e6, 2 * count / statistics.median(took) / 1e6
    print(
        f"| `{kind}` | {rate:.0f} | {median:.0f} | {before:.2f} | {peak:.2f} |"
        f" {'met' if rate >= 50 else 'missed'} |",
        flush=True,
    )


def all_programs(kinds: list[str], options: argparse.Namespace) -> None:
    size = f"{options.chips} chips of {options.million:g} million weights"
    print(f"{size}, {options.threads} threads, both legs\n")
    print(
        "| device | million/s | median chip | GB before | GB peak | goal 50 |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for kind in kinds:
        command = [
            sys.executable, __file__, "--kind", kind, "--million", str(options.million),
            "--chips", str(options.chips), "--threads", str(options.threads),
        ]  # fmt: skip
        subprocess.run(command, check=True)


@torch.no_grad()
def ages(name: str, hardware: str, chips: int, repeats: int) -> None:
    plain, x = network(name)
    net = ns.deploy(plain, ns.hardware(hardware), calibration=x[:100])
    loader = [(x, torch.zeros(len(x), dtype=torch.int64))]

    def evaluate(times_s: tuple[float, ...]) -> None:
        ns.evaluate(net, loader, chips=chips, times_s=times_s)

    def products() -> None:
        for _ in range(chips * len(AGES_S)):
            plain(x)

    def one_by_one() -> None:
        for time_s in AGES_S:
            evaluate((time_s,))

    plain(x), evaluate(AGES_S[:1])
    to_products, to_singles, took = [], [], []
    for _ in range(repeats):
        reference, six, singles = seconds(products), seconds(lambda: evaluate(AGES_S)), seconds(one_by_one)
        took.append(six)
        to_products.append(six / reference)
        to_singles.append(six / singles)
    ratio = statistics.median(to_products)
    print(
        f"| {name} | `{hardware}` | {chips} | {1e3 * statistics.median(took):.0f} ms | {ratio:.2f} |"
        f" {statistics.median(to_singles):.2f} | {'met' if ratio <= 1.2 else 'missed'} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--million", type=float, default=10.0)
    parser.add_argument("--chips", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="kinds of devices, or networks with --ages")
    parser.add_argument("--ages", action="store_true")
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ns.devices.FitRangeWarning)
    torch.set_num_threads(options.threads)
    only = [one for one in options.only.split(",") if one]
    if options.kind:
        program(options.kind, options.million, options.chips, options.threads)
    elif options.ages:
        print(
            "| network | hardware | chips | six ages | ÷ six plain forwards | ÷ six evaluations | goal 1.2 |"
        )
        print("|---|---|---|---|---|---|---|", flush=True)
        for name in only or ["mlp", "cnn"]:
            for hardware in ("pcm-joshi-2020", "rram-wan-2022"):
                ages(name, hardware, options.chips or 2, options.repeats)
    else:
        options.chips = options.chips or 100
        all_programs(only or sorted(set(DEVICES) - {"aihwkit"}), options)


if __name__ == "__main__":
    main()
