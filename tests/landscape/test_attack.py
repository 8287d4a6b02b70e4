"""Attacks on the weights of trained networks: closed forms, random draws, the attack of the training."""

from __future__ import annotations

import copy
import dataclasses
import os
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurosim import data, models
from neurosim.errors import RunError, UsageError
from neurosim.landscape.ascent import NORMS, SCALES
from neurosim.landscape.attack import PAPER, WeightAttack, attack_weights
from neurosim.landscape.parameters import analog_parameters
from neurosim.random import stream
from neurosim.training import AdversarialWeights


def normals(name: str, *shape: int) -> Tensor:
    return stream(0, 0, name, "test").normal(shape)


@pytest.fixture(scope="module")
def digits() -> list[tuple[Tensor, Tensor]]:
    test = data.load("digits").test
    return list(data.Batches(test, 90))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small network with batch normalisation and dropout, trained for a second."""
    x, y = (part := data.load("digits").train).inputs, part.targets
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 10)
    )
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.dim() == 2:
                p.copy_(normals(name, *p.shape) / p.shape[1] ** 0.5)
    net[4].p = 0.0  # its draws would be torch's
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    net[4].p = 0.5
    return net


def accuracy(scores: Tensor) -> float:
    return float(scores.mean())


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("loss", ["cross-entropy", "kl"])
def test_the_worst_box_of_a_linear_classifier_of_two_classes_is_by_hand(loss):
    # one sample x > 0 of class 0: the margin (w0 − w1)·x is least at w0 − ζ|w0|, w1 + ζ|w1|
    net = nn.Linear(3, 2, bias=False).double()
    x = torch.tensor([[0.5, 1.0, 0.2]], dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -1.0]]))
    batch = [(x, torch.tensor([int(net(x).argmax())]))]
    label = int(batch[0][1])
    (found,) = attack_weights(
        net, batch, [0.3], WeightAttack(loss=loss, steps=4, restarts=1, keep="last"), draws=0
    )
    toward = torch.ones(2, 3, dtype=torch.float64)
    toward[label] = -1.0
    if loss == "kl":  # either class may win: what matters is that all weights pull at one end
        toward *= torch.sign((found.weights["weight"] - net.weight)[1 - label, 0]).item()
    expected = net.weight.detach() + 0.3 * net.weight.detach().abs() * toward
    assert torch.allclose(found.weights["weight"], expected, atol=0.01)  # ε off the wall


def test_random_draws_are_the_paper_s_mismatch(trained, digits):
    (found,) = attack_weights(trained, digits, [0.4], WeightAttack(steps=1, restarts=1), draws=2, seed=5)
    for kind, scores in (("gaussian", found.gaussian), ("corner", found.corner)):
        for draw in range(2):
            net = copy.deepcopy(trained).eval()
            with torch.no_grad():
                for name, p in analog_parameters(net).items():
                    r = stream(5, draw, name, f"attack-{kind}").normal(tuple(p.shape))
                    p.add_(0.4 * p.abs() * (r if kind == "gaussian" else torch.where(r < 0, -1.0, 1.0)))
                right = torch.cat([net(x).argmax(1) == y for x, y in digits])
            assert torch.equal(scores[draw], right.double())


def test_size_zero_changes_nothing(trained, digits):
    for attack in (WeightAttack(steps=2, restarts=2), PAPER):
        (found,) = attack_weights(trained, digits, [0.0], attack, draws=1)
        for scores in (found.attacked, *found.restarts, *found.gaussian, *found.corner):
            assert torch.equal(scores, found.clean)


# ---------------------------------------------------------------- the region


@pytest.mark.parametrize("keep", ["worst", "last"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("norm", NORMS)
def test_attacked_weights_are_in_the_region(trained, digits, norm, scale, keep):
    attack = WeightAttack(steps=3, restarts=2, norm=norm, scale=scale, keep=keep, initial_std=5.0)
    for found in attack_weights(trained, digits[:1], [1e-3, 0.3], attack, draws=0):
        theta = {n: p.detach() for n, p in analog_parameters(trained).items()}
        sizes = attack.region(found.size).scales(list(theta.values()))
        for (name, w), s in zip(theta.items(), sizes, strict=True):
            d = torch.nan_to_num((found.weights[name] - w).double() / s.expand_as(w).double())
            reached = float(d.abs().max()) if norm == "box" else float(d.square().mean().sqrt())
            assert reached <= found.size * 1.001 + 1e-6, name


def test_scores_are_those_of_the_weights_that_are_given_back(trained, digits):
    for found in attack_weights(trained, digits, [0.1, 0.3], WeightAttack(steps=4, restarts=2), draws=0):
        net = copy.deepcopy(trained).eval()
        net.load_state_dict(found.weights, strict=False)
        with torch.no_grad():
            right = torch.cat([net(x).argmax(1) == y for x, y in digits])
        assert torch.equal(found.attacked, right.double())
        assert accuracy(found.attacked) == min(accuracy(each) for each in found.restarts)


# ---------------------------------------------------------------- what it finds


def test_an_attack_is_far_worse_than_random_draws_of_its_size(trained, digits):
    small, large = attack_weights(trained, digits, [0.05, 0.2], WeightAttack(steps=8, restarts=2), draws=5)
    assert accuracy(small.clean) > 0.85
    assert accuracy(large.attacked) < accuracy(small.attacked) < accuracy(small.clean)
    random_ones = torch.cat([large.gaussian, large.corner])
    assert accuracy(large.attacked) < float(random_ones.mean(1).min()) - 0.3


def test_the_worst_place_of_an_ascent_is_at_least_as_bad_as_its_end(trained, digits):
    pairs = [
        attack_weights(
            trained, digits, [0.1], WeightAttack(steps=5, restarts=3, step=2.0, keep=keep), draws=0
        )[0]
        for keep in ("worst", "last")
    ]
    assert bool((pairs[0].restarts.mean(1) <= pairs[1].restarts.mean(1)).all())


def test_how_data_are_batched_does_not_matter_to_an_attack_on_all_of_them(trained, digits):
    net = copy.deepcopy(trained).double()
    x, y = torch.cat([x for x, _ in digits]).double(), torch.cat([y for _, y in digits])
    whole, parts = [(x, y)], [(x[:7], y[:7]), (x[7:200], y[7:200]), (x[200:], y[200:])]
    for loss in ("cross-entropy", "kl"):
        attack = WeightAttack(loss=loss, steps=3, restarts=2)
        one, other = (attack_weights(net, batches, [0.1], attack, draws=1)[0] for batches in (whole, parts))
        assert torch.equal(one.restarts, other.restarts)
        assert torch.equal(one.gaussian, other.gaussian)
        for name, w in one.weights.items():
            assert torch.allclose(w, other.weights[name])


def test_one_batch_is_attacked_as_all_data_are(trained, digits):
    each, whole = (
        attack_weights(trained, digits[:1], [0.1], WeightAttack(steps=3, restarts=2, per=per), draws=0)[0]
        for per in ("batch", "data")
    )
    assert torch.equal(each.restarts, whole.restarts)
    assert each.weights is None and whole.weights is not None


def test_an_attack_on_each_batch_takes_the_worst_restart_of_each(trained, digits):
    (found,) = attack_weights(
        trained, digits, [0.15], WeightAttack(steps=3, restarts=3, per="batch"), draws=0
    )
    start = 0
    for x, _ in digits:
        mine = found.restarts[:, start : start + len(x)]
        assert accuracy(found.attacked[start : start + len(x)]) == float(mine.mean(1).min())
        start += len(x)
    assert start == len(found.attacked)


def test_the_paper_s_attack_is_that_of_its_training(trained, digits):
    # in float64, where a slope is not 0 up to rounding: its sign is a step
    net, x, y = copy.deepcopy(trained).double().eval(), digits[0][0].double(), digits[0][1]
    (found,) = attack_weights(net, [(x, y)], [0.1], PAPER, draws=0)
    again = attack_weights(
        net, [(x, y)], [0.1], WeightAttack(loss="kl", steps=10, restarts=1, keep="last"), draws=0
    )[0]
    assert torch.equal(found.restarts, again.restarts)
    begin = {
        name: 1e-3 * stream(0, 0, f"{name}:0", "attack-start").normal(tuple(p.shape)).double()
        for name, p in analog_parameters(net).items()
    }
    delta = AdversarialWeights(zeta=0.1, steps=10).attack(
        net, x, net(x).detach(), lambda name: stream(0, 0, name, "unused"), begin
    )
    for name, p in analog_parameters(net).items():
        assert torch.allclose(again.weights[name], p + p.abs() * delta[name])


# ---------------------------------------------------------------- what is left alone


def test_the_network_and_every_generator_stay_as_they_are(trained, digits):
    net = copy.deepcopy(trained)
    net[4].eval()
    net[1].weight.requires_grad_(False)
    net.train()
    net[2].eval()
    modes = [module.training for module in net.modules()]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    attack_weights(net, digits[:1], [0.1], WeightAttack(steps=2, restarts=2), draws=1)
    attack_weights(net, digits[:1], [0.1], PAPER, draws=0)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not net[1].weight.requires_grad and net[5].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


def test_what_is_trained_is_attacked_and_what_is_named(trained, digits):
    net = copy.deepcopy(trained)
    net[1].weight.requires_grad_(False)
    expected = {
        (): ["1.bias", "5.weight", "5.bias"],
        ("1.*",): ["1.weight", "1.bias", "5.weight", "5.bias"],
        ("2.weight",): ["1.bias", "2.weight", "5.weight", "5.bias"],
        ("*",): [name for name, _ in net.named_parameters()],
    }
    for patterns, names in expected.items():
        attack = WeightAttack(steps=1, restarts=1, parameters=patterns)
        (found,) = attack_weights(net, digits[:1], [0.1], attack, draws=0)
        assert list(found.weights) == names
        own = dict(net.named_parameters())
        assert all(not torch.equal(found.weights[name], own[name]) for name in names)


@pytest.fixture(scope="module")
def spiking() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """The paper's network on signals that it answers with a few classes."""
    net = models.create("lsnn-ecg", num_classes=4, in_chans=2, image_size=100, seed=1).eval()
    with torch.no_grad():
        net.readout.weight.mul_(20)
    x = normals("beats", 24, 100, 2)
    with torch.no_grad():
        y = net(x).argmax(1)
    return net, [(x, y)]


