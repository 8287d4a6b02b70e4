"""Which parameters methods disturb: what is trained, and what patterns name beside it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim.errors import UsageError
from neurosim.models.spiking.lsnn import Lsnn
from neurosim.training import METHODS, AdversarialWeights, ForwardNoise, describe, method_from, train
from neurosim.training.catalogue import patterns_of
from neurosim.training.method import Step, analog_parameters, first_slopes
from neurosim.training.running import draws_for_step

DRAWS = draws_for_step(seed=3, step=5)
TAU = ("hidden.neurons.tau_*",)
NAMED = ["hidden.neurons.tau_mem_s", "hidden.neurons.tau_ada_s"]
WEIGHTS = ["hidden.input.weight", "hidden.recurrent.weight", "readout.weight", "readout.bias"]
DISTURBING = {
    name: kind for name, kind in METHODS.items() if "parameters" in {f.name for f in dataclasses.fields(kind)}
}
disturbing = pytest.mark.parametrize("kind", DISTURBING.values(), ids=DISTURBING)


class Spy(nn.Module):
    """Keeps the parameters that each forward saw."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append({name: p.detach().clone() for name, p in self.inner.named_parameters()})
        return self.inner(x)


def spiking(seed: int = 0) -> tuple[Lsnn, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Lsnn(num_classes=4, in_chans=2, image_size=(30, 1), units=12).train()
        with torch.no_grad():
            net.hidden.input.weight.mul_(3)  # or nothing fires
        return net, torch.rand(8, 30, 2), torch.randint(4, (8,))


def test_all_that_disturb_take_them() -> None:
    others = {"standard", "dropout", "entropy-sgd", "abcd", "distil", "clip", "ema", "swa"}
    assert METHODS.keys() - DISTURBING.keys() == others


def test_weights_and_biases_are_what_is_trained() -> None:
    net, _, _ = spiking()
    assert list(analog_parameters(net)) == WEIGHTS
    # in the order of the network, whatever the order of the patterns
    assert list(analog_parameters(net, TAU)) == [*WEIGHTS[:2], *sorted(NAMED, reverse=True), *WEIGHTS[2:]]


class TestEveryMethod:
    @disturbing
    def test_time_constants_are_left_alone_unless_named(self, kind: Any) -> None:
        net, x, y = spiking()
        own = dict(net.named_parameters())
        for patterns in ((), TAU):
            spy = Spy(net)
            spy.train()
            # the names that methods see are those of the network they run
            inner = tuple(f"inner.{one}" for one in patterns)
            kind(parameters=inner).backward(Step(spy, x, y, DRAWS, 0.5))
            moved = {name for seen in spy.seen for name, p in seen.items() if not torch.equal(p, own[name])}
            assert set(NAMED) & moved == (set(NAMED) if patterns else set())
            assert moved - set(NAMED) <= set(WEIGHTS)
            assert all(bool((seen[name] > 0).all()) for seen in spy.seen for name in NAMED)

    @disturbing
    def test_they_get_no_gradient_and_keep_their_bits(self, kind: Any) -> None:
        net, x, y = spiking()
        before = copy.deepcopy(net.state_dict())
        plain, named = copy.deepcopy(net), net
        kind().backward(Step(plain, x, y, DRAWS, 0.5))
        kind(parameters=TAU).backward(Step(named, x, y, DRAWS, 0.5))
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert all(net.get_parameter(name).grad is None for name in NAMED)
        assert not any(net.get_parameter(name).requires_grad for name in NAMED)
        grads = [dict(one.named_parameters())["readout.weight"].grad for one in (plain, named)]
        assert not torch.equal(*grads), "what is trained feels it"

    @disturbing
    def test_a_trained_weight_that_is_named_changes_nothing(self, kind: Any) -> None:
        net, x, y = spiking()
        other = copy.deepcopy(net)
        kind().backward(Step(net, x, y, DRAWS, 0.5))
        kind(parameters=("*.input.weight",)).backward(Step(other, x, y, DRAWS, 0.5))
        for name in WEIGHTS:
            assert torch.equal(net.get_parameter(name).grad, other.get_parameter(name).grad)

    @disturbing
    def test_normalisations_that_are_named_are_disturbed_too(self, kind: Any) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)).train()
            x, y = torch.randn(40, 6), torch.randint(4, (40,))
        spy = Spy(net)
        kind(parameters=("inner.1.weight",)).backward(Step(spy, x, y, DRAWS, 0.5))
        assert any(not torch.equal(seen["1.weight"], net[1].weight) for seen in spy.seen)
        assert all(torch.equal(seen["1.bias"], net[1].bias) for seen in spy.seen)
        assert net[1].weight.grad is not None and net[1].bias.grad is not None

    @disturbing
    def test_a_pattern_that_matches_nothing_is_one_sentence(self, kind: Any) -> None:
        net, x, y = spiking()
        with pytest.raises(UsageError) as error:
            kind(parameters=("hidden.neurons.tau_mem",)).backward(Step(net, x, y, DRAWS, 0.5))
        assert str(error.value).startswith(
            "parameters: 'hidden.neurons.tau_mem' matches no parameter of the network: did you mean"
            " 'hidden.neurons.tau_mem_s' or"
        )
        with pytest.raises(UsageError, match=r"expected parameters, a list of names .* got 'tau'"):
            kind(parameters="tau")


