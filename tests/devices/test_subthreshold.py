"""Transistors below threshold: closed forms, Pelgrom's law, lognormal currents, circuits, biases, fields.

Statistical tests use fixed streams and a false-alarm rate of ALPHA each: they fail for a reason.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

import neurosim as ns
from neurosim.devices import DEVICES, Spread, hardware
from neurosim.devices.subthreshold import (
    DPI_NEURON,
    DYNAP_SE2,
    PROCESSES,
    BiasGenerator,
    Transistor,
    charge_time_s,
    current_ampere,
    cv_of,
    dpi_gain,
    dpi_jump_ampere,
    grid_positions,
    heated,
    i0_at,
    linear_field,
    log_std_of,
    neuron_spreads,
    saturation,
    smooth_field,
    tau_current_ampere,
    thermal_voltage,
    time_constant_s,
)
from neurosim.devices.subthreshold.synapse import Subthreshold
from neurosim.errors import UsageError
from neurosim.random import Draws

ALPHA = 1e-5
SAMPLES = 200_000
BOLTZMANN, CHARGE = 1.380649e-23, 1.602176634e-19
PRESETS = ("dynapse-se2", "dynapse-se2-rockpool", "spikey-bruderle-2009", "subthreshold-gf180")


def volts(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ---- the transistor ----


@pytest.mark.parametrize("kelvin", [233.15, 300.0, 358.15])
def test_the_thermal_voltage_is_that_of_the_constants(kelvin: float) -> None:
    assert thermal_voltage(kelvin) == pytest.approx(BOLTZMANN * kelvin / CHARGE, rel=1e-9)


def test_the_current_is_the_formula_and_turns_around_with_its_ends() -> None:
    g, s, d = volts(0.3, 0.2, 0.35), volts(0.0, 0.05, 0.1), volts(0.5, 0.06, 0.0)
    u_t = BOLTZMANN * 310.0 / CHARGE
    expected = (
        3e-13 * 2.0 * np.exp(0.7 * g.numpy() / u_t) * (np.exp(-s.numpy() / u_t) - np.exp(-d.numpy() / u_t))
    )
    kinds = {"i0_ampere": 3e-13, "aspect": 2.0, "kappa": 0.7, "kelvin": 310.0}
    found = current_ampere(g, s, d, **kinds)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)
    torch.testing.assert_close(current_ampere(g, d, s, **kinds), -found)


def test_a_decade_of_current_takes_its_slope_in_gate_voltage() -> None:
    swing = math.log(10) * thermal_voltage(300.0) / 0.7  # 85 mV a decade
    low, high = current_ampere(volts(0.2, 0.2 + swing), volts(0.0), volts(1.0), i0_ampere=5e-13, kappa=0.7)
    assert swing == pytest.approx(0.0850, abs=1e-4)
    assert float(high / low) == pytest.approx(10.0, rel=1e-9)


def test_saturation_comes_within_two_percent_at_four_thermal_voltages() -> None:
    u_t = thermal_voltage(300.0)
    at = current_ampere(volts(0.3), volts(0.0), volts(4 * u_t, 100 * u_t), i0_ampere=5e-13)
    assert float(at[0] / at[1]) == pytest.approx(saturation(4 * u_t), rel=1e-9)
    assert 1 - saturation(4 * u_t) == pytest.approx(math.exp(-4), rel=1e-9)


def test_the_current_has_its_gradients_and_batches() -> None:
    v = [
        volts(0.30, 0.32, 0.25).requires_grad_(),
        volts(0.0, 0.02, 0.01).requires_grad_(),
        volts(0.3, 0.1, 0.02),
    ]

    def in_nanoampere(g: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return 1e9 * current_ampere(g, s, v[2], i0_ampere=5e-13)

    assert torch.autograd.gradcheck(in_nanoampere, (v[0], v[1]), eps=1e-7)
    wide = current_ampere(torch.rand(7, 1, 3) * 0.3, torch.zeros(3), torch.ones(4, 1), i0_ampere=5e-13)
    assert wide.shape == (7, 4, 3)
    assert wide.dtype == torch.float32
    assert bool(torch.isfinite(wide).all())


@pytest.mark.parametrize(
    ("ampere", "low", "high"), [(10e-12, 0.05, 0.08), (1e-9, 0.05, 0.07), (20e-9, 0.04, 0.06)]
)
def test_a_held_gate_gives_five_to_eight_percent_more_a_kelvin(
    ampere: float, low: float, high: float
) -> None:
    gate = math.log(ampere / 5e-13) * thermal_voltage(300.0) / 0.75
    warm = current_ampere(volts(gate), volts(0.0), volts(1.0), i0_ampere=i0_at(5e-13, 301.0), kelvin=301.0)
    cold = current_ampere(volts(gate), volts(0.0), volts(1.0), i0_ampere=i0_at(5e-13, 300.0), kelvin=300.0)
    assert low < float(warm / cold) - 1 < high


# ---- circuits of transistors, in closed form ----


def test_a_time_constant_is_the_decay_of_the_circuit() -> None:
    """The capacitor of an integrator loses I_τ: integrated as charge, its output falls by e in τ."""
    c, i_tau, kappa, kelvin = 3e-12, 5e-12, 0.66, 300.0
    u_t = BOLTZMANN * kelvin / CHARGE
    tau = time_constant_s(c, i_tau, kappa, kelvin)
    gate = integrate.solve_ivp(lambda t, v: [-i_tau / c], (0.0, tau), [0.3], rtol=1e-10).y[0, -1]
    assert math.exp(kappa * (gate - 0.3) / u_t) == pytest.approx(math.exp(-1), rel=1e-8)
    assert tau_current_ampere(c, tau, kappa, kelvin) == pytest.approx(i_tau, rel=1e-12)


def test_time_constants_move_with_heat_by_the_thermal_voltage_alone() -> None:
    at = [time_constant_s(3e-12, 5e-12, kelvin=kelvin) for kelvin in (233.15, 300.0, 358.15)]
    assert at[0] / at[1] - 1 == pytest.approx(-0.223, abs=1e-3)
    assert at[2] / at[1] - 1 == pytest.approx(0.194, abs=1e-3)


def test_defaults_of_dynap_se2_give_its_times() -> None:
    # rockpool 3: C_mem 3 pF and 20 ms, C_syn 25 pF and 10 ms, kappa (0.75 + 0.66)/2, U_T 25 mV, C_ref 1.5 pF
    kelvin = 0.025 * CHARGE / BOLTZMANN
    assert tau_current_ampere(3e-12, 20e-3, 0.705, kelvin) == pytest.approx(5.32e-12, rel=1e-3)
    assert tau_current_ampere(25e-12, 10e-3, 0.705, kelvin) == pytest.approx(88.65e-12, rel=1e-3)
    assert charge_time_s(1.5e-12, 0.7, 1.05e-9) == pytest.approx(1e-3)


def test_a_spike_adds_what_the_linear_synapse_integrates() -> None:
    """dI/dt = (I_th·I_w/I_τ − I)/τ during the pulse, integrated numerically from rest."""
    i_w, i_th, i_tau, pulse, tau = 2e-9, 4e-10, 8e-11, 1e-3, 10e-3
    goal = dpi_gain(i_th, i_tau) * i_w
    end = integrate.solve_ivp(lambda t, i: (goal - i) / tau, (0.0, pulse), [0.0], rtol=1e-10, atol=1e-20).y[
        0, -1
    ]
    assert dpi_jump_ampere(i_w, i_th, i_tau, pulse, tau) == pytest.approx(end, rel=1e-8)


# ---- mismatch from geometry ----


@pytest.mark.parametrize("process", sorted(PROCESSES))
def test_threshold_mismatch_halves_with_four_times_the_area(process: str) -> None:
    kind = PROCESSES[process]

    def made(factor: float) -> Transistor:
        """W and L of the law, without what processing takes off."""
        return Transistor(process, factor * 1e-6 - kind.width_offset_m, factor * 1e-6 - kind.length_offset_m)

    assert made(1.0).area_m2 == pytest.approx(1e-12)
    assert made(1.0).sigma_vt_volt == pytest.approx(kind.a_vt_volt_m / 1e-6, rel=1e-9)
    assert made(2.0).sigma_vt_volt == pytest.approx(made(1.0).sigma_vt_volt / 2, rel=1e-9)
    assert made(1.0).sigma_beta >= made(2.0).sigma_beta >= kind.beta_std


@pytest.mark.parametrize(
    ("process", "sigma_mv"),
    [
        # one device, at 1 µm² of the law; gf180: par_vth of 7.148, 6.66, 11.55, 10.51 times 0.7071
        ("gf180-nfet-3v3", 5.054), ("gf180-pfet-3v3", 4.709), ("gf180-nfet-6v0", 8.167),
        ("gf180-pfet-6v0", 7.432),
        ("sky130-nfet-1v8", 7.763), ("sky130-pfet-1v8", 5.856), ("ihp130-nfet-1v2", 3.9),
        ("ihp130-pfet-1v2", 2.2),
    ],
)  # fmt: skip
def test_processes_are_those_of_their_kits(process: str, sigma_mv: float) -> None:
    assert PROCESSES[process].a_vt_volt_m == pytest.approx(sigma_mv * 1e-9, rel=1e-3)


@pytest.mark.parametrize(("sigma_mv", "cv"), [(5.0, 0.136), (7.3, 0.20), (10.0, 0.276)])
def test_millivolts_of_threshold_are_tens_of_percent_of_current(sigma_mv: float, cv: float) -> None:
    assert cv_of(0.7 * sigma_mv * 1e-3 / thermal_voltage(300.0)) == pytest.approx(cv, abs=2e-3)
    assert log_std_of(cv_of(0.198)) == pytest.approx(0.198, rel=1e-9)


def test_thresholds_drawn_and_put_through_the_transistor_give_its_cv() -> None:
    """Not the formula: normal thresholds, the exponential current, and what comes out."""
    device = Transistor("sky130-pfet-1v8", 1e-6, 0.5e-6)
    n = np.random.default_rng(7).normal(size=SAMPLES)
    shift = torch.from_numpy(device.sigma_vt_volt * n)
    current = current_ampere(
        0.3 - shift, volts(0.0), volts(1.0), i0_ampere=5e-13, kappa=device.kind.kappa
    ).numpy()
    s = device.log_std()
    assert stats.kstest(current, stats.lognorm(s, scale=np.median(current)).cdf).pvalue > ALPHA
    assert current.std() / current.mean() == pytest.approx(device.cv(), rel=0.02)
    pair = np.log(current[::2] / current[1::2])
    assert pair.std() == pytest.approx(s * math.sqrt(2), rel=0.02)


def test_a_device_without_area_or_of_no_kit_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"expected length_m from 1.5e-07 to 0.01 in 'gf180-nfet-3v3'; got 1e-07"
    ):
        Transistor("gf180-nfet-3v3", 1e-6, 1e-7)
    with pytest.raises(UsageError, match=r"unknown process 'gf180-nfet-3v'.*'gf180-nfet-3v3'"):
        Transistor("gf180-nfet-3v", 1e-6, 1e-6)
    with pytest.raises(UsageError, match=r"unknown process 'tsmc'"):
        Subthreshold(process="tsmc")
    with pytest.raises(UsageError, match=r"expected length_m from 1.5e-07 to 0.01.*; got 1.4e-07"):
        Subthreshold(length_m=1.4e-7)
    with pytest.raises(UsageError, match=r"expected at most 0\.01; got width_m=1\.0"):
        Subthreshold(width_m=1.0)
    with pytest.raises(UsageError, match="more than 0 kelvin; got kelvin=0"):
        thermal_voltage(0.0)


# ---- weights ----


def programmed(device: Subthreshold, fraction: float, count: int = SAMPLES) -> np.ndarray:
    """Fractions of a full weight."""
    g = torch.full((count,), fraction * device.g_max_siemens, dtype=torch.float64)
    return device.program(g, Draws(0, (0,), "w+"))["g_siemens"][0].numpy() / device.g_max_siemens


@pytest.mark.parametrize(
    "device",
    [
        Subthreshold(),
        Subthreshold(relative_std=0.2),
        Subthreshold(relative_std=0.2, kelvin=233.15),
        Subthreshold(process="sky130-nfet-1v8", width_m=2e-6, length_m=0.5e-6),
    ],
    ids=["geometry", "stated", "cold", "sky130"],
)
def test_sampled_currents_are_lognormal(device: Subthreshold) -> None:
    s = device.log_std
    sample = programmed(device, 0.6)
    assert stats.kstest(sample, stats.lognorm(s, scale=0.6 * math.exp(-(s**2) / 2)).cdf).pvalue > ALPHA
    within = stats.norm.isf(ALPHA / 2) * 0.6 * cv_of(s) / math.sqrt(SAMPLES)
    assert abs(sample.mean() - 0.6) < within
    # another s would be seen
    assert stats.kstest(sample, stats.lognorm(1.1 * s, scale=0.6).cdf).pvalue < ALPHA


def test_spread_of_currents_goes_with_one_over_temperature() -> None:
    cold, hot = (Subthreshold(relative_std=0.2, kelvin=kelvin).log_std for kelvin in (250.0, 350.0))
    assert cold / hot == pytest.approx(350 / 250)
    assert Subthreshold(relative_std=0.2).log_std == pytest.approx(0.198, abs=1e-4)


def test_each_bit_of_a_weight_has_its_own_mismatch() -> None:
    device = Subthreshold(relative_std=0.2, bits=4)
    cvs = {}
    for code in (1, 2, 8, 12, 15):
        sample = programmed(device, code / 15)
        assert sample.mean() == pytest.approx(code / 15, rel=6 * 0.2 / math.sqrt(SAMPLES))
        cvs[code] = sample.std() / sample.mean()
    for code, cv in cvs.items():
        branches = [2**b for b in range(4) if code >> b & 1]
        assert cv == pytest.approx(0.2 * math.hypot(*branches) / sum(branches), rel=0.02)
    one, other = programmed(device, 8 / 15), programmed(device, 7 / 15)
    falls = (one < other).mean()  # code 8 below code 7: what no step of a monotone converter does
    assert 0.2 < falls < 0.4


def test_codes_are_the_nearest_and_gradients_go_straight_through() -> None:
    exact = Subthreshold(relative_std=0.0, bits=2)
    g = torch.linspace(-0.1, 1.1, 13, dtype=torch.float64) * exact.g_max_siemens
    held = exact.program(g, Draws(0, (0,), "w+"))["g_siemens"][0] / exact.g_max_siemens
    torch.testing.assert_close(held, (3 * g / exact.g_max_siemens).round().clamp(0, 3) / 3)
    device = Subthreshold(relative_std=0.2, bits=4)
    target = torch.full((5,), 0.4 * device.g_max_siemens, dtype=torch.float64, requires_grad=True)
    made = device.program(target, Draws(0, (0, 1), "w+"))["g_siemens"]
    made[1].sum().backward()
    assert target.grad is not None
    torch.testing.assert_close(target.grad, made[1].detach() / (6 / 15 * device.g_max_siemens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_coded_weights_conform(bits: int, dtype: torch.dtype) -> None:
    """What the conformance suite asks of the default, of weights in bits and a current that never stops."""
    device, chips = Subthreshold(bits=bits, g_min_siemens=1e-10), (0, 5, 4_000_000_000)
    g = torch.linspace(1e-10, 15e-9, 203, dtype=dtype).requires_grad_()
    together = device.program(g, Draws(1, chips, "w+"))["g_siemens"]
    assert together.shape == (3, 203)
    assert together.dtype == dtype
    together.sum().backward()
    assert g.grad is not None
    assert bool((g.grad > 0).all()) and bool(torch.isfinite(g.grad).all())
    assert float(together.detach().min()) >= 1e-10 * (1 - 1e-6)
    for row, chip in enumerate(chips):
        assert torch.equal(together[row], device.program(g, Draws(1, (chip,), "w+"))["g_siemens"][0])
    assert torch.equal(device.age({"g_siemens": together}, 1e8, Draws(1, chips, "w+")), together)


def test_weights_keep_their_signs_and_chips_their_draws() -> None:
    net = nn.Linear(30, 20, bias=False)
    chip = hardware("dynapse-se2", device__relative_std=1.0)
    deployed = ns.deploy(net, chip)
    eye = torch.eye(30)
    with deployed.on(ns.Lot(chip)[0:8]) as chips:
        weights = chips(eye).transpose(1, 2)
    code = (net.weight.abs() / net.weight.abs().max() * 15).round()
    assert bool((weights.sign() == (net.weight.sign() * (code > 0))).all())
    with deployed.on(ns.Lot(chip)[5]) as alone:
        torch.testing.assert_close(alone(eye).transpose(1, 2)[0], weights[5])


def test_effects_say_each_cv_and_where_it_comes_from() -> None:
    (one,) = Subthreshold().effects()
    assert one.size == (
        "lognormal, CV 12.5 % of each current at 300 K; gf180-pfet-3v3, 1 x 1 µm, σ(V_T) 4.87 mV, κ 0.66"
    )
    found = {effect.name: effect for effect in hardware("dynapse-se2").device.effects()}
    assert (
        "CV 20 % of each of 4 currents of a weight at 300 K; stated: 20 % at 300 K"
        in found["mismatch of currents"].size
    )
    assert found["rounding of weights"].size == "4 bits a leg, 15 steps up to 15 nA"
    assert DEVICES["subthreshold"] is Subthreshold


# ---- neurons ----


class Cell(nn.Module):
    """What a neuron has, and nothing that it does: outputs show its parameters."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.tau_mem_s = nn.Parameter(torch.full((count,), 0.02))
        self.gain = nn.Parameter(torch.ones(count))
        self.v_threshold = nn.Parameter(torch.ones(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x * self.tau_mem_s, x * self.gain, x * self.v_threshold], dim=-1)


