"""SONOS, flash, ferroelectric transistors and electrochemical memory: an independent statement of each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from neurosim.devices.ecram import Ecram
from neurosim.devices.fefet import Fefet
from neurosim.devices.flash import YEAR_S, Flash
from neurosim.devices.sonos import DAY_S, DAYS, Sonos, at_age
from neurosim.errors import UsageError
from neurosim.random import Draws

ALPHA = 1e-5
SAMPLES = 1_000_000
DRAWS = Draws(0, (0,), "w+")


def follows(sample: np.ndarray, law: object) -> None:
    assert stats.kstest(sample, law.cdf).pvalue > ALPHA  # type: ignore[attr-defined]


def filled(value: float) -> torch.Tensor:
    return torch.full((SAMPLES,), value, dtype=torch.float64)


# ---- SONOS ----

PUBLISHED = {  # simulators.md: a and b of σ = a·(1 − exp(−I/b)), nanoampere
    0.0: (19.89, 176.3),
    5.0: (34.58, 207.3),
}


def published_std(days: float, nanoampere: float) -> float:
    a, b = PUBLISHED[days]
    return a * (1 - math.exp(-nanoampere / b))


@pytest.mark.parametrize("nanoampere", [50.0, 200.0, 800.0, 1600.0])
def test_sonos_writes_with_the_published_error(nanoampere: float) -> None:
    made = Sonos().program(filled(nanoampere * 1e-8), DRAWS)["g_siemens"][0].numpy() * 1e8
    assert abs(made.mean() - nanoampere) < 5 * made.std() / math.sqrt(SAMPLES)
    # published digits hold to 1e-3 of themselves, a deviation of a million samples to 5/√(2n) = 3.5e-3
    assert abs(made.std() / published_std(0.0, nanoampere) - 1) < 5e-3
    sigma = 19.88665 * (1 - math.exp(-nanoampere / 176.3115))
    follows((made - nanoampere) / sigma, stats.norm())


@pytest.mark.parametrize("nanoampere,shift", [(100.0, 4.12), (800.0, -15.17), (1600.0, -40.70)])
def test_sonos_after_five_days_has_the_published_mean_and_spread(nanoampere: float, shift: float) -> None:
    # the shifts are the day-5 polynomial by numpy's polyval
    device = Sonos(read_scale=0.0)
    state = device.program(filled(nanoampere * 1e-8), DRAWS)
    aged = device.age(state, 5 * DAY_S, DRAWS)[0].numpy() * 1e8
    expected = published_std(5.0, nanoampere + shift)
    assert abs(aged.mean() - nanoampere - shift) < 0.02 + 5 * expected / math.sqrt(SAMPLES)
    assert abs(aged.std() / expected - 1) < 5e-3


def test_sonos_drift_equals_numpy_on_every_day() -> None:
    device, current = Sonos(), np.linspace(0, 1600, 801)
    for day, fit in enumerate(DAYS[1:], start=1):
        for dtype, within in ((torch.float64, 1e-9), (torch.float32, 3e-2)):
            shift, added = device.drift(torch.tensor(current * 1e-8, dtype=dtype), day * DAY_S)
            mean = np.polynomial.polynomial.polyval(current, fit.shift)
            np.testing.assert_allclose(shift.double().numpy() * 1e8, mean, atol=within, rtol=0)
            now = fit.a_nanoampere * (1 - np.exp(-np.maximum(current + mean, 0) / fit.b_nanoampere))
            written = 19.88665 * (1 - np.exp(-current / 176.3115))
            rest = np.sqrt(np.maximum(now**2 - written**2, 0))
            np.testing.assert_allclose(
                added.double().numpy() * 1e8, rest, atol=max(within, 2e-6) * 10, rtol=0
            )


def test_sonos_read_noise_has_the_published_size() -> None:
    device = Sonos(programming_scale=0.0, drift_scale=0.0)
    aged = device.age(device.program(filled(6e-6), DRAWS), 3600.0, DRAWS)[0].numpy() * 1e8
    follows((aged - 600) / (12.58037 * (1 - math.exp(-600 / 215.36557))), stats.norm())


def test_sonos_days_are_interpolated_and_later_ages_grow_as_a_logarithm() -> None:
    half, growth = at_age(2.5 * DAY_S)
    assert half.a_nanoampere == pytest.approx((DAYS[2].a_nanoampere + DAYS[3].a_nanoampere) / 2)
    assert half.shift[10] == pytest.approx((DAYS[2].shift[10] + DAYS[3].shift[10]) / 2)
    assert growth == 1.0
    device, g = Sonos(), torch.linspace(1e-6, 16e-6, 50, dtype=torch.float64)
    five, year = (device.drift(g, days * DAY_S) for days in (5, 365))
    factor = math.log(366) / math.log(6)
    torch.testing.assert_close(year[0], five[0] * factor)
    torch.testing.assert_close(year[1], five[1] * factor)


def test_sonos_keeps_its_drift_draw_from_age_to_age() -> None:
    device = Sonos(read_scale=0.0)
    state = device.program(filled(8e-6)[:10_000], DRAWS)
    day1, day5 = ((device.age(state, d * DAY_S, DRAWS) - state["g_siemens"])[0].numpy() for d in (1, 5))
    assert np.corrcoef(day1, day5)[0, 1] > 0.999


def test_sonos_beyond_its_currents_is_refused() -> None:
    with pytest.raises(UsageError, match=r"at most 1\.8e-06 A.*got g_max_siemens=1\.6e-05, v_read_volt=0\.2"):
        Sonos(v_read_volt=0.2)
    Sonos(g_max_siemens=18e-6)


def test_sonos_effects_state_the_published_sizes() -> None:
    write, drift, read = Sonos().effects()
    assert write.size.startswith("19.9 nA")
    assert drift.size.startswith("after 5 days -40.7 nA on average at 1600 nA")
    assert read.size.startswith("12.6 nA")


# ---- flash ----


def test_flash_is_tuned_to_one_per_cent() -> None:
    g = filled(3e-6)
    made = Flash().program(g, DRAWS)["g_siemens"]
    follows(((made / g - 1) / 0.01)[0].numpy(), stats.norm())


@pytest.mark.parametrize("years", [0.001, 1.0, 15.0, 100.0])
def test_flash_loses_charge_towards_full_conductance(years: float) -> None:
    device = Flash(tuning_std=0.0)
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    aged = device.age(device.program(x * 25e-6, DRAWS), years * YEAR_S, DRAWS)[0] / 25e-6
    lost = 0.0212 * math.log(1 + years * 365.25) / math.log(1 + 15 * 365.25)
    on = x >= 1e-6
    np.testing.assert_allclose(aged[on].numpy(), x[on].numpy() ** (1 - lost), rtol=1e-9)
    assert float(aged[0]) == 0.0
    assert bool((aged >= x - 1e-15).all())
    change = (aged - x).max()
    assert float(change) == pytest.approx(lost / math.e, rel=0.03)
    assert abs(float(x[(aged - x).argmax()]) - 1 / math.e) < 0.02


def test_flash_cannot_lose_more_than_everything() -> None:
    device = Flash(tuning_std=0.0, retention_loss=1.0)
    aged = device.age(device.program(torch.tensor([1e-6, 20e-6]), DRAWS), 1e300, DRAWS)
    torch.testing.assert_close(aged, torch.full((1, 2), 25e-6))


# ---- ferroelectric transistors ----


def test_fefet_thresholds_spread_by_a_fraction_of_the_window() -> None:
    device = Fefet(g_min_siemens=1e-6, g_max_siemens=11e-6)
    made = device.program(filled(6e-6), DRAWS)["g_siemens"][0].numpy()
    follows((made - 6e-6) / 0.4e-6, stats.norm())


@pytest.mark.parametrize("x", [0.2, 0.6, 1.0])
def test_fefet_behind_a_resistor_is_two_resistors_in_series(x: float) -> None:
    device = Fefet(g_max_siemens=10e-6, series_fraction=0.5)
    n = DRAWS.normal("programming", (1000,)).double().numpy()[0]
    made = device.program(torch.full((1000,), x * 10e-6, dtype=torch.float64), DRAWS)["g_siemens"][0].numpy()
    ohm = 0.5 / 10e-6
    transistor = 1 / (1 / (x * 10e-6) - ohm) + 0.04 * (1 / (1 / 10e-6 - ohm)) * n
    np.testing.assert_allclose(made, 1 / (1 / np.maximum(transistor, 1e-30) + ohm), rtol=1e-9, atol=1e-20)


def test_fefet_resistors_hide_the_spread_of_strong_states() -> None:
    def relative(s: float, x: float) -> float:
        device = Fefet(g_max_siemens=10e-6, series_fraction=s)
        g = device.program(torch.full((20_000,), x * 10e-6), DRAWS)["g_siemens"]
        return float(g.std() / g.mean())

    assert relative(0.8, 1.0) < 0.3 * relative(0.0, 1.0)
    assert relative(0.8, 0.1) > 0.3 * relative(0.0, 0.1)


# ---- electrochemical memory ----


def test_ecram_open_loop_walks_randomly_to_a_scaled_target() -> None:
    device = Ecram(g_min_siemens=5e-6, g_max_siemens=25e-6)
    made = device.program(filled(15e-6), DRAWS)["g_siemens"][0].numpy()
    step = 0.001 * 20e-6
    sigma = math.sqrt((0.1 * 10e-6) ** 2 + 500 * (0.3 * step) ** 2)
    follows((made - 15e-6) / sigma, stats.norm())


def test_ecram_cycles_add_up_as_a_walk() -> None:
    device = Ecram(device_std=0.0, cycle_std=2.0, step=1.4107e-4)
    made = device.program(filled(25e-6), DRAWS)["g_siemens"][0].numpy()
    follows((made / 25e-6 - 1) / (2 * math.sqrt(1.4107e-4)), stats.norm())
    below = Ecram(device_std=0.0).program(torch.tensor([0.0]), Draws(0, (0, 1, 2), "w+"))["g_siemens"]
    assert torch.equal(below, torch.zeros(3, 1))  # no pulse, no error


def test_ecram_verified_stops_within_half_a_step() -> None:
    device = Ecram(programming="verified")
    made = device.program(filled(12e-6), DRAWS)["g_siemens"][0].numpy()
    follows((made - 12e-6) / 25e-9, stats.uniform(-0.5, 1.0))
    assert [effect.name for effect in device.effects()] == ["programming error"]


@pytest.mark.parametrize("device", [Fefet(), Ecram(), Flash(retention_loss=0.0)])
def test_these_do_not_age(device: Fefet | Ecram | Flash) -> None:
    state = device.program(torch.linspace(0, 25e-6, 100), DRAWS)
    assert torch.equal(device.age(state, 3e8, DRAWS), state["g_siemens"])