class TestAttack:
    def test_the_slope_reaches_time_constants(self) -> None:
        net, x, _ = spiking()
        method = AdversarialWeights(zeta=0.2, steps=4, initial_std=1e-3, parameters=TAU)
        delta = method.attack(net, x, net(x).detach(), DRAWS)
        assert {*delta} == {*WEIGHTS, *NAMED}
        for name in NAMED:
            assert delta[name].abs().max() <= 0.2
            firing = delta[name].abs() > 0.01  # ten times the start
            assert float(firing.float().mean()) > 0.75, "climbed, not only begun"
        assert float((delta["hidden.neurons.tau_mem_s"] < 0).float().mean()) not in (0.0, 1.0)

    def test_the_slope_is_that_of_finite_differences(self) -> None:
        """Through the readout's rates a spike's slope is a surrogate: a smooth neuron is a better witness."""

        class Leaky(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.tau = nn.Parameter(torch.tensor([2.0, 5.0, 9.0]).double(), requires_grad=False)
                self.head = nn.Linear(3, 3).double()

            def forward(self, x: Tensor) -> Tensor:
                return self.head(torch.exp(-x / self.tau))

        with torch.random.fork_rng():
            torch.manual_seed(1)
            net, x = Leaky(), torch.rand(6, 3).double() * 5
        y = torch.tensor([0, 1, 2, 0, 1, 2])
        loss = nn.functional.cross_entropy
        small = 1e-6
        steps = torch.eye(3).double() * small
        with torch.no_grad():
            ends = [
                [loss(net.head(torch.exp(-x / (net.tau + side * d))), y) for side in (1, -1)] for d in steps
            ]
        by_hand = torch.tensor([float(above - below) / (2 * small) for above, below in ends]).double()
        found = first_slopes(Step(net, x, y, DRAWS), analog_parameters(net, ["tau"]))
        torch.testing.assert_close(found["tau"], by_hand, rtol=1e-5, atol=1e-8)


def test_time_constants_stay_above_0_under_any_noise_and_weights_need_not() -> None:
    net, x, y = spiking()
    spy = Spy(net)
    ForwardNoise(5.0, parameters=("*",)).backward(Step(spy, x, y, DRAWS, 0.5))
    (seen,) = spy.seen
    for name in NAMED:
        tau = net.get_parameter(name)
        ratio = seen[name] / tau
        assert ratio.min() == pytest.approx(0.01) and ratio.max() > 2
    flipped = seen["hidden.input.weight"].sign() != net.hidden.input.weight.sign()
    assert 0.2 < float(flipped.float().mean()) < 0.6


def test_they_are_part_of_a_description_only_where_there_are_any() -> None:
    made = method_from("noise+adversarial", {"noise": {"parameters": ["*.tau_*"]}})
    assert describe(made)["noise"]["parameters"] == ("*.tau_*",)
    assert "parameters" not in describe(made)["adversarial"]
    assert patterns_of(made) == ("*.tau_*",)
    table = describe(made)
    assert method_from(table.pop("name"), table) == made
    with pytest.raises(UsageError, match=r"say noise\.parameters or adversarial\.parameters"):
        method_from("noise+adversarial", {"parameters": ["*"]})


def test_a_wrong_pattern_leaves_no_folder(tmp_path: Path) -> None:
    net, x, y = spiking()
    data = [(x, y)]
    with pytest.raises(UsageError, match=r"'hidden\.tau' matches no parameter of the network"):
        train(
            net, (data, data), method=ForwardNoise(parameters=("hidden.tau",)), epochs=1, out=tmp_path / "a"
        )
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["adversarial", "noise+adversarial+ema", "awp"])
def test_a_resumed_run_is_the_same_run(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "seed": 1, "device": "cpu", "lr": 1e-3}
    patterns = {part: {"parameters": list(TAU)} for part in name.split("+") if part in DISTURBING}
    method = method_from(name, patterns if "+" in name else patterns[name])
    _, x, y = spiking()
    data = list(zip(x.split(4), y.split(4), strict=True))

    def stop(progress: Any) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    train(spiking()[0], (data, data), method=method, out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train(spiking()[0], (data, data), method=method, out=tmp_path / "cut", progress=stop, **options)
    train(spiking()[0], (data, data), method=method, out=tmp_path / "cut", resume=True, **options)
    files = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert files[0] == files[1]


def test_through_chips_whose_time_constants_differ() -> None:
    """What an attack moves is what a chip's own mismatch then acts on, in every pass of a step."""
    hardware = ns.hardware("gaussian-mismatch", parameters={TAU[0]: {"relative_std": 0.1}})
    net, x, y = spiking()
    deployed = ns.deploy(net, hardware)
    method = AdversarialWeights(zeta=0.3, steps=2, parameters=TAU)
    with deployed.on(ns.Lot(hardware, 0)[0:1]):
        with torch.no_grad():
            clean = deployed(x)
            tau = {name: 2 * deployed.get_parameter(name).detach() for name in NAMED}
            other = torch.func.functional_call(deployed, tau, (x,))
            again = deployed(x)
        assert torch.equal(clean, again)
        assert not torch.equal(clean, other)
        metrics = method.backward(Step(deployed, x, y, DRAWS, 0.5))
    assert metrics["robust_loss"] > 0
