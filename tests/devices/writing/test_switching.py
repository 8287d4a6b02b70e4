"""Switching models against closed forms, and what every memristor must do."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from neurosim.devices import hardware
from neurosim.devices.writing.population import Pulses, described, range_of, write_population
from neurosim.devices.writing.switching import (
    SWITCHING,
    LinearIonDrift,
    StanfordPku,
    Switching,
    Vteam,
    hysteresis,
    loop_area_watt,
    pulsed,
    simulate,
    switching,
)
from neurosim.errors import UsageError

MODELS = [kind() for kind in SWITCHING.values()]
every = pytest.mark.parametrize("model", MODELS, ids=SWITCHING.keys())
DRIVE = {"vteam": (1.0, 1e5), "linear-ion-drift": (1.0, 1.0), "stanford-pku": (1.5, 1e6)}


def drive(model: Switching) -> tuple[float, float]:
    return DRIVE[str(model.kind)]  # type: ignore[attr-defined]


# ---- closed forms ----


@pytest.mark.parametrize("start", [0.05, 0.3, 0.8])
def test_the_square_of_the_resistance_is_linear_in_the_flux(start: float) -> None:
    model = LinearIonDrift()
    k = model.mobility_m2_per_vs * model.r_on_ohm / model.d_m**2
    delta = model.r_off_ohm - model.r_on_ohm
    first = model.r_on_ohm * start + model.r_off_ohm * (1 - start)

    def volt(t: float) -> float:
        return 0.5 * math.sin(2 * math.pi * t) + 0.2

    trace = simulate(model, volt, 0.4, start)
    flux = 0.5 * (1 - np.cos(2 * np.pi * trace.time_s)) / (2 * np.pi) + 0.2 * trace.time_s
    expected = np.sqrt(np.maximum(first**2 - 2 * delta * k * flux, model.r_on_ohm**2))
    resistance = model.r_on_ohm * trace.state + model.r_off_ohm * (1 - trace.state)
    # from the bound on the flux no longer tells
    before = np.logical_and.accumulate(expected > 1.5 * model.r_on_ohm)
    np.testing.assert_allclose(resistance[before], expected[before], rtol=1e-3)
    assert before.sum() > 100


@pytest.mark.parametrize("volt", [0.03, 0.1, 0.5, -0.25, -0.4])
def test_vteam_moves_at_a_constant_rate(volt: float) -> None:
    model = Vteam()
    rate = 5e-4 * (volt / 0.02 - 1) if volt > 0 else -10.0 * (volt / -0.2 - 1) ** 3
    start = 0.5 * model.d_m
    until = 0.8 * start / abs(rate)
    trace = simulate(model, lambda t: volt, until, start, points=101)
    np.testing.assert_allclose(trace.state, start + rate * trace.time_s, rtol=1e-5)
    ohm = 50 + 950 * trace.state / model.d_m
    np.testing.assert_allclose(trace.ampere, volt / ohm, rtol=1e-12)


@pytest.mark.parametrize("volt", [0.01, -0.1, 0.0])
def test_vteam_rests_below_its_thresholds(volt: float) -> None:
    trace = simulate(Vteam(), lambda t: volt, 1.0, 1e-9, points=11)
    assert np.all(trace.state == trace.state[0])


def test_a_stanford_gap_by_hand() -> None:
    model, volt, gap = StanfordPku(), 1.2, 0.8e-9
    ampere = 1e-3 * math.exp(-0.8 / 0.25) * math.sinh(1.2 / 0.25)
    kelvin = 298 + 1.2 * ampere * 2100
    thermal = kelvin * 8.617333262e-5
    gamma = 16 - 0.8 * 0.8**3
    rate = -10 * math.exp(-0.6 / thermal) * math.sinh(gamma * 0.25 * 1.2 / (12 * thermal))
    assert float(model.current(np.array(volt), np.array(gap))) == pytest.approx(ampere, rel=1e-12)
    assert float(model.drift(np.array(volt), np.array(gap))) == pytest.approx(rate, rel=1e-9)


def test_the_stiff_solver_agrees_with_many_small_steps() -> None:
    model, volt = StanfordPku(), 1.5
    trace = simulate(model, lambda t: volt, 2e-9, 1.0e-9, points=21)
    for time_s, state in list(zip(trace.time_s, trace.state, strict=True))[5::5]:
        small = pulsed(model, np.array([1.0e-9]), volt, float(time_s), relative=1e-3)
        assert float(small[0]) == pytest.approx(state, rel=2e-3)


@pytest.mark.parametrize("window", ["joglekar", "biolek"])
def test_windows_hold_back_at_the_bounds(window: str) -> None:
    model = LinearIonDrift(window=window)
    free = LinearIonDrift()
    one = np.array([1e-9, 0.3, 0.5, 1 - 1e-9])
    ratio = model.drift(np.ones(4), one) / free.drift(np.ones(4), one)
    by_hand = 1 - np.abs(2 * one - 1) ** 4 if window == "joglekar" else 1 - one**4
    np.testing.assert_allclose(ratio, by_hand, atol=1e-6)


def test_ngspice_agrees(tmp_path: Path) -> None:
    """The HP memristor as SPICE's integrator with a behavioural source."""
    if shutil.which("ngspice") is None:
        pytest.skip("NO NGSPICE HERE: the transient of a memristor is not compared with it")
    netlist = tmp_path / "memristor.cir"
    netlist.write_text(
        """memristor
V1 in 0 SIN(0 1 1)
B1 in 0 I=V(in)/(100*V(x)+16000*(1-V(x)))
Cx x 0 1
Bx 0 x I=10000*V(in)/(100*V(x)+16000*(1-V(x)))
.ic V(x)=0.1
.tran 1m 0.45 0 0.1m uic
.control
run
wrdata out.txt v(x)
.endc
.end
"""
    )
    # it ends with 1 where a control section has run everything
    subprocess.run(
        ["ngspice", "-b", netlist.name], cwd=tmp_path, check=False, capture_output=True, timeout=60
    )
    found = np.loadtxt(tmp_path / "out.txt")
    trace = simulate(LinearIonDrift(), lambda t: math.sin(2 * math.pi * t), 0.45, 0.1)
    ours = np.interp(found[:, 0], trace.time_s, trace.state)
    np.testing.assert_allclose(ours, found[:, 1], atol=2e-4)


