"""Products of crossbars whose devices follow a current-voltage law, each vector at its operating point."""

from __future__ import annotations

import torch
from torch import Tensor

from neurosim.analog.operators import Layout
from neurosim.analog.wiring import array_of, blocks_of, interleaved, legs_of, resistances_of
from neurosim.devices import Hardware
from neurosim.devices.wires.laws import law_from
from neurosim.devices.wires.nonlinear import newton


def nonlinear_products(
    vectors: Tensor, plus: Tensor, minus: Tensor, layout: Layout, hardware: Hardware
) -> list[Tensor]:
    """What columns of each row part deliver, by Newton's method on the nodal equations of each vector.

        y = (I₊ − I₋) / (i(v_read; g_max) − i(v_read; g_min))

    In units of full input × one fully-on device, as the products of linear devices.

    Args:
        vectors: (vectors, groups, rows), inputs as fractions of full scale; word lines carry them × v_read.
        plus, minus: (columns, rows) siemens, the low-field conductances of one chip's devices.

    Returns:
        For each row part, (vectors, columns) float64.
    """
    wires, device = hardware.wires, hardware.device
    law = law_from(wires.law)
    volt = torch.tensor(wires.v_read_volt, dtype=torch.float64)
    ends = torch.tensor([device.g_min_siemens, device.g_max_siemens], dtype=torch.float64)
    low, high = law.current(volt, ends).tolist()
    legs = plus.clamp_min(0.0).double(), minus.clamp_min(0.0).double()
    width = layout.columns // layout.groups
    parts: list[list[Tensor]] = [[] for _ in layout.row_slices]
    for line in blocks_of(layout):
        for part, block in enumerate(line):
            arrays = array_of(legs, block, wires)
            v = vectors[:, block.cols.start // width, block.rows].double() * volt
            wired = resistances_of([block], wires, arrays[None], interleaved(wires, 2))
            amperes = newton(arrays, v.expand(len(arrays), *v.shape), law, wired.of(0), wires.topology)
            # (arrays, vectors, columns) → the two legs of each column
            one, other = legs_of(amperes, interleaved(wires, 2))
            parts[part].append((one - other).T / (high - low))
    return [torch.cat(columns, dim=1) for columns in parts]
