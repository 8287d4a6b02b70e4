"""Converters: transfer curves of one chip, and accuracy over chips against resolution, mismatch and range.

    python studies/converters.py [--chips 50] [--plot docs/images/converters.svg]

A 64-64-10 perceptron on scikit-learn's digits, trained with noise, on chips whose devices are ideal.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from perceptron import trained
from torch import nn

import neurosim as ns
from neurosim.devices import Adc
from neurosim.devices.adc import ADCS, columns_of, convert
from neurosim.random import Draws

SHOWN = {
    "sar": {"capacitor_std": 0.1},
    "ramp": {"gain_std": 0.05, "offset_std": 1.0, "nonlinearity": 0.03},
    "pipeline": {"gain_std": 0.03, "offset_std": 0.5},
}
SWEPT = {
    "sar, σ of a unit capacitor": ("adc.capacitor_std", "sar", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4]),
    "ramp, σ of comparators, steps": ("adc.offset_std", "ramp", [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]),
    "pipeline, σ of stage gains": ("adc.gain_std", "pipeline", [0.0, 0.01, 0.02, 0.05, 0.1, 0.2]),
}
RANGES = ("max", "percentile", "min-error", "learned")


def accuracy(
    model: nn.Module, splits: ns.data.Splits, chips: int, changes: dict[str, Any]
) -> tuple[float, float]:
    """Mean and minimum over chips, in percent."""
    hardware = ns.hardware("ideal").with_all({"array.rows": 64, "array.cols": 64, **changes})
    net = ns.deploy(model, hardware, calibration=splits.train.inputs[:500])
    found = ns.evaluate(net, ns.data.Batches(splits.test, 360), chips=chips)["accuracy"]
    values = [100 * float(value) for value in found]
    return sum(values) / len(values), min(values)


def curves(axes: Any) -> None:
    """Transfer curves of 6-bit converters of one chip, and their distance from the line."""
    levels = 31
    u = torch.linspace(-levels, levels, 4001)
    for kind, mismatch in SHOWN.items():
        adc = Adc(bits=6, kind=kind, **mismatch)
        state = ADCS[kind].drawn(adc, columns_of(((0, 1),), adc), Draws(0, (1,), "shown"), 0)
        codes = convert(u[None, :, None], float(levels), adc, state)[0, :, 0]
        axes[0].plot(u, codes, label=kind)
        axes[1].plot(u, codes - u, label=kind)
    axes[0].set(xlabel="input, steps", ylabel="code", title="6-bit converters of chip 1")
    axes[1].set(xlabel="input, steps", ylabel="code − input, steps", title="deviation from the line")
    axes[0].legend(frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chips", type=int, default=50)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    splits = ns.data.load("digits")
    model = trained(splits, "noise")
    swept = {}
    for title, (field, kind, sizes) in SWEPT.items():
        print(f"\n| {title} | " + " | ".join(f"{size:g}" for size in sizes) + " |")
        print("|---|" + "---|" * len(sizes))
        rows = [
            accuracy(model, splits, options.chips, {"adc.bits": 8, "adc.kind": kind, field: size})
            for size in sizes
        ]  # fmt: skip
        print("| mean (min) | " + " | ".join(f"{mean:.1f} ({least:.1f})" for mean, least in rows) + " |")
        swept[title] = (sizes, rows)
    bits = (2, 3, 4, 5, 6, 8)
    print(
        "\n| ADC and DAC range | " + " | ".join(f"{b} bits" for b in bits) + " |\n|---|" + "---|" * len(bits)
    )
    for name in RANGES:
        changes = {"adc.range": name, "dac.range": name}
        row = [accuracy(model, splits, 1, {"adc.bits": b, "dac.bits": b, **changes})[0] for b in bits]
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in row) + " |")
    if options.plot is not None:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
        curves(axes)
        for title, (sizes, rows) in swept.items():
            share = [size / sizes[-1] for size in sizes]
            axes[2].plot(share, [mean for mean, _ in rows], marker="o", label=f"{title} (to {sizes[-1]:g})")
        axes[2].set(xlabel="mismatch, fraction of the largest", ylabel="mean accuracy of chips, %")
        axes[2].set(title="8-bit ADCs, digits")
        axes[2].legend(frameon=False, fontsize=7)
        figure.tight_layout()
        figure.savefig(options.plot)


if __name__ == "__main__":
    main()
