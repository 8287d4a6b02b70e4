"""HERMES PCM against an independent statement of its equations, aihwkit, and the laws of its draws."""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats

from neurosim.devices.pcm_hermes import PcmHermes
from neurosim.errors import UsageError
from neurosim.random import Draws

ALPHA = 1e-5
SAMPLES = 1_000_000
AGES = [25.0, 3600.0, 86400.0, 3.15576e7]
G_REF = {1: 10.35, 2: 20.7}
T0 = {1: 200.0, 2: 300.0}


def follows(sample: np.ndarray, law: object) -> None:
    """Kolmogorov-Smirnov against a frozen scipy law at ALPHA."""
    assert stats.kstest(sample, law.cdf).pvalue > ALPHA  # type: ignore[attr-defined]


def device_of(devices: int, **changes: float) -> PcmHermes:
    return PcmHermes(devices=devices, g_max_siemens=G_REF[devices] * 1e-6, **changes)


# ---- an independent NumPy statement of the published fits, one device at a time ----


def sigma_program(x: float, devices: int) -> float:
    if devices == 1:
        return 0.15781817 + 2.32443916 * x - 2.16310839 * x**2 + 0.68841818 * x**3
    return 0.16603222 + 4.71806468 * x - 8.48101252 * x**2 + 4.68961419 * x**3


def drift_moments(x: float, devices: int) -> tuple[float, float]:
    log = np.log(max(x, 1e-12))
    mean = np.clip(-0.0387 * log - 0.0182, 0.072, 0.13) if x < 0.0945 else 0.0736 - 0.0126 * x - 0.0436 * x**2
    if devices == 1:
        low, high = np.clip(-0.0120 * log - 0.0023, 0.0124, 0.04), 0.0104 + 0.0116 * x - 0.0165 * x**2
        return float(mean), float(low if x < 0.3039 else high)
    low, high = np.clip(-0.0117 * log - 0.0057, 0.0091, 0.04), 0.0073 + 0.0093 * x - 0.0118 * x**2
    return float(mean), float(low if x < 0.3055 else high)


def read_fraction(x: float, devices: int) -> float:
    log = np.log(max(x, 1e-12))
    if devices == 1:
        high = 0.0088 + 0.0768 * x - 0.1352 * x**2 + 0.0664 * x**3
        return float(np.clip(-0.0078 * log + 0.0038, 0.0179, 0.04) if x < 0.1591 else high)
    high = 0.0123 + 0.0211 * x - 0.0280 * x**2 + 0.0069 * x**3
    return float(np.clip(-0.0117 * log - 0.0069, 0.015, 0.04) if x < 0.16 else high)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_equals_an_independent_statement(devices: int, dtype: torch.dtype, tolerance: float) -> None:
    draws, device, ref = Draws(1, (0, 5), "w+"), device_of(devices), G_REF[devices]
    g = torch.linspace(0, ref, 801, dtype=torch.float64).to(dtype)
    state = device.program(g * 1e-6, draws)
    n = {
        name: draws.normal(name, g.shape).double().numpy()
        for name in ("programming", "drift", "read-noise@3600.0")
    }
    targets = g.double().numpy()
    moments = np.array([drift_moments(x / ref, devices) for x in targets])
    made = np.maximum(targets + [sigma_program(x / ref, devices) for x in targets] * n["programming"], 0)
    nu = np.abs(moments[:, 0] + moments[:, 1] * n["drift"])
    np.testing.assert_allclose(state["g_siemens"].double().numpy() * 1e6, made, atol=ref * tolerance, rtol=0)
    np.testing.assert_allclose(state["drift_exponent"].double().numpy(), nu, atol=tolerance, rtol=tolerance)
    held = state["g_siemens"].double().numpy() * 1e6
    kept = state["drift_exponent"].double().numpy()
    total = 3600.0 + T0[devices]
    drifted = held * (total / T0[devices]) ** -kept
    q = np.vectorize(lambda value: read_fraction(value / ref, devices))(held)
    noise = drifted * q * np.sqrt(np.log((total + 512e-9) / 1024e-9)) * n["read-noise@3600.0"]
    aged = device.age(state, 3600.0, draws).double().numpy() * 1e6
    np.testing.assert_allclose(aged, np.maximum(drifted + noise, 0), atol=ref * tolerance, rtol=0)


# ---- aihwkit's own model ----


@pytest.fixture
def aihwkit_hermes() -> ModuleType:
    reason = "NOT CHECKED against aihwkit: it is not installed (pip install --no-deps aihwkit==1.1.0)"
    return pytest.importorskip("aihwkit.inference.noise.hermes", reason=reason)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")  # theirs
