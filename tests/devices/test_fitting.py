"""Fitting one's own device: known truth is recovered within the stated intervals, bad data are refused."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import neurosim as ns
from neurosim.devices.fitting import LARGEST_BYTES, Data, fit, read
from neurosim.devices.measured import Measured
from neurosim.errors import UsageError
from neurosim.random import Draws

LEVELS = np.array([2.0, 6.0, 10.0, 15.0, 20.0]) * 1e-6
TIMES = np.array([1.0, 10.0, 100.0, 1000.0])


def truth(seed: int, devices: int = 100, read_noise: float = 0.0, times=TIMES) -> Data:
    """b = -0.2 µS, σ = 0.3 + 0.8 x µS; ν = 0.06 - 0.02 x ± 0.01; multiplicative read noise."""
    rng = np.random.default_rng(seed)
    target = np.repeat(LEVELS, devices)
    x = target / 20e-6
    g = target - 0.2e-6 + (0.3e-6 + 0.8e-6 * x) * rng.normal(size=target.size)
    nu = 0.06 - 0.02 * x + 0.01 * rng.normal(size=target.size)
    rows = [
        (target, g * (t / times[0]) ** -nu * (1 + read_noise * rng.normal(size=g.size)), np.full(g.size, t))
        for t in times
    ]
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return Data(*columns, np.tile(np.arange(target.size), len(times)))


def test_coefficients_lie_in_their_95_percent_intervals_as_often_as_stated():
    """Conditional on the true orders, which BIC mostly finds; 60 seeds x 6 coefficients."""
    true = {"mean": (-0.2e-6,), "std": (0.3e-6, 0.8e-6)}, {"mean": (0.06, -0.02), "std": (0.01,)}
    inside, tried, right = 0, 0, 0
    for seed in range(60):
        found = fit(truth(seed, read_noise=0.005))
        for curve, expected in zip((found.programming, found.drift), true, strict=True):
            orders = all(len(getattr(curve, part)) == len(values) for part, values in expected.items())
            right += orders
            if not orders:
                continue
            for part, values in expected.items():
                got, half = getattr(curve, part), getattr(curve, f"{part}_95")
                inside += sum(abs(g - v) <= h for g, v, h in zip(got, values, half, strict=True))
                tried += len(values)
    assert right >= 0.8 * 120
    # 95 % expected; the binomial standard deviation is below 1.3 %, and selection by BIC costs a little
    assert 0.90 <= inside / tried <= 0.99


def test_error_of_the_slope_is_not_taken_for_spread_of_devices():
    drift = fit(truth(3, 400, read_noise=0.05)).drift
    raw = float(drift.stds.mean())
    assert raw > 0.012  # what a naive fit would call the spread
    assert drift.std[0] == pytest.approx(0.01, rel=0.15)


def test_likelihood_is_that_of_the_normal_density():
    data = truth(1, times=TIMES[:1])
    found = fit(data).programming
    x = data.target / 20e-6
    mean, std = np.polyval(found.mean[::-1], x), np.polyval(found.std[::-1], x)
    z = (data.measured - data.target - mean) / std
    assert found.log_likelihood == pytest.approx(
        float(np.sum(-0.5 * z**2 - np.log(std * math.sqrt(2 * math.pi))))
    )
    # a maximum: any nearby coefficients are less likely
    for shift in (0.98, 1.02):
        other = np.polyval((np.array(found.std) * shift)[::-1], x)
        z = (data.measured - data.target - mean) / other
        assert np.sum(-0.5 * z**2 - np.log(other * math.sqrt(2 * math.pi))) < found.log_likelihood


def test_doubts_are_raised_about_tails_and_about_good_data_hardly_ever():
    heavy = truth(0, 200)
    draw = np.random.default_rng(5).standard_t(3, size=heavy.target.size)
    heavy = Data(heavy.target, heavy.target + 0.5e-6 * draw, heavy.time_s, heavy.device)
    assert any("not normal" in note for note in fit(heavy).notes)
    assert sum(len(fit(truth(seed)).notes) > 1 for seed in range(20)) <= 1


def test_round_trip_through_a_file_and_the_device(tmp_path: Path):
    found = fit(truth(2, 300), name="my $ device")
    (tmp_path / "my.toml").write_text(found.hardware.to_toml(), encoding="utf-8")
    again = ns.hardware(tmp_path / "my.toml")
    assert again == found.hardware
    device = again.device
    assert isinstance(device, Measured)
    assert device.fit_range().g_siemens == pytest.approx((2e-6, 20e-6))
    assert device.fit_range().time_s == (1.0, 1000.0)
    draws = Draws(0, (0,), "w+")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = device.program(torch.full((40_000,), 20e-6, dtype=torch.float64), draws)
    g = state["g_siemens"]
    assert float(g.mean()) == pytest.approx(19.8e-6, abs=0.15e-6)
    assert float(g.std()) == pytest.approx(1.1e-6, rel=0.1)
    late = device.age(state, 1000.0, draws)
    assert float((late / g).log().mean()) == pytest.approx(-0.04 * math.log(1000), rel=0.05)
    assert torch.equal(device.age(state, 0.5, draws), g)


def test_one_time_gives_no_drift_and_says_so():
    found = fit(truth(0, times=TIMES[:1]))
    assert found.drift is None
    assert any("drift was not fitted: it takes three times" in note for note in found.notes)
    assert any("read noise was not fitted" in note for note in found.notes)
    assert found.hardware.device.fit_range().time_s == (0.0, 0.0)
    assert fit(truth(0, times=np.array([1.0, 2.0, 5.0]))).drift is None


def pick(data: Data, rows) -> Data:
    return Data(data.target[rows], data.measured[rows], data.time_s[rows], data.device[rows])


def test_what_the_data_cannot_support_is_refused():
    data = truth(0)
    with pytest.raises(UsageError, match="2 target levels at the earliest time: expected at least 3"):
        fit(pick(data, data.target < 8e-6))
    with pytest.raises(UsageError, match=r"1 devices at target 6 µS: expected at least 20"):
        fit(pick(data, (data.target != 6e-6) | (data.device == 150)))
    with pytest.raises(UsageError, match="cover at least half of the range up to g_max = 50 µS"):
        fit(data, g_max_siemens=50e-6)
    with pytest.raises(UsageError, match="below the largest target, 20 µS"):
        fit(data, g_max_siemens=10e-6)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="below the largest target"):
            fit(data, g_max_siemens=wrong)
    with pytest.raises(UsageError, match="100 devices are not measured at the earliest time, 1 s"):
        fit(pick(data, (data.target != 6e-6) | (data.time_s > 1)))
    with pytest.raises(UsageError, match="measure the same"):
        fit(Data(data.target, data.target, data.time_s, data.device))
    with pytest.raises(UsageError, match="0 target levels"):
        fit(pick(data, data.target < 0))


def test_a_file_is_read_in_any_unit(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("Device, target_us ,measured_nS,time_s,note\na,5,4900,1,x\na,10,9900,1,y\n")
    data = read(path)
    np.testing.assert_allclose(data.target, [5e-6, 10e-6])
    np.testing.assert_allclose(data.measured, [4.9e-6, 9.9e-6])
    assert data.device.tolist() == [0, 1]  # one device, written twice


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty: expected the columns target"),
        ("target,measured,time,device\n1,1,1,a\n", "'time_s': did you mean 'time'"),
        ("target,measured,time_s,device\n1,nan,1,a\n", "line 2: measured is 'nan': expected a finite number"),
        ("target,measured,time_s,device\n1,x,1,a\n", "measured is 'x'"),
        (
            "target,measured,time_s,device\n-1,1,1,a\n",
            "target is '-1': expected a finite number of at least 0",
        ),
        ("target,measured,time_s,device\n1,1,1\n", "line 2: expected 4 cells; got 3"),
        ("target,measured,time_s,device\n1,1,1,a\n1,2,1,a\n", "measured twice at one time"),
        ("target,target_us,measured,time_s,device\n", "two columns for 'target'"),
        ('target,measured,time_s,device\n"1,1,1,a\n', "not CSV"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, text: str, said: str):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_text_no_file_and_too_large_a_file(tmp_path: Path):
    path = tmp_path / "a.csv"
    with pytest.raises(UsageError, match="no such file"):
        read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read(path)
    with path.open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    with pytest.raises(UsageError, match="too large"):
        read(path)