def sampled(spreads: dict[str, Spread], chips: int = 40, count: int = 500, heat: float = 300.0) -> np.ndarray:
    """ln of time constant, gain and threshold over what they should be: (3, chips, neurons)."""
    chip = heated(hardware("ideal", parameters=spreads), heat)
    net = ns.deploy(nn.Sequential(Cell(count)), chip)
    with net.on(ns.Lot(chip)[0:chips]) as on_chips:
        out = on_chips(torch.ones(1, count))[:, 0]
    return (out / torch.tensor([0.02, 1.0, 1.0])).log().permute(2, 0, 1).double().detach().numpy()


PFET = Transistor("gf180-pfet-3v3", 1e-6, 1e-6)
CURRENTS: dict[str, Transistor | float] = {"i_tau_mem": PFET, "i_gain_mem": PFET, "i_threshold": 0.3}


def test_time_constant_and_gain_share_a_current() -> None:
    tau, gain, threshold = sampled(neuron_spreads(CURRENTS)).reshape(3, -1)
    s, n = PFET.log_std(), tau.size
    assert tau.std() == pytest.approx(s, rel=0.03)
    assert gain.std() == pytest.approx(s * math.sqrt(2), rel=0.03)
    assert np.corrcoef(tau, gain)[0, 1] == pytest.approx(1 / math.sqrt(2), abs=0.02)
    assert abs(np.corrcoef(tau, threshold)[0, 1]) < stats.norm.isf(ALPHA / 2) / math.sqrt(n)
    for values, log_std in ((tau, s), (threshold, log_std_of(0.3))):
        law = stats.norm(-(log_std**2) / 2, log_std)
        assert stats.kstest(values, law.cdf).pvalue > ALPHA
    for values in (tau, gain, threshold):
        each = np.exp(values)
        assert abs(each.mean() - 1) < stats.norm.isf(ALPHA / 2) * each.std() / math.sqrt(n)


