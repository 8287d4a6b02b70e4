"""Each device against an independent statement of its equations, and its draws against their law.

Statistical tests use fixed streams and a false-alarm rate of ALPHA each: they fail for a reason.
"""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats

from neurosim.devices import Gaussian, Pcm
from neurosim.errors import UsageError
from neurosim.random import Draws

ALPHA = 1e-5
SAMPLES = 1_000_000
G_MAX = 25e-6
AGES = [25.0, 3600.0, 86400.0, 3.15576e7, 3.15576e8]


def follows(sample: np.ndarray, law: object) -> None:
    """Kolmogorov-Smirnov against a frozen scipy law at ALPHA."""
    assert stats.kstest(sample, law.cdf).pvalue > ALPHA  # type: ignore[attr-defined]


# ---- Gaussian mismatch ----


@pytest.mark.parametrize("zeta", [0.1, 0.3, 0.7])
def test_mismatch_is_gaussian_of_the_stated_relative_size(zeta: float) -> None:
    g = torch.full((SAMPLES // 4,), 10e-6, dtype=torch.float64)
    made = Gaussian(relative_std=zeta).program(g, Draws(0, (0, 1, 2, 3), "w+"))["g_siemens"]
    follows(((made / g - 1) / zeta).flatten().numpy(), stats.norm())


def test_mismatch_is_not_clamped() -> None:
    g = torch.full((SAMPLES,), 10e-6)
    made = Gaussian(relative_std=0.5).program(g, Draws(0, (0,), "w+"))["g_siemens"]
    negative = int((made < 0).sum())
    assert stats.binomtest(negative, SAMPLES, stats.norm.cdf(-2.0)).pvalue > ALPHA


def test_mismatch_does_not_age() -> None:
    state = Gaussian().program(torch.rand(100) * G_MAX, Draws(0, (0,), "w+"))
    assert torch.equal(Gaussian().age(state, 1e8, Draws(0, (0,), "w+")), state["g_siemens"])


# ---- PCM: an independent NumPy statement of simulators.md ----


def numpy_pcm(g_us: np.ndarray, n_program: np.ndarray, n_drift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Programming in µS and double precision: (programmed conductance, drift exponent)."""
    x = np.maximum(g_us / 25.0, 1e-12)
    sigma = 0.26348 + 1.9650 * x - 1.1731 * x**2
    mu_nu = np.clip(-0.0155 * np.log(x) + 0.0244, 0.049, 0.1)
    sigma_nu = np.clip(-0.0125 * np.log(x) - 0.0059, 0.008, 0.045)
    return np.maximum(g_us + sigma * n_program, 0), np.abs(mu_nu + sigma_nu * n_drift)


def numpy_aged(g_us: np.ndarray, nu: np.ndarray, time_s: float, n_read: np.ndarray) -> np.ndarray:
    total = time_s + 20.0
    with np.errstate(divide="ignore"):
        q = np.minimum(0.0088 / (g_us / 25.0) ** 0.65, 0.2)
    drifted = g_us * (total / 20.0) ** -nu
    sigma = np.abs(drifted) * q * np.sqrt(np.log((total + 250e-9) / (2 * 250e-9)))
    return np.maximum(drifted + sigma * n_read, 0)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_pcm_equals_an_independent_statement(dtype: torch.dtype, tolerance: float) -> None:
    draws, device = Draws(1, (0, 5), "w+"), Pcm()
    g = torch.linspace(0, 25, 4001, dtype=dtype)
    state = device.program(g * 1e-6, draws)
    n = {name: draws.normal(name, g.shape).double().numpy() for name in ("programming", "drift")}
    made, nu = numpy_pcm(g.double().numpy(), n["programming"], n["drift"])
    # float32: a dozen roundings of 6e-8, relative to the full scale
    np.testing.assert_allclose(state["g_siemens"].double().numpy() * 1e6, made, atol=25 * tolerance, rtol=0)
    np.testing.assert_allclose(state["drift_exponent"].double().numpy(), nu, atol=tolerance, rtol=tolerance)
    for time_s in AGES:
        aged = device.age(state, time_s, draws).double().numpy() * 1e6
        n_read = draws.normal(f"read-noise@{time_s!r}", g.shape).double().numpy()
        np.testing.assert_allclose(aged, numpy_aged(made, nu, time_s, n_read), atol=25 * tolerance, rtol=0)


@pytest.fixture
def aihwkit_pcm() -> ModuleType:
    reason = "NOT CHECKED against aihwkit: it is not installed (pip install --no-deps aihwkit==1.1.0)"
    return pytest.importorskip("aihwkit.inference.noise.pcm", reason=reason)  # type: ignore[no-any-return]


def test_pcm_equals_aihwkit_on_the_same_draws(
    aihwkit_pcm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, device, theirs = Draws(1, (0,), "w+"), Pcm(), aihwkit_pcm.PCMLikeNoiseModel()
    g = torch.linspace(0, 25, 4001, dtype=torch.float64)

    def supply(name: str) -> None:
        numbers = draws.normal(name, g.shape)[0].double()
        monkeypatch.setattr(aihwkit_pcm, "randn_like", lambda _: numbers)

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


# ---- PCM: the laws of its draws ----


@pytest.mark.parametrize("x", [0.4, 0.7, 1.0])
def test_programming_noise_follows_the_polynomial(x: float) -> None:
    g = torch.full((SAMPLES,), x * G_MAX, dtype=torch.float64)
    made = Pcm().program(g, Draws(0, (0,), "w+"))["g_siemens"][0]
    sigma = (0.26348 + 1.9650 * x - 1.1731 * x * x) * 1e-6
    follows(((made - g) / sigma).numpy(), stats.norm())


def test_programming_noise_at_zero_is_half_a_gaussian() -> None:
    made = Pcm().program(torch.zeros(SAMPLES, dtype=torch.float64), Draws(0, (0,), "w+"))["g_siemens"][0]
    assert stats.binomtest(int((made == 0).sum()), SAMPLES, 0.5).pvalue > ALPHA
    follows((made[made > 0] / 0.26348e-6).numpy(), stats.halfnorm())


@pytest.mark.parametrize("x,mean,std", [(1.0, 0.049, 0.008), (0.1, 0.06009, 0.022882), (1e-4, 0.1, 0.045)])
def test_drift_exponents_follow_a_folded_gaussian(x: float, mean: float, std: float) -> None:
    g = torch.full((SAMPLES,), x * G_MAX, dtype=torch.float64)
    nu = Pcm().program(g, Draws(0, (0,), "w+"))["drift_exponent"][0]
    # moments to five digits: 1e-6/0.008 of a deviation moves the law by less than KS can see here
    follows(nu.numpy(), stats.foldnorm(mean / std, scale=std))


@pytest.mark.parametrize("time_s", [25.0, 3.15576e7])
def test_read_noise_has_the_stated_size(time_s: float) -> None:
    device = Pcm(programming_scale=0.0, drift_scale=0.0)
    g = torch.full((SAMPLES,), G_MAX, dtype=torch.float64)
    draws = Draws(0, (0,), "w+")
    aged = device.age(device.program(g, draws), time_s, draws)[0]
    sigma = 0.0088 * np.sqrt(np.log((time_s + 20 + 250e-9) / 500e-9))
    follows(((aged / g - 1) / sigma).numpy(), stats.norm())


def test_read_noise_of_weak_devices_is_cut_at_zero() -> None:
    device = Pcm(programming_scale=0.0, drift_scale=0.0)
    draws = Draws(0, (0,), "w+")
    state = device.program(torch.full((SAMPLES,), 0.001 * G_MAX, dtype=torch.float64), draws)
    aged = device.age(state, 86400.0, draws)[0]
    off = stats.norm.cdf(-1 / (0.2 * np.sqrt(np.log((86420 + 250e-9) / 500e-9))))
    assert stats.binomtest(int((aged == 0).sum()), SAMPLES, off).pvalue > ALPHA
    assert float(aged.min()) == 0.0


def test_programming_drift_and_read_draws_are_independent() -> None:
    draws = Draws(0, (0,), "w+")
    names = ["programming", "drift", "read-noise@25.0", "read-noise@3600.0"]
    correlation = np.corrcoef(np.stack([draws.normal(name, (SAMPLES,))[0].numpy() for name in names]))
    # six pairs share ALPHA; a correlation of n samples has standard deviation 1/sqrt(n)
    limit = stats.norm.isf(ALPHA / 12) / np.sqrt(SAMPLES)
    assert np.abs(correlation[np.triu_indices(4, 1)]).max() < limit


# ---- PCM: ageing ----


def test_drift_only_ever_lowers_a_conductance() -> None:
    device, draws = Pcm(read_scale=0.0), Draws(0, (0, 1), "w+")
    state = device.program(torch.linspace(0, G_MAX, 1001), draws)
    ages = [device.age(state, time_s, draws) for time_s in [0.0, 1e-3, 1.0, *AGES]]
    for younger, older in itertools.pairwise(ages):
        assert bool((older <= younger).all())
        on = younger > 0
        assert bool((older < younger)[on].any())


def test_read_windows_differ_between_ages_and_repeat_within_one() -> None:
    device, draws = Pcm(programming_scale=0.0, drift_scale=0.0), Draws(0, (0,), "w+")
    state = device.program(torch.full((1000,), G_MAX), draws)
    hour, again, day = (device.age(state, t, draws) for t in (3600.0, 3600, 86400.0))
    assert torch.equal(hour, again)
    assert abs(float(np.corrcoef(hour[0].numpy(), day[0].numpy())[0, 1])) < 0.2


def test_read_noise_grows_with_age() -> None:
    growth = [Pcm().read_growth(time_s) for time_s in AGES]
    assert growth == sorted(growth)


def test_legs_of_a_pair_draw_apart() -> None:
    g = torch.full((1000,), 10e-6)
    plus, minus = (Pcm().program(g, Draws(0, (0,), f"fc.weight{leg}"))["g_siemens"] for leg in "+-")
    assert abs(float(np.corrcoef(plus[0].numpy(), minus[0].numpy())[0, 1])) < 0.2


def test_programming_noise_scales_with_the_range_of_the_device() -> None:
    small, large = Pcm(g_max_siemens=5e-6), Pcm()
    x = torch.rand(100, dtype=torch.float64)
    torch.testing.assert_close(
        small.programming_std(x * 5e-6), large.programming_std(x * 25e-6) / 5, rtol=1e-12, atol=0
    )


def test_a_polynomial_below_zero_means_no_noise() -> None:
    device = Pcm(programming_siemens=(-1e-6, 0.0, 0.0))
    assert float(device.programming_std(torch.tensor([10e-6]))) == 0.0
    assert not device.effects()[0].acts


def test_effects_state_the_published_sizes() -> None:
    programming, drift, read = Pcm().effects()
    assert programming.size == "0.263 to 1.09 µS (standard deviation; at most 4.35 % of g_max)"
    assert "20 s" in drift.size
    assert "ν 0.049 to 0.1" in drift.size
    assert read.size.startswith("4.48 % of a fully-on conductance after a day")


def test_crossed_clips_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"expected drift_mean_min <= drift_mean_max; got drift_mean_min=0\.2"
    ):
        Pcm(drift_mean_min=0.2)
