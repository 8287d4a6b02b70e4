"""Heat, wear and slow read noise, on every device: closed forms, and what physics says of the order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import constants, stats
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import deploy
from neurosim.devices import FitRangeWarning, Hardware, hardware, hardware_names
from neurosim.devices.conditions import BOLTZMANN_EV, Endurance, Heat, ReadNoise
from neurosim.errors import UsageError
from neurosim.random import Draws

DAY, YEAR = 86400.0, 31557600.0
HOT = {"heat__storage_kelvin": 358.15, "heat__activation_energy_ev": 1.1}
every = pytest.mark.parametrize("name", hardware_names())
pytestmark = pytest.mark.filterwarnings("ignore::neurosim.devices.FitRangeWarning")


def held(hw: Hardware, time_s: float, chips: int = 3) -> Tensor:
    """What a layer reads of its weights, (chips, inputs, outputs)."""
    layer = nn.Linear(24, 16, bias=False)
    with torch.no_grad():
        layer.weight.copy_(ns.random.stream(0, 0, "w", "test").normal((16, 24)))
    ideal = {"dac.bits": None, "adc.bits": None, "array.output_noise_std": 0.0}
    exact = hw.with_all({**ideal, "compensation": "none"})
    net = deploy(layer, exact)
    with torch.no_grad(), net.on(ns.Lot(exact)[0:chips], time_s) as on_chips:
        out: Tensor = on_chips(torch.eye(24))
        return out


# ---- heat ----


def test_the_constant_is_boltzmanns() -> None:
    assert pytest.approx(constants.k / constants.e, rel=1e-9) == BOLTZMANN_EV


@given(energy=st.floats(0.01, 2.0), kelvin=st.floats(250.0, 450.0))
def test_arrhenius(energy: float, kelvin: float) -> None:
    heat = Heat(storage_kelvin=kelvin, activation_energy_ev=energy)
    expected = np.exp(energy * constants.e / constants.k * (1 / 300.0 - 1 / kelvin))
    assert heat.acceleration(energy) == pytest.approx(expected, rel=1e-6)
    assert (heat.acceleration(energy) >= 1) == (kelvin >= 300.0)


@every
def test_hot_storage_is_older_storage_to_the_bit(name: str) -> None:
    cold, hot = hardware(name), hardware(name, **HOT)
    equivalent = hot.equivalent_s(DAY)
    assert equivalent == pytest.approx(1000.7 * DAY, rel=1e-3)
    assert torch.equal(held(hot, DAY), held(cold, equivalent))
    assert torch.equal(held(hot, 0.0), held(cold, 0.0))


@pytest.mark.parametrize(
    "name", ["pcm-joshi-2020", "sonos-agrawal-2022", "flash-guo-2016", "pcm-hermes-2023"]
)
def test_hot_is_never_younger(name: str) -> None:
    fresh = held(hardware(name), 0.0, chips=8)
    moved = [
        float((held(hardware(name, **{**HOT, "heat__storage_kelvin": kelvin}), DAY, 8) - fresh).abs().mean())
        for kelvin in (250.0, 300.0, 330.0, 358.15)
    ]
    assert moved == sorted(moved)


def test_a_tunnel_junction_knows_its_barrier() -> None:
    # Δ = 60 at 300 K is a barrier of 60·k·300 K: at 400 K it is 45 k·T, and τ = 1 ns·e^45
    hot = hardware("stt-mram-typical", heat__storage_kelvin=400.0)
    cool = hot.device.model_copy(update={"thermal_stability": 45.0})
    assert hot.device.turned(hot.equivalent_s(YEAR)) == pytest.approx(cool.turned(YEAR), rel=1e-6)


def test_without_a_published_energy_it_must_be_given() -> None:
    with pytest.raises(UsageError, match=r"expected heat\.activation_energy_ev .* device 'pcm' has none"):
        hardware("pcm-joshi-2020", heat__storage_kelvin=330.0)


@pytest.mark.filterwarnings("default::neurosim.devices.FitRangeWarning")
def test_an_age_that_is_short_but_hot_is_beyond_the_measurement() -> None:
    with pytest.warns(FitRangeWarning, match="device 'pcm' aged 2.74 years"):
        held(hardware("pcm-joshi-2020", **HOT), DAY)


# ---- wear ----


def test_the_ends_follow_the_published_power_laws() -> None:
    for size, threshold in ((10.0, 1e4), (20.0, 1e7)):
        for cycles in (10.0, threshold, 10 * threshold, 1e3 * threshold):
            worn = Endurance(cycles=cycles, cell_size_nm=size)
            low, high = 4400.0, 65e3
            if cycles > threshold:
                low *= (cycles / threshold) ** (0.012171029136082496 * size)
                high *= (cycles / threshold) ** (-0.015855563129903612 * size)
            g = torch.tensor([1 / 4400.0, 1 / 65e3], dtype=torch.float64)
            found = 1 / (worn.apply(g) if worn.act else g)
            assert found.tolist() == pytest.approx([low, high], rel=1e-6)
            assert worn.excess == pytest.approx(cycles / threshold, rel=1e-6)


@given(first=st.floats(1e4, 1e8), factor=st.floats(1.01, 1e3))
def test_the_window_only_closes_and_states_keep_their_order(first: float, factor: float) -> None:
    g = torch.linspace(1 / 65e3, 1 / 4400.0, 50, dtype=torch.float64)
    worn, more = (Endurance(cycles=first * n).apply(g) for n in (1.01, 1.01 * factor))
    window = [float(one[-1] / one[0]) for one in (g, worn, more)]
    assert window[0] > window[1] > window[2]
    if float(Endurance(cycles=first * factor).excess) < 1e4:  # later the two ends have crossed
        assert bool((worn.diff() > 0).all())


def test_wear_acts_on_every_age_and_leaves_gradients() -> None:
    # a device of that range
    base = hardware("ideal", device__g_min_siemens=1 / 65e3, device__g_max_siemens=1 / 4400.0)
    worn = base.with_("endurance.cycles", 1e6)
    ratio = held(worn, 0.0) / held(base, 0.0)
    assert 0.5 < float(ratio.median()) < 0.8  # strong states lose, weak ones gain
    assert torch.equal(held(worn, YEAR), held(worn, 0.0))
    layer = nn.Linear(5, 4)
    net = deploy(layer, worn)
    with net.on(ns.Lot(worn)[0:2]) as chips:
        chips(torch.ones(3, 5)).sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())


# ---- read noise ----


@pytest.mark.parametrize("time_s", [1.0, DAY, YEAR])
def test_read_noise_has_the_stated_size(time_s: float) -> None:
    noise, draws = ReadNoise(relative_std=0.005), Draws(0, tuple(range(1000)), "w+")
    g = torch.full((1000, 1000), 10e-6)
    seen = noise.apply(g, time_s, draws).double().flatten() / 10e-6 - 1
    sigma = 0.005 * math.sqrt(math.log((time_s + 250e-9) / 500e-9))
    statistic = float(seen.var()) / sigma**2 * (seen.numel() - 1)
    low, high = stats.chi2.ppf([5e-6, 1 - 5e-6], seen.numel() - 1)
    assert low < statistic < high
    assert noise.std(0.0) == 0.0


def test_read_noise_is_of_a_chip_an_age_and_a_leg() -> None:
    hw = hardware("flash-guo-2016", read_noise__relative_std=0.01)
    together = held(hw, DAY)
    layer_alone = held(hw, DAY, chips=1)
    assert torch.equal(together[0], layer_alone[0])
    quiet = held(hardware("flash-guo-2016"), DAY)
    later = held(hw, 2 * DAY) - held(hardware("flash-guo-2016"), 2 * DAY)
    assert (
        abs(float(torch.corrcoef(torch.stack([(together - quiet).flatten(), later.flatten()]))[0, 1])) < 0.15
    )
    assert torch.equal(held(hw, 0.0), held(hardware("flash-guo-2016"), 0.0))


# ---- words ----


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (HOT, "ages 1e+03 times as fast"),
        ({"endurance__cycles": 1e6}, "100 times where the window starts to close"),
        ({"read_noise__relative_std": 0.01}, "slow noise of reads"),
    ],
)
def test_explain_says_what_a_chip_has_been_through(changes: dict[str, Any], words: str) -> None:
    assert words in str(deploy(nn.Linear(3, 2), hardware("flash-guo-2016", **changes)).explain())


@every
def test_descriptions_that_say_nothing_of_it_look_as_they_did(name: str) -> None:
    text = hardware(name).to_toml()
    assert not any(table in text for table in ("[heat]", "[endurance]", "[read_noise]", "[periphery]"))


# ---- every preset ----


@every
def test_a_preset_names_its_source_and_its_range(name: str) -> None:
    hw = hardware(name)
    assert hw.source.citation
    assert hw.source.covers
    measured = hw.device.fit_range()
    nothing = hw.source.fit_range.startswith(("not a fit", "typical, not fitted")) or not hw.source.fit_range
    assert (
        nothing
        or measured.g_siemens is not None
        or measured.time_s is not None
        or "spread" in hw.source.fit_range
        or "steps" in hw.source.fit_range
    )


@every
def test_every_technology_trains_and_evaluates(name: str) -> None:
    splits = ns.data.load("digits")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    train = ns.data.Batches(splits.train[:200], 100)
    hw = hardware(name)
    ns.train(model, (train, train), method="standard", epochs=1, hardware=hw, seed=1)
    net = deploy(model, hw, calibration=splits.train.inputs[:100])
    table = ns.evaluate(net, ns.data.Batches(splits.test[:100], 100), chips=2, times_s=(0.0, DAY))
    assert len(table["accuracy"]) == 4
    assert all(0.0 <= float(value) <= 1.0 for value in table["accuracy"])
