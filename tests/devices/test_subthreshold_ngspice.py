"""Transistors below threshold in ngspice: BSIM4 for the law and its mismatch, circuits of the law beside."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from neurosim.devices.subthreshold import (
    PROCESSES,
    dpi_jump_ampere,
    saturation,
    thermal_voltage,
    time_constant_s,
)

from .wires import spice  # type: ignore[import-not-found]

pytestmark = pytest.mark.skipif(not spice.available(), reason=f"NOT CHECKED: {spice.ABSENT}")

Array = np.ndarray[Any, np.dtype[np.float64]]
KELVIN = 300.15  # 27 °C, ngspice's own
U_T = thermal_voltage(KELVIN)
BSIM4 = "level=14 version=4.8 toxe=4e-9"


def model(name: str = "nch", kind: str = "nmos", vth0: float = 0.5, voff: float = -0.08) -> str:
    return f".model {name} {kind} {BSIM4} vth0={vth0!r} voff={voff!r}"


def slope(x: Array, y: Array) -> float:
    return float(np.polyfit(x, y, 1)[0])


# ---- BSIM4: slope, saturation, mismatch, heat ----


def gate_sweep(card: str, celsius: float = 27.0, stop: float = 0.30) -> tuple[Array, Array]:
    lines = [card, f".options temp={celsius}", "vd d 0 dc 1.0", "vg g 0 dc 0", "m1 d g 0 0 nch w=10u l=10u"]
    found = spice.run(lines, [f"dc vg 0.15 {stop} 0.01"])
    return found["v(g)"], -found["i(vd)"]


@cache
def kappa() -> float:
    """κ of the card, from its slope."""
    v, i = gate_sweep(model())
    return U_T * slope(v, np.log(i))


def test_a_bsim4_transistor_is_exponential_in_its_gate() -> None:
    v, i = gate_sweep(model())
    assert i[0] > 1e-12 and i[-1] < 1e-8
    line = np.polyval(np.polyfit(v, np.log(i), 1), v)
    assert np.abs(np.log(i) - line).max() < 0.05
    assert 0.6 < kappa() < 0.95


def test_it_saturates_as_the_law_does() -> None:
    lines = [model(), "vd d 0 dc 0", "vg g 0 dc 0.25", "m1 d g 0 0 nch w=10u l=10u"]
    found = spice.run(lines, ["dc vd 0.005 0.3 0.005"])
    v, i = found["v(d)"], -found["i(vd)"]
    # drain-induced effects of the card add a slope of their own, taken off where the law is flat
    flat = v > 0.2
    early = slope(v[flat], i[flat]) / i[flat][0]
    shape = i / (1 + early * (v - v[flat][0]))
    expected = np.array([saturation(x, KELVIN) for x in v])
    assert early < 0.5
    # BSIM joins triode and saturation by a polynomial, not by this exponential: it is up to 5 % above
    np.testing.assert_allclose(shape / shape[-1], expected / expected[-1], atol=0.06)
    at = np.interp(4 * U_T, v, shape / shape[-1])
    assert at == pytest.approx(saturation(4 * U_T, KELVIN), abs=0.02)


@pytest.mark.parametrize("millivolt", [-10.0, -5.0, 5.0, 10.0])
@pytest.mark.parametrize("what", ["vth0", "voff"])
def test_a_mirror_with_mismatch_gives_the_ratio_of_the_law(what: str, millivolt: float) -> None:
    """The threshold of a copy, or its offset below threshold (SKY130 varies both), moves ln I by κ·ΔV/U_T."""
    moved: dict[str, Any] = (
        {"vth0": 0.5 + millivolt * 1e-3} if what == "vth0" else {"voff": -0.08 + millivolt * 1e-3}
    )
    lines = [
        model(), model("copy", **moved), "iin 0 g dc 1e-10", "m1 g g 0 0 nch w=10u l=10u",
        "m2 d g 0 0 copy w=10u l=10u", "vd d 0 dc 0.3",
    ]  # fmt: skip
    ratio = -float(spice.run(lines, ["op"])["i(vd)"][0]) / 1e-10
    same = [line.replace(" copy w", " nch w") for line in lines]
    plain = -float(spice.run(same, ["op"])["i(vd)"][0]) / 1e-10
    assert math.log(ratio / plain) == pytest.approx(-kappa() * millivolt * 1e-3 / U_T, rel=0.03)


def test_sky130_counts_both_in_squares() -> None:
    assert PROCESSES["sky130-nfet-1v8"].a_vt_volt_m == pytest.approx(math.hypot(3.356e-9, 7e-9))


def test_mismatch_narrows_with_heat_as_the_law_says() -> None:
    found = []
    for celsius in (-40.0, 27.0, 85.0):
        (v, plain), (_, moved) = (gate_sweep(model(vth0=vth0), celsius, 0.4) for vth0 in (0.5, 0.51))
        # where a gate carries 100 pA: weak at every temperature, leakage far below
        gate = np.interp(math.log(1e-10), np.log(plain), v)
        ratio = np.interp(gate, v, np.log(moved)) - math.log(1e-10)
        found.append(ratio * (273.15 + celsius))
    # ln ratio times T is the same at all three, but for what κ does
    assert np.ptp(found) / abs(np.mean(found)) < 0.03
    assert np.mean(found) / KELVIN == pytest.approx(-kappa() * 0.01 / U_T, rel=0.04)


# ---- a differential-pair integrator ----

KAPPA, I0, VDD = 0.7, 1e-13, 1.0


def law(name: str, drain: str, gate: str, source: str, p_channel: bool = False) -> str:
    """A transistor of the law as a source of current, from drain to source (p: from source to drain)."""
    if p_channel:
        g, s, d = (f"({VDD}-v({node}))" for node in (gate, source, drain))
        ends = f"{source} {drain}"
    else:
        g, s, d = (f"v({node})" if node != "0" else "0" for node in (gate, source, drain))
        ends = f"{drain} {source}"
    forward = f"exp(({KAPPA}*{g}-{s})/{U_T!r})"
    backward = f"exp(({KAPPA}*{g}-{d})/{U_T!r})"
    return f"b{name} {ends} i={I0!r}*({forward}-{backward})"


def gate_of(ampere: float) -> float:
    """The voltage, below the source's, at which a saturated transistor carries a current."""
    return U_T / KAPPA * math.log(ampere / I0)


