"""Error of linearised devices against Newton's method, in per cent of the rms current: docs/wires.md.

    python benchmarks/linearisation.py

64x64 cells of 50 to 110 uS, 2 ohm a cell, 50 ohm at the ends, 100 random inputs, operating point at
their rms.
"""

from __future__ import annotations

import torch

from neurosim.devices.wires import linearisation_error
from neurosim.devices.wires.laws import law_from

LAWS = (
    "milo-rram",
    "sinh",
    "1T1R(beta_ampere_per_volt2=3e-4, overdrive_volt=0.5)",
    "selector(i0_ampere=1e-6, v0_volt=0.1)",
)
OHM = {"r_row_ohm": 2.0, "r_col_ohm": 2.0, "r_source_ohm": 50.0, "r_sink_ohm": 50.0}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    g = 50e-6 + 60e-6 * torch.rand(64, 64, dtype=torch.float64, generator=generator)
    inputs = torch.rand(100, 64, dtype=torch.float64, generator=generator)
    for name in LAWS:
        for most in (0.2, 0.5):
            v = most * inputs
            point = v.square().mean(0).sqrt()
            for kind in ("chord", "tangent", "low-field"):
                error = linearisation_error(g, v, law_from(name), operating_volt=point, kind=kind, **OHM)
                print(f"{name}, up to {most:g} V, {kind}: {100 * float(error):.2g} %", flush=True)


if __name__ == "__main__":
    main()
