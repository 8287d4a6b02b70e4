"""Every preset side by side: its errors, and one network on chips of it, over ages.

    python studies/devices.py [--chips 40] [--plot docs/images/devices/digits.svg]
    python studies/devices.py --figures docs/images/devices

A 64-64-10 perceptron on scikit-learn's digits, trained with noise, evaluated on chips of every preset, fresh,
one hour, day, month and year old.  Prints tables in Markdown; a star marks ages beyond the measurement.
With ``--figures``: the figure of each preset's device, with published points, instead.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from perceptron import trained
from torch import nn

import neurosim as ns
from neurosim.devices import Device, hardware_names
from neurosim.random import Draws
from neurosim.report import device_figure

AGES = {"fresh": 0.0, "1 hour": 3600.0, "1 day": 86_400.0, "30 days": 2_592_000.0, "1 year": 31_536_000.0}
DEVICES = 4096


def error_percent(device: Device, time_s: float) -> float:
    """Rms of conductance minus target over targets across the range, in percent of the range."""
    target = torch.linspace(device.g_min_siemens, device.g_max_siemens, 65, dtype=torch.float64)
    draws = Draws(0, (0,), "study")
    state = device.program(target.unsqueeze(1).expand(-1, DEVICES), draws)
    error = device.age(state, time_s, draws)[0] - target.unsqueeze(1)
    return 100 * float(error.square().mean().sqrt()) / (device.g_max_siemens - device.g_min_siemens)


def beyond(device: Device, time_s: float) -> str:
    """A star beyond the last measured age."""
    measured = device.fit_range().time_s
    return "*" if measured and time_s > measured[1] else ""


def errors() -> None:
    print("| preset | year | node, nm | range, µS | fresh | a day | a year |")
    print("|---|---|---|---|---|---|---|")
    for name in hardware_names():
        hardware = ns.hardware(name)
        device, source = hardware.device, hardware.source
        cells = [
            f"{error_percent(device, time_s):.2g}{beyond(device, time_s)}"
            for time_s in (0.0, AGES["1 day"], AGES["1 year"])
        ]
        year = source.year if source.year and name not in ("ideal", "generic") else ""
        node = f"{source.node_nm:g}" if source.node_nm else ""
        low, high = (f"{1e6 * g:.3g}" for g in (device.g_min_siemens, device.g_max_siemens))
        print(f"| `{name}` | {year} | {node} | {low} to {high} | " + " | ".join(cells) + " |")


def accuracies(model: nn.Module, name: str, splits: ns.data.Splits, chips: int) -> dict[str, torch.Tensor]:
    net = ns.deploy(model, ns.hardware(name), calibration=splits.train.inputs[:500])
    table = ns.evaluate(net, ns.data.Batches(splits.test, 360), chips=chips, times_s=tuple(AGES.values()))
    found: dict[float, list[float]] = {}
    for time_s, accuracy in zip(table["time_s"], table["accuracy"], strict=True):
        found.setdefault(float(time_s), []).append(100 * float(accuracy))
    return {age: torch.tensor(found[time_s], dtype=torch.float64) for age, time_s in AGES.items()}


def digits(chips: int) -> dict[str, dict[str, torch.Tensor]]:
    splits = ns.data.load("digits")
    model = trained(splits, "noise")
    print("\n| preset | " + " | ".join(AGES) + " |\n|---|" + "---|" * len(AGES))
    found = {}
    for name in hardware_names():
        row = found[name] = accuracies(model, name, splits, chips)
        device = ns.hardware(name).device
        cells = [f"{v.mean():.1f} ({v.min():.1f}){beyond(device, AGES[age])}" for age, v in row.items()]
        print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)
    return found


def plot(found: dict[str, dict[str, torch.Tensor]], path: Path) -> None:
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "devices"
    figure, axes = plt.subplots(figsize=(9, 7))
    names = sorted(found, key=lambda name: float(found[name]["1 year"].mean()))
    colours = plt.get_cmap("viridis")
    for place, (age, time_s) in enumerate(AGES.items()):
        for row, name in enumerate(names):
            values = found[name][age]
            y = row + 0.15 * (place - 2)
            known = not beyond(ns.hardware(name).device, time_s)
            colour = colours(place / len(AGES))
            axes.plot([values.min(), values.max()], [y, y], color=colour, alpha=0.4, linewidth=2)
            axes.plot(
                values.mean(), y, "o", color=colour, markerfacecolor=colour if known else "white",
                markersize=5, label=age if row == len(names) - 1 else None,
            )  # fmt: skip
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("test accuracy, %: mean of chips (dot) and range; open: beyond what was measured")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chips", type=int, default=40)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--figures", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ns.devices.FitRangeWarning)
    if options.figures is not None:
        options.figures.mkdir(parents=True, exist_ok=True)
        for name in hardware_names():
            print(device_figure(ns.hardware(name).device, name, path=options.figures / f"{name}.svg"))
        return
    errors()
    found = digits(options.chips)
    if options.plot is not None:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
