"""What remapping, spare columns and the other leg save on chips with broken devices.

    python studies/faults.py [--chips 50] [--plot docs/images/faults.svg]

A 64-64-10 perceptron on scikit-learn's digits, trained without noise, on chips whose devices are ideal but
for those that are stuck: a third each low, high and open.  Tiles of 64 x 64 devices a leg.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from perceptron import trained
from torch import nn

import neurosim as ns

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2)
WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "4 spare columns": {"spare_columns": 4},
    "columns": {"remapping": "columns"},
    "rows and columns": {"remapping": "rows-and-columns"},
    "the other leg": {"pair_compensation": True},
    "all of it": {"remapping": "rows-and-columns", "pair_compensation": True, "spare_columns": 4},
}


def accuracies(
    model: nn.Module, splits: ns.data.Splits, chips: int, rate: float, way: dict[str, Any]
) -> list[float]:
    third = rate / 3
    stuck = {"stuck_low_rate": third, "stuck_high_rate": third, "stuck_open_rate": third}
    hardware = ns.hardware("ideal", array={"rows": 64, "cols": 64}, faults={**stuck, **way})
    net = ns.deploy(model, hardware)
    found = ns.evaluate(net, ns.data.Batches(splits.test, 360), chips=chips)["accuracy"]
    return [100 * float(value) for value in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chips", type=int, default=50)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # products of another number may be rounded otherwise
    splits = ns.data.load("digits")
    model = trained(splits, "standard")
    print("| stuck devices | " + " | ".join(f"{100 * rate:g} %" for rate in RATES) + " |")
    print("|---|" + "---|" * len(RATES))
    found: dict[str, list[torch.Tensor]] = {}
    for name, way in WAYS.items():
        found[name] = [
            torch.tensor(accuracies(model, splits, options.chips, rate, way), dtype=torch.float64)
            for rate in RATES
        ]
        cells = [f"{values.mean():.1f} ({values.min():.1f})" for values in found[name]]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if options.plot is None:
        return
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharex=True)
    for name, rows in found.items():
        axes[0].plot(RATES, [float(values.mean()) for values in rows], marker="o", label=name)
        axes[1].plot(RATES, [100 * float((values >= 90).double().mean()) for values in rows], marker="o")
    axes[0].set(xscale="log", xlabel="stuck devices, fraction", ylabel="mean accuracy of chips, %")
    axes[1].set(xscale="log", xlabel="stuck devices, fraction", ylabel="chips of at least 90 %, %")
    axes[0].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(options.plot)


if __name__ == "__main__":
    main()