def test_a_bias_that_a_core_shares_moves_its_neurons_together() -> None:
    found = sampled(neuron_spreads({"i_tau_mem": 0.0, "i_gain_mem": 0.0}, die_std=0.1), chips=400, count=4)
    tau, gain, _ = found
    assert np.ptp(tau, axis=1).max() < 1e-6
    assert tau[:, 0].std() == pytest.approx(log_std_of(0.1), rel=0.15)
    assert gain[:, 0].std() == pytest.approx(log_std_of(0.1) * math.sqrt(2), rel=0.15)


def test_a_gradient_tilts_currents_and_leaves_their_ratios() -> None:
    spreads = neuron_spreads({"i_tau_mem": 0.0, "i_gain_mem": 0.0, "i_threshold": 0.0}, gradient_std=0.1)
    tau, gain, threshold = sampled(spreads, chips=300, count=25)
    assert np.abs(gain).max() < 1e-6
    places = grid_positions(25).numpy()
    slopes = np.linalg.lstsq(np.c_[places, np.ones(25)], (threshold - threshold[:, 12:13]).T, rcond=None)[0]
    assert slopes[0].std() == pytest.approx(log_std_of(0.1), rel=0.2)
    # weak where the current is strong, at the same places of the same chip
    assert np.corrcoef((tau - tau[:, 12:13]).ravel(), (threshold - threshold[:, 12:13]).ravel())[0, 1] < -0.99