TAUS = ["hidden.neurons.tau_mem_s", "hidden.neurons.tau_ada_s"]


@pytest.mark.parametrize("patterns", [(), ("hidden.neurons.tau_*",)])
@pytest.mark.parametrize("attack", [WeightAttack(steps=2, restarts=2), PAPER])
def test_time_constants_of_a_spiking_network_only_where_named(spiking, attack, patterns):
    net, batches = spiking
    asked = dataclasses.replace(attack, steps=2, per="data", parameters=patterns)
    (found,) = attack_weights(net, batches, [0.3], asked, draws=1)
    weights = ["hidden.input.weight", "hidden.recurrent.weight", "readout.weight", "readout.bias"]
    assert {*found.weights} == {*weights, *(TAUS if patterns else [])}
    for name in TAUS if patterns else []:
        tau = net.get_parameter(name)
        ratio = found.weights[name] / tau
        assert 0.7 - 1e-6 <= ratio.min() < 0.9 and 1.1 < ratio.max() <= 1.3 + 1e-6
    assert bool((net.hidden.neurons.tau_mem_s == 0.02).all())


def test_an_attack_on_time_constants_alone_is_worse_than_draws_of_them(spiking):
    net, batches = copy.deepcopy(spiking[0]), spiking[1]
    net.requires_grad_(False)
    attack = WeightAttack(steps=5, restarts=1, parameters=("*.tau_mem_s", "*.v_threshold"))
    (found,) = attack_weights(net, batches, [0.3], attack, draws=3)
    assert list(found.weights) == ["hidden.neurons.v_threshold", "hidden.neurons.tau_mem_s"]
    assert accuracy(found.clean) == 1.0
    assert accuracy(found.attacked) < float(found.gaussian.mean(1).min()) - 0.2