def integrator(i_tau: float, i_gain: float, tail: str, c: float = 1e-12) -> list[str]:
    """Bartolozzi and Indiveri 2007: a pair that shares the tail's current, a capacitor, a leak, an output."""
    return [
        f"vdd vdd 0 dc {VDD}", f"vthr thr 0 dc {VDD - gate_of(i_gain)!r}",
        f"vtau tau 0 dc {VDD - gate_of(i_tau)!r}", tail,
        law("in", "syn", "syn", "pair"), law("thr", "vdd", "thr", "pair"),
        law("tau", "syn", "tau", "vdd", p_channel=True), f"c1 vdd syn {c!r}", "vout out 0 dc 0",
        law("out", "out", "syn", "vdd", p_channel=True),
    ]  # fmt: skip


def transient(lines: list[str], step_s: float, stop_s: float) -> tuple[Array, Array]:
    found = spice.run(lines, [f"tran {step_s!r} {stop_s!r}"])
    return found["time"], found["i(vout)"]


@pytest.mark.parametrize("i_tau", [2e-12, 5e-12, 20e-12])
def test_the_current_of_a_synapse_decays_with_its_time_constant(i_tau: float) -> None:
    tau = time_constant_s(1e-12, i_tau, KAPPA, KELVIN)
    tail = f"itail pair 0 pulse(1e-9 1e-18 {tau / 10!r} {tau / 1e4!r} {tau / 1e4!r} 1 2)"
    time, i = transient(integrator(i_tau, 20e-12, tail), tau / 200, 2.1 * tau)
    # the law is exact for a saturated leak; the pair takes nothing more once the tail is off
    later = (time > 0.3 * tau) & (time < 2.0 * tau)
    assert -1 / slope(time[later], np.log(i[later])) == pytest.approx(tau, rel=0.01)