@pytest.mark.parametrize("kelvin", [233.15, 358.15])
def test_heat_scales_time_constants_and_narrows_mismatch_on_the_same_chips(kelvin: float) -> None:
    cold, warm = (sampled(neuron_spreads(CURRENTS), chips=5, heat=at) for at in (300.0, kelvin))
    ratio = kelvin / 300.0
    s = PFET.log_std()
    local, seen = cold[0] + s**2 / 2, warm[0] - math.log(ratio) + (s / ratio) ** 2 / 2
    np.testing.assert_allclose(seen, local / ratio, atol=2e-5)
    assert warm[2].std() == pytest.approx(cold[2].std() / ratio, rel=1e-4)
    assert np.exp(warm[0]).mean() == pytest.approx(ratio, rel=0.01)


def test_heated_is_what_was_designed_for_that_temperature() -> None:
    designed = neuron_spreads({"i_tau_mem": 0.2, "i_gain_mem": 0.2}, kelvin=350.0)
    found = heated(hardware("ideal", parameters=neuron_spreads({"i_tau_mem": 0.2, "i_gain_mem": 0.2})), 350.0)
    for pattern, spread in designed.items():
        moved = found.parameters[pattern]
        assert moved.factor == pytest.approx(spread.factor)
        assert dict(moved.transistors) == pytest.approx(dict(spread.transistors))
    plain = heated(hardware("ideal", parameters={"*.tau": Spread(relative_std=0.1)}), 350.0)
    assert plain.parameters["*.tau"] == Spread(relative_std=0.1)
    assert heated(hardware("dynapse-se2"), 300.0).digest() == hardware("dynapse-se2").digest()


