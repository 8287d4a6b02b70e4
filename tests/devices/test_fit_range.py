"""Every device says where it was measured, and its user is told, once, where it is used outside."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

import neurosim as ns
from neurosim.devices import DEVICES, Device, hardware_names
from neurosim.devices.fit_range import FitRange, FitRangeWarning, in_words

DAY, YEAR = 86400.0, 31557600.0
# arithmetic, or typical numbers of no measured device
UNMEASURED = {"aihwkit", "ideal", "gaussian", "generic", "measured", "stt-mram", "subthreshold"}
# a publication gives their errors, but no range of conductance
RELATIVE = {"flash", "fefet", "ecram"}


BEYOND = "its numbers are extrapolated"


def net_on(chip: ns.Hardware) -> tuple[object, object]:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    net = ns.deploy(plain, chip, calibration=torch.rand(20, 6))
    return net, ns.Lot(chip)[0:2]


def told(action: object) -> list[str]:
    """What a user is told while something happens."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()  # type: ignore[operator]
    assert all(one.category is FitRangeWarning for one in caught)
    return [str(one.message) for one in caught]


# ---- what devices say ----


@pytest.mark.parametrize("kind", sorted(set(DEVICES) - UNMEASURED))
def test_every_measured_device_says_where_and_is_used_there_by_default(kind: str) -> None:
    device = DEVICES[kind]()
    measured = device.fit_range()
    assert measured.time_s is not None
    assert 0 <= measured.time_s[0] <= measured.time_s[1] < 100 * YEAR
    assert (measured.g_siemens is None) == (kind in RELATIVE)
    if measured.g_siemens is not None:
        assert 0 <= measured.g_siemens[0] < measured.g_siemens[1] <= 1e-2
    assert not list(measured.conductance_beyond(kind, device.g_min_siemens, device.g_max_siemens))


@pytest.mark.parametrize("name", hardware_names())
def test_presets_lie_within_what_was_measured(name: str) -> None:
    assert told(lambda: net_on(ns.hardware(name))) == []


@pytest.mark.parametrize("kind", sorted(UNMEASURED))
def test_arithmetic_fits_any_range(kind: str) -> None:
    assert DEVICES[kind]().fit_range() == FitRange()


@pytest.mark.parametrize(
    "kind,g_us,time_s",
    [
        ("pcm", (0, 25), (20, DAY)),
        ("pcm-hermes", (0, 20.7), (300, DAY)),
        ("rram-wan", (1, 40), (1, 2 * DAY)),
        ("rram-cmo", (9, 88.2), (1, 3600)),
        ("rram-milo", (50, 225), (0, 0)),
        ("sonos", (0, 18), (0, 5 * DAY)),
    ],
)
def test_published_ranges(kind: str, g_us: tuple[float, float], time_s: tuple[float, float]) -> None:
    measured = DEVICES[kind]().fit_range()
    assert measured.g_siemens == pytest.approx(tuple(g * 1e-6 for g in g_us))
    assert measured.time_s == pytest.approx(time_s)


def test_ranges_follow_the_fit_in_use() -> None:
    assert DEVICES["pcm-hermes"](devices=1).fit_range().g_siemens == pytest.approx((0, 10.35e-6))
    crosssim = ns.hardware("rram-wan-2022-crosssim").device.fit_range()
    assert crosssim.g_siemens == pytest.approx((1e-6, 39.26e-6))
    assert crosssim.time_s == (1.0, 1.0)


# ---- what users are told ----


def test_ages_beyond_the_measurement_are_told_once_with_device_value_and_range() -> None:
    net, chips = net_on(ns.hardware("pcm-joshi-2020"))

    def life() -> None:
        with net.on(chips) as on_chips:  # type: ignore[attr-defined]
            for time_s in (3600.0, DAY, 30 * DAY, YEAR, 10 * YEAR):
                on_chips.age(time_s)
        with net.on(chips, time_s=YEAR):  # type: ignore[attr-defined]
            pass

    assert told(life) == [f"device 'pcm' aged 30 days: measured up to 1 day after programming, {BEYOND}"]


