"""Devices of a current-voltage law, alone and in arrays: closed forms, a dense Newton, ngspice.

ngspice here solves the same laws as behavioural sources, the selector and the transistor also as circuits of
their own: a resistor in series with a diode-like source, and with a MOSFET of its level 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from neurosim.devices.wires import TOPOLOGIES, effective_conductance, nonlinear, solve
from neurosim.devices.wires.laws import (
    LAWS,
    LINEAR,
    Cubic,
    Law,
    Linear,
    MiloRram,
    OneTransistor,
    Selector,
    Sinh,
)
from neurosim.devices.wires.nonlinear import (
    linearisation_error,
    linearised_conductance,
    newton,
    solve_nonlinear,
)
from neurosim.errors import RunError, UsageError

from . import kirchhoff, spice

F64 = torch.float64
NGSPICE = pytest.mark.skipif(not spice.available(), reason=spice.ABSENT)
WIRES: dict[str, dict[str, float]] = {
    "ordinary": {"r_row_ohm": 1.1, "r_col_ohm": 1.7},
    "all": {"r_row_ohm": 25.0, "r_col_ohm": 3.0, "r_source_ohm": 500.0, "r_sink_ohm": 200.0},
    "ends only": {"r_row_ohm": 0.0, "r_col_ohm": 0.0, "r_source_ohm": 1000.0, "r_sink_ohm": 300.0},
    "huge": {"r_row_ohm": 1e5, "r_col_ohm": 1e4},
}
STEEP: dict[str, Law] = {
    "linear": LINEAR,
    "cubic": Cubic(a2_per_volt2=30.0),
    "cubic, even term": Cubic(a1_per_volt=0.5, a2_per_volt2=2.0),
    "milo-rram": MiloRram(),
    "sinh": Sinh(),
    "sinh, steep": Sinh(v0_volt=0.05),
    "selector": Selector(),
    "selector, steep": Selector(i0_ampere=1e-12, v0_volt=0.03),
    "1T1R": OneTransistor(),
    "1T1R, saturated": OneTransistor(beta_ampere_per_volt2=1e-4, overdrive_volt=0.2, lambda_per_volt=1e-4),
}


def drawn(*shape: int, seed: int = 3, least: float = 1e-6) -> Tensor:
    """Conductances up to 0.1 mS, some cells open."""
    draw = np.random.default_rng(seed)
    g = 10 ** draw.uniform(math.log10(least), -4, shape)
    return torch.tensor(np.where(draw.random(shape) < 0.1, 0.0, g))


def volts(*shape: int, seed: int = 4, most: float = 1.0) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).uniform(-most, most, shape))


def near(found: Tensor, expected: Any, relative: float, scale: float | None = None) -> None:
    """To a part of the largest value, or of ``scale``."""
    expected = torch.as_tensor(np.asarray(expected), dtype=F64)
    assert found.shape == expected.shape
    scale = float(expected.abs().max()) if scale is None else scale
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=relative * scale)


# ---- laws: what every row of LAWS and every choice of constants obeys ----


@pytest.mark.parametrize("law", [*(made() for made in LAWS.values()), *STEEP.values()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_law_is_a_law(law: Law, dtype: torch.dtype) -> None:
    v = torch.arange(-40, 41, dtype=dtype) / 20
    g = torch.logspace(-8, -3, 11, dtype=dtype)[:, None]
    current, slope = law.current(v, g), law.slope(v, g)
    assert current.dtype == slope.dtype == dtype
    assert current.shape == slope.shape == (11, 81)
    assert bool(current.isfinite().all() & slope.isfinite().all())
    assert bool((slope > 0).all())
    assert bool((current.diff(dim=1) > 0).all())
    assert not current[:, 40].any()
    assert all(torch.equal(a, b) for a, b in zip(law.both(v, g), (current, slope), strict=True))
    odd = torch.allclose(current, -current.flip(1), rtol=1e-6, atol=0)
    assert odd == law.odd
    open_device = torch.zeros(1, dtype=dtype)
    assert not law.current(v, open_device).any() and not law.slope(v, open_device).any()
    double = law.current(v.double(), g.double())
    # steepness multiplies the rounding of the voltage
    torch.testing.assert_close(current.double(), double, rtol=1e-4 if dtype == torch.float32 else 0, atol=0)


@pytest.mark.parametrize("law", [*(made() for made in LAWS.values()), *STEEP.values()], ids=repr)
def test_the_slope_is_the_derivative(law: Law) -> None:
    v, g, h = torch.linspace(-1.3, 1.3, 400, dtype=F64), torch.logspace(-7, -3, 9, dtype=F64)[:, None], 1e-6
    measured = (law.current(v + h, g) - law.current(v - h, g)) / (2 * h)
    torch.testing.assert_close(law.slope(v, g), measured, rtol=3e-5, atol=0)


@pytest.mark.parametrize("name", LAWS)
def test_the_slope_at_rest_is_that_of_parts_in_series(name: str) -> None:
    g = torch.logspace(-7, -3, 9, dtype=F64)
    law = LAWS[name]()
    other = {"selector": 1e-9 / 0.1, "1T1R": 1e-3 * (1.0 + 0.5 * 0.01)}.get(name, math.inf)
    torch.testing.assert_close(law.slope(torch.zeros_like(g), g), 1 / (1 / g + 1 / other))


positive = st.floats(0.02, 3.0)
laws = st.one_of(
    st.builds(Cubic, st.just(0.0), st.floats(0.0, 1e3), positive),
    st.builds(Cubic, st.floats(-0.5, 0.5), st.floats(0.5, 10.0), positive),
    st.builds(Sinh, positive),
    st.builds(Selector, st.floats(1e-15, 1e-3), positive),
    st.builds(OneTransistor, st.floats(1e-6, 1e-1), positive, st.floats(1e-6, 0.1)),
)


@given(laws, st.floats(1e-9, 1e-2), st.floats(-4.0, 4.0), st.floats(1e-3, 1.0))
def test_laws_rise_and_keep_their_parity(law: Law, g: float, volt: float, more: float) -> None:
    v = torch.tensor([volt, volt + more, -volt], dtype=F64)
    low, high, mirrored = law.current(v, torch.tensor(g, dtype=F64)).tolist()
    assert low < high
    assert not law.odd or mirrored == -low
    assert bool((law.slope(v, torch.tensor(g, dtype=F64)) > 0).all())


def test_wide_laws_are_linear() -> None:
    v, g = torch.linspace(-1, 1, 21, dtype=F64), torch.tensor(1e-5, dtype=F64)
    for law in (
        Linear(),
        Sinh(v0_volt=1e5),
        Cubic(a2_per_volt2=1e-10),
        OneTransistor(beta_ampere_per_volt2=1e5, overdrive_volt=1e2, lambda_per_volt=1e-9),
        Selector(i0_ampere=1e9, v0_volt=1e4),
    ):
        torch.testing.assert_close(law.current(v, g), g * v, rtol=1e-9, atol=0)


def test_milo_is_crosssims_polynomial() -> None:
    """Coefficients copied from the table in simulator/devices/custom/RRAM_Milo.py, highest power first."""
    g, v = np.array([62.5e-6, 93.9e-6, 200e-6]), np.array([[-0.5], [-0.2], [0.1], [0.5]])
    n2 = np.polyval([0.0001388, 0.001541, 0.005711, 0.007063], np.log10(g))
    n3 = np.polyval([8.8710e-05, 6.7919e-04, 1.2968e-03], np.log10(g))
    near(MiloRram().current(torch.tensor(v), torch.tensor(g)), g * v + n2 * v**2 + n3 * v**3, 1e-13)
    beyond = (
        MiloRram().current(torch.tensor([0.5, 0.6, 0.7], dtype=F64), torch.tensor(1e-4, dtype=F64)).diff()
    )
    assert beyond[0].item() == pytest.approx(beyond[1].item(), rel=1e-12)


@pytest.mark.parametrize("law", [Selector(), Selector(1e-12, 0.03), Selector(1e-3, 0.5)], ids=repr)
def test_selector_and_memory_share_the_voltage(law: Selector) -> None:
    """v = i/g + v0·asinh(i/i0): the inverse law, in closed form."""
    v, g = torch.linspace(0.01, 3.0, 300, dtype=F64), torch.logspace(-9, -2, 8, dtype=F64)[:, None]
    i = law.current(v, g)
    back = i / g + law.v0_volt * (i / law.i0_ampere).asinh()
    torch.testing.assert_close(back, v.expand_as(back), rtol=1e-14, atol=0)


@pytest.mark.parametrize("law", [OneTransistor(), OneTransistor(1e-4, 0.3, 1e-6)], ids=repr)
def test_transistor_and_memory_carry_the_same(law: OneTransistor) -> None:
    beta, over = law.beta_ampere_per_volt2, law.overdrive_volt
    out = law.lambda_per_volt * beta * over**2 / 2

    def transistor(y: float) -> float:
        return beta * (over * min(y, over) - min(y, over) ** 2 / 2) + out * y

    for g in (1e-7, 1e-5, 1e-3, 1e-1):
        for v in (1e-3, 0.1, 0.5, 2.0):
            y = brentq(lambda y, g=g, v=v: transistor(y) - g * (v - y), 0.0, v, xtol=1e-17, rtol=1e-14)
            found = law.current(torch.tensor(v, dtype=F64), torch.tensor(g, dtype=F64)).item()
            assert found == pytest.approx(transistor(y), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Sinh(v0_volt=0.0), "expected a finite number above 0; got v0_volt=0.0"),
        (lambda: Sinh(v0_volt=True), "got v0_volt=True"),
        (lambda: Selector(i0_ampere=-1.0), "expected a finite number above 0; got i0_ampere=-1.0"),
        (
            lambda: OneTransistor(lambda_per_volt=0.0),
            "expected a finite number above 0; got lambda_per_volt=0",
        ),
        (lambda: Cubic(a2_per_volt2=math.nan), "expected a finite number; got a2_per_volt2=nan"),
        (lambda: Cubic(v_limit_volt=-1.0), "expected a finite number above 0; got v_limit_volt=-1.0"),
        (lambda: Cubic(a2_per_volt2=-1.0), "expected a current that rises within ±v_limit_volt=1; with"),
        (lambda: Cubic(a1_per_volt=-1.8, a2_per_volt2=1.0), "its slope falls to -0.08 of g"),
    ],
)
def test_impossible_constants_are_named(make: Callable[[], Law], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert sentence in str(caught.value)


# ---- arrays: a dense Newton on Kirchhoff's laws, and closed forms ----


def device_of(law: Law, g: Tensor) -> kirchhoff.Device:
    def device(v: kirchhoff.Array) -> tuple[kirchhoff.Array, kirchhoff.Array]:
        current, slope = law.both(torch.tensor(v), g)
        return current.numpy(), slope.numpy()

    return device


@pytest.mark.parametrize("law", STEEP.values(), ids=STEEP)
@pytest.mark.parametrize("wires", WIRES)
def test_arrays_agree_with_a_dense_newton(law: Law, wires: str) -> None:
    for shape, topology in zip([(1, 1), (5, 3), (6, 7), (2, 9)], TOPOLOGIES, strict=True):
        g, v = drawn(*shape), volts(2, shape[0])
        found = solve_nonlinear(g, v, law, topology=topology, **WIRES[wires])
        for k in range(2):
            expected = kirchhoff.newton(
                device_of(law, g), v[k].numpy(), shape[1], topology=topology, **WIRES[wires]
            )
            largest = float(found.solution.device_ampere[k].abs().max())
            near(found.solution.word_line_volt[k], expected.w, 1e-9, 1.0)
            near(found.solution.bit_line_volt[k], expected.b, 1e-9, 1.0)
            near(found.solution.column_ampere[k], expected.currents, 1e-9, largest)


@pytest.mark.parametrize("law", STEEP.values(), ids=STEEP)
def test_ideal_wires_leave_the_law_itself(law: Law) -> None:
    g, v_row, v_col = drawn(2, 4, 3), volts(2, 5, 4), volts(2, 5, 3, seed=9)
    found = solve_nonlinear(g, v_row, law, v_col_volt=v_col, r_row_ohm=0.0, r_col_ohm=0.0)
    across = v_row[..., :, None] - v_col[..., None, :]
    assert torch.equal(found.solution.device_ampere, law.current(across, g[:, None]))
    assert torch.equal(found.device_volt, across)
    assert not found.iterations.any() and not found.residual.any()
    # and so do wires of next to no resistance
    across *= 0.2
    wired = solve_nonlinear(g, 0.2 * v_row, law, v_col_volt=0.2 * v_col, r_row_ohm=1e-12, r_col_ohm=0.0)
    near(wired.solution.device_ampere, law.current(across, g[:, None]), 1e-9)


@pytest.mark.parametrize("volt", [0.3, 1.5, 3.0])
def test_one_cell_between_resistors(volt: float) -> None:
    """v = i·R + v0·asinh(i/(g·v0))."""
    g, v0, ohm = 1e-4, 0.07, 25.0 + 500.0 + 3.0 + 200.0
    expected = brentq(lambda i: i * ohm + v0 * math.asinh(i / (g * v0)) - volt, 0, volt / ohm, xtol=1e-20)
    found = solve_nonlinear(
        torch.full((1, 1), g, dtype=F64), torch.full((1, 1), volt, dtype=F64), Sinh(v0), **WIRES["all"]
    )
    assert found.solution.column_ampere.item() == pytest.approx(expected, rel=1e-11)


def test_a_linear_law_is_solve() -> None:
    g, v_row, v_col = drawn(2, 3, 5, 4), volts(2, 3, 6, 5), volts(2, 3, 6, 4, seed=8)
    for law in (LINEAR, Sinh(v0_volt=1e6)):
        found = solve_nonlinear(g, v_row, law, v_col_volt=v_col, topology="same", **WIRES["all"])
        expected = solve(g, v_row, v_col_volt=v_col, topology="same", **WIRES["all"])
        for name, value in vars(expected).items():
            near(getattr(found.solution, name), value, 1e-11)
        assert found.residual.shape == found.iterations.shape == (2, 3, 6)
        assert found.iterations.max() == 1


@pytest.mark.parametrize("law", STEEP.values(), ids=STEEP)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_power_is_conserved(law: Law, dtype: torch.dtype) -> None:
    """What sources deliver is what devices and, segment by segment, wires take."""
    g, v = drawn(5, 6).to(dtype), volts(3, 5).to(dtype)
    row, col, source, sink = 25.0, 3.0, 500.0, 200.0
    found = solve_nonlinear(g, v, law, **WIRES["all"]).solution
    w, b = found.word_line_volt.double(), found.bit_line_volt.double()
    wires = (w.diff(dim=2) ** 2 / row).sum((1, 2)) + (b.diff(dim=1) ** 2 / col).sum((1, 2))
    wires += ((v - w[:, :, 0]) ** 2 / (row + source)).sum(1) + (b[:, -1] ** 2 / (col + sink)).sum(1)
    rtol = 1e-9 if dtype == F64 else 1e-5
    torch.testing.assert_close(
        found.power_watt.double(), found.device_watt.double() + wires, rtol=rtol, atol=0
    )


@pytest.mark.parametrize("law", STEEP.values(), ids=STEEP)
def test_float32_follows_float64(law: Law) -> None:
    g, v = drawn(9, 7), volts(4, 9)
    exact = solve_nonlinear(g, v, law, **WIRES["all"])
    found = solve_nonlinear(g.float(), v.float(), law, **WIRES["all"])
    assert found.solution.column_ampere.dtype == found.residual.dtype == torch.float32
    largest = float(exact.solution.device_ampere.abs().max())
    near(found.solution.column_ampere, exact.solution.column_ampere, 2e-5, largest)


def test_the_residual_is_the_distance_of_law_and_current() -> None:
    g, v = drawn(6, 5), volts(3, 6)
    found = solve_nonlinear(g, v, Sinh(0.2), tolerance=0.2, **WIRES["all"])
    current = found.solution.device_ampere
    off = (Sinh(0.2).current(found.device_volt, g) - current).abs()
    torch.testing.assert_close(found.residual, off.amax((1, 2)) / current.abs().amax((1, 2)))
    assert 1e-6 < found.residual.max() <= 0.2


def test_open_arrays_and_no_voltage() -> None:
    g, v = drawn(4, 3), volts(2, 4)
    v[1] = 0.0
    still = solve_nonlinear(g, v, Sinh(), **WIRES["all"]).solution
    assert not still.device_ampere[1].any() and still.device_ampere[0].any()
    none = solve_nonlinear(torch.zeros_like(g), v, Selector(), **WIRES["all"])
    assert not none.solution.device_ampere.any() and not none.residual.any()
    for wires in (WIRES["all"], {"r_row_ohm": 0.0, "r_col_ohm": 0.0}):
        no_array = solve_nonlinear(g[None][:0], v[None][:0], Sinh(), **wires)
        assert no_array.solution.column_ampere.shape == (0, 2, 3)
        no_input = solve_nonlinear(g, v[:0], Sinh(), **wires)
        assert no_input.solution.column_ampere.shape == (0, 3)


# ---- Newton's method: convergence, starts, batches ----


@pytest.mark.parametrize("v0", [0.05, 0.025, 0.01])
@pytest.mark.parametrize("most", [0.5, 1.5])
def test_steep_laws_converge(v0: float, most: float) -> None:
    g, v = drawn(7, 8), volts(3, 7, most=most)
    v[0] = most
    for law in (Sinh(v0), Selector(1e-12, v0)):
        for wires in WIRES.values():
            found = solve_nonlinear(g, v, law, **wires)
            assert found.iterations.max() <= 25
            assert found.residual.max() <= 1e-10


def saturated() -> tuple[Tensor, Tensor, Law, dict[str, float]]:
    """Rows that saturate against one another through large sinks: limiting alone would cycle."""
    torch.manual_seed(0)
    for _ in range(18):
        g, v = torch.rand(4, 4, dtype=F64) * 0.0326, (torch.rand(4, 4, dtype=F64) * 2 - 1) * 1.12
        v[2:] = 1.12
    law = OneTransistor(0.096, 0.0861, 0.00177)
    return g, v, law, {"r_row_ohm": 0.097, "r_col_ohm": 1.27, "r_sink_ohm": 4467.0}


def test_saturated_devices_do_not_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    g, v, law, wires = saturated()
    found = solve_nonlinear(g, v, law, **wires)
    assert 20 < found.iterations.max() < 30
    for k in range(4):
        expected = kirchhoff.newton(device_of(law, g), v[k].numpy(), 4, **wires)  # type: ignore[arg-type]
        near(found.solution.word_line_volt[k], expected.w, 1e-8, 1.0)
    monkeypatch.setattr(nonlinear, "_LIMITED_STEPS", 10**6)
    with pytest.raises(RunError, match="after max_iterations=60 with a residual of"):
        solve_nonlinear(g, v, law, max_iterations=60, **wires)


@pytest.mark.parametrize("law", STEEP.values(), ids=STEEP)
def test_shortened_steps_alone_converge_too(law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    g, v = drawn(6, 5), volts(3, 6)
    expected = solve_nonlinear(g, v, law, **WIRES["all"]).solution.word_line_volt
    monkeypatch.setattr(nonlinear, "_LIMITED_STEPS", 1)
    near(solve_nonlinear(g, v, law, **WIRES["all"]).solution.word_line_volt, expected, 1e-9, 1.0)


@pytest.mark.parametrize("law", STEEP.values(), ids=STEEP)
def test_a_near_start_saves_iterations(law: Law) -> None:
    g, v = drawn(8, 8), volts(3, 8)
    cold = solve_nonlinear(g, v, law, **WIRES["all"])
    same = solve_nonlinear(g, v, law, start=cold.device_volt, **WIRES["all"])
    assert same.iterations.max() == 1
    close = solve_nonlinear(g, 1.01 * v, law, start=cold.device_volt, **WIRES["all"])
    again = solve_nonlinear(g, 1.01 * v, law, **WIRES["all"])
    near(close.solution.column_ampere, again.solution.column_ampere, 1e-8)
    assert close.iterations.sum() <= again.iterations.sum()
    if again.iterations.max() > 3:
        assert close.iterations.sum() < again.iterations.sum()


def test_a_wild_start_does_no_harm() -> None:
    g, v = drawn(6, 5), volts(3, 6)
    wild = volts(1, 6, 5, most=50.0)
    for law in STEEP.values():
        expected = solve_nonlinear(g, v, law, **WIRES["all"]).solution.word_line_volt
        found = solve_nonlinear(g, v, law, start=wild, **WIRES["all"]).solution.word_line_volt
        near(found, expected, 1e-8, 1.0)


@pytest.mark.parametrize("law", STEEP.values(), ids=STEEP)
def test_pairs_do_not_depend_on_their_neighbours(law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    g, v = drawn(3, 6, 5), volts(3, 4, 6)
    v[1] *= 0.01
    ohm = torch.tensor([1.0, 30.0, 900.0], dtype=F64)
    together = solve_nonlinear(g, v, law, r_row_ohm=ohm, r_col_ohm=2.0)
    monkeypatch.setattr(nonlinear, "_CHUNK_BYTES", 1)
    apart = solve_nonlinear(g, v, law, r_row_ohm=ohm, r_col_ohm=2.0)
    assert torch.equal(together.iterations, apart.iterations)
    near(apart.solution.word_line_volt, together.solution.word_line_volt, 1e-13)
    alone = solve_nonlinear(g[2], v[2, 3:], law, r_row_ohm=900.0, r_col_ohm=2.0)
    near(alone.solution.device_ampere, together.solution.device_ampere[2, 3:], 1e-12)


def test_reads_use_the_same_method() -> None:
    g, v = drawn(2, 5, 4), volts(2, 3, 5)
    for ohm in (0.0, 20.0):
        wires = nonlinear.checked(g, ohm, 3.0 * ohm, 0.0, 0.0)
        expected = solve_nonlinear(g, v, Sinh(), r_row_ohm=ohm, r_col_ohm=3.0 * ohm, topology="same")
        assert torch.equal(newton(g, v, Sinh(), wires, "same"), expected.solution.column_ampere)


# ---- ngspice ----


def literal(x: float) -> str:
    return f"({x!r})"


def cubic_source(law: Cubic, g: float, v: str) -> str:
    a1, a2 = literal(law.a1_per_volt), literal(law.a2_per_volt2)
    return f"{literal(g)}*{v}*(1+{v}*({a1}+{a2}*{v}))"


def milo_source(law: MiloRram, g: float, v: str) -> str:
    x = math.log10(g)
    n2 = np.polyval([0.0001388, 0.001541, 0.005711, 0.007063], x)
    n3 = np.polyval([8.8710e-05, 6.7919e-04, 1.2968e-03], x)
    return f"{v}*({literal(g)}+{v}*({literal(float(n2))}+{v}*{literal(float(n3))}))"


def sinh_source(law: Sinh, g: float, v: str) -> str:
    return f"{literal(g * law.v0_volt)}*sinh({v}/{literal(law.v0_volt)})"


def transistor_source(law: OneTransistor, g: float, v: str) -> str:
    """Its two regions, each solved for the current; odd in v."""
    beta, over = law.beta_ampere_per_volt2, law.overdrive_volt
    flat = beta * over**2 / 2
    out = law.lambda_per_volt * flat
    b = beta * over + out + g
    # the quadratic holds below the voltage where it has no root
    inside = f"min(abs({v}),{literal(b * b / 2 / beta / g)})"
    y = f"(({literal(b)}-sqrt({literal(b * b)}-{literal(2 * beta * g)}*{inside}))/{literal(beta)})"
    saturated = f"({literal(g)}*({literal(flat)}+{literal(out)}*abs({v}))/{literal(g + out)})"
    limit = literal(over + (flat + out * over) / g)
    return f"({v} > 0 ? 1 : -1)*(abs({v}) > {limit} ? {saturated} : {literal(g)}*(abs({v})-{y}))"


SOURCES: dict[str, tuple[Law, Callable[[Any, float, str], str]]] = {
    "cubic": (Cubic(a2_per_volt2=3.0, v_limit_volt=2.0), cubic_source),
    "cubic, even term": (Cubic(a1_per_volt=0.4, a2_per_volt2=2.0, v_limit_volt=2.0), cubic_source),
    "milo-rram": (MiloRram(), milo_source),
    "sinh": (Sinh(), sinh_source),
    "sinh, steep": (Sinh(v0_volt=0.1), sinh_source),
    "1T1R": (OneTransistor(beta_ampere_per_volt2=2e-4, overdrive_volt=0.4), transistor_source),
}


@NGSPICE
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_arrays_agree_with_ngspice(name: str, topology: str) -> None:
    law, source = SOURCES[name]
    g = drawn(5, 4, seed=6, least=5e-5)
    v = volts(2, 5, seed=7, most=0.5 if name == "milo-rram" else 1.0)
    wires = {"r_row_ohm": 40.0, "r_col_ohm": 25.0, "r_source_ohm": 300.0, "r_sink_ohm": 150.0}
    found = solve_nonlinear(g, v, law, topology=topology, **wires).solution

    def current(i: int, j: int, across: str) -> str | None:
        siemens = float(g[i, j])
        return source(law, siemens, across) if siemens else None

    for k in range(2):
        expected = spice.currents(current, v[k].numpy(), 4, topology=topology, **wires)
        largest = float(found.device_ampere[k].abs().max())
        near(found.column_ampere[k], expected.currents, 1e-8, largest)
        near(found.word_line_volt[k], expected.w, 1e-8, 1.0)
        near(found.bit_line_volt[k], expected.b, 1e-8, 1.0)


def circuit(
    g: Tensor, v: Tensor, cell: Callable[[str, str, str], list[str]], wires: dict[str, Any], *more: str
) -> spice.Solution:
    """An array in ngspice whose cells are a resistor to an inner node, and what ``cell`` puts behind it."""
    net = spice.Netlist(*g.shape, **wires)
    net.lines += more
    for (i, j), siemens in np.ndenumerate(g.numpy()):
        if siemens:
            inner = f"x{i}_{j}"
            net.lines.append(f"rd{i}_{j} {net.word(i, j)} {inner} {1 / float(siemens)!r}")
            net.lines += cell(f"{i}_{j}", inner, net.bit(i, j))
    net.add_sources(v.tolist())
    return net.read(spice.run(net.lines, ["op"]))


@NGSPICE
@pytest.mark.parametrize("law", [Selector(1e-8, 0.1), Selector(1e-6, 0.2)], ids=repr)
def test_selectors_agree_with_the_circuit_in_ngspice(law: Selector) -> None:
    """ngspice finds the node between memory and selector, which the law eliminates."""
    g, v = drawn(5, 4, seed=6, least=1e-5), volts(5, seed=7, most=1.5)

    def cell(name: str, inner: str, bit: str) -> list[str]:
        return [f"bs{name} {inner} {bit} i={law.i0_ampere!r}*sinh(v({inner},{bit})/{law.v0_volt!r})"]

    expected = circuit(g, v, cell, WIRES["all"])
    found = solve_nonlinear(g, v[None], law, **WIRES["all"]).solution
    near(found.column_ampere[0], expected.currents, 1e-8, float(found.device_ampere.abs().max()))
    near(found.word_line_volt[0], expected.w, 1e-8, 1.0)


@NGSPICE
@pytest.mark.parametrize(("gate", "relative"), [("at each source", 1e-6), ("at one voltage", 0.05)])
def test_transistors_agree_with_mosfets_in_ngspice(gate: str, relative: float) -> None:
    """Level 1 without channel-length modulation (ours: 1e-9 / V), in triode and in saturation.

    The law counts the overdrive from the transistor's own source.  With all gates at one voltage, the
    10 mV that bit lines lift sources by go off the 400 mV of overdrive: the price of the assumption.
    """
    beta, over = 3e-4, 0.4
    g, v = drawn(5, 4, seed=6, least=1e-5), volts(5, seed=7).abs() * 1.5
    wires = {"r_row_ohm": 40.0, "r_col_ohm": 25.0, "r_source_ohm": 300.0, "r_sink_ohm": 50.0}

    def cell(name: str, inner: str, bit: str) -> list[str]:
        return [
            f"vg{name} gate{name} {bit if gate == 'at each source' else 0} dc {over!r}",
            f"m{name} {inner} gate{name} {bit} 0 square w=1u l=1u",
        ]

    model = f".model square nmos level=1 vto=0 kp={beta!r} lambda=0 gamma=0 is=1e-30"
    expected = circuit(g, v, cell, wires, model)
    law = OneTransistor(beta_ampere_per_volt2=beta, overdrive_volt=over, lambda_per_volt=1e-9)
    found = solve_nonlinear(g, v[None], law, **wires).solution
    drop = expected.w - expected.b
    assert (drop > over + beta * over**2 / 2 / g.numpy().clip(1e-12)).any() and (drop < over).any()
    difference = np.abs(found.column_ampere[0].numpy() - expected.currents).max() / expected.currents.max()
    assert difference < relative
    if gate == "at one voltage":
        assert difference > 1e-3
        assert expected.b.max() == pytest.approx(0.010, abs=0.001)


# ---- linearisation ----


@pytest.mark.parametrize("law", STEEP.values(), ids=STEEP)
def test_a_chord_is_exact_where_it_was_laid(law: Law) -> None:
    g, v = drawn(2, 5, 4), volts(2, 3, 5)
    v[0, 0] = 0.0
    g_eff = linearised_conductance(g, v, law, topology="same", **WIRES["all"])
    assert g_eff.shape == (2, 3, 5, 4)
    exact = solve_nonlinear(g, v, law, topology="same", **WIRES["all"]).solution.column_ampere
    near((v.unsqueeze(-2) @ g_eff).squeeze(-2), exact, 1e-9)
    assert bool((g_eff >= 0).all())


@pytest.mark.parametrize("law", STEEP.values(), ids=STEEP)
def test_a_tangent_is_the_derivative_of_the_currents(law: Law) -> None:
    g, v, h = drawn(5, 4), volts(1, 5, most=0.4), 1e-5
    g_eff = linearised_conductance(g, v, law, kind="tangent", **WIRES["all"])[0]
    moved = torch.cat([v + h * torch.eye(5, dtype=F64), v - h * torch.eye(5, dtype=F64)])
    up, down = solve_nonlinear(g, moved, law, **WIRES["all"]).solution.column_ampere.split(5)
    near((up - down) / (2 * h), g_eff, 1e-5)


def test_low_field_is_the_law_at_rest() -> None:
    g, v = drawn(3, 5, 4), volts(3, 2, 5)
    ohm = torch.tensor([1.0, 10.0, 100.0], dtype=F64)
    found = linearised_conductance(g, v, Sinh(), kind="low-field", r_row_ohm=ohm, r_col_ohm=2.0)
    expected = effective_conductance(g, r_row_ohm=ohm, r_col_ohm=2.0)
    near(found, expected[:, None].expand(3, 2, 5, 4), 1e-12)


@pytest.mark.parametrize("kind", nonlinear.KINDS)
def test_the_error_of_a_linearisation_is_reported(kind: nonlinear.Kind) -> None:
    g, v, point = drawn(2, 5, 4), volts(2, 6, 5, most=0.3), torch.full((2, 5), 0.2, dtype=F64)
    error = linearisation_error(g, v, Sinh(0.2), operating_volt=point, kind=kind, **WIRES["all"])
    exact = solve_nonlinear(g, v, Sinh(0.2), **WIRES["all"]).solution.column_ampere
    g_eff = linearised_conductance(g, point[:, None], Sinh(0.2), kind=kind, **WIRES["all"])[:, 0]
    there = solve_nonlinear(g, point[:, None], Sinh(0.2), **WIRES["all"]).solution.column_ampere
    offset = there - point[:, None] @ g_eff if kind == "tangent" else 0.0
    expected = (v @ g_eff + offset - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    torch.testing.assert_close(error, expected)
    assert bool((error > 1e-3).all())
    none = linearisation_error(g, v, LINEAR, operating_volt=point, kind=kind, **WIRES["all"])
    assert bool((none < 1e-12).all())


# ---- wrong use ----


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"law": "sinh"}, "expected law as one of neurosim.devices.wires.laws; got 'sinh'"),
        ({"law": Sinh}, "expected law as one of"),
        ({"tolerance": 0.0}, "expected a tolerance between 0 and 1; got tolerance=0.0"),
        ({"max_iterations": 0}, "expected max_iterations as a whole number above 0; got 0"),
        ({"max_iterations": True}, "expected max_iterations as a whole number above 0; got True"),
        ({"start": 0.5}, "expected start as a tensor of torch.float64; got float"),
        ({"start": torch.zeros(2, 3)}, "expected start as a tensor of torch.float64; got torch.float32"),
        (
            {"start": torch.zeros(4, 2, dtype=F64)},
            r"expected start to broadcast to \(4, 2, 3\); got \(4, 2\)",
        ),
        ({"start": torch.full((2, 3), torch.nan, dtype=F64)}, "expected finite voltages in start"),
        ({"v_row_volt": torch.zeros(4, 3, dtype=F64)}, r"expected v_row_volt of shape \(inputs, 2\)"),
        ({"topology": "left"}, "unknown topology 'left'"),
        ({"r_row_ohm": -1.0}, "got r_row_ohm=-1.0"),
    ],
)
def test_wrong_use_is_named(change: dict[str, Any], sentence: str) -> None:
    right = {"g_siemens": drawn(2, 3), "v_row_volt": volts(4, 2), "law": Sinh(), **WIRES["all"]}
    with pytest.raises(UsageError, match=sentence):
        solve_nonlinear(**{**right, **change})


def test_wrong_linearisations_are_named() -> None:
    g, v, point = drawn(2, 3), volts(4, 2), torch.zeros(2, dtype=F64)
    with pytest.raises(UsageError, match="unknown kind of linearisation 'cord': did you mean 'chord'"):
        linearised_conductance(g, v, Sinh(), kind="cord", **WIRES["all"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown kind of linearisation 'cord'"):
        linearisation_error(g, v, Sinh(), operating_volt=point, kind="cord", **WIRES["all"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"expected operating_volt of shape \(2,\); got \(3,\)"):
        linearisation_error(g, v, Sinh(), operating_volt=torch.zeros(3, dtype=F64), **WIRES["all"])


def test_too_few_iterations_say_so() -> None:
    with pytest.raises(
        RunError, match=r"after max_iterations=2 with a residual of .*, above tolerance=1e-10, in 3 of 3"
    ):
        solve_nonlinear(drawn(6, 5), volts(3, 6), Sinh(0.1), max_iterations=2, **WIRES["all"])
