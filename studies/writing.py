"""Writing: loops of three memristors, what an acceptance range costs, and which weights to verify.

    python studies/writing.py [--chips 30] [--figures docs/images]

A 64-64-10 perceptron on scikit-learn's digits.  Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from perceptron import trained
from torch import nn

import neurosim as ns
from neurosim.devices.writing.switching import hysteresis, switching

LOOPS = {"linear-ion-drift": (1.0, (1.0, 5.0)), "vteam": (0.6, (1e4, 1e5)), "stanford-pku": (1.6, (1e5, 1e8))}
ACCEPTANCES = (0.1, 0.05, 0.02, 0.01, 0.005)
FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
PULSES: dict[str, Any] = {"step": 0.02, "device_std": 0.25, "cycle_std": 0.5, "max_pulses": 1000}


def on_chips(model: nn.Module, splits: ns.data.Splits, hardware: ns.Hardware) -> ns.Deployed:
    net = ns.deploy(model, hardware)
    if hardware.writing.selective:
        net.select_verified(splits.train.inputs)
    return net


def accuracy(net: ns.Deployed, splits: ns.data.Splits, chips: int) -> tuple[float, float]:
    found = ns.evaluate(net, ns.data.Batches(splits.test, 360), chips=chips)["accuracy"]
    values = [100 * float(value) for value in found]
    return sum(values) / len(values), min(values)


def by_acceptance(model: nn.Module, splits: ns.data.Splits, chips: int) -> list[tuple[float, float, float]]:
    print("| acceptance | pulses a device | accepted | µJ a chip | accuracy, mean (min) |")
    print("|---|---|---|---|---|")
    rows = []
    for acceptance in ACCEPTANCES:
        writing = {"scheme": "program-and-verify", "acceptance": acceptance, **PULSES}
        hardware = ns.hardware("ideal", writing=writing)
        net = on_chips(model, splits, hardware)
        costs = list(net.writing_cost(ns.Lot(hardware)[0:chips]).values())
        devices, pulses = sum(c.devices for c in costs), sum(c.pulses for c in costs)
        accepted, joule = sum(c.accepted for c in costs) / devices, sum(c.joule for c in costs) / chips
        mean, least = accuracy(net, splits, chips)
        each = pulses / devices
        rows.append((acceptance, each, mean))
        print(
            f"| ± {100 * acceptance:g} % of the range | {each:.1f} | {100 * accepted:.2f} % | "
            f"{1e6 * joule:.2f} | {mean:.1f} ({least:.1f}) |"
        )
    return rows


def by_fraction(model: nn.Module, splits: ns.data.Splits, chips: int) -> dict[str, list[tuple[float, float]]]:
    """Accuracy against the fraction verified: most sensitive, largest and random weights first."""
    found: dict[str, list[tuple[float, float]]] = {}
    print("\n| verified first | " + " | ".join(f"{100 * f:g} %" for f in FRACTIONS) + " |")
    print("|---|" + "---|" * len(FRACTIONS))
    for order in ("most sensitive", "largest", "at random"):
        rows = []
        for fraction in FRACTIONS:
            writing = {
                "scheme": "program-and-verify",
                "acceptance": 0.01,
                **PULSES,
                "verified_fraction": fraction,
            }
            net = on_chips(model, splits, ns.hardware("ideal", writing=writing))
            if order != "most sensitive" and net.hardware.writing.selective:
                _choose(net, order, fraction)
            rows.append(accuracy(net, splits, chips))
        found[order] = rows
        print(f"| {order} | " + " | ".join(f"{mean:.1f} ({least:.1f})" for mean, least in rows) + " |")
    return found


def _choose(net: ns.Deployed, order: str, fraction: float) -> None:
    from neurosim.analog.sensitivity import most_sensitive

    weights = {name: w for name, w in net.named_parameters() if name.endswith("weight")}
    scores = {name: w.detach().abs() for name, w in weights.items()}
    if order == "at random":
        generator = torch.Generator().manual_seed(0)
        scores = {name: torch.rand(w.shape, generator=generator) for name, w in weights.items()}
    masks = most_sensitive(scores, fraction)
    net.load_calibration_state({f"{name.removesuffix('.weight')}.verified": m for name, m in masks.items()})


def draw(
    folder: Path, costs: list[tuple[float, float, float]], fractions: dict[str, list[tuple[float, float]]]
) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    for axis, (kind, (volt, frequencies)) in zip(axes, LOOPS.items(), strict=True):
        for frequency in frequencies:
            trace = hysteresis(switching(kind), volt, frequency, points=1001)
            axis.plot(trace.volt, 1e3 * trace.ampere, label=f"{frequency:g} Hz")
        axis.set(title=kind, xlabel="voltage, V")
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("current, mA")
    figure.tight_layout()
    figure.savefig(folder / "hysteresis.svg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    left.plot([100 * a for a, _, _ in costs], [pulses for _, pulses, _ in costs], marker="o")
    left.set(xscale="log", yscale="log", xlabel="acceptance, ± % of the range", ylabel="pulses a device")
    for order, rows in fractions.items():
        right.plot([100 * f for f in FRACTIONS], [mean for mean, _ in rows], marker="o", label=order)
    right.set(xlabel="weights that are verified, %", ylabel="mean accuracy of chips, %")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(folder / "writing.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chips", type=int, default=30)
    parser.add_argument("--figures", type=Path)
    options = parser.parse_args()
    splits = ns.data.load("digits")
    model = trained(splits, "standard")
    costs = by_acceptance(model, splits, options.chips)
    fractions = by_fraction(model, splits, options.chips)
    if options.figures is not None:
        draw(options.figures, costs, fractions)


if __name__ == "__main__":
    main()