def test_time_constants_stay_above_0(spiking):
    net, batches = spiking
    attack = WeightAttack(steps=1, restarts=2, parameters=("*.tau_mem_s",), scale="one")
    (found,) = attack_weights(net, batches, [2.0], attack, draws=1)
    assert found.weights["hidden.neurons.tau_mem_s"].min() == pytest.approx(0.01 * 0.02)
    assert bool(torch.isfinite(found.gaussian).all())


def test_an_unknown_pattern_names_near_ones(spiking):
    net, batches = spiking
    with pytest.raises(UsageError) as refused:
        attack_weights(net, batches, [0.1], WeightAttack(parameters=("hidden.neuron.tau_mem_s",)), draws=0)
    assert str(refused.value) == (
        "parameters: 'hidden.neuron.tau_mem_s' matches no parameter of the network: did you mean"
        " 'hidden.neurons.tau_mem_s' or 'hidden.neurons.tau_ada_s' or 'hidden.neurons.beta_ada'?"
    )
    with pytest.raises(UsageError, match=r"such as 'hidden\.input\.weight'"):
        attack_weights(net, batches, [0.1], WeightAttack(parameters=("??",)), draws=0)


def test_equal_seeds_give_equal_bits_and_others_do_not(trained, digits):
    attack = WeightAttack(steps=2, restarts=2)
    one, again, other = (
        attack_weights(trained, digits, [0.2], attack, draws=2, seed=seed)[0] for seed in (1, 1, 2)
    )
    for name in one.weights:
        assert torch.equal(one.weights[name], again.weights[name])
    assert torch.equal(one.gaussian, again.gaussian)
    assert not torch.equal(one.gaussian, other.gaussian)
    assert any(not torch.equal(w, other.weights[name]) for name, w in one.weights.items())


