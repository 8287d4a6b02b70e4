"""One network, every mapping, several technologies: accuracy over chips, devices and conversions it takes.

    python studies/mappings.py [--chips 100] [--plot docs/images/mappings.svg]

A 64-64-10 perceptron on scikit-learn's digits, trained with noise; the test images on chips of each
technology, one hour and one year (or as long as the technology was measured) old.  Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from perceptron import trained
from torch import nn

import neurosim as ns
from neurosim.devices.mappings import MAPPINGS, mapping_of

TECHNOLOGIES = {
    "pcm-joshi-2020": (3600.0, 31_536_000.0),
    "rram-wan-2022": (3600.0, 172_800.0),
    "fefet-yin-2024": (0.0,),
    "stt-mram-typical": (0.0,),
}
FIELDS = {
    "bit-sliced": {"array__slices": 4, "array__radix": 2},
    "significance-pairs": {
        "array__pairs": 2, "array__significance": 8.0, "array__pair_programming": "closed-loop",
    },
}  # fmt: skip
LABELS = {"bit-sliced": "bit-sliced, 4 binary digits", "significance-pairs": "significance pairs, 1 and 1/8"}
COMPENSATIONS = ("none", "global", "per-column", "gain-and-offset")


def accuracies(
    model: nn.Module, hardware: ns.Hardware, splits: ns.data.Splits, chips: int, times_s: tuple[float, ...]
) -> dict[float, list[float]]:
    net = ns.deploy(model, hardware, calibration=splits.train.inputs[:500])
    table = ns.evaluate(net, ns.data.Batches(splits.test, 360), chips=chips, times_s=times_s)
    found: dict[float, list[float]] = {time_s: [] for time_s in times_s}
    for time_s, accuracy in zip(table["time_s"], table["accuracy"], strict=True):
        found[float(time_s)].append(100 * float(accuracy))
    return found


def show(values: list[float]) -> str:
    numbers = torch.tensor(values, dtype=torch.float64)
    return f"{numbers.mean():.1f} ± {numbers.std():.1f} ({numbers.min():.1f})"


def by_mapping(model: nn.Module, splits: ns.data.Splits, chips: int) -> dict[str, dict[str, list[float]]]:
    print("| technology, age | " + " | ".join(LABELS.get(name, name) for name in MAPPINGS) + " |")
    print("|---|" + "---|" * len(MAPPINGS))
    found: dict[str, dict[str, list[float]]] = {}
    for technology, times_s in TECHNOLOGIES.items():
        columns = {
            name: accuracies(
                model, ns.hardware(technology, array__mapping=name, **FIELDS.get(name, {})), splits, chips,
                times_s,
            )
            for name in MAPPINGS
        }  # fmt: skip
        for time_s in times_s:
            age = "fresh" if time_s == 0 else f"{time_s / 3600:.0f} h" if time_s < 86_400 else (
                f"{time_s / 86_400:.0f} d"
            )  # fmt: skip
            row = {name: column[time_s] for name, column in columns.items()}
            found[f"{technology}, {age}"] = row
            print(f"| {technology}, {age} | " + " | ".join(show(values) for values in row.values()) + " |")
    chips_of = [ns.hardware("ideal", array__mapping=name, **FIELDS.get(name, {})) for name in MAPPINGS]
    mappings = [mapping_of(hardware.array, hardware.device) for hardware in chips_of]
    print("| devices a weight | " + " | ".join(str(m.planes * m.legs) for m in mappings) + " |")
    print("| conversions an output | " + " | ".join(str(len(m.digital)) for m in mappings) + " |")
    return found


def by_compensation(model: nn.Module, splits: ns.data.Splits, chips: int) -> None:
    names = ("differential-pair", "offset-column", "unit-column")
    print("\n| compensation | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    year = 31_536_000.0
    for compensation in COMPENSATIONS:
        cells = []
        for name in names:
            hardware = ns.hardware("pcm-joshi-2020", array__mapping=name, compensation=compensation)
            cells.append(show(accuracies(model, hardware, splits, chips, (year,))[year]))
        print(f"| {compensation} | " + " | ".join(cells) + " |")


def plot(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(2.1 * len(found), 3.6), sharey=True)
    colours = plt.get_cmap("tab10")
    for axis, (title, row) in zip(axes, found.items(), strict=True):
        for place, (name, values) in enumerate(row.items()):
            axis.boxplot(
                values, positions=[place], widths=0.65, patch_artist=True, whis=(0, 100),
                boxprops={"facecolor": colours(place), "alpha": 0.75}, medianprops={"color": "black"},
                label=LABELS.get(name, name),
            )  # fmt: skip
        axis.set_title(title.replace(", ", "\n"), fontsize=8)
        axis.set_xticks([])
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("test accuracy of a chip, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chips", type=int, default=100)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ns.devices.FitRangeWarning)
    splits = ns.data.load("digits")
    model = trained(splits, "noise")
    found = by_mapping(model, splits, options.chips)
    by_compensation(model, splits, options.chips)
    if options.plot is not None:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