@pytest.mark.parametrize("devices", [1, 2])
def test_equals_aihwkit_on_the_same_draws(
    aihwkit_hermes: ModuleType, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    draws, device = Draws(1, (0,), "w+"), device_of(devices)
    theirs = aihwkit_hermes.HermesNoiseModel(num_devices=devices)
    g = torch.linspace(0, G_REF[devices], 4001, dtype=torch.float64)

    def supply(name: str) -> None:
        numbers = draws.normal(name, g.shape)[0].double()
        monkeypatch.setattr(aihwkit_hermes, "randn_like", lambda _: numbers)

    state = device.program(g * 1e-6, draws)
    supply("programming")
    made = theirs.apply_programming_noise_to_conductance(g)
    torch.testing.assert_close(state["g_siemens"][0] * 1e6, made, atol=1e-12, rtol=1e-12)
    supply("drift")
    nu = theirs.generate_drift_coefficients(g)
    torch.testing.assert_close(state["drift_exponent"][0], nu, atol=1e-12, rtol=1e-12)
    for time_s in AGES:
        supply(f"read-noise@{time_s!r}")
        aged = theirs.apply_drift_noise_to_conductance(made, nu, time_s)
        torch.testing.assert_close(device.age(state, time_s, draws)[0] * 1e6, aged, atol=1e-11, rtol=1e-11)


# ---- the laws of its draws ----


@pytest.mark.parametrize("devices,x", [(1, 0.5), (2, 1.0)])
def test_programming_noise_follows_the_cubic(devices: int, x: float) -> None:
    g = torch.full((SAMPLES,), x * G_REF[devices] * 1e-6, dtype=torch.float64)
    made = device_of(devices).program(g, Draws(0, (0,), "w+"))["g_siemens"][0]
    follows(((made - g) * 1e6 / sigma_program(x, devices)).numpy(), stats.norm())


@pytest.mark.parametrize("devices,x", [(1, 1e-4), (1, 0.5), (2, 0.2)])
def test_drift_exponents_follow_a_folded_gaussian(devices: int, x: float) -> None:
    g = torch.full((SAMPLES,), x * G_REF[devices] * 1e-6, dtype=torch.float64)
    nu = device_of(devices).program(g, Draws(0, (0,), "w+"))["drift_exponent"][0]
    mean, std = drift_moments(x, devices)
    follows(nu.numpy(), stats.foldnorm(mean / std, scale=std))


@pytest.mark.parametrize("devices,x", [(1, 0.05), (2, 1.0)])
def test_read_noise_has_the_stated_size(devices: int, x: float) -> None:
    device, draws = device_of(devices, programming_scale=0.0, drift_scale=0.0), Draws(0, (0,), "w+")
    g = torch.full((SAMPLES,), x * G_REF[devices] * 1e-6, dtype=torch.float64)
    aged = device.age(device.program(g, draws), 86400.0, draws)[0]
    growth = np.sqrt(np.log((86400.0 + T0[devices] + 512e-9) / 1024e-9))
    follows(((aged / g - 1) / (read_fraction(x, devices) * growth)).numpy(), stats.norm())


# ---- what people may rely on ----


def test_two_devices_write_more_precisely_than_one() -> None:
    # the point of Vasilopoulos' programming: a smaller part of a range that is twice as wide
    one, two = (sigma_program(1.0, devices) / G_REF[devices] for devices in (1, 2))
    assert two < 0.6 * one


def test_drift_only_ever_lowers_a_conductance_and_never_redraws() -> None:
    device, draws = PcmHermes(read_scale=0.0), Draws(0, (0, 1), "w+")
    state = device.program(torch.linspace(0, 20.7e-6, 1001, dtype=torch.float64), draws)
    ages = [device.age(state, time_s, draws) for time_s in [0.0, 1.0, *AGES]]
    for younger, older in itertools.pairwise(ages):
        assert bool((older <= younger).all())
    # each device keeps its exponent: ln g falls in proportion to ln(1 + t/t0)
    on = ages[0] > 1e-7
    slopes = [
        (ages[k][on].log() - ages[0][on].log()) / np.log1p(t / 300.0) for k, t in ((2, 25.0), (4, 86400.0))
    ]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-6, atol=1e-9)


def test_a_device_does_not_get_better_by_using_less_of_its_range() -> None:
    g = torch.tensor([5e-6], dtype=torch.float64)
    narrow, wide = PcmHermes(g_max_siemens=10e-6), PcmHermes()
    assert torch.equal(narrow.programming_std(g), wide.programming_std(g))
    assert torch.equal(narrow.drift_moments(g)[0], wide.drift_moments(g)[0])


@pytest.mark.parametrize("devices", [0, 3, 1.5])
def test_other_numbers_of_devices_are_refused(devices: float) -> None:
    with pytest.raises(UsageError, match="devices"):
        PcmHermes(devices=devices)


def test_effects_state_the_published_sizes() -> None:
    programming, drift, read = PcmHermes().effects()
    assert programming.size == "0.166 to 1.09 µS (standard deviation; at most 5.28 % of g_max)"
    assert drift.size == "(1 + t/300 s)^-ν, mean ν 0.0174 (fully on) to 0.13"
    # 0.0123 at x = 1 and √ln(86700/1.024e-6) = 5.02
    assert read.size.startswith("6.17 % of a fully-on conductance after a day")