def test_progress_ends_at_what_it_promised(trained, digits):
    for attack in (WeightAttack(steps=2, restarts=2), PAPER):
        told = []
        attack_weights(
            trained,
            digits,
            [0.1, 0.2],
            attack,
            draws=3,
            progress=lambda done, total, told=told: told.append((done, total)),
        )
        assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
        assert {total for _, total in told} == {told[-1][1]}


# ---------------------------------------------------------------- other networks and data


def test_pixels_are_scored_as_a_fraction_of_their_image():
    net = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1))
        net.bias.copy_(torch.tensor([0.55, -0.55]))
    x = torch.linspace(0.05, 1.0, 20).reshape(1, 1, 4, 5).repeat(3, 1, 1, 1)
    y = (x[:, 0] > 0.55).long()
    y[1, 0, 0] = 1
    (found,) = attack_weights(net, [(x[:2], y[:2]), (x[2:], y[2:])], [0.3], WeightAttack(steps=3), draws=1)
    assert found.clean.tolist() == [1.0, 0.95, 1.0]
    assert accuracy(found.attacked) < accuracy(found.gaussian[0])


def test_a_weight_that_nothing_needs_is_no_trouble(digits):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(64, 10), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x.flatten(1))

    (found,) = attack_weights(Net(), digits[:1], [0.5], WeightAttack(steps=2, restarts=2), draws=1)
    assert set(found.weights) == {"used.weight", "used.bias", "idle.weight", "idle.bias"}


