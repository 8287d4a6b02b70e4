"""Program-and-verify: hand counts, published acceptance ranges, chips, costs, and which weights to verify."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import deploy
from neurosim.analog.sensitivity import hessian_diagonal, most_sensitive
from neurosim.devices import Ideal, Pcm, hardware
from neurosim.devices.fefet import Fefet
from neurosim.devices.rram_cmo import RramCmo
from neurosim.devices.writing.description import Writing
from neurosim.devices.writing.verify import Cost, written
from neurosim.errors import UsageError
from neurosim.random import Draws

ALPHA = 1e-5
DEVICE = Ideal(g_min_siemens=1e-6, g_max_siemens=21e-6)
EXACT = {"device_std": 0.0, "cycle_std": 0.0}


def process(**fields: Any) -> Writing:
    return Writing(scheme="program-and-verify", **fields)


def draws(chips: tuple[int, ...] = (0,), name: str = "w+") -> Draws:
    return Draws(0, chips, name)


# ---- the process ----


def test_pulses_by_hand() -> None:
    # from 1 µS in steps of 0.4: targets 5.0, 3.05, 1.0; accepted within 0.3
    target = torch.tensor([5.0, 3.05, 1.0], dtype=torch.float64) * 1e-6
    state, cost = written(DEVICE, process(step=0.02, acceptance=0.015, **EXACT), target, draws())
    assert (state["g_siemens"][0] * 1e6).tolist() == pytest.approx([5.0, 3.0, 1.0])
    assert (cost.pulses, cost.longest, cost.accepted, cost.devices) == (10 + 5 + 0, 10, 3, 3)
    assert cost.reads == 11 + 6 + 1


def test_energy_by_hand() -> None:
    writing = process(
        step=0.5, acceptance=0.01, pulse_volt=2.0, pulse_s=1e-7, read_volt=0.1, read_s=1e-6, **EXACT
    )
    target = torch.tensor([21e-6], dtype=torch.float64)
    _, cost = written(DEVICE, writing, target, draws())
    # two pulses, after which the device conducts 11 and 21 µS; three reads at 1, 11 and 21
    assert cost.joule == pytest.approx(4.0 * 1e-7 * 32e-6 + 0.01 * 1e-6 * 33e-6)
    assert cost.seconds(writing) == pytest.approx(2e-7 + 3e-6)


def test_accepted_devices_are_within_the_range_and_uniform_there() -> None:
    writing = process(step=0.002, acceptance=0.02, max_pulses=5000)
    target = torch.full((20_000,), 15e-6)
    state, cost = written(DEVICE, writing, target, draws())
    off = (state["g_siemens"] - target).double().flatten() / 20e-6
    assert float(off.abs().max()) <= 0.02 * (1 + 1e-4)
    assert cost.accepted == cost.devices
    # approached from below in fine steps, a device stops as soon as it is inside: at the lower edge
    assert float(off.mean()) == pytest.approx(-0.02, abs=0.002)


def test_where_devices_end_is_that_of_the_process_written_out() -> None:
    # one device after the other, in plain Python, with numbers of its own
    rng = np.random.default_rng(0)
    ends, counts = [], []
    for _ in range(4000):
        g, pulses = 0.0, 0
        log_variance = math.log(1 + 0.3**2)
        own = 0.04 * math.exp(math.sqrt(log_variance) * rng.standard_normal() - log_variance / 2)
        while pulses < 500:
            seen = g + 0.004 * rng.standard_normal()
            if abs(seen - 0.7) <= 0.02:
                break
            g += (1 if seen < 0.7 else -1) * own * (1 + 0.5 * rng.standard_normal())
            g, pulses = min(max(g, 0.0), 1.0), pulses + 1
        ends.append(g)
        counts.append(pulses)
    writing = process(step=0.04, acceptance=0.02, device_std=0.3, cycle_std=0.5, verify_std=0.004)
    state, cost = written(DEVICE, writing, torch.full((20_000,), 15e-6), draws())
    ours = (state["g_siemens"][0].double().numpy() - 1e-6) / 20e-6
    assert stats.ks_2samp(ours, ends).pvalue > ALPHA
    spread = np.std(counts) * math.sqrt(1 / len(counts) + 1 / 20_000)
    assert cost.pulses / 20_000 == pytest.approx(np.mean(counts), abs=5 * spread)


@pytest.mark.parametrize(("acceptance", "slope"), [(0.02, 0.0112903), (0.002, 0.00106879)])
def test_a_uniform_error_within_the_acceptance_is_what_cmo_devices_show(
    acceptance: float, slope: float
) -> None:
    # Falcone et al. 2025 accept within a part of the target; the error they measure grows by `slope`
    writing = process(step=2 * acceptance, acceptance=acceptance, acceptance_of="target", max_pulses=5000)
    device = RramCmo()
    target = torch.full((4000,), 60e-6)
    state, cost = written(device, writing, target, draws())
    relative = float((state["g_siemens"] / target - 1).double().std())
    assert cost.accepted > 0.999 * cost.devices
    assert relative == pytest.approx(slope, rel=0.15)


def test_a_noisy_read_accepts_what_is_outside() -> None:
    target = torch.full((5000,), 10e-6)
    stds = []
    for noise in (0.0, 0.01, 0.03):
        state, _ = written(DEVICE, process(step=0.01, verify_std=noise), target, draws())
        stds.append(float((state["g_siemens"] - target).std()))
    assert stds[0] < stds[1] < stds[2]


def test_every_device_moves_the_right_way_however_much_they_differ() -> None:
    target = torch.full((50_000,), 12e-6)
    state, cost = written(DEVICE, process(step=0.05, device_std=2.0, max_pulses=20_000), target, draws())
    assert cost.accepted == cost.devices
    assert float((state["g_siemens"] - target).abs().max()) <= 0.01 * 20e-6 * (1 + 1e-4)


def test_devices_that_take_too_long_are_left() -> None:
    target = torch.tensor([20e-6], dtype=torch.float64)
    state, cost = written(DEVICE, process(step=0.1, max_pulses=3, **EXACT), target, draws())
    assert (cost.accepted, cost.pulses) == (0, 3)
    assert float(state["g_siemens"]) == pytest.approx(7e-6)


def test_blind_writing_has_the_variance_of_its_pulses() -> None:
    writing = Writing(scheme="blind", step=0.01, device_std=0.05, cycle_std=0.4)
    target = torch.full((200_000,), 11e-6)
    state, cost = written(DEVICE, writing, target, draws())
    assert cost.pulses == 50 * 200_000
    moved = (state["g_siemens"].double().flatten() - 1e-6) / 20e-6
    variance = (0.01**2) * (0.05**2 * 50**2 + 0.4**2 * 50)
    # the product of two normals adds a part of 1e-3
    assert float(moved.var()) == pytest.approx(variance, rel=0.03)
    assert float(moved.mean()) == pytest.approx(0.5, abs=5 * math.sqrt(variance / 200_000))


def test_chips_are_the_same_alone_and_together() -> None:
    target = torch.rand(300, generator=torch.Generator().manual_seed(0)) * 20e-6 + 1e-6
    writing = process(verify_std=0.005)
    together, _ = written(DEVICE, writing, target, draws((0, 7, 3)))
    for row, chip in enumerate((0, 7, 3)):
        alone, _ = written(DEVICE, writing, target, draws((chip,)))
        assert torch.equal(alone["g_siemens"][0], together["g_siemens"][row])
    assert not torch.equal(together["g_siemens"][0], together["g_siemens"][1])


def test_the_state_ages_as_that_of_the_device() -> None:
    device, target = Pcm(), torch.full((100,), 12e-6)
    state, _ = written(device, process(step=0.005, **EXACT), target, draws())
    plain = device.program(target, draws())
    assert torch.equal(state["drift_exponent"], plain["drift_exponent"])
    aged = device.age(state, 1e6, draws())
    assert float((aged / state["g_siemens"]).mean()) == pytest.approx(
        float((device.age(plain, 1e6, draws()) / plain["g_siemens"]).mean()), rel=0.02
    )


def test_gradients_pass_as_if_written_exactly() -> None:
    target = torch.full((5,), 10e-6, requires_grad=True)
    state, _ = written(Fefet(), process(), target, draws((0, 1)))
    state["g_siemens"].sum().backward()
    assert target.grad is not None
    assert torch.equal(target.grad, torch.full((5,), 2.0))


def test_costs_add_up() -> None:
    one, other = Cost(3, 10, 11, 2, 1e-9, 7), Cost(2, 1, 2, 2, 2e-9, 1)
    assert one + other == Cost(5, 11, 13, 4, pytest.approx(3e-9), 7)  # type: ignore[arg-type]


# ---- networks ----


def network() -> tuple[nn.Module, Tensor, Tensor]:
    splits = ns.data.load("digits")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    x, y = splits.train.inputs, splits.train.targets
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model, x, y


def test_a_network_is_written_by_the_process() -> None:
    model, x, _ = network()
    hw = hardware("ideal", writing=process(step=0.01, acceptance=0.01).model_dump())
    net = deploy(model, hw)
    costs = net.writing_cost(ns.Lot(hw)[0:2])
    assert set(costs) == {"1.weight", "3.weight"}
    assert costs["1.weight"].devices == 2 * 2 * 64 * 32  # two chips, two legs
    assert costs["1.weight"].accepted > 0.99 * costs["1.weight"].devices
    with torch.no_grad(), net.on(ns.Lot(hw)[0:2]) as chips:
        outs = chips(x[:50])
    assert 0 < float((outs - model(x[:50])).detach().abs().max()) < 3
    assert "writing, verified" in str(net.explain())


def test_verifying_the_sensitive_weights_beats_chance_and_magnitude() -> None:
    model, x, y = network()
    writing = process(step=0.02, device_std=0.3, cycle_std=0.5, verified_fraction=0.2).model_dump()
    hw = hardware("ideal", writing=writing)
    losses = {}
    for way in ("sensitive", "random"):
        net = deploy(model, hw)
        net.select_verified(x)
        if way == "random":
            for cells in [crossbar.cells for crossbar in net._all_crossbars()]:
                assert cells.verified is not None
                order = torch.rand(cells.verified.shape, generator=torch.Generator().manual_seed(1))
                share = float(cells.verified.double().mean())
                cells.verified = order < share
        with torch.no_grad(), net.on(ns.Lot(hw)[0:30]) as chips:
            outs = chips(x[:300])
        losses[way] = float(F.cross_entropy(outs.flatten(0, 1), y[:300].repeat(30)))
    assert losses["sensitive"] < losses["random"]


def test_choices_travel_with_the_calibration() -> None:
    model, x, _ = network()
    hw = hardware("ideal", writing=process(verified_fraction=0.3).model_dump())
    net = deploy(model, hw)
    with pytest.raises(UsageError, match=r"call net\.select_verified"), net.on(ns.Lot(hw)[0:1]) as chips:
        chips(x[:3])
    net.select_verified(x)
    state = net.calibration_state()
    chosen = torch.cat([mask.flatten() for key, mask in state.items() if key.endswith("verified")])
    assert float(chosen.double().mean()) == pytest.approx(0.3, abs=1e-3)
    twin = deploy(model, hw)
    twin.load_calibration_state(state)
    outs = []
    for one in (net, twin):
        with torch.no_grad(), one.on(ns.Lot(hw)[0:2]) as chips:
            outs.append(chips(x[:20]))
    assert torch.equal(*outs)
    for wrong in (state["1.verified"][:3], state["1.verified"].float()):
        with pytest.raises(UsageError, match=r"layer '1' does not fit: expected \(32, 64\) booleans"):
            twin.load_calibration_state({"1.verified": wrong})


@pytest.mark.parametrize("array", [{"mapping": "unit-column"}, {"bias": "device"}])
def test_references_and_biases_are_always_verified(array: dict[str, str]) -> None:
    model, x, _ = network()
    writing = process(step=0.01, device_std=0.5, acceptance=0.005, verified_fraction=0.0)
    hw = hardware("ideal", array=array, writing=writing.model_dump())
    net = deploy(model, hw)
    net.select_verified(x)
    costs = net.writing_cost(ns.Lot(hw)[0:2])
    beside = {name: cost for name, cost in costs.items() if not name.endswith("weight")}
    assert len(beside) == 2
    for name, cost in costs.items():
        assert (cost.accepted > 0.99 * cost.devices) == (name in beside)
    with torch.no_grad(), net.on(ns.Lot(hw)[0:2]) as chips:
        assert bool(chips(x[:5]).isfinite().all())


def test_each_layer_is_verified_in_the_part_that_it_says() -> None:
    model, x, _ = network()
    whole = process(step=0.01).model_dump()
    layers = {"1": {"writing": {"verified_fraction": 0.25}}, "3": {"writing": {"verified_fraction": 0.5}}}
    net = deploy(model, hardware("ideal", writing=whole, layers=layers))
    net.select_verified(x)
    state = net.calibration_state()
    assert float(state["1.verified"].double().mean()) == pytest.approx(0.25, abs=1e-3)
    assert float(state["3.verified"].double().mean()) == pytest.approx(0.5, abs=1e-2)


# ---- sensitivity ----


def test_the_diagonal_of_a_quadratic_by_hand() -> None:
    a = torch.tensor([[2.0, 0.3], [0.3, 5.0]], dtype=torch.float64)
    w = nn.Parameter(torch.tensor([0.4, -1.0], dtype=torch.float64))
    (found,) = hessian_diagonal(lambda: 0.5 * w @ a @ w, [w], probes=400)
    np.testing.assert_allclose(found, [2.0, 5.0], atol=0.3 * 5 / math.sqrt(400))
    (one,) = hessian_diagonal(lambda: 0.5 * (torch.diag(a) * w * w).sum(), [w], probes=1)
    np.testing.assert_allclose(one, [2.0, 5.0])


def test_parameters_that_do_not_curve_have_no_second_derivative() -> None:
    w, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    found = hessian_diagonal(lambda: (w**2).sum() + 3 * b.sum(), [w, b])
    assert found[0].tolist() == [2.0, 2.0]
    assert found[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_masks_hold_the_fraction_of_the_greatest(fraction: float) -> None:
    scores = {"a": torch.rand(7, 5), "b": torch.rand(13)}
    masks = most_sensitive(scores, fraction)
    chosen = torch.cat([masks[name].flatten() for name in scores])
    values = torch.cat([scores[name].flatten() for name in scores])
    assert int(chosen.sum()) == round(fraction * 48)
    if 0 < fraction < 1:
        assert float(values[chosen].min()) >= float(values[~chosen].max())


# ---- descriptions ----


@pytest.mark.parametrize(
    ("name", "writing", "sentence"),
    [
        ("rram-wan-2022", {"scheme": "blind"}, r"expected writing\.scheme='none' with device 'rram-wan'"),
        ("ideal", {"verified_fraction": 0.5}, "verified_fraction only with scheme='program-and-verify'"),
        (
            "ideal",
            {"scheme": "blind", "acceptance_of": "target", "verify_std": 0.01},
            "expected verify_std=0 with acceptance_of='target'",
        ),
        ("ideal", {"scheme": "hope"}, "got writing.scheme='hope'"),
    ],
)
def test_what_cannot_be_is_one_sentence(name: str, writing: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        hardware(name, writing=writing)


def test_descriptions_that_say_nothing_of_it_look_as_they_did() -> None:
    assert "writing" not in hardware("pcm-joshi-2020").to_toml()
    with pytest.raises(UsageError, match="does not write by pulses"):
        net = deploy(nn.Linear(2, 2), hardware("ideal"))
        net.writing_cost(ns.Lot(net.hardware)[0:1])
