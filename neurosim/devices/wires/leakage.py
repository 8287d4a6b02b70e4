"""Half-select leakage: what an array wastes, and what the other cells suffer, while one cell is written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neurosim.devices.wires.laws import LINEAR, Law, Linear
from neurosim.devices.wires.nonlinear import solve_nonlinear
from neurosim.devices.wires.solution import Solution, solve
from neurosim.errors import UsageError, unknown

# voltage of unselected rows and unselected columns as fractions of the write voltage
SCHEMES: dict[str, tuple[float, float]] = {
    "V/2": (1 / 2, 1 / 2),
    "V/3": (1 / 3, 2 / 3),
    "grounded": (0.0, 0.0),
    "inhibited": (0.0, 1.0),
}


@dataclass(frozen=True)
class HalfSelect:
    """An array while cell (row, col) is written; leading axes (...) are those of the arrays.

    Attributes:
        selected_volt: across the selected cell: what wires and drivers leave of the write voltage.
        selected_ampere: through it.
        row_volt, col_volt: largest voltage across another cell of the selected row, of the selected column.
        other_volt: largest voltage across a cell of neither.
        leakage_ampere: sum of the magnitudes of the currents through all other cells.
        power_watt: all of it, wires and drivers included.
        useful: fraction of the power that the selected cell takes; 0 where nothing conducts.
    """

    selected_volt: Tensor
    selected_ampere: Tensor
    row_volt: Tensor
    col_volt: Tensor
    other_volt: Tensor
    leakage_ampere: Tensor
    power_watt: Tensor
    useful: Tensor


def half_select(
    g_siemens: Tensor,
    *,
    row: int,
    col: int,
    v_write_volt: float,
    scheme: str = "V/2",
    law: Law = LINEAR,
    r_row_ohm: float | Tensor,
    r_col_ohm: float | Tensor,
    r_source_ohm: float | Tensor = 0.0,
    r_sink_ohm: float | Tensor = 0.0,
    topology: str = "opposite",
) -> HalfSelect:
    """Write one cell of a passive array: ``v_write_volt`` on its row, 0 V on its column, others by a scheme.

    ``"V/2"``: all other lines at half the write voltage; cells that share a line with the selected one see
    V/2, the others nothing.  ``"V/3"``: other rows at V/3, other columns at 2V/3; every other cell sees V/3.
    ``"grounded"``: other lines at 0 V, as while a row is read.  ``"inhibited"``: other rows at 0 V, other
    columns at V, so that the other cells of the row see nothing: for 1T1R arrays, whose other rows are cut
    off (put the transistors in by :func:`gated`).

    Source: A. Chen, IEEE Trans. Electron Devices 60(4), 1318–1326, 2013, doi:10.1109/TED.2013.2246791.

    Args:
        g_siemens: (..., rows, cols).
        row, col: the selected cell.
        law: of all devices; a selector is what makes half-selected cells leak little.
        r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm, topology: as for
            :func:`neurosim.devices.wires.effective_conductance`; sense nodes are the columns' drivers.

    Raises:
        UsageError: no such cell, scheme or topology; a voltage, conductance or resistance out of range.

    >>> g = torch.full((8, 8), 1e-5, dtype=torch.float64)
    >>> found = half_select(g, row=0, col=7, v_write_volt=2.0, r_row_ohm=5.0, r_col_ohm=5.0)
    >>> print(f"{found.selected_volt.item():.3f} V arrive, {found.useful.item():.0%} of the power is of use")
    1.996 V arrive, 22% of the power is of use
    """
    if scheme not in SCHEMES:
        raise unknown("scheme", scheme, SCHEMES)
    if not isinstance(g_siemens, Tensor) or g_siemens.dim() < 2:
        raise UsageError("expected g_siemens as a tensor (..., rows, cols)")
    for name, place, size in (("row", row, g_siemens.shape[-2]), ("col", col, g_siemens.shape[-1])):
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < size:
            raise UsageError(f"expected {name} from 0 to {size - 1}; got {name}={place!r}")
    if (
        isinstance(v_write_volt, bool)
        or not isinstance(v_write_volt, int | float)
        or not 0 < v_write_volt < 1e3
    ):
        raise UsageError(f"expected a write voltage between 0 and 1000 V; got v_write_volt={v_write_volt!r}")
    v_row, v_col = _line_voltages(g_siemens, row, col, v_write_volt, scheme)
    wires = {"r_row_ohm": r_row_ohm, "r_col_ohm": r_col_ohm}
    ends = {"r_source_ohm": r_source_ohm, "r_sink_ohm": r_sink_ohm}
    if isinstance(law, Linear):
        state = solve(g_siemens, v_row, v_col_volt=v_col, topology=topology, **wires, **ends)
    else:
        found = solve_nonlinear(
            g_siemens, v_row, law, v_col_volt=v_col, topology=topology,
            r_row_ohm=r_row_ohm, r_col_ohm=r_col_ohm, r_source_ohm=r_source_ohm, r_sink_ohm=r_sink_ohm,
        )  # fmt: skip
        state = found.solution
    return _half_select(state, row, col)


def gated(g_siemens: Tensor, row: int, *, g_on_siemens: float, g_off_siemens: float) -> Tensor:
    """A 1T1R array while the transistors of one row conduct: each cell is g·g_t/(g + g_t).

    Args:
        g_siemens: (..., rows, cols), of the memory devices.
        row: whose gates are on.
        g_on_siemens: of a transistor that is on; g_off_siemens: of one that is off, its subthreshold leakage.

    Raises:
        UsageError: not 0 ≤ g_off < g_on, or no such row.

    >>> cells = gated(torch.full((2, 2), 1e-4), 1, g_on_siemens=1e-3, g_off_siemens=1e-12)
    >>> print((cells * 1e6).numpy().round(3))
    [[ 0.     0.   ]
     [90.909 90.909]]
    """
    if not 0 <= g_off_siemens < g_on_siemens < float("inf"):
        raise UsageError(
            f"expected 0 <= g_off_siemens < g_on_siemens; got g_off_siemens={g_off_siemens!r}, "
            f"g_on_siemens={g_on_siemens!r}"
        )
    rows = g_siemens.shape[-2]
    if not 0 <= row < rows:
        raise UsageError(f"expected row from 0 to {rows - 1}; got row={row!r}")
    transistor = g_siemens.new_full((rows, 1), g_off_siemens)
    transistor[row] = g_on_siemens
    total = g_siemens + transistor
    return torch.where(total > 0, g_siemens * transistor / total, torch.zeros_like(total))


def _line_voltages(g: Tensor, row: int, col: int, volt: float, scheme: str) -> tuple[Tensor, Tensor]:
    """(..., 1, rows) and (..., 1, cols)."""
    of_row, of_col = SCHEMES[scheme]
    v_row = g.new_full((*g.shape[:-2], 1, g.shape[-2]), of_row * volt)
    v_col = g.new_full((*g.shape[:-2], 1, g.shape[-1]), of_col * volt)
    v_row[..., row] = volt
    v_col[..., col] = 0.0
    return v_row, v_col


def _half_select(state: Solution, row: int, col: int) -> HalfSelect:
    across = (state.word_line_volt - state.bit_line_volt).squeeze(-3)
    current, power = state.device_ampere.squeeze(-3), state.power_watt.squeeze(-1)
    magnitude = across.abs()
    selected_volt, selected = across[..., row, col], current[..., row, col]
    same_row, same_col = magnitude[..., row, :].clone(), magnitude[..., :, col].clone()
    same_row[..., col], same_col[..., row] = 0.0, 0.0
    others = magnitude.clone()
    others[..., row, :], others[..., :, col] = 0.0, 0.0
    return HalfSelect(
        selected_volt=selected_volt,
        selected_ampere=selected,
        row_volt=same_row.amax(-1),
        col_volt=same_col.amax(-1),
        other_volt=others.amax((-2, -1)),
        leakage_ampere=current.abs().sum((-2, -1)) - selected.abs(),
        power_watt=power,
        useful=torch.where(power > 0, selected_volt * selected / power, torch.zeros_like(power)),
    )