def test_two_parameters_with_one_and_the_same_slope(digits):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(normals("tied", 10, 64) / 8)
            self.one, self.other = (nn.Parameter(torch.full((10,), 0.1)) for _ in range(2))

        def forward(self, x):
            return x.flatten(1) @ self.weight.T + (self.one + self.other)

    attack = WeightAttack(steps=3, restarts=1, norm="l2", scale="one", initial_std=0.0)
    (found,) = attack_weights(Net(), digits, [0.2], attack, draws=0)
    assert torch.equal(found.weights["one"], found.weights["other"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": "hinge"}, "unknown loss of an attack on weights, 'hinge'"),
        ({"per": "sample"}, "unknown choice of what an attack on weights is per, 'sample'"),
        ({"keep": "best"}, "unknown choice of what an attack on weights keeps, 'best'"),
        ({"norm": "linf"}, "unknown norm of an attack on weights, 'linf'"),
        ({"scale": "layer"}, "unknown scale of an attack on weights, 'layer'"),
        ({"steps": 0}, "expected steps of an attack on weights, 1 or more; got 0"),
        ({"steps": 2.0}, "expected steps of an attack on weights, 1 or more; got 2.0"),
        ({"restarts": True}, "expected restarts of an attack on weights, 1 or more; got True"),
        ({"step": 0.0}, "expected 0 < step of an attack on weights <= 10; got 0.0"),
        ({"initial_std": -1.0}, "expected 0 <= initial_std of an attack on weights <= 10; got -1.0"),
        ({"parameters": "tau"}, "attack on weights: expected parameters, a list of names or patterns"),
        ({"loss": "kl", "initial_std": 0}, "expected 0 < initial_std of an attack on weights <= 10; got 0"),
    ],
)
def test_wrong_settings_are_refused(change, said):
    with pytest.raises(UsageError) as refused:
        WeightAttack(**change)
    assert str(refused.value).startswith(said)


def test_what_cannot_be_attacked_is_refused(trained):
    net, x = nn.Linear(4, 3), torch.ones(2, 4)
    good = [(x, torch.tensor([0, 2]))]

    def refused(said: str, model=net, batches=good, sizes=(0.1,), kind=UsageError, **options):
        with pytest.raises(kind) as error:
            attack_weights(model, batches, sizes, **options)
        assert said in str(error.value)

    refused("no sizes of an attack on weights", sizes=[])
    refused("expected 0 <= size of an attack on weights <= 10; got -0.1", sizes=[0.1, -0.1])
    refused("there is no data to attack the weights on", batches=[])
    refused("expected batches (inputs, targets); got a Tensor", batches=[x])
    refused("expected as many targets as inputs in a batch; got 1 and 2", batches=[(x, torch.tensor([0]))])
    refused("expected class numbers from 0 to 2; got 3", batches=[(x, torch.tensor([0, 3]))])
    refused("expected class numbers from 0 to 2; got -1", batches=[(x, torch.tensor([-1, 0]))])
    refused("expected logits (batch, classes", model=nn.Sequential(net, nn.Flatten(0)))
    refused("expected draws of an attack on weights, 0 or more; got -1", draws=-1)
    refused("Flatten has none", model=nn.Flatten())
    refused("BatchNorm1d has none", model=nn.BatchNorm1d(4))
    broken = copy.deepcopy(net)
    with torch.no_grad():
        broken.weight[0, 0] = torch.nan
    refused("outputs that are not finite", model=broken, kind=RunError)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("NEUROSIM_DATA"), reason="NEUROSIM_DATA is not set: no Fashion-MNIST")
def test_on_fashion_mnist_the_paper_s_attack_beats_random_draws():
    splits = data.load("fashion-mnist")
    net = models.create(
        "cnn", num_classes=10, in_chans=1, image_size=(28, 28), input_mean=(0.286,), input_std=(0.353,)
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for x, y in data.Batches(splits.train[:6000], 100, shuffle_seed=0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    (found,) = attack_weights(net, data.Batches(splits.test[:300], 100), [0.1], PAPER, draws=3)
    assert accuracy(found.clean) > 0.65
    assert accuracy(found.attacked) < float(found.gaussian.mean(1).min()) - 0.2
