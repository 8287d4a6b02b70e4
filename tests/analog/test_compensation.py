"""What the digital part corrects: factors a tile or column, and lines fitted on calibration inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import deploy
from neurosim.analog.compensation import fitted
from neurosim.devices import Hardware, to_conductances
from neurosim.errors import UsageError
from neurosim.random import Draws

from .networks import DAY, filled, lot, read, small, some

YEAR = 365 * DAY
IDEAL = {"dac__bits": None, "adc__bits": None}


def pcm(compensation: str, **changes: Any) -> Hardware:
    return ns.hardware("pcm-joshi-2020", compensation=compensation, **changes)


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def test_a_factor_a_column_is_that_of_its_own_devices() -> None:
    hardware = pcm("per-column", **IDEAL, **small(7, 5))
    layer, x = filled(nn.Linear(12, 9, bias=False)), some(4, 12)
    net, device = deploy(layer, hardware), hardware.device
    mapped = to_conductances(layer.weight.detach(), device, "per-layer")
    fresh, aged = torch.zeros(9, 12), torch.zeros(9, 12)
    for sign, g in ((1, mapped.g_plus), (-1, mapped.g_minus)):
        draws = Draws(0, (4,), "root.weight+" if sign > 0 else "root.weight-")
        state = device.program(g, draws)
        fresh += sign * state["g_siemens"][0]
        aged += sign * device.age(state, YEAR, draws)[0]
    expected = torch.zeros(4, 9)
    for rows in (slice(0, 6), slice(6, 12)):
        factor = fresh[:, rows].abs().sum(1) / aged[:, rows].abs().sum(1)
        expected += x[:, rows] @ (aged[:, rows] * factor[:, None]).T
    span = device.g_max_siemens - device.g_min_siemens
    out = read(net, lot(net)[[4]], x, YEAR)[0]
    torch.testing.assert_close(out, expected * (mapped.scale / span), rtol=1e-4, atol=1e-5)


@given(
    a=st.floats(0.1, 10),
    b=st.floats(-5, 5),
    count=st.integers(3, 30),
)
def test_a_line_is_found_again(a: float, b: float, count: int) -> None:
    y = some(2, count, 3)
    gain, shift = fitted(y, a * y[0] + b)
    torch.testing.assert_close(gain[0], torch.full((3,), a), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shift[0], torch.full((3,), b), rtol=1e-4, atol=1e-3)
    for column in range(3):  # another chip: numpy's regression
        expected = np.polyfit(y[1, :, column].double(), (a * y[0] + b)[:, column].double(), 1)
        found = float(gain[1, column]), float(shift[1, column])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_column_that_tells_nothing_keeps_its_gain() -> None:
    y, wanted = torch.ones(1, 5, 2), torch.zeros(5, 2)
    y[0, :, 1] = torch.arange(5.0)
    gain, shift = fitted(y, wanted)
    assert gain.tolist() == [[1.0, 1.0]]
    assert shift.tolist() == [[-1.0, -2.0]]


@pytest.mark.parametrize("mapping", ["differential-pair", "offset-column", "unit-column", "bit-sliced"])
@pytest.mark.parametrize("time_s", [0.0, YEAR])
def test_lines_are_those_of_each_chip_on_the_calibration_inputs(mapping: str, time_s: float) -> None:
    changes = {"array__mapping": mapping, **IDEAL, **small(7, 5)}
    layer, x = filled(nn.Linear(12, 9)), some(200, 12)
    plain = deploy(layer, pcm("none", **changes))
    net = deploy(layer, pcm("gain-and-offset", **changes), calibration=x)
    out, wanted = read(net, lot(net)[[0, 3]], x, time_s), layer(x).detach()
    raw = read(plain, lot(plain)[[0, 3]], x, time_s)
    # an offset that is a number is subtracted after the gain: the line goes through what comes before
    offset = layer.weight.detach().abs().max() * x.sum(1).double() * (mapping == "offset-column")
    for chip in range(2):
        for column in range(9):
            y, target = raw[chip, :, column] + offset, wanted[:, column] + offset
            line = np.polyval(np.polyfit(y, target, 1), y) - offset.numpy()
            np.testing.assert_allclose(out[chip, :, column], line, rtol=0, atol=2e-4)
    assert rms(out - wanted) < rms(raw - wanted)


def test_errors_fall_from_none_to_a_factor_a_tile_to_one_a_column_to_a_line() -> None:
    layer, x = filled(nn.Linear(64, 20)), some(300, 64)
    errors = []
    for compensation in ("none", "global", "per-column", "gain-and-offset"):
        net = deploy(layer, pcm(compensation), calibration=x)
        fresh = some(300, 64, name="unseen")
        errors.append(rms(read(net, lot(net)[0:20], fresh, YEAR) - layer(fresh).detach()))
    assert errors[0] > 1.5 * errors[1] > 1.5 * errors[2] > 1.5 * errors[3] * 0.98


def test_what_is_fitted_is_fitted_again_at_every_age() -> None:
    layer, x = filled(nn.Linear(12, 9)), some(200, 12)
    net = deploy(layer, pcm("gain-and-offset"), calibration=x)
    with torch.no_grad(), net.on(lot(net)[0:3], YEAR) as chips:
        old = chips(x)
        chips.age(0.0)
        young = chips(x)
        chips.age(YEAR)
        assert torch.equal(chips(x), old)
    assert torch.equal(young, read(net, lot(net)[0:3], x, 0.0))


def test_inputs_travel_with_the_ranges() -> None:
    layer, x = filled(nn.Conv2d(3, 5, 3)), some(40, 3, 9, 9)
    net = deploy(layer, pcm("gain-and-offset"), calibration=x)
    state = net.calibration_state()
    assert state["root.inputs"].shape == (10, 3, 9, 9)  # 49 vectors an image, 512 in all
    twin = deploy(layer, pcm("gain-and-offset"))
    twin.load_calibration_state(state)
    assert torch.equal(read(twin, lot(net)[0:2], x), read(net, lot(net)[0:2], x))
    without = {key: tensor for key, tensor in state.items() if not key.endswith("inputs")}
    twin.load_calibration_state(without)
    with pytest.raises(UsageError, match="calibrated without the inputs"):
        read(twin, lot(net)[0:2], x)


def test_a_network_that_was_never_calibrated_says_so() -> None:
    net = deploy(nn.Linear(4, 3), ns.hardware("ideal", compensation="gain-and-offset"))
    with pytest.raises(UsageError, match=r"call net\.calibrate"):
        read(net, lot(net)[0:1], torch.ones(2, 4))


@pytest.mark.parametrize("compensation", ["none", "global", "per-column", "gain-and-offset"])
def test_explain_says_what_is_compensated(compensation: str) -> None:
    rows = deploy(nn.Linear(4, 3), pcm(compensation)).explain().effects
    row = next(effect for effect in rows if "compensation" in effect.name)
    assert row.acts == (compensation != "none")