def test_putting_old_chips_on_tells_too() -> None:
    net, chips = net_on(ns.hardware("rram-wan-2022"))

    def life() -> None:
        with net.on(chips, time_s=2 * DAY):  # type: ignore[attr-defined]
            pass
        with net.on(chips, time_s=2.5 * DAY):  # type: ignore[attr-defined]
            pass

    assert told(life) == [
        f"device 'rram-wan' aged 2.5 days: measured up to 2 days after programming, {BEYOND}",
    ]


def test_a_device_whose_ageing_nobody_measured_says_so_at_any_age_but_zero() -> None:
    net, chips = net_on(ns.hardware("rram-milo-2021"))

    def life() -> None:
        with net.on(chips) as on_chips:  # type: ignore[attr-defined]
            on_chips.age(0.0)
            on_chips.age(1.0)

    assert told(life) == ["device 'rram-milo' aged 1 s: its ageing was not measured, none is modelled"]


def test_conductances_beyond_the_measurement_are_told_when_a_network_is_deployed() -> None:
    chip = ns.hardware("rram-wan-2022", device__g_max_siemens=50e-6, device__g_min_siemens=0.0)
    assert told(lambda: net_on(chip)) == [
        f"device 'rram-wan' at g_min = 0 µS: measured from 1 to 40 µS, {BEYOND}",
        f"device 'rram-wan' at g_max = 50 µS: measured from 1 to 40 µS, {BEYOND}",
    ]


def test_each_device_of_a_mixed_chip_is_told_of() -> None:
    chip = ns.hardware("ideal", layers={"0": {"preset": "pcm-joshi-2020"}, "2": {"preset": "rram-cmo-2025"}})
    net, chips = net_on(chip)

    def life() -> None:
        with net.on(chips) as on_chips:  # type: ignore[attr-defined]
            on_chips.age(7200.0)
            on_chips.age(YEAR)

    assert told(life) == [
        f"device 'rram-cmo' aged 2 hours: measured up to 1 hour after programming, {BEYOND}",
        f"device 'pcm' aged 1 year: measured up to 1 day after programming, {BEYOND}",
    ]


def test_every_network_tells_its_own_user() -> None:
    for _ in range(2):
        net, chips = net_on(ns.hardware("pcm-joshi-2020"))
        with pytest.warns(FitRangeWarning, match="aged 1 year"), net.on(chips, time_s=YEAR):  # type: ignore[attr-defined]
            pass


@pytest.mark.parametrize("device", [DEVICES["pcm"](g_max_siemens=5e-6), DEVICES["rram-wan"]()])
def test_rounding_of_a_bound_is_not_outside(device: Device) -> None:
    low, high = device.fit_range().g_siemens  # type: ignore[misc]
    assert not list(device.fit_range().conductance_beyond("x", low * (1 - 1e-9), high * (1 + 1e-9)))
    assert len(list(device.fit_range().conductance_beyond("x", low, high * 1.001))) == 1


@pytest.mark.parametrize(
    "time_s,words",
    [(0.5, "0.5 s"), (1, "1 s"), (90, "1.5 min"), (3600, "1 hour"), (7200, "2 hours"), (DAY, "1 day"),
     (30 * DAY, "30 days"), (YEAR, "1 year"), (10 * YEAR, "10 years")],
)  # fmt: skip
def test_durations_in_words(time_s: float, words: str) -> None:
    assert in_words(time_s) == words


def test_the_command_line_says_it_in_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    code = """
import warnings
from neurosim import cli
from neurosim.devices.fit_range import FitRangeWarning
cli.app = lambda **_: warnings.warn("device 'pcm' aged 1 year", FitRangeWarning, stacklevel=2)
raise SystemExit(cli.main([]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "warning: device 'pcm' aged 1 year\n")