# ---- what every memristor does ----


@every
def test_no_voltage_no_current(model: Switching) -> None:
    volt, frequency = drive(model)
    trace = hysteresis(model, volt, frequency, points=1001)
    assert (
        float(np.abs(trace.ampere[np.abs(trace.volt) < 1e-9 * volt]).max())
        < 1e-9 * np.abs(trace.ampere).max()
    )
    # pinched, and open on both sides
    assert loop_area_watt(trace) > 1e-4 * np.abs(trace.ampere).max() * volt


@every
def test_the_loop_closes_with_the_frequency(model: Switching) -> None:
    # models with thresholds switch later in the cycle at first, and their loops grow before they close
    volt, frequency = drive(model)
    factors = (1, 10, 100, 1e4, 1e9)
    areas = [loop_area_watt(hysteresis(model, volt, frequency * factor, points=801)) for factor in factors]
    assert areas[-1] < 0.05 * max(areas)
    if isinstance(model, LinearIonDrift):
        assert areas == sorted(areas, reverse=True)


@every
def test_states_stay_within_their_bounds(model: Switching) -> None:
    low, high = model.bounds
    volt, frequency = drive(model)
    for factor in (1.0, 10.0):
        trace = hysteresis(model, 2 * volt, factor * frequency, points=401)
        assert low <= trace.state.min() <= trace.state.max() <= high
    for volts in (-2 * volt, 2 * volt):
        ends = pulsed(model, np.linspace(low, high, 7), volts, 1e3)
        assert low <= ends.min() <= ends.max() <= high


@every
def test_a_pulse_is_as_two_of_half_its_width(model: Switching) -> None:
    low, high = model.bounds
    start, volt = np.linspace(low + 0.2 * (high - low), high, 5), drive(model)[0]
    width = 0.02 * (high - low) / float(np.abs(model.rate(np.full(5, volt), start)).max() + 1e-300)
    whole = pulsed(model, start, volt, width, relative=1e-3)
    halves = pulsed(
        model, pulsed(model, start, volt, width / 2, relative=1e-3), volt, width / 2, relative=1e-3
    )
    np.testing.assert_allclose(whole, halves, rtol=1e-4, atol=1e-5 * (high - low))


# ---- a programming model ----


@every
def test_a_population_reaches_its_targets(model: Switching) -> None:
    settings = Pulses(targets=5)
    found = write_population(model, settings, devices=60, seed=1)
    low, high = range_of(model)
    assert found.accepted.all()
    assert float(np.abs(found.reached - found.target[:, None]).max()) <= 0.02 * (high - low) * (1 + 1e-9)
    assert 1 < found.pulses.mean() < 40
    again = write_population(model, settings, devices=60, seed=1)
    assert np.array_equal(again.reached, found.reached)
    assert not np.array_equal(write_population(model, settings, devices=60, seed=2).reached, found.reached)


@every
def test_a_finer_acceptance_takes_more_pulses(model: Switching) -> None:
    means = [
        write_population(model, Pulses(targets=3, acceptance=a, cycle_std=0.3), devices=40).pulses.mean()
        for a in (0.1, 0.03, 0.01)
    ]
    assert means[0] < means[1] < means[2]


def test_a_description_holds_the_populations_statistics(tmp_path: Path) -> None:
    model, settings = Vteam(), Pulses(targets=7)
    found = write_population(model, settings, devices=400)
    file = tmp_path / "vteam.toml"
    file.write_text(described(model, settings, found).to_toml(), encoding="utf-8")
    device = hardware(file).device
    assert (device.g_min_siemens, device.g_max_siemens) == pytest.approx(range_of(model))
    import torch

    from neurosim.random import Draws

    target = torch.from_numpy(found.target).double()[:, None].expand(-1, 20_000).contiguous()
    g = device.program(target, Draws(0, (0,), "w+"))["g_siemens"][0]
    error, std = (found.reached - found.target[:, None]), found.reached.std(1)
    scale = std.mean()
    np.testing.assert_allclose((g - target).mean(1), error.mean(1), atol=0.35 * scale)
    np.testing.assert_allclose(g.std(1), std, atol=0.35 * scale)


# ---- wrong use ----


def test_wrong_use_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="unknown switching model 'vtem': did you mean 'vteam'"):
        switching("vtem")
    with pytest.raises(UsageError, match="r_onn"):
        switching("vteam", r_onn=1)
    with pytest.raises(UsageError, match="an amplitude and a frequency above 0"):
        hysteresis(Vteam(), 0.0, 1.0)
    with pytest.raises(UsageError, match="a time above 0"):
        simulate(Vteam(), lambda t: 0.0, 0.0, 0.0)
