"""Mismatch below threshold: CV of a current against area, and time constants of chips at three temperatures.

    python studies/subthreshold.py [--plot docs/images/subthreshold.svg]

Prints, in Markdown, what transistors of open process kits do to a current, and what a chip's temperature
does to the membranes of 4,096 neurons, each with the mismatch that ``dynapse-se2`` states.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import neurosim as ns
from neurosim.devices.subthreshold import PROCESSES, Transistor, heated
from neurosim.random import Draws

AREAS_UM2 = (0.5, 1.0, 4.0, 16.0)
CELSIUS = (-40.0, 27.0, 85.0)
NEURONS, TAU_S = 4096, 0.02


def transistor(process: str, area_um2: float) -> Transistor:
    """A square one, of this area in the law."""
    kind, side_m = PROCESSES[process], area_um2**0.5 * 1e-6
    return Transistor(process, side_m - kind.width_offset_m, side_m - kind.length_offset_m)


def time_constants_s(celsius: float) -> np.ndarray:
    """τ of the neurons of one chip: the same chip at every temperature."""
    chip = heated(ns.hardware("dynapse-se2"), 273.15 + celsius)
    spread = chip.spread_of("neurons.tau_mem_s")
    assert spread is not None
    return spread.sample(torch.full((NEURONS,), TAU_S), Draws(0, (0,), "neurons.tau_mem_s"))[0].numpy()


def tables() -> None:
    print("| transistor | σ(V_T), mV·µm | " + " | ".join(f"{a:g} µm²" for a in AREAS_UM2) + " |")
    print("|---|---|" + "---|" * len(AREAS_UM2))
    for name, kind in PROCESSES.items():
        cvs = (f"{100 * transistor(name, area).cv():.1f} %" for area in AREAS_UM2)
        print(f"| `{name}` | {kind.a_vt_volt_m * 1e9:.2f} | " + " | ".join(cvs) + " |")
    print("\n| temperature | mean of τ, ms | CV | middle 90 %, ms |\n|---|---|---|---|")
    for celsius in CELSIUS:
        tau = 1e3 * time_constants_s(celsius)
        low, high = np.percentile(tau, (5, 95))
        cv = 100 * tau.std() / tau.mean()
        print(f"| {celsius:g} °C | {tau.mean():.1f} | {cv:.1f} % | {low:.1f} to {high:.1f} |")


def plot(path: Path) -> None:
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "subthreshold"
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    areas = np.geomspace(0.4, 50, 60)
    for name in PROCESSES:
        dashed = "--" if "pfet" in name else "-"
        left.loglog(areas, [100 * transistor(name, a).cv() for a in areas], dashed, label=name)
    left.axhline(20, color="0.6", linewidth=0.8)
    left.set(xlabel="gate area W·L, µm²", ylabel="CV of a current below threshold at 300 K, %")
    left.legend(frameon=False, fontsize=7)
    left.grid(alpha=0.3, which="both")
    edges = np.linspace(5, 45, 81)
    for celsius, colour in zip(CELSIUS, ("tab:blue", "0.4", "tab:red"), strict=True):
        right.hist(
            1e3 * time_constants_s(celsius), edges, histtype="step", color=colour, label=f"{celsius:g} °C"
        )
    right.axvline(1e3 * TAU_S, color="0.6", linewidth=0.8)
    right.set(xlabel="membrane time constant, ms (20 ms wanted)", ylabel="neurons of one chip")
    right.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    tables()
    if options.plot is not None:
        plot(options.plot)


if __name__ == "__main__":
    main()
