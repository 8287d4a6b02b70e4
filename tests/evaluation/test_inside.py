"""Inside a spiking network: what is recorded is what was computed; mismatch is as stated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim import models
from neurosim.analog.mismatch import Varied, varied
from neurosim.devices.spread import Spread
from neurosim.errors import UsageError
from neurosim.evaluation.inside import (
    Activity,
    changed,
    deviations,
    look,
    look_on,
    measured_cv,
    spiking_layers,
    stated_cv,
)
from neurosim.models.spiking import AdEx, CubaLif, DpiNeuron, DpiSynapse, If, Lif, Neurons, Recurrent

ADC = {"adc.bits": 6, "dac.bits": 6}  # a recurrent read that is no matrix: a step at a time


class Classifier(nn.Module):
    """Spikes of a recurrent layer and of one on top, summed, to scores."""

    def __init__(self, neuron: object, classes: int = 3) -> None:
        super().__init__()
        self.hidden = Recurrent(2, 24, neuron)
        self.between = nn.Linear(24, 8)
        self.top = Neurons(If(dt_s=2e-3, v_threshold=1e-3), 8)
        self.readout = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.top(self.between(self.hidden(x))).mean(1))


def classifier(neuron: object = None, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    net = Classifier(neuron or Lif(tau_mem_s=5e-3, v_threshold=0.1)).eval()
    nn.init.normal_(net.hidden.input.weight, std=0.6)
    return net


def sample(steps: int = 60, seed: int = 1) -> Tensor:
    return 1.5 * torch.randn(1, steps, 2, generator=torch.Generator().manual_seed(seed))


def lsnn(seed: int = 0) -> nn.Module:
    net = models.create("lsnn-ecg", num_classes=4, in_chans=2, image_size=100, seed=seed).eval()
    nn.init.normal_(net.readout.weight, generator=torch.Generator().manual_seed(seed))  # scores of some size
    return net


def crossings(activity: Activity, refractory_steps: int) -> Tensor:
    """Where a potential is above its threshold and its neuron is free to spike."""
    above = activity.record.potentials > activity.record.thresholds
    found, left = torch.zeros_like(activity.record.spikes), torch.zeros(activity.neurons, dtype=torch.int64)
    for t, one in enumerate(above):
        found[t] = one & (left == 0)
        left = torch.where(found[t] > 0, refractory_steps, (left - 1).clamp(min=0))
    return found


@pytest.mark.parametrize("neuron", [None, CubaLif(tau_syn_s=4e-3, w_in=8.0, v_threshold=0.1)])
def test_spikes_are_where_potentials_cross_thresholds(neuron):
    net, x = classifier(neuron), sample()
    found = look(net, x)
    assert [layer.name for layer in found.layers] == ["hidden.neurons", "top"]
    assert [layer.kind for layer in found.layers] == ["Lif" if neuron is None else "CubaLif", "If"]
    for layer in found.layers:
        assert layer.spikes > 10
        assert torch.equal(layer.record.spikes, crossings(layer, 0))
    with torch.no_grad():
        assert torch.equal(found.scores, net(x)[0])
        assert torch.equal(found.layers[0].record.spikes, net.hidden(x)[0])
    synapse = not torch.equal(found.layers[0].record.inputs, found.layers[0].record.currents)
    assert synapse == (neuron is not None)


def test_the_paper_s_network_with_its_refractory_step():
    found = look(lsnn(), sample(100))
    (layer,) = found.layers
    assert layer.kind == "Alif" and layer.spikes > 100
    # two steps by subtraction leave one in which it cannot spike
    assert torch.equal(layer.record.spikes, crossings(layer, 1))


def test_rates_are_in_hertz():
    found = look(classifier(), sample())
    for layer, dt_s in zip(found.layers, (1e-3, 2e-3), strict=True):
        counts = layer.record.spikes.sum(0).double()
        torch.testing.assert_close(layer.rates_hz, counts / (60 * dt_s))
        assert layer.silent == pytest.approx(float((counts == 0).double().mean()))
        most = layer.most_active(4)
        assert counts[most].tolist() == counts.sort(descending=True).values[:4].tolist()
    assert found.layer() is found.layers[0] and found.layer("top") is found.layers[1]
    with pytest.raises(UsageError, match=r"expected a layer of neurons, hidden.neurons or top; got 'hidden'"):
        found.layer("hidden")


@pytest.mark.parametrize("changes", [{}, ADC], ids=["a matrix", "a step at a time"])
def test_chips_are_those_of_the_lot(changes):
    hardware = ns.hardware("dynapse-se2").with_all(changes)
    net, x, lot = lsnn(), sample(100), ns.Lot(hardware, 3)
    deployed = (
        ns.deploy(net, hardware, calibration=sample(100, seed=4)) if changes else ns.deploy(net, hardware)
    )
    found = look_on(deployed, x, lot[[5, 2]])
    assert found.numbers == (5, 2)
    alone = look_on(deployed, x, lot[2])
    assert torch.equal(alone.looks[0].scores, found.looks[1].scores)
    for number, one in zip(found.numbers, found.looks, strict=True):
        with torch.no_grad(), deployed.on(lot[number]) as on_chip:
            torch.testing.assert_close(one.scores, on_chip(x)[0, 0], rtol=1e-5, atol=1e-6)
        (layer,) = one.layers
        assert layer.spikes > 100
        above = layer.record.potentials > layer.record.thresholds
        assert bool(above[layer.record.spikes > 0].all())
    own = {one.name: one for one in found.parameters}
    # without adaptation at the first step, thresholds are the chip's own
    first = found.looks[0].layers[0].record.thresholds[0]
    torch.testing.assert_close(first, own["hidden.neurons.v_threshold"].values[0])


def test_nothing_is_left_behind():
    hardware = ns.hardware("dynapse-se2")
    net, x = lsnn(), sample(100)
    look(net, x)
    deployed = ns.deploy(net, hardware)
    look_on(deployed, x, ns.Lot(hardware)[0:2])
    assert not any(module._forward_hooks for one in (net, deployed) for module in one.modules())
    with torch.no_grad():
        assert torch.equal(net(x), deployed(x))


def test_ideal_chips_change_no_spike():
    hardware = ns.hardware("ideal")
    net, x = lsnn(), sample(100)
    before = look(net, x)
    after = look_on(ns.deploy(net, hardware), x, ns.Lot(hardware)[0]).looks[0]
    missing, new = changed(before.layer(), after.layer())
    assert missing + new <= 0.02 * before.layer().spikes  # rounding may flip one at its threshold
    assert changed(before.layer(), before.layer()) == (0, 0)


def test_spikes_that_differ_are_counted():
    one, other = (look(lsnn(seed), sample(100)).layer() for seed in (0, 1))
    missing, new = changed(one, other)
    assert one.spikes - missing == other.spikes - new
    assert missing + new == int((one.record.spikes != other.record.spikes).sum())


def test_measured_cvs_are_the_stated_ones():
    hardware = ns.hardware("dynapse-se2")
    found = {one.name: one for one in varied(ns.deploy(lsnn(), hardware), ns.Lot(hardware)[0:20])}
    names = {"tau_mem_s", "v_threshold", "tau_ada_s", "refractory_s"}
    assert {name.rpartition(".")[2] for name in found if not found[name].held} == names
    for name in names:
        one = found[f"hidden.neurons.{name}"]
        assert one.values.shape == (20, 256) and stated_cv(one) == pytest.approx(0.2, abs=1e-4)
        # of a lognormal: Var(s) = CV²·(1/2 + CV² + …)/n; five standard errors
        assert measured_cv(one) == pytest.approx(stated_cv(one), abs=5 * 0.2 * math.sqrt(0.6 / 5120))
        assert "20 % of each bias current" in one.stated
        assert float(one.values.mean() / one.nominal.mean()) == pytest.approx(
            1.0, abs=5 * 0.2 / math.sqrt(5120)
        )


@pytest.mark.parametrize("distribution", ["normal", "lognormal", "uniform"])
def test_absolute_and_shared_parts_are_part_of_the_cv(distribution):
    spread = {"distribution": distribution, "relative_std": 0.1}
    spread |= (
        {"die_std": 0.2, "gradient_std": 0.1} if distribution == "lognormal" else {"absolute_std": 0.004}
    )
    hardware = ns.hardware("ideal", parameters={"hidden.neurons.tau_mem_s": spread})
    (one,) = (p for p in varied(ns.deploy(lsnn(), hardware), ns.Lot(hardware)[0:400]) if not p.held)
    expected = Spread(**spread).cv((256,)) if distribution == "lognormal" else math.hypot(0.1, 0.2)
    assert stated_cv(one) == pytest.approx(expected)
    # 400 draws of a chip's own part, five standard errors
    tolerance = 5 * expected * math.sqrt(0.6 / 400) if distribution == "lognormal" else 0.005
    assert measured_cv(one) == pytest.approx(expected, abs=tolerance)


def test_weights_of_four_bits_scatter_as_their_codes_do():
    """A code c of bits c_b has CV²(c) = CV²·Σ c_b·4^b/c²: the root of their mean square, over chips."""
    hardware = ns.hardware("dynapse-se2")
    found = {one.name: one for one in varied(ns.deploy(lsnn(), hardware), ns.Lot(hardware)[0:40])}
    one = found["hidden.input.weight"]
    assert one.held and "CV 20 % of each of 4 currents" in one.stated
    code = (15 * one.nominal.double().abs() / one.nominal.abs().max()).round().long()
    squares = sum(((code >> b) & 1) * 4.0**b for b in range(4)) / code.clamp(min=1) ** 2
    expected = 0.2 * math.sqrt(float(squares[code > 0].mean()))
    assert stated_cv(one) == pytest.approx(expected, rel=1e-5)
    count = int((code > 0).sum()) * 39
    assert measured_cv(one) == pytest.approx(expected, abs=5 * expected / math.sqrt(count))


@pytest.mark.parametrize(
    ("name", "changes", "cv"),
    [
        ("spikey-bruderle-2009", {}, 0.25),
        ("gaussian-mismatch", {"device.relative_std": 0.15}, 0.15),
        ("gaussian-mismatch", {"device.relative_std": 0.1, "array.scaling": "per-column"}, 0.1),
        ("ideal", {}, 0.0),
    ],
)
def test_weights_have_the_cv_of_their_device(name, changes, cv):
    hardware = ns.hardware(name).with_all(changes)
    found = varied(ns.deploy(lsnn(), hardware), ns.Lot(hardware)[0:20])
    for one in (one for one in found if one.held and bool(one.nominal.any())):
        assert stated_cv(one) == pytest.approx(cv, abs=1e-6)
        count = 19 * int((one.nominal != 0).sum())
        assert measured_cv(one) == pytest.approx(cv, abs=5 * cv * math.sqrt(0.6 / count) + 1e-6)
        torch.testing.assert_close(one.moments[0], one.nominal)


def test_a_law_without_a_closed_form_states_words_only():
    for name, changes in (("pcm-joshi-2020", {}), ("gaussian-mismatch", {"faults.stuck_low_rate": 0.01})):
        hardware = ns.hardware(name).with_all(changes)
        net = ns.deploy(lsnn(), hardware, calibration=sample(100))
        for one in varied(net, ns.Lot(hardware)[0:2]):
            assert math.isnan(stated_cv(one)) and one.stated


def test_no_devices_on_the_diagonal():
    hardware = ns.hardware("pcm-joshi-2020")
    net = ns.deploy(lsnn(), hardware, calibration=sample(100))
    found = {one.name: one for one in varied(net, ns.Lot(hardware)[0:3], time_s=3600)}
    recurrent = found["hidden.recurrent.weight"]
    assert not recurrent.values.diagonal(dim1=1, dim2=2).any() and bool((recurrent.values != 0).any())


def test_deviations_are_relative_to_what_was_asked_for():
    nominal, spread = torch.tensor([2.0, 4.0, 0.0]), Spread(relative_std=0.1)
    values = torch.tensor([[2.2, 4.0, 0.0], [2.0, 3.0, 0.0]])
    of_neurons = Varied("tau", nominal, values, "", spread)
    assert deviations(of_neurons) == pytest.approx([0.1, 0.0, 0.0, -0.25])
    on_devices = Varied("w", nominal, values, "", None)
    assert deviations(on_devices) == pytest.approx([0.05, 0, 0, 0, -0.25, 0])
    zeros = Varied("b", torch.zeros(2), torch.tensor([[0.5, -0.5]]), "", spread)
    assert deviations(zeros) == pytest.approx([0.5, -0.5])
    assert math.isnan(measured_cv(zeros)) and math.isnan(stated_cv(zeros))
    one_chip = Varied("w", nominal, values[:1], "", None)
    assert math.isnan(measured_cv(one_chip))


PHYSICAL = {
    "AdEx": (AdEx(), 3.0, (-1.0, 0.02), 0.02),
    "DpiNeuron": (DpiNeuron(i_feedback_ampere=5e-12), 300.0, (0.5e-12, 200e-12), 200e-12),
}


@pytest.mark.parametrize("kind", PHYSICAL)
def test_neurons_with_units_are_seen_too(kind: str):
    """Volt and ampere: in the neuron's range, at its top where it spikes, and steps as the loop has them."""
    neuron, size, (low, high), top = PHYSICAL[kind]
    net = classifier(neuron)
    with torch.no_grad():
        for one in net.hidden.parameters():
            one.mul_(size if one.dim() == 2 else 1.0)
    x = sample(300).abs()
    found = look(net, x).layer()
    assert found.kind == kind and 5 < found.spikes < 300 * found.neurons / 4
    with torch.no_grad():
        assert torch.equal(net.hidden(x)[0], found.record.spikes)
    v, fired = found.record.potentials, found.record.spikes > 0
    assert low - 1e-6 * abs(low) <= float(v.min()) and float(v.max()) <= high * (1 + 1e-6)
    torch.testing.assert_close(v[fired], torch.full_like(v[fired], top))
    torch.testing.assert_close(found.record.thresholds, torch.full_like(v, top))
    unit = neuron.i_unit_ampere
    torch.testing.assert_close(found.record.currents[0], unit * found.record.inputs[0])  # nothing adapts yet
    state, step = neuron.initial(x.new_zeros(1, found.neurons)), neuron.stepper(found.neurons)
    for t, u in enumerate(found.record.inputs):
        state = step(u[None], state)
        assert torch.equal(state.spike[0], found.record.spikes[t])
    on = look_on(
        ns.deploy(net, ns.hardware("gaussian-mismatch")), x, ns.Lot(ns.hardware("gaussian-mismatch"))[0:2]
    )
    assert not torch.equal(*(one.layer().record.potentials for one in on.looks))


def test_one_layer_used_twice_is_two_activities():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = Neurons(Lif(v_threshold=0.1), 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(self.cell(x)).sum(1)

    assert [one.name for one in look(Twice(), 3 * sample()).layers] == ["cell", "cell (2)"]


def test_wrong_use_is_one_sentence():
    with pytest.raises(
        UsageError, match=r"expected a network with spiking neurons .*; got one of Linear, ReLU$"
    ):
        spiking_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    with pytest.raises(UsageError, match=r"expected one sample \(1, ...\); got \(2, 60, 2\)"):
        look(classifier(), sample().expand(2, -1, -1))
    with pytest.raises(UsageError, match="expected neurons with spikes to record; got DpiSynapse"):
        DpiSynapse().seen(torch.zeros(3), torch.zeros(3))
    with pytest.raises(UsageError, match=r"one score for each class, \(1, classes\); got \(1, 60, 3\)"):
        look(nn.Sequential(Recurrent(2, 3, Lif())), sample())
