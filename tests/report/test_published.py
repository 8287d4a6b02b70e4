"""Our curves pass through what others published, sampled through each device's own program and age."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import neurosim as ns
from neurosim.devices import Device, hardware_names
from neurosim.random import Draws
from neurosim.report.devices import device_figure, points_of
from neurosim.report.published import QUANTITIES, Point, published, published_for

DEVICES = 40_000
SAMPLING = 4 / math.sqrt(2 * DEVICES)  # four standard errors of a standard deviation: 1.4 %
# of the published value, on top of sampling: how far our curve may be from a point
TOLERANCE = {"peer's fit": 0.01, "text": 0.05}
OTHER_FIT = 0.05  # CrossSim's fit of Joshi's figure against aihwkit's: two readings of one figure
WITHOUT_POINTS = {
    "ideal": "exact",
    "gaussian-mismatch": "a formula",
    "generic": "a formula",
    "pcm-aihwkit-default": "the device of pcm-joshi-2020",
    "ecram-tang-2018": "no error of writing is published",
    "ecram-kim-2019": "no error of writing is published",
    "fefet-yin-2024": "one average of a threshold, no conductance",
    "fefet-1r-yin-2024": "one average of a threshold, no conductance",
    "stt-mram-typical": "typical, not measured",
}
OFF = {
    "std": ("read_scale",),
    "mean": ("read_scale",),
    "std_other": ("read_scale",),
    "nu_mean": ("read_scale", "programming_scale"),
    "nu_std": ("read_scale", "programming_scale"),
    "read_std": ("programming_scale", "drift_scale"),
}


def quiet(device: Device, quantity: str) -> Device:
    """The device with the effects off that the quantity does not contain."""
    fields = {name: 0.0 for name in OFF[quantity] if name in type(device).model_fields}
    return type(device)(**{**device.model_dump(), **fields})


def held(device: Device, point: Point, times_s: tuple[float, ...]) -> list[Tensor]:
    draws = Draws(0, (0,), "published")
    target = torch.full((DEVICES,), point.target_siemens, dtype=torch.float64)
    state = device.program(target, draws)
    return [device.age(state, time_s, draws)[0] - point.target_siemens for time_s in times_s]


def ours(device: Device, point: Point) -> float:
    """The published quantity of 40,000 of our devices."""
    device = quiet(device, point.quantity)
    if point.quantity == "read_std":
        now, next_ = held(device, point, (point.time_s, point.time_s * (1 + 1e-6)))
        return float((next_ - now).std() / math.sqrt(2))
    (error,) = held(device, point, (point.time_s,))
    if point.quantity.startswith("nu"):
        nu = -(1 + error / point.target_siemens).log() / math.log1p(point.time_s / point.t0_s)
        return float(nu.mean() if point.quantity == "nu_mean" else nu.std())
    return float(error.mean() if point.quantity == "mean" else error.std())


def allowed(device: Device, point: Point) -> float:
    """How far ours may be: of the published value; a mean is as exact as the spread around it lets it be."""
    if point.quantity == "std_other":
        return OTHER_FIT * point.value
    near = TOLERANCE[point.how] * abs(point.value)
    if point.quantity != "mean":
        return near + SAMPLING * abs(point.value)
    (error,) = held(quiet(device, "mean"), point, (point.time_s,))
    return near + 4 * float(error.std()) / math.sqrt(DEVICES)


@pytest.mark.parametrize("preset", sorted({point.preset for point in published()}))
def test_our_curve_passes_through_the_published_points(preset: str):
    device = ns.hardware(preset).device
    for point in published_for(preset):
        assert ours(device, point) == pytest.approx(point.value, abs=allowed(device, point)), point


def test_wrong_constants_would_be_seen():
    changes: dict[str, tuple[str, dict[str, object]]] = {
        "pcm-joshi-2020": ("std", {"programming_scale": 1.05}),
        "rram-milo-2021": ("std", {"programming_scale": 1.05}),
        "sonos-agrawal-2022": ("read_std", {"read_scale": 1.05}),
        "rram-wan-2022": ("std", {"deviation_scale": 1.05}),
    }
    for preset, (quantity, change) in changes.items():
        device = ns.hardware(preset).device
        wrong = type(device)(**{**device.model_dump(), **change})
        points = [p for p in published_for(preset) if p.quantity == quantity]
        assert any(abs(ours(wrong, p) - p.value) > allowed(wrong, p) for p in points), preset


def test_every_preset_has_points_or_a_reason_why_not():
    assert {point.preset for point in published()} <= set(hardware_names())
    found = {point.preset for point in published()}
    assert not found & set(WITHOUT_POINTS)
    # presets that come later need points only if somebody publishes some: none may lose those it has
    assert {"pcm-joshi-2020", "rram-wan-2022", "sonos-agrawal-2022", "rram-cmo-2025"} <= found


def test_points_are_cited():
    for point in published():
        assert point.quantity in QUANTITIES
        assert point.how in TOLERANCE
        assert len(point.source) > 10
        assert (point.t0_s > 0) == point.quantity.startswith("nu")
        device = ns.hardware(point.preset).device
        assert device.g_min_siemens * 0.999 <= point.target_siemens <= device.g_max_siemens * 1.001


def test_a_changed_device_has_no_points(tmp_path: Path):
    joshi = ns.hardware("pcm-joshi-2020")
    assert points_of(joshi.device, joshi.name)
    assert points_of(joshi.with_("device.read_scale", 0.5).device, joshi.name) == ()
    assert points_of(joshi.device, "mine") == ()
    with_points = device_figure(joshi.device, joshi.name, path=tmp_path / "a.svg").read_text(encoding="utf-8")
    without = device_figure(joshi.device, "mine", path=tmp_path / "b.svg").read_text(encoding="utf-8")
    assert "circles: published" in with_points
    assert "circles: published" not in without