def test_only_a_lognormal_is_made_of_currents() -> None:
    for field, value in (("transistors", {"i": 0.1}), ("die_std", 0.1), ("gradient_std", 0.1)):
        with pytest.raises(
            UsageError, match=f"expected {field} only with distribution 'lognormal'; got 'normal'"
        ):
            Spread(**{field: value})
    with pytest.raises(UsageError, match="expected transistors or relative_std, which follows from them"):
        Spread(distribution="lognormal", relative_std=0.1, transistors={"i": 0.1})
    with pytest.raises(UsageError, match=r"at most 5, with a sign; got transistors\.i=6"):
        Spread(distribution="lognormal", transistors={"i": 6})
    with pytest.raises(UsageError, match=r"parameters\..*transistors\.i"):
        hardware("ideal", parameters={"*.tau": {"distribution": "lognormal", "transistors": {"i": "much"}}})


def test_words_about_a_spread_are_silent_and_digests_do_not_see_them() -> None:
    plain = hardware("ideal", parameters={"*.tau": Spread(relative_std=0.1)})
    worded = hardware("ideal", parameters={"*.tau": Spread(relative_std=0.1, optional=True, origin="here")})
    assert plain.digest() == worded.digest()
    assert "optional" not in plain.to_toml()
    assert set(Spread(relative_std=0.1).model_dump()) == {"distribution", "relative_std", "absolute_std"}
    assert (
        plain.digest()
        != hardware("ideal", parameters={"*.tau": Spread(relative_std=0.1, factor=1.1)}).digest()
    )


