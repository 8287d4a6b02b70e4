"""Accuracy through wires against array size and resistance, and what each remedy buys: docs/wires.md.

    python benchmarks/wires_accuracy.py RUN --hardware FILE [--trained RUN] [--chips 3] [--samples 1000]
        [--out DIR]

RUN is a network trained without wires, --trained the same trained through them.  Every point is the mean
over the same chips and test samples; the whole table is written as CSV beside the picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

import neurosim as ns
from neurosim import runs
from neurosim.evaluation import Table
from neurosim.report.figure import COLOURS

SIZES = (64, 128, 256, 512)
OHMS = (1.0, 2.0, 3.0, 5.0, 8.0)
SIZE, OHM = 256, 5.0  # held fixed in the other panel
REMEDIES = {
    "nothing": {},
    "driven at both ends": {"wires.topology": "driven-both-ends"},
    "driven and sensed at both ends": {"wires.topology": "both-ends"},
    "digital gain per column": {"wires.compensation": "columns"},
    "gains per row and column": {"wires.compensation": "rows-and-columns"},
}


@torch.no_grad()
def accuracy(run: runs.Run, splits, hw, chips: int, samples: int) -> float:  # type: ignore[no-untyped-def]
    net = run.deploy(hw, splits)
    x, y = splits.test.inputs[:samples], splits.test.targets[:samples]
    right = 0.0
    for number in range(chips):
        with net.on(ns.Lot(hw)[number]) as chip:
            predicted = torch.cat([chip(piece)[0] for piece in x.split(500)]).argmax(-1)
        right += float((predicted == y).float().mean())
    return right / chips


def points(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    hw = ns.hardware(args.hardware)
    networks = [("trained without wires", args.run, REMEDIES)]
    if args.trained is not None:
        networks.append(("trained through wires", args.trained, {"nothing": {}}))
    for network, folder, remedies in networks:
        run = runs.open_run(folder)
        splits = run.splits(None)
        for remedy, changes in remedies.items():
            grid = [(size, OHM) for size in SIZES] + [(SIZE, ohm) for ohm in OHMS if ohm != OHM]
            for size, ohm in grid:
                wires = {
                    "array.rows": size,
                    "array.cols": size,
                    "wires.r_row_ohm": ohm,
                    "wires.r_col_ohm": ohm,
                }
                found = accuracy(run, splits, hw.with_all({**wires, **changes}), args.chips, args.samples)
                row = {"network": network, "remedy": remedy, "size": size, "ohm": ohm, "accuracy": found}
                print(f"{network}, {remedy}: {size}x{size}, {ohm:g} ohm: {100 * found:.2f} %", flush=True)
                yield row
        ideal = accuracy(run, splits, hw, args.chips, args.samples)
        yield {"network": network, "remedy": "no wires", "size": 0, "ohm": 0.0, "accuracy": ideal}


def picture(rows: list[dict[str, object]], path: Path, title: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.hashsalt": "neurosim", "font.family": "DejaVu Sans"}):
        figure, axes = plt.subplots(1, 2, figsize=(11, 5.2), sharey=True, layout="constrained")
        lines = list(dict.fromkeys((r["network"], r["remedy"]) for r in rows if r["size"]))
        for panel, (key, fixed, value) in zip(
            axes, (("size", "ohm", OHM), ("ohm", "size", SIZE)), strict=True
        ):
            for colour, (network, remedy) in zip([*COLOURS, "#1F2430"], lines, strict=False):
                chosen = [
                    r for r in rows if (r["network"], r["remedy"]) == (network, remedy) and r[fixed] == value
                ]
                chosen.sort(key=lambda r: r[key])
                plain = network == "trained without wires"
                label, style = (remedy, "-") if plain else (network, "--")
                x, y = [r[key] for r in chosen], [100 * r["accuracy"] for r in chosen]
                panel.plot(x, y, style, marker="o", color=colour, label=label, lw=2)
            panel.set_xscale("log", base=2)
            panel.grid(color="#E4E7EC")
            panel.spines[["top", "right"]].set_visible(False)
            for r in rows:
                if r["remedy"] == "no wires" and r["network"] == "trained without wires":
                    panel.axhline(100 * r["accuracy"], color="#5F6673", ls=":", lw=1)
        ticks = [str(s) for s in SIZES]
        axes[0].set_xticks(SIZES, ticks)
        axes[0].set_xlabel(f"rows and columns of an array (at {OHM:g} Ω a cell)")
        axes[1].set_xticks(OHMS, [f"{ohm:g}" for ohm in OHMS])
        axes[1].set_xlabel(f"wire resistance of a cell in Ω (at {SIZE}×{SIZE})")
        axes[0].set_ylabel("test accuracy in %")
        axes[0].legend(loc="lower left", frameon=False)
        figure.suptitle(title, x=0.01, ha="left")
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--hardware", required=True)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--chips", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("runs/wires"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = list(points(args))
    Table.from_rows(rows).to_csv(args.out / "wires-accuracy.csv")
    data = runs.open_run(args.run).config.data.name
    title = f"Accuracy through wires: {data}, {args.chips} chips, {args.samples} test images"
    picture(rows, args.out / "wires-accuracy.svg", title)
    print(args.out / "wires-accuracy.svg")


if __name__ == "__main__":
    main()
