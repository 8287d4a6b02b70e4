"""Nanoseconds per standard normal: named Philox streams against ``torch.randn``, interleaved.

Two sizes: one that stays in cache (where the noise of a tile read is made and used) and one whose
memory is fresh from the system, as ``torch.randn`` returns it.

    python benchmarks/normals.py [--threads 2] [--repeats 15]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from neurosim.random import stream


def nanoseconds(work, count: int) -> float:  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / count * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = stream(0, 17, "benchmark", "normals")
    for count in (100_000, 10_000_000):
        source.normal(count), torch.randn(count)
        ours, torchs = [], []
        for _ in range(args.repeats):
            ours.append(nanoseconds(lambda: source.normal(count), count))  # noqa: B023
            torchs.append(nanoseconds(lambda: torch.randn(count), count))  # noqa: B023
        a, b = statistics.median(ours), statistics.median(torchs)
        print(
            f"{count:10,d} normals  neurosim {a:5.2f} ns  torch.randn {b:5.2f} ns  ratio {a / b:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