def test_an_optional_pattern_may_match_nothing_and_another_may_not() -> None:
    optional = hardware("ideal", parameters={"*.tau": Spread(relative_std=0.1, optional=True)})
    ns.deploy(nn.Linear(3, 2), optional)
    with pytest.raises(UsageError, match="matches no parameter of this network"):
        ns.deploy(nn.Linear(3, 2), hardware("ideal", parameters={"*.tau": Spread(relative_std=0.1)}))


def test_gradients_reach_a_parameter_made_of_currents() -> None:
    spread = Spread(
        distribution="lognormal", transistors={"a": 0.2, "b": -0.1}, die_std=0.1, gradient_std=0.1, factor=1.2
    )
    value = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: spread.sample(v, Draws(3, (0, 5), "cell.tau")), (value,))
    crowd = spread.sample(value.detach(), Draws(3, tuple(range(9)), "cell.tau"))
    assert torch.equal(spread.sample(value.detach(), Draws(3, (7,), "cell.tau"))[0], crowd[7])
    assert spread.sample(torch.ones(()), Draws(3, (0, 1), "tau")).shape == (2,)
    assert spread.sample(torch.ones(2, 9), Draws(3, (0, 1), "tau")).shape == (2, 2, 9)


# ---- biases ----


@pytest.mark.parametrize("coarse", range(6))
def test_the_bias_generator_of_dynap_se2_falls_seven_times_in_each_range(coarse: int) -> None:
    row = DYNAP_SE2.table()[0, coarse]
    falls = [code for code in range(255) if row[code + 1] < row[code]]
    assert falls == [31, 63, 95, 127, 159, 191, 223]


def test_the_bias_generator_is_near_the_currents_listed_for_the_chip() -> None:
    # code 127 and 255 of each coarse code, n-channel: rockpool 3, devices/dynapse/lookup/paramgen.py
    listed = [
        (3.644e-11, 7.177e-11), (2.913e-10, 5.728e-10), (2.3335e-9, 4.568e-9),
        (1.8745e-8, 3.642e-8), (1.4925e-7, 2.9036e-7), (1.1435e-6, 2.2759e-6),
    ]  # fmt: skip
    found = DYNAP_SE2.table()[0][:, [127, 255]].numpy()
    np.testing.assert_allclose(found, listed, rtol=0.006)
    assert float(DYNAP_SE2.table()[0, 0, 0]) == pytest.approx(4.94e-13)


