"""RRAM against independent statements of the fits, published points, aihwkit, and the laws of its draws."""

from __future__ import annotations

import itertools
import math
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import neurosim as ns
from neurosim.devices.rram_cmo import RramCmo
from neurosim.devices.rram_milo import RramMilo
from neurosim.devices.rram_wan import RramWan
from neurosim.errors import UsageError
from neurosim.random import Draws

ALPHA = 1e-5
SAMPLES = 1_000_000
DAY = 86400.0
NO_AIHWKIT = "NOT CHECKED against aihwkit: it is not installed (pip install --no-deps aihwkit==1.1.0)"


def follows(sample: np.ndarray, law: object) -> None:
    """Kolmogorov-Smirnov against a frozen scipy law at ALPHA."""
    assert stats.kstest(sample, law.cdf).pvalue > ALPHA  # type: ignore[attr-defined]


def one_chip() -> Draws:
    return Draws(0, (0,), "w+")


def full(g_us: float) -> Tensor:
    return torch.full((SAMPLES,), g_us * 1e-6, dtype=torch.float64)


@pytest.fixture
def aihwkit_reram() -> ModuleType:
    return pytest.importorskip("aihwkit.inference.noise.reram", reason=NO_AIHWKIT)


# ---- Wan 2022 ----

# simulators.md, σ in µS as a polynomial of g/(40 µS)
WAN = {
    1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
    DAY: (0.701, 22.086, -50.773, 47.095, -16.458),
    2 * DAY: (0.782, 20.274, -43.507, 37.062, -11.934),
}


def wan_sigma(g_us: float, time_s: float) -> float:
    x = g_us / 40
    return sum(c * x**k for k, c in enumerate(WAN[time_s]))


@pytest.mark.parametrize("g_us,time_s", [(20.0, 1.0), (40.0, DAY), (20.0, 2 * DAY)])
def test_wan_follows_the_quartics(g_us: float, time_s: float) -> None:
    g, device = full(g_us), RramWan()
    aged = device.age(device.program(g, one_chip()), time_s, one_chip())[0]
    follows(((aged - g) * 1e6 / wan_sigma(g_us, time_s)).numpy(), stats.norm())


def test_wan_at_its_weakest_is_cut_at_zero() -> None:
    device = RramWan()
    aged = device.age(device.program(full(1.0), one_chip()), DAY, one_chip())[0]
    off = stats.norm.cdf(-1.0 / wan_sigma(1.0, DAY))
    assert stats.binomtest(int((aged == 0).sum()), SAMPLES, off).pvalue > ALPHA


