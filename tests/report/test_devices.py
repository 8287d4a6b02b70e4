"""The figure of a device: every preset is drawn, the curves are those of independent formulas."""

from __future__ import annotations

import math
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import neurosim as ns
from neurosim.devices import Ideal, Pcm, hardware_names
from neurosim.devices.generic import Generic
from neurosim.devices.rram_wan import RramWan
from neurosim.errors import UsageError
from neurosim.report.devices import DEVICES_A_POINT, device_figure, sample

# 2,048 normals: the relative error of a standard deviation is 1/sqrt(2 * 2048) = 1.6 %; five of these
CLOSE = 5 / math.sqrt(2 * DEVICES_A_POINT)


@pytest.mark.parametrize("name", hardware_names())
def test_every_preset_is_sampled(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = sample(ns.hardware(name).device)
    assert DEVICES_A_POINT >= 2000
    for values in (seen.std, seen.bias, seen.fan, seen.held, seen.fluctuation, seen.times):
        assert np.all(np.isfinite(values))
    assert seen.fan.shape == (5, 3, len(seen.times))
    assert np.all(np.diff(seen.fan, axis=1) >= 0)
    assert np.all(np.diff(seen.times) > 0)
    measured = ns.hardware(name).device.fit_range().time_s
    if measured and measured[1]:
        assert seen.times[0] <= measured[1] < seen.times[-1]


def test_programming_error_is_that_of_the_formula():
    seen = sample(Generic(std=0.03, law="proportional", below_zero="kept"))
    np.testing.assert_allclose(seen.std[1:], 0.03 * seen.target[1:], rtol=CLOSE)
    assert np.all(np.abs(seen.bias) <= 5 * 0.03 * seen.target / math.sqrt(DEVICES_A_POINT) + 1e-18)
    assert seen.std[0] == 0


def test_drift_and_read_noise_of_pcm_are_those_of_the_paper():
    seen = sample(Pcm(programming_scale=0.0))
    # fully on: exponent |N(0.049, 0.008)|, from t0 = 20 s
    np.testing.assert_allclose(
        seen.fan[-1, 1], 25e-6 * (1 + seen.times / 20) ** -0.049, rtol=0.01
    )  # 0.01: the median over 2,048 devices with read noise
    t = 86400.0
    assert seen.read_time == seen.measured_until == t
    growth = math.sqrt(math.log((t + 20 + 250e-9) / (2 * 250e-9)))
    assert seen.fluctuation[-1] == pytest.approx(0.0088 * growth * seen.held[-1], rel=CLOSE)


def test_relaxation_without_read_noise_has_no_fluctuation():
    seen = sample(RramWan())
    assert seen.ages and seen.fluctuation.max() < 1e-5 * 40e-6
    assert not sample(Ideal()).ages


@pytest.mark.parametrize("device", [Pcm(), Ideal(), RramWan()], ids=lambda device: device.kind)
def test_same_device_same_bytes(device, tmp_path):
    first, second = (device_figure(device, "$x <b>", path=tmp_path / f"{n}.svg").read_bytes() for n in "ab")
    assert first == second
    assert ET.fromstring(first).tag.endswith("svg")
    assert b"<dc:date>" not in first


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.svg or \.png"):
        device_figure(Ideal(), "x", path=tmp_path / "x.pdf")