def test_the_nearest_code_is_the_nearest_of_all() -> None:
    table = DYNAP_SE2.table()[0].numpy()
    for wanted in (2e-12, 5.3e-12, 7e-11, 3.3e-10, 1e-7, 5e-6):
        coarse, fine = DYNAP_SE2.codes(wanted)
        best = np.abs(np.log(table / wanted)).min()
        assert abs(math.log(table[coarse, fine] / wanted)) == pytest.approx(best)
        made = DYNAP_SE2.quantise(torch.tensor([wanted], dtype=torch.float64))
        assert float(made) == pytest.approx(DYNAP_SE2.nearest(wanted), rel=1e-9)
    within = torch.logspace(-11, -6, 300, dtype=torch.float64)
    off = (DYNAP_SE2.quantise(within) / within).log().abs()
    assert float(off.max()) < 0.05 and float(off.median()) < 0.004


def test_quantised_biases_pass_gradients() -> None:
    current = torch.tensor([5e-12, 3e-9], requires_grad=True)
    DYNAP_SE2.quantise(current).sum().backward()
    assert current.grad is not None
    assert current.grad.tolist() == [1.0, 1.0]


def test_chips_have_generators_of_their_own_and_wider_branches_match_better() -> None:
    ideal = BiasGenerator((255e-12,), (0.0,), ((),), unit_std=0.1)
    found = ideal.table(Draws(0, tuple(range(3000)), "core"))[:, 0]
    assert found.shape == (3000, 256)
    for b in (0, 4, 7):
        values = (found[:, 2**b] / (2**b * 1e-12)).numpy()
        assert values.std() == pytest.approx(0.1 / math.sqrt(2**b), rel=0.06)
    torch.testing.assert_close(ideal.table(Draws(0, (7,), "core"))[0], found[7:8])
    torch.testing.assert_close(ideal.table()[0, 0], torch.arange(256).double() * 1e-12)
    with pytest.raises(UsageError, match=r"more than 0 ampere; got 0\.0"):
        ideal.codes(0.0)
    with pytest.raises(UsageError, match="of every coarse code; got 1, 2 and 1"):
        BiasGenerator((1e-12,), (0.0, 0.0), ((),))


# ---- fields ----


def test_a_gradient_is_a_plane_of_the_size_stated() -> None:
    places = grid_positions(49)
    field = linear_field(places, 5e-3, Draws(0, tuple(range(4000)), "die")).numpy()
    middle_right = 3 * 7 + 6
    assert places[middle_right].tolist() == [1.0, 0.0]
    assert field[:, middle_right].std() == pytest.approx(5e-3, rel=0.05)
    assert field[:, 0].std() == pytest.approx(5e-3 * math.sqrt(2), rel=0.05)
    plane, *_ = np.linalg.lstsq(places.numpy(), field[:5].T, rcond=None)
    assert plane.shape == (2, 5)
    np.testing.assert_allclose(places.numpy() @ plane, field[:5].T, atol=1e-9)


def test_a_smooth_field_has_its_variance_and_correlation() -> None:
    places = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.3, 0.4], [2.0, -1.0]], dtype=torch.float64)
    chips = 20_000
    field = smooth_field(places, 2.0, 0.5, Draws(1, tuple(range(chips)), "die"), waves=64).numpy()
    assert field.std(axis=0) == pytest.approx([2.0] * 4, rel=0.03)
    found = np.corrcoef(field.T)
    for a, b in itertools.combinations(range(4), 2):
        squared = float(((places[a] - places[b]) ** 2).sum())
        expected = math.exp(-squared / (2 * 0.25))
        assert found[a, b] == pytest.approx(expected, abs=stats.norm.isf(ALPHA / 2) / math.sqrt(chips) + 0.01)
    assert stats.kstest(field[:, 0] / 2.0, stats.norm(0, 1).cdf).pvalue > ALPHA
    again = smooth_field(places[1:2], 2.0, 0.5, Draws(1, (11,), "die"), waves=64).numpy()
    np.testing.assert_allclose(again[0], field[11, 1:2], rtol=1e-9)
    with pytest.raises(UsageError, match="correlation_length of more than 0; got 0"):
        smooth_field(places, 1.0, 0.0, Draws(1, (0,), "die"))


# ---- presets ----