def test_wan_equals_aihwkit_on_the_same_draws(
    aihwkit_reram: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, theirs = RramWan(), aihwkit_reram.ReRamWan2022NoiseModel(g_max=40.0)
    g = torch.linspace(0, 40, 4001, dtype=torch.float64)
    n = one_chip().normal("programming", g.shape)[0].double()
    monkeypatch.setattr(aihwkit_reram, "randn_like", lambda _: n)
    state = device.program(g * 1e-6, one_chip())
    made = theirs.apply_programming_noise_to_conductance(g)
    torch.testing.assert_close(state["g_siemens"][0] * 1e6, made, atol=1e-11, rtol=1e-11)
    for time_s in sorted(WAN):
        aged = theirs.apply_drift_noise_to_conductance(made, g, time_s)
        ours = device.age(state, time_s, one_chip())[0] * 1e6
        torch.testing.assert_close(ours, aged, atol=1e-11, rtol=1e-11)


def test_wan_keeps_its_deviation_for_life() -> None:
    """Correlation 1 between any two ages: a peer that redraws has 0."""
    device, g = RramWan(), full(20.0)
    state = device.program(g, one_chip())
    young, old = (device.age(state, t, one_chip())[0] - g for t in (1.0, 2 * DAY))
    # no clamp acts at 20 µS: ±6.8 standard deviations are below 27 µS only above 5 deviations
    inside = old > -g
    ratio = (old[inside] / young[inside]).numpy()
    np.testing.assert_allclose(ratio, wan_sigma(20.0, 2 * DAY) / wan_sigma(20.0, 1.0), rtol=1e-6)


def test_wan_between_fits_is_linear_in_log_time_and_holds_outside() -> None:
    device, g = RramWan(), torch.tensor([12e-6], dtype=torch.float64)

    def sigma(t: float) -> float:
        return float(device.deviation_std(g, t)) * 1e6

    middle = math.sqrt(DAY)  # half way from 1 s to a day in ln t
    assert sigma(middle) == pytest.approx((wan_sigma(12, 1.0) + wan_sigma(12, DAY)) / 2, rel=1e-12)
    assert sigma(0.0) == sigma(0.5) == sigma(1.0) == pytest.approx(wan_sigma(12, 1.0), rel=1e-12)
    assert sigma(1e9) == sigma(2 * DAY) == pytest.approx(wan_sigma(12, 2 * DAY), rel=1e-12)
    near = [sigma(t) for t in np.geomspace(0.5, 1e6, 400)]
    assert max(abs(b - a) for a, b in itertools.pairwise(near)) < 0.05  # no jumps


def crosssim_sigma(g_us: float) -> float:
    """CrossSim 3.2, simulator/devices/custom/RRAM_Wan.py."""
    return max(1.536e-4 * g_us**3 - 1.167e-2 * g_us**2 + 2.374e-1 * g_us + 1.053, 0.0)


@pytest.mark.parametrize("g_us", [1.0, 12.0, 25.0, 39.26])
def test_wan_of_crosssim_is_its_cubic(g_us: float) -> None:
    device = ns.hardware("rram-wan-2022-crosssim").device
    assert isinstance(device, RramWan)
    found = float(device.deviation_std(torch.tensor([g_us * 1e-6], dtype=torch.float64), 1.0)) * 1e6
    assert found == pytest.approx(crosssim_sigma(g_us), rel=1e-6)


def test_wan_of_crosssim_follows_its_law_and_does_not_age() -> None:
    device, g = ns.hardware("rram-wan-2022-crosssim").device, full(25.0)
    state = device.program(g, one_chip())
    follows(((state["g_siemens"][0] - g) * 1e6 / crosssim_sigma(25.0)).numpy(), stats.norm())
    assert torch.equal(device.age(state, 2 * DAY, one_chip()), state["g_siemens"])


def test_both_published_fits_of_wan_differ_as_documented() -> None:
    """Two groups, one figure: from 4 µS on CrossSim's is 7 to 46 % above, 77 % at 1 µS."""
    ratios = [crosssim_sigma(g) / wan_sigma(g, 1.0) for g in np.linspace(4, 39.26, 200)]
    assert min(ratios) == pytest.approx(1.07, abs=0.005)
    assert max(ratios) == pytest.approx(1.46, abs=0.005)
    assert crosssim_sigma(1.0) / wan_sigma(1.0, 1.0) == pytest.approx(1.77, abs=0.005)


def test_wan_does_not_get_better_by_using_less_of_its_range() -> None:
    g = torch.tensor([10e-6], dtype=torch.float64)
    assert torch.equal(RramWan(g_max_siemens=20e-6).deviation_std(g, DAY), RramWan().deviation_std(g, DAY))


def test_wan_accepts_a_fit_of_ones_own_and_refuses_half_a_one() -> None:
    own = RramWan(fit_times_s=(10.0,), fit_siemens=((2e-6,),))
    assert float(own.deviation_std(torch.tensor([10e-6]), 1e6)) == pytest.approx(2e-6)
    with pytest.raises(UsageError, match=r"expected rising fit_times_s and one polynomial.*1 polynomials"):
        RramWan(fit_siemens=((1e-6,),))
    with pytest.raises(UsageError, match="expected rising fit_times_s"):
        RramWan(fit_times_s=(1.0, 1.0), fit_siemens=((1e-6,), (1e-6,)))
    with pytest.raises(UsageError, match=r"one and the same length; got fit_siemens of lengths \[1, 2\]"):
        RramWan(fit_times_s=(1.0, 2.0), fit_siemens=((1e-6,), (1e-6, 0.0)))
    with pytest.raises(UsageError, match=r"lengths \[0\]"):
        RramWan(fit_times_s=(1.0,), fit_siemens=((),))


# ---- CMO/HfOx ----

CMO = {"0.2%": (0.00081107, 0.00106879), "2%": (0.0112185391, 0.01129027418)}


@pytest.mark.parametrize("acceptance,g_us", [("0.2%", 9.0), ("2%", 88.2)])
def test_cmo_programming_follows_the_line(acceptance: str, g_us: float) -> None:
    a, b = CMO[acceptance]
    made = RramCmo(acceptance=acceptance).program(full(g_us), one_chip())["g_siemens"][0]
    follows(((made - full(g_us)) * 1e6 / (a + b * g_us)).numpy(), stats.norm())


@pytest.mark.parametrize("time_s", [1.0, 3600.0])
def test_cmo_relaxes_by_the_published_moments(time_s: float) -> None:
    device = RramCmo(programming_scale=0.0, read_scale=0.0)
    aged = device.age(device.program(full(50.0), one_chip()), time_s, one_chip())[0]
    law = stats.norm(50.0 - 0.08900206 * math.log(time_s), 0.04201137 * math.log(time_s) + 0.41183342)
    follows((aged * 1e6).numpy(), law)


@pytest.mark.parametrize("g_us,time_s", [(9.0, 10.0), (88.2, 3600.0)])
def test_cmo_read_noise_has_the_published_size(g_us: float, time_s: float) -> None:
    device = RramCmo(programming_scale=0.0, relaxation_scale=0.0)
    aged = device.age(device.program(full(g_us), one_chip()), time_s, one_chip())[0]
    sigma = 0.0277316483 * math.log10(g_us) * math.sqrt(math.log((time_s + 1e-6) / 2e-6))
    follows(((aged * 1e6 - g_us) / sigma).numpy(), stats.norm())


def test_cmo_published_points() -> None:
    """Falcone et al. 2025, doi:10.48550/arXiv.2502.04524."""
    weakest = float(RramCmo().programming_std(torch.tensor([9e-6], dtype=torch.float64)))
    assert weakest * 1e9 == pytest.approx(10, abs=1)  # abstract: "low programming noise (down to 10 nS)"
    hour = RramCmo().relaxation_moments(3600.0)[0] * 1e6
    assert hour == pytest.approx(-0.68, rel=0.1)  # fig. 3d: mean error of all states after one hour, µS
    # fig. 3a: 35 states from 10 to 90 µS, neighbours' Gaussians overlap by 9.6 % after ten minutes
    spacing, std = 80 / 34, RramCmo().relaxation_moments(600.0)[1] * 1e6
    assert 2 * stats.norm.sf(spacing / 2 / std) == pytest.approx(0.096, rel=0.25)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")  # NumPy 2 on theirs
def test_cmo_equals_aihwkit_on_the_same_draws(
    aihwkit_reram: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # inside the range, where aihwkit's clamp to [g_min, g_max] does not act; its keys are in per cent
    g = torch.linspace(20, 75, 4001, dtype=torch.float64)
    for acceptance, key in (("0.2%", 0.2), ("2%", 2)):
        device = RramCmo(acceptance=acceptance)
        theirs = aihwkit_reram.ReRamCMONoiseModel(g_max=88.2, g_min=9.0, acceptance_range=key)
        state = device.program(g * 1e-6, one_chip())
        numbers: list[Tensor] = []
        monkeypatch.setattr(aihwkit_reram, "randn_like", lambda _, left=numbers: left.pop(0))
        numbers[:] = [one_chip().normal("programming", g.shape)[0].double()]
        made = theirs.apply_programming_noise_to_conductance(g)
        torch.testing.assert_close(state["g_siemens"][0] * 1e6, made, atol=1e-11, rtol=1e-11)
        for time_s in (1.0, 3600.0, 3.15576e8):
            names = ("relaxation", f"read-noise@{time_s!r}")
            numbers[:] = [one_chip().normal(name, g.shape)[0].double() for name in names]
            aged = theirs.apply_drift_noise_to_conductance(made, g, time_s)
            ours = device.age(state, time_s, one_chip())[0] * 1e6
            torch.testing.assert_close(ours, aged, atol=1e-10, rtol=1e-10)


def test_cmo_ends_of_the_range_are_not_clamped() -> None:
    """A device at g_max may rise, one at g_min fall: half of each does, but for the mean."""
    device = RramCmo(read_scale=0.0)
    for g_us in (9.0, 88.2):
        moved = device.age(device.program(full(g_us), one_chip()), 1.0, one_chip())[0] * 1e6 - g_us
        assert stats.binomtest(int((moved > 0).sum()), SAMPLES, 0.5).pvalue > ALPHA


def test_cmo_keeps_its_place_in_the_relaxation_and_begins_at_one_second() -> None:
    device = RramCmo(read_scale=0.0)
    state = device.program(full(50.0), one_chip())
    first, second, hour = (
        device.age(state, t, one_chip())[0] - state["g_siemens"][0] for t in (1e-3, 1.0, 3600.0)
    )
    assert torch.equal(first, second)
    rank = np.corrcoef(second.numpy(), hour.numpy())[0, 1]
    assert rank == pytest.approx(1.0, abs=1e-9)


def test_cmo_refuses_another_acceptance_range() -> None:
    with pytest.raises(UsageError, match="acceptance"):
        RramCmo(acceptance="1%")


def test_cmo_programming_relaxation_and_read_draws_are_independent() -> None:
    names = ["programming", "relaxation", "read-noise@1.0", "read-noise@3600.0"]
    correlation = np.corrcoef(np.stack([one_chip().normal(name, (SAMPLES,))[0].numpy() for name in names]))
    limit = stats.norm.isf(ALPHA / 12) / np.sqrt(SAMPLES)
    assert np.abs(correlation[np.triu_indices(4, 1)]).max() < limit


# ---- Milo 2021 ----


@pytest.mark.parametrize("g_us", [50.0, 225.0])
def test_milo_follows_crosssims_line(g_us: float) -> None:
    made = RramMilo().program(full(g_us), one_chip())["g_siemens"][0]
    follows(((made - full(g_us)) * 1e6 / (4.782321 - 0.009107 * g_us)).numpy(), stats.norm())


def test_milo_does_not_age_and_never_has_a_negative_deviation() -> None:
    state = RramMilo().program(full(100.0)[:10], one_chip())
    assert torch.equal(RramMilo().age(state, 1e8, one_chip()), state["g_siemens"])
    assert float(RramMilo().programming_std(torch.tensor([1e-3]))) == 0.0


def test_milo_runs_with_its_cubic_current_voltage_law() -> None:
    """One device a product: i = G·v + N2·v² + N3·v³ with CrossSim's N2(G), N3(G), by hand."""
    chip = ns.hardware(
        "rram-milo-2021", device__programming_scale=0.0, dac__bits=None, adc__bits=None,
        **{"wires.model": "nonlinear", "wires.law": "milo-rram", "wires.v_read_volt": 0.5},
    )  # fmt: skip
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    net = ns.deploy(layer, chip, calibration=torch.ones(1, 1))  # full input is 1
    with torch.no_grad(), net.on(ns.Lot(chip)[0:1]) as on_chips:
        full_on, half = (float(on_chips(torch.tensor([[v]]))) for v in (1.0, 0.5))

    def current(g: float, v: float) -> float:
        x = math.log10(g)
        n2 = 0.0001388 * x**3 + 0.001541 * x**2 + 0.005711 * x + 0.007063
        n3 = 8.8710e-5 * x**2 + 6.7919e-4 * x + 1.2968e-3
        return g * v + n2 * v**2 + n3 * v**3

    def pair(v: float) -> float:
        return current(225e-6, v) - current(50e-6, v)

    assert half / full_on == pytest.approx(pair(0.25) / pair(0.5), rel=1e-4)
    assert abs(half / full_on - 0.5) > 0.005  # and not the straight line


# ---- every preset, in a network ----

PRESETS = [
    "pcm-hermes-2023", "pcm-hermes-2023-one-device", "rram-wan-2022", "rram-wan-2022-crosssim",
    "rram-cmo-2025", "rram-cmo-2025-fast", "rram-milo-2021",
]  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_networks_train_and_age_on_every_preset(name: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(32, 12)
    chip = ns.hardware(name)
    net = ns.deploy(torch.nn.Linear(12, 4), chip, calibration=x)
    with net.on(ns.Lot(chip)[0:3], time_s=3600.0) as on_chips:
        on_chips(x).square().sum().backward()
    weight = next(net.parameters())
    assert weight.grad is not None
    assert bool(torch.isfinite(weight.grad).all())
    assert bool((weight.grad != 0).any())
    with torch.no_grad(), net.on(ns.Lot(chip)[0:3]) as on_chips:
        fresh = on_chips(x)
        assert not torch.equal(fresh[0], fresh[1])
        on_chips.age(3600.0)
        moved = not torch.equal(on_chips(x), fresh)
    assert moved == (name not in ("rram-wan-2022-crosssim", "rram-milo-2021"))