@pytest.mark.parametrize(("i_tau", "i_gain"), [(5e-12, 10e-12), (5e-12, 20e-12), (10e-12, 20e-12)])
def test_a_large_current_settles_at_the_gain_of_the_circuit(i_tau: float, i_gain: float) -> None:
    """I_w·I_th/I_τ where it is far above I_th."""
    i_w = 2e-9
    time, i = transient(integrator(i_tau, i_gain, f"itail pair 0 dc {i_w!r}"), 1e-3, 0.05)
    assert time[-1] == pytest.approx(0.05)
    assert i[-1] == pytest.approx(i_w * i_gain / i_tau - i_gain, rel=0.02)
    assert i[-1] == pytest.approx(i_w * i_gain / i_tau, rel=0.05)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_a_spike_adds_the_jump_of_the_closed_form(share: float) -> None:
    """A pulse on a synapse that carries far more than I_th, against the same without the pulse."""
    i_tau, i_gain, i_w, base = 5e-12, 10e-12, 4e-9, 2e-9
    tau = time_constant_s(1e-12, i_tau, KAPPA, KELVIN)
    pulse = share * tau
    edge = pulse / 1e3
    tail = f"itail pair 0 pulse({base!r} {base + i_w!r} {tau / 10!r} {edge!r} {edge!r} {pulse!r} 1)"
    time, i = transient(integrator(i_tau, i_gain, tail), pulse / 100, tau / 10 + 1.5 * pulse)
    before = float(np.interp(tau / 10, time, i))
    peak = float(np.interp(tau / 10 + pulse + edge, time, i))
    assert peak - before == pytest.approx(dpi_jump_ampere(i_w, i_gain, i_tau, pulse, tau), rel=0.03)


def test_bsim4_transistors_make_the_same_synapse() -> None:
    """Slope and trend: twice the leak, half the time constant; κ is that of the card's p-channel device."""
    cards = [model(), f".model pch pmos {BSIM4} vth0=-0.5"]
    sweep = [*cards, "vdd vdd 0 dc 1", "vg g 0 dc 0.6", "vd d 0 dc 0", "m1 d g vdd vdd pch w=10u l=10u"]
    found = spice.run(sweep, ["dc vg 0.70 0.80 0.01"])
    kappa_p = -U_T * slope(found["v(g)"], np.log(np.abs(found["i(vd)"])))
    taus = []
    for i_tau in (100e-12, 200e-12):
        expected = time_constant_s(20e-12, i_tau, kappa_p, KELVIN)
        lines = [
            *cards, "vdd vdd 0 dc 1", "vthr thr 0 dc 0.75", "vout out 0 dc 0",
            f"ibias bias 0 dc {i_tau!r}", "mb bias bias vdd vdd pch w=10u l=10u",
            f"itail pair 0 pulse(2e-9 1e-18 {expected / 10!r} {expected / 1e4!r} {expected / 1e4!r} 1 2)",
            "min syn syn pair 0 nch w=10u l=1u", "mthr vdd thr pair 0 nch w=10u l=1u",
            "mtau syn bias vdd vdd pch w=10u l=10u", "c1 vdd syn 20e-12",
            "mout out syn vdd vdd pch w=10u l=10u",
        ]  # fmt: skip
        time, i = transient(lines, expected / 200, 2.0 * expected)
        later = (time > 0.5 * expected) & (time < 1.6 * expected)
        taus.append(-1 / slope(time[later], np.log(i[later])))
        # the gates of the transistors add about a quarter of a picofarad to the 20 pF drawn
        assert taus[-1] == pytest.approx(expected, rel=0.04)
    assert taus[0] / taus[1] == pytest.approx(2.0, rel=0.05)