@pytest.mark.parametrize(
    ("name", "weight", "spreads"),
    [
        ("dynapse-se2", 0.2, {"tau_mem_s": 0.2, "threshold": 0.2, "refractory_s": 0.2, "gain": 0.286}),
        ("dynapse-se2-rockpool", 0.1, {"tau_mem_s": 0.202, "tau_syn_s": 0.202, "gain": 0.142}),
        ("spikey-bruderle-2009", 0.25, {"tau_mem_s": 0.142, "tau_syn_s": 0.25, "threshold": 0.05}),
        ("subthreshold-gf180", 0.153, {"tau_mem_s": 0.125, "gain": 0.177, "refractory_s": 0.153}),
    ],
)  # fmt: skip
def test_presets_have_the_cvs_of_their_sources(name: str, weight: float, spreads: dict[str, float]) -> None:
    chip = hardware(name)
    assert isinstance(chip.device, Subthreshold)
    assert cv_of(chip.device.log_std) == pytest.approx(weight, abs=1e-3)
    for parameter, cv in spreads.items():
        found = chip.spread_of(f"layers.3.{parameter}")
        assert found is not None
        assert found.local_std == pytest.approx(cv, abs=1e-3)
        assert found.optional and found.origin
    assert chip.spread_of("layers.3.weight") is None


def test_the_preset_of_a_process_is_what_the_circuits_say() -> None:
    nfet = Transistor("gf180-nfet-3v3", 1e-6, 1e-6)
    n_channel = ("i_refractory", "i_pulse", "i_weight")
    currents = {name for exponents in DPI_NEURON.values() for name in exponents}
    made = neuron_spreads({name: nfet if name in n_channel else PFET for name in currents})
    chip = hardware("subthreshold-gf180")
    assert set(chip.parameters) == set(made)
    for pattern, spread in made.items():
        found = chip.parameters[pattern]
        assert dict(found.transistors) == pytest.approx(dict(spread.transistors), abs=1e-5)
        assert found.origin == spread.origin
    assert isinstance(chip.device, Subthreshold)
    assert chip.device.transistor == nfet


@pytest.mark.parametrize("name", PRESETS)
def test_presets_explain_each_cv(name: str) -> None:
    net = ns.deploy(nn.Sequential(nn.Linear(8, 6), Cell(6)), hardware(name))
    text = str(net.explain())
    assert "mismatch of currents" in text
    rows = {row.name: row.spread for row in net.explain().sampled}
    assert set(rows) >= {"1.tau_mem_s", "1.v_threshold"}
    for row in rows.values():
        words, _, origin = row.partition("; ")
        assert words.startswith("lognormal, standard deviation ")
        assert origin


# ---- the neurons of the zoo ----


def test_neurons_of_the_library_differ_from_chip_to_chip() -> None:
    spiking = pytest.importorskip("neurosim.models.spiking", reason="NOT CHECKED: no spiking neurons here")
    chip = heated(hardware("dynapse-se2"), 330.0)
    net = nn.Sequential(nn.Linear(8, 6), spiking.Neurons(spiking.Lif(), 6))
    rows = {row.name: row.spread for row in ns.deploy(net, chip).explain().sampled}
    assert set(rows) == {"1.tau_mem_s", "1.v_threshold", "1.refractory_s"}
    assert "1/i_tau_mem 18.2 %" in rows["1.tau_mem_s"] and "times 1.1" in rows["1.tau_mem_s"]
    dpi = nn.Sequential(nn.Linear(8, 6), spiking.Neurons(spiking.DpiNeuron(), 6))
    rows = {row.name: row.spread for row in ns.deploy(dpi, chip).explain().sampled}
    assert {"1.i_tau_ampere", "1.i_gain_ampere", "1.i_spike_ampere", "1.u_t_volt"} <= set(rows)
    assert "times 1.1" in rows["1.u_t_volt"] and "1.kappa" not in rows


def test_chips_of_spiking_neurons_spike_differently() -> None:
    spiking = pytest.importorskip("neurosim.models.spiking", reason="NOT CHECKED: no spiking neurons here")
    chip = hardware("dynapse-se2")
    net = ns.deploy(nn.Sequential(spiking.Neurons(spiking.Lif(), 6)), chip)
    inputs = torch.full((2, 200, 6), 1.6)
    with net.on(ns.Lot(chip)[0:3]) as chips:
        counts = chips(inputs).sum(2)
    assert counts.shape == (3, 2, 6)
    assert bool((counts[0] != counts[1]).any())
    with net.on(ns.Lot(chip)[2]) as alone:
        torch.testing.assert_close(alone(inputs).sum(2)[0], counts[2])
