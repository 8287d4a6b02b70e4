"""The circuits around the arrays of a crossbar, as they are on each chip: gains, offsets, converters."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from neurosim.analog.operators import Layout
from neurosim.analog.realised import Realised
from neurosim.devices import Hardware
from neurosim.devices.adc import ADCS, columns_of
from neurosim.random import Draws


def with_periphery(
    realised: Realised, hardware: Hardware, layout: Layout, draws: Draws, unit: float
) -> Realised:
    """What chips hold, behind drivers and in front of amplifiers and ADCs that differ.

    Args:
        realised: what the devices are through their wires.
        hardware: of the layer.
        layout: where its columns and rows lie.
        draws: of the crossbar on the chips wanted.
        unit: full scale of the input: a fully-on device at full input delivers it.
    """
    found = realised
    if hardware.adc.mismatched:
        found = dataclasses.replace(
            found, converters=_converters(hardware, layout, draws, found.gain.shape[1])
        )
    around = hardware.periphery
    if around.row_gain_std or around.column_gain_std:
        parts = len(layout.row_slices)
        matrices = tuple(
            torch.cat(
                [
                    matrix[:, :, rows] * _gains(hardware, layout, draws, s * parts + r, rows)
                    for r, rows in enumerate(layout.row_slices)
                ],
                dim=2,
            )
            for s, matrix in enumerate(found.matrices)
        )
        found = dataclasses.replace(found, matrices=matrices)
    if around.column_offset_std:
        n = draws.normal("column offsets", (found.gain.shape[1], layout.columns))
        found = dataclasses.replace(found, offsets=n * (around.column_offset_std * unit))
    return found


def _gains(hardware: Hardware, layout: Layout, draws: Draws, part: int, rows: slice) -> Tensor:
    """Of the word and bit lines of a part, (chips, columns, rows): a tile's word lines serve its columns."""
    around, count = hardware.periphery, rows.stop - rows.start
    of_rows = draws.normal(f"row gains[{part}]", (len(layout.col_ranges), count))
    of_columns = draws.normal(f"column gains[{part}]", (layout.columns,))
    widths = torch.tensor([right - left for left, right in layout.col_ranges], device=of_rows.device)
    by_column = torch.repeat_interleave(of_rows, widths, dim=1)
    return (1.0 + around.row_gain_std * by_column) * (1.0 + around.column_gain_std * of_columns)[..., None]


def _converters(
    hardware: Hardware, layout: Layout, draws: Draws, parts: int
) -> tuple[dict[str, Tensor], ...]:
    columns = columns_of(layout.col_ranges, hardware.adc)
    architecture = ADCS[hardware.adc.kind]
    return tuple(architecture.drawn(hardware.adc, columns, draws, part) for part in range(parts))
