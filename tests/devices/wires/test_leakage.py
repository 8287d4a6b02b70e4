"""Half-select leakage: closed forms of ideal wires, Kirchhoff with real ones, power, selectors, gates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from neurosim.devices.wires.laws import Selector
from neurosim.devices.wires.leakage import SCHEMES, gated, half_select
from neurosim.errors import UsageError

IDEAL = {"r_row_ohm": 0.0, "r_col_ohm": 0.0}
V, G = 1.5, 2e-5


def equal(rows: int, cols: int) -> Tensor:
    return torch.full((rows, cols), G, dtype=torch.float64)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (2, 5), (7, 4)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_ideal_wires_give_the_closed_form(rows: int, cols: int, scheme: str) -> None:
    found = half_select(equal(rows, cols), row=rows - 1, col=0, v_write_volt=V, scheme=scheme, **IDEAL)
    same_row, same_col, rest = cols - 1, rows - 1, (rows - 1) * (cols - 1)
    # volts across cells of the selected row, of the selected column, of neither
    volts = {
        "V/2": (V / 2, V / 2, 0.0), "V/3": (V / 3, V / 3, V / 3), "grounded": (V, 0.0, 0.0),
        "inhibited": (0.0, 0.0, V),
    }[scheme]  # fmt: skip
    leak = G * (same_row * volts[0] + same_col * volts[1] + rest * volts[2])
    power = G * (V**2 + same_row * volts[0] ** 2 + same_col * volts[1] ** 2 + rest * volts[2] ** 2)
    expected = {
        "selected_volt": V, "selected_ampere": G * V, "leakage_ampere": leak, "power_watt": power,
        "row_volt": volts[0] if same_row else 0.0, "col_volt": volts[1] if same_col else 0.0,
        "other_volt": volts[2] if rest else 0.0, "useful": G * V**2 / power,
    }  # fmt: skip
    for name, value in expected.items():
        # an ideal wire is one of 1e-14 of the array's resistance
        assert getattr(found, name).item() == pytest.approx(value, rel=1e-9, abs=1e-12 * V), name


def dense(g: np.ndarray, v_row: np.ndarray, v_col: np.ndarray, ohm: float) -> tuple[np.ndarray, np.ndarray]:
    """Voltages of both nodes of each cell by Kirchhoff's law; rows driven left, columns at the bottom."""
    rows, cols = g.shape
    count = rows * cols
    matrix, right, wire = np.zeros((2 * count, 2 * count)), np.zeros(2 * count), 1 / ohm

    def join(a: int, b: int, siemens: float) -> None:
        matrix[[a, b], [a, b]] += siemens
        matrix[[a, b], [b, a]] -= siemens

    for i in range(rows):
        for j in range(cols):
            w, b = i * cols + j, count + i * cols + j
            join(w, b, g[i, j])
            if j:
                join(w - 1, w, wire)
            if i:
                join(b - cols, b, wire)
        matrix[i * cols, i * cols] += wire
        right[i * cols] += wire * v_row[i]
    for j in range(cols):
        last = 2 * count - cols + j
        matrix[last, last] += wire
        right[last] += wire * v_col[j]
    volts = np.linalg.solve(matrix, right)
    return volts[:count].reshape(rows, cols), volts[count:].reshape(rows, cols)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_resistive_wires_agree_with_kirchhoff(scheme: str) -> None:
    g = torch.from_numpy(np.random.default_rng(1).uniform(1e-5, 1e-3, (6, 5)))
    row, col, ohm = 4, 3, 50.0
    found = half_select(g, row=row, col=col, v_write_volt=V, scheme=scheme, r_row_ohm=ohm, r_col_ohm=ohm)
    fractions = {"V/2": (0.5, 0.5), "V/3": (1 / 3, 2 / 3), "grounded": (0.0, 0.0), "inhibited": (0.0, 1.0)}
    of_row, of_col = fractions[scheme]
    v_row, v_col = np.full(6, of_row * V), np.full(5, of_col * V)
    v_row[row], v_col[col] = V, 0.0
    word, bit = dense(g.numpy(), v_row, v_col, ohm)
    across = word - bit
    current = g.numpy() * across
    # power is v·i at every end of a line
    power = float(v_row @ current.sum(1) - v_col @ current.sum(0))
    magnitude = np.abs(across)
    others = np.delete(np.delete(magnitude, row, 0), col, 1).max()
    expected = {
        "selected_volt": across[row, col], "selected_ampere": current[row, col], "power_watt": power,
        "row_volt": np.delete(magnitude[row], col).max(), "col_volt": np.delete(magnitude[:, col], row).max(),
        "other_volt": others, "leakage_ampere": np.abs(current).sum() - abs(current[row, col]),
        "useful": across[row, col] * current[row, col] / power,
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(found, name).item() == pytest.approx(value, rel=1e-9), name
    assert found.selected_volt < V


def test_a_selector_silences_half_selected_cells() -> None:
    g, wires = torch.full((16, 16), 1e-4, dtype=torch.float64), {"r_row_ohm": 2.0, "r_col_ohm": 2.0}
    bare = half_select(g, row=3, col=3, v_write_volt=1.0, **wires)
    chosen = half_select(g, row=3, col=3, v_write_volt=1.0, law=Selector(), **wires)
    # of 30 half-selected cells each carries 1/82 of the selected one's current (the law's own docstring)
    assert chosen.leakage_ampere / chosen.selected_ampere == pytest.approx(30 / 82, rel=0.05)
    assert bare.leakage_ampere / bare.selected_ampere == pytest.approx(15, rel=0.05)
    assert chosen.useful > 0.7 > 0.3 > bare.useful


def test_gates_cut_unselected_rows_off() -> None:
    g = torch.from_numpy(np.random.default_rng(2).uniform(1e-5, 1e-4, (2, 4, 3)))
    cells = gated(g, 1, g_on_siemens=1e-3, g_off_siemens=1e-12)
    assert torch.allclose(cells[:, 1], 1 / (1 / g[:, 1] + 1e3), rtol=1e-12)
    assert torch.allclose(cells[:, [0, 2, 3]], 1 / (1 / g[:, [0, 2, 3]] + 1e12), rtol=1e-12)
    found = half_select(cells, row=1, col=2, v_write_volt=V, scheme="grounded", r_row_ohm=1.0, r_col_ohm=1.0)
    assert found.selected_volt.shape == (2,)
    # a read row leaks into its other columns only; the rows that are off carry picoamperes
    row_leak = (cells[:, 1, :2] * V).sum(-1)
    assert torch.allclose(found.leakage_ampere, row_leak, rtol=1e-3)
    written = half_select(
        cells, row=1, col=2, v_write_volt=V, scheme="inhibited", r_row_ohm=1.0, r_col_ohm=1.0
    )
    assert bool((written.row_volt < 1e-3 * V).all())
    assert bool((written.leakage_ampere < 1e-3 * written.selected_ampere).all())
    nothing = half_select(torch.zeros(2, 2), row=0, col=0, v_write_volt=V, r_row_ohm=1.0, r_col_ohm=1.0)
    assert (nothing.useful.item(), nothing.power_watt.item()) == (0.0, 0.0)
    assert gated(torch.zeros(2, 2), 0, g_on_siemens=1.0, g_off_siemens=0.0).equal(torch.zeros(2, 2))


def test_wrong_use_is_named() -> None:
    g = equal(3, 4)
    for change, sentence in (
        ({"scheme": "V/4"}, "unknown scheme 'V/4'"),
        ({"row": 3}, "expected row from 0 to 2; got row=3"),
        ({"col": True}, "expected col from 0 to 3; got col=True"),
        ({"v_write_volt": 0.0}, "expected a write voltage between 0 and 1000 V; got v_write_volt=0.0"),
        ({"topology": "left"}, "unknown topology 'left'"),
        ({"r_row_ohm": -1.0}, "got r_row_ohm=-1.0"),
    ):
        with pytest.raises(UsageError, match=sentence):
            half_select(g, **{"row": 0, "col": 0, "v_write_volt": 1.0, **IDEAL, **change})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected 0 <= g_off_siemens < g_on_siemens"):
        gated(g, 0, g_on_siemens=1e-6, g_off_siemens=1e-3)
    with pytest.raises(UsageError, match="expected row from 0 to 2; got row=5"):
        gated(g, 5, g_on_siemens=1e-3, g_off_siemens=0.0)
