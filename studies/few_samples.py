"""A classifier from few labelled images: do the features of a segmentation network help?

    python studies/few_samples.py --pretext runs/pretext --out runs/few-samples

The question of Wong, Syeda-Mahmood and Moradi (Medical Image Analysis 49, 2018), of other data.  For each
task, number of labelled images a class and seed, six classifiers are trained on the same images for as many
steps, and read once on the task's whole test part.  No choice is made on validation images: the weights are
those of the last step.  Segmentation networks and the generic one are trained before, from the command line
(docs/medical.md has the commands); they have seen masks, or clothes, of training images only.

Every finished cell is a line of ``cells-I-of-N.jsonl`` in OUT and is not computed again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim.data import Batches, Splits, load
from neurosim.evaluation.statistics import mean_interval
from neurosim.storage import atomic_path, load_tensors

STEPS, BATCH, LR = 200, 32, 1e-3
PER_CLASS = (10, 20, 50, 100)
TASKS = ("pneumonia-mnist", "brain-tumour")


@dataclass(frozen=True)
class Way:
    """How a classifier comes about: its network, what part is taken from which pretext, and what stays."""

    name: str
    model: str
    options: dict[str, Any]
    part: str = ""
    pretext: str = ""  # "masks": the task's own
    freeze: tuple[str, ...] = ()


MNET = "mnet-classifier", {"widths": (4, 8, 16), "head_widths": (8, 16, 32)}
VGG = "vgg-tiny", dict[str, Any]()  # the same head on raw images
WAYS = (
    Way("features of its own masks, frozen", *MNET, "trunk.", "masks", ("trunk.*",)),
    Way("features of its own masks, tuned", *MNET, "trunk.", "masks"),
    Way("features of nuclei, frozen", *MNET, "trunk.", "dsb2018-nuclei", ("trunk.*",)),
    Way("the same network from scratch", *MNET),
    Way("raw images from scratch", *VGG),
    Way("features of clothes, tuned", *VGG, "features.", "fashion-mnist"),
)


def network(way: Way, task: str, splits: Splits, pretext: Path, seed: int) -> nn.Module:
    """A fresh network, with the part that its way takes from a pretext."""
    mean, std = splits.train.mean_std()
    net = ns.models.create(
        way.model,
        num_classes=splits.num_classes,
        in_chans=splits.in_chans,
        image_size=splits.image_size,
        input_mean=mean,
        input_std=std,
        seed=seed,
        **way.options,
    )
    if way.pretext:
        folder = pretext / (f"{task}-masks" if way.pretext == "masks" else way.pretext)
        tensors, _ = load_tensors(folder / "model.safetensors")
        part = {key: value for key, value in tensors.items() if key.startswith(way.part)}
        assert part, f"{folder} has no {way.part}"
        left = net.load_state_dict(part, strict=False)
        assert not left.unexpected_keys
        assert not any(key.startswith(way.part) for key in left.missing_keys)
    return net


def cell(way: Way, task: str, per_class: int, seed: int, whole: Splits, pretext: Path) -> dict[str, Any]:
    """Train one classifier; its accuracy and balanced accuracy on the test part."""
    splits = whole.few(per_class, seed)
    net = network(way, task, splits, pretext, seed)
    a_step = math.ceil(len(splits.train) / BATCH)
    loaders = (Batches(splits.train, BATCH, shuffle_seed=seed), None)
    ns.train(
        net,
        loaders,
        epochs=math.ceil(STEPS / a_step),
        lr=LR,
        lr_schedule="cosine",
        seed=seed,
        freeze=way.freeze,
    )
    found = predictions(net, splits)
    targets = splits.test.targets
    right = (found == targets).double()
    recalls = [right[targets == label].mean().item() for label in range(splits.num_classes)]
    return {
        "task": task,
        "way": way.name,
        "per_class": per_class,
        "seed": seed,
        "accuracy": right.mean().item(),
        "balanced": sum(recalls) / len(recalls),
    }


@torch.no_grad()
def predictions(net: nn.Module, splits: Splits) -> Tensor:
    """The class with the highest logit for every test image."""
    net.eval()
    return torch.cat([net(x).argmax(1) for x, _ in Batches(splits.test, 200)])


def cells(seeds: int) -> Iterator[tuple[str, int, int, Way]]:
    """Seed by seed, so that a stopped study has whole replicates."""
    for seed in range(seeds):
        for task in TASKS:
            for per_class in PER_CLASS:
                for way in WAYS:
                    yield task, per_class, seed, way


def done(path: Path) -> list[dict[str, Any]]:
    """The finished cells."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over seeds with Student's 95 % interval, for each task, number of images and way."""
    found = []
    for task in TASKS:
        for per_class in PER_CLASS:
            for way in WAYS:
                at = [r for r in rows if (r["task"], r["per_class"], r["way"]) == (task, per_class, way.name)]
                if not at:
                    continue
                mean, low, high = mean_interval(np.array([r["balanced"] for r in at]))
                found.append(
                    {
                        "task": task,
                        "per_class": per_class,
                        "way": way.name,
                        "seeds": len(at),
                        "balanced": mean,
                        "low": low,
                        "high": high,
                        "accuracy": float(np.mean([r["accuracy"] for r in at])),
                    }
                )
    return found


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table a task: ways down, images a class across."""
    lines = []
    for task in TASKS:
        lines += ["", f"| {task} | " + " | ".join(f"{n} a class" for n in PER_CLASS) + " |", "|---" * 5 + "|"]
        for way in WAYS:
            at = {r["per_class"]: r for r in rows if r["task"] == task and r["way"] == way.name}
            shown = [
                f"{100 * at[n]['balanced']:.1f} ± {50 * (at[n]['high'] - at[n]['low']):.1f}"
                if n in at
                else "-"
                for n in PER_CLASS
            ]
            lines.append(f"| {way.name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Balanced accuracy against images a class, a panel a task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from neurosim.report.figure import COLOURS, GREY, INK, PALE

    figure = Figure(figsize=(11, 5.2), facecolor="white")
    FigureCanvasAgg(figure)
    for place, task in enumerate(TASKS):
        axes = figure.add_axes((0.07 + 0.47 * place, 0.3, 0.44, 0.58))
        for number, way in enumerate(WAYS):
            at = [r for r in rows if r["task"] == task and r["way"] == way.name]
            x = np.array([r["per_class"] for r in at], float) * (1 + 0.02 * (number - 2.5))
            mean = np.array([100 * r["balanced"] for r in at])
            ends = np.array(
                [[100 * (r["balanced"] - r["low"]), 100 * (r["high"] - r["balanced"])] for r in at]
            )
            axes.errorbar(x, mean, ends.T, fmt="o-", color=COLOURS[number], label=way.name, lw=1.6, ms=5)
        axes.set_xscale("log")
        axes.set_xticks(PER_CLASS, [str(n) for n in PER_CLASS])
        axes.minorticks_off()
        axes.set_title(task, loc="left", color=INK, weight="bold")
        axes.set_xlabel("labelled images a class", color=GREY)
        axes.grid(axis="y", color=PALE)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    figure.axes[0].set_ylabel("balanced test accuracy, %", color=GREY)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": "neurosim"})


def main() -> None:
    """Compute what is missing, then print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pretext", type=Path, required=True, help="folder of the pretext runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shard", default="1/1", help="every N-th cell from the I-th")
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    index, count = (int(part) for part in options.shard.split("/"))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"cells-{index}-of-{count}.jsonl"
    data = {task: load(task, folder=options.data_dir) for task in TASKS}
    have = {(r["task"], r["per_class"], r["seed"], r["way"]) for r in done(path)}
    for number, (task, per_class, seed, way) in enumerate(cells(options.seeds)):
        if number % count != index - 1 or (task, per_class, seed, way.name) in have:
            continue
        row = cell(way, task, per_class, seed, data[task], options.pretext)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{task} {per_class} seed {seed} {way.name}: {100 * row['balanced']:.1f} %", flush=True)
    rows = summary([row for each in sorted(options.out.glob("cells-*.jsonl")) for row in done(each)])
    print(markdown(rows))
    picture(rows, options.out / "few-samples.svg")
    print(options.out / "few-samples.svg")


if __name__ == "__main__":
    main()
