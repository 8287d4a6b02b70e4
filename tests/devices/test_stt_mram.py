"""Magnetic tunnel junctions: two states, their spread, what turns them over, straight-through gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from neurosim.devices.pairs import program_pair
from neurosim.devices.stt_mram import SttMram
from neurosim.errors import UsageError
from neurosim.random import Draws

ALPHA = 1e-5
SAMPLES = 1_000_000
DRAWS = Draws(0, (0,), "w+")
EXACT = {"parallel_std": 0.0, "antiparallel_std": 0.0}


def full(value: float) -> torch.Tensor:
    return torch.full((SAMPLES,), value, dtype=torch.float64)


def test_a_target_becomes_the_nearer_state() -> None:
    low, high = 1 / 6000, 1 / 3000
    targets = torch.tensor([low, 0.249e-3, 0.251e-3, high, 0.0, 1.0], dtype=torch.float64)
    found = SttMram(**EXACT).program(targets, DRAWS)["g_siemens"][0]
    assert found.tolist() == [low, low, high, high, low, high]


def test_a_pair_holds_three_weights() -> None:
    weight = torch.linspace(-1, 1, 1001).reshape(1, -1)
    made = program_pair(SttMram(**EXACT), weight, "per-layer", (DRAWS, Draws(0, (0,), "w-")))
    near = made.fresh[0, 0].round()
    assert torch.allclose(made.fresh[0, 0], near, atol=1e-6)
    away = (weight[0].abs() - 0.5).abs() > 1e-3
    assert torch.equal(near[away], (weight[0].abs() > 0.5).float()[away] * weight[0].sign()[away])


@pytest.mark.parametrize("distribution", ["normal", "lognormal"])
@pytest.mark.parametrize("state,ohm,std", [("parallel", 3000.0, 0.05), ("antiparallel", 6000.0, 0.1)])
def test_resistances_follow_their_law(distribution: str, state: str, ohm: float, std: float) -> None:
    device = SttMram(distribution=distribution, parallel_std=0.05, antiparallel_std=0.1)
    made = 1 / device.program(full(1 / ohm), DRAWS)["g_siemens"][0].numpy()
    s = math.sqrt(math.log(1 + std**2))
    law = (
        stats.norm(ohm, ohm * std)
        if distribution == "normal"
        else stats.lognorm(s, scale=ohm * math.exp(-s * s / 2))
    )
    assert stats.kstest(made, law.cdf).pvalue > ALPHA
    assert abs(made.mean() / ohm - 1) < 5 * std / math.sqrt(SAMPLES)


def test_write_errors_leave_the_other_state() -> None:
    device = SttMram(write_error_rate=0.01, **EXACT)
    for target, wrong in ((1 / 3000, 1 / 6000), (1 / 6000, 1 / 3000)):
        made = device.program(full(target), DRAWS)["g_siemens"]
        count = int((made == wrong).sum())
        assert int((made == target).sum()) == SAMPLES - count
        assert stats.binomtest(count, SAMPLES, 0.01).pvalue > ALPHA


@pytest.mark.parametrize("time_s", [1.0, 1e3, 1e7])
def test_heat_turns_states_over(time_s: float) -> None:
    device = SttMram(thermal_stability=30.0, **EXACT)
    state = device.program(full(1 / 3000), DRAWS)
    turned = int((device.age(state, time_s, DRAWS) == 1 / 6000).sum())
    tau = 1e-9 * math.exp(30.0)
    chance = 0.5 * (1 - math.exp(-2 * time_s / tau))
    assert stats.binomtest(turned, SAMPLES, chance).pvalue > ALPHA


def test_what_has_turned_stays_turned_and_keeps_its_spread() -> None:
    device = SttMram(thermal_stability=30.0, parallel_std=0.05, antiparallel_std=0.1)
    state = device.program(full(1 / 3000), DRAWS)
    ages = [device.age(state, time_s, DRAWS)[0] for time_s in (10.0, 1e3, 1e4)]
    fresh = state["g_siemens"][0]
    turned = [age != fresh for age in ages]
    assert 0 < int(turned[0].sum()) < int(turned[1].sum()) < int(turned[2].sum())
    for younger, older in itertools.pairwise(turned):
        assert bool((older | ~younger).all())
    assert torch.equal(ages[2][turned[0]], ages[0][turned[0]])
    s = math.sqrt(math.log(1 + 0.1**2))
    law = stats.lognorm(s, scale=6000 * math.exp(-s * s / 2))
    assert stats.kstest((1 / ages[2][turned[2]]).numpy(), law.cdf).pvalue > ALPHA


def test_ten_years_at_a_stability_of_60_turn_nothing() -> None:
    device = SttMram()
    assert device.turned(3.15576e8) == pytest.approx(3.15576e8 / (1e-9 * math.exp(60)), rel=1e-6)
    state = device.program(full(1 / 3000), DRAWS)
    assert torch.equal(device.age(state, 3.15576e8, DRAWS), state["g_siemens"])
    assert not device.effects()[3].acts


def test_gradients_pass_straight_through() -> None:
    device = SttMram(thermal_stability=30.0)
    g = torch.linspace(1 / 6000, 1 / 3000, 500, dtype=torch.float64).requires_grad_()
    state = device.program(g, DRAWS)
    state["g_siemens"].sum().backward()
    level = 1 / (6000 - 3000 * (g.detach() > 0.25e-3).double())
    assert g.grad is not None
    torch.testing.assert_close(g.grad, (state["g_siemens"][0].detach() / level), rtol=1e-12, atol=0)
    assert bool((g.grad > 0).all())
    first, g.grad = g.grad, None
    device.age(device.program(g, DRAWS), 1e4, DRAWS).sum().backward()
    assert bool(torch.isfinite(g.grad).all())
    assert bool((g.grad > 0).all())
    assert not torch.equal(g.grad, first)


def test_impossible_junctions_are_refused() -> None:
    with pytest.raises(UsageError, match="expected g_min_siemens > 0"):
        SttMram(g_min_siemens=0.0)
    with pytest.raises(UsageError, match=r"at most 1/7 with distribution 'normal'.*got 0\.5"):
        SttMram(distribution="normal", parallel_std=0.5)
    SttMram(distribution="lognormal", parallel_std=0.5)


def test_effects_speak_of_resistances() -> None:
    two, spread, writes, heat = SttMram(write_error_rate=1e-3, thermal_stability=40).effects()
    assert two.size.startswith("3000 or 6000 Ω")
    assert spread.size.startswith("lognormal, 6.7 % parallel, 6.7 % antiparallel")
    assert (writes.acts, writes.size) == (True, "0.1 %")
    assert heat.acts
