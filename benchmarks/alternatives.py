"""What the engine could do instead: each alternative beside what it does, interleaved, in milliseconds.

    python benchmarks/alternatives.py [--repeats 20] [--threads 2]

* chips' first layer as one wide product, and all chips in one batched product, against a product a chip;
* a convolution a chip against unfolded images in a batched product, and chips as groups of one convolution;
* noise, ADC, gain and sum of a tile: our kernel against torch operations and ``torch.compile`` (which needs a
  C++ compiler on the user's machine);
* the next chip programmed by another thread during the products of the present one, against in turn;
* programming and ageing of both legs in one pass each, against leg by leg;
* products in bfloat16 against float32.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from neurosim.devices import Pcm, to_conductances
from neurosim.devices.kernels import read_tile
from neurosim.devices.pairs import age_pair, difference, program_pair
from neurosim.random import Draws, follow_torch_threads, stream

Work = Callable[[], object]


def compare(title: str, ours: Work, others: dict[str, Work], repeats: int) -> None:
    """Medians of all, one after the other in every repetition."""
    works = {"as it is": ours, **others}
    took: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work(), work()
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            took[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(times) for name, times in took.items()}
    cells = [f"{name} {ms:.2f} ms ({ms / medians['as it is']:.2f})" for name, ms in medians.items()]
    print(f"{title:52s} " + "  |  ".join(cells), flush=True)


def products(repeats: int) -> None:
    x = torch.randn(1000, 784)
    for chips in (4, 16):
        w = torch.randn(chips, 512, 784)
        flat = w.reshape(-1, 784)
        repeated = x.expand(chips, -1, -1)
        compare(
            f"first layer of {chips} chips, 1,000 samples",
            lambda: [torch.mm(x, one.t()) for one in w],  # noqa: B023
            {
                "one wide product": lambda: torch.mm(x, flat.t()),  # noqa: B023
                "batched product": lambda: torch.bmm(repeated, w.transpose(1, 2)),  # noqa: B023
            },
            repeats,
        )
        hidden = torch.randn(chips, 1000, 512)
        v = torch.randn(chips, 512, 512)
        compare(
            f"second layer of {chips} chips",
            lambda: [torch.mm(a, b.t()) for a, b in zip(hidden, v, strict=True)],  # noqa: B023
            {"batched product": lambda: torch.bmm(hidden, v.transpose(1, 2))},  # noqa: B023
            repeats,
        )


def convolutions(repeats: int) -> None:
    chips, batch = 4, 32
    for channels, size in ((64, 32), (256, 8)):
        x = torch.randn(chips, batch, channels, size, size)
        last = [one.contiguous(memory_format=torch.channels_last) for one in x]
        w = torch.randn(chips, channels, channels, 3, 3)
        w_last = [one.contiguous(memory_format=torch.channels_last) for one in w]
        grouped = (
            x.transpose(0, 1).reshape(batch, -1, size, size).contiguous(memory_format=torch.channels_last)
        )
        w_grouped = w.reshape(-1, channels, 3, 3).contiguous(memory_format=torch.channels_last)

        def unfolded() -> torch.Tensor:
            patches = F.unfold(x.flatten(0, 1), 3, padding=1).unflatten(0, (chips, batch))  # noqa: B023
            return torch.matmul(w.flatten(2)[:, None], patches)  # noqa: B023

        compare(
            f"3x3 convolution, {channels} channels {size}x{size}, {chips} chips",
            lambda: [F.conv2d(a, b, padding=1) for a, b in zip(last, w_last, strict=True)],  # noqa: B023
            {
                "unfolded, batched": unfolded,
                "chips as groups": lambda: F.conv2d(grouped, w_grouped, padding=1, groups=chips),  # noqa: B023
            },
            repeats,
        )


def stages(repeats: int) -> None:
    y, bias = torch.randn(4000, 512), torch.randn(512)
    out, gain = torch.empty_like(y), torch.rand(512)
    names = (np.uint32(1), np.uint32(2), np.uint32(3))
    follow_torch_threads()

    def ours() -> None:
        read_tile(
            y.numpy(), out.numpy(), 0, 512, np.float32(0.04), np.float32(40.0), np.float32(127), gain.numpy(),
            bias.numpy(), 0, *names, 512, False, True, True,
        )  # fmt: skip

    source = stream(0, 1, "w", "output-noise")

    def after(y: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return ((y + 0.04 * n) * 40.0).round().clamp(-127, 127) * gain + bias

    compiled = torch.compile(after)

    def with_compile() -> torch.Tensor:
        return compiled(y, source.normal((4000, 512)))

    others: dict[str, Work] = {"torch operations": lambda: after(y, source.normal((4000, 512)))}
    try:
        with_compile()
        others["torch.compile"] = with_compile
    except Exception as error:  # no compiler
        print(f"torch.compile left out: {str(error).splitlines()[0][:80]}")
    compare("noise, ADC, gain, bias of 4,000 x 512", ours, others, repeats)


def programming(repeats: int) -> None:
    w, x, device = torch.randn(512, 784), torch.randn(4000, 784), Pcm()
    draws = Draws(0, (3,), "w+"), Draws(0, (3,), "w-")

    def pairs() -> torch.Tensor:
        return age_pair(device, program_pair(device, w, "per-layer", draws), 3600.0, draws)

    def legs() -> torch.Tensor:
        mapped = to_conductances(w, device, "per-layer")
        states = [device.program(t, d) for t, d in zip((mapped.g_plus, mapped.g_minus), draws, strict=True)]
        return difference(device, *(device.age(s, 3600.0, d) for s, d in zip(states, draws, strict=True)))

    compare("programming and ageing 401,408 pairs", pairs, {"leg by leg": legs}, repeats)

    def overlapped() -> None:
        other = threading.Thread(target=pairs)
        other.start()
        torch.mm(x, w.t())
        other.join()

    def in_turn() -> None:
        pairs()
        torch.mm(x, w.t())

    compare("programming, then a product", in_turn, {"at the same time": overlapped}, repeats)


def types(repeats: int) -> None:
    x, w = torch.randn(1000, 784), torch.randn(512, 784)
    half = w.bfloat16()
    compare(
        "product of 1,000 x 784 x 512",
        lambda: torch.mm(x, w.t()),
        {"bfloat16, with the casts": lambda: torch.mm(x.bfloat16(), half.t()).float()},
        repeats,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for part in (products, convolutions, stages, programming, types):
        part(args.repeats)


if __name__ == "__main__":
    main()
