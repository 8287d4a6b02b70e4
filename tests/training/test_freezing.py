"""Frozen parameters keep their bits, batch normalisations among them their statistics; the rest trains."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

import neurosim as ns
from neurosim.errors import UsageError
from neurosim.training import AdversarialWeights, ForwardNoise, Standard, train
from neurosim.training.method import Step, analog_parameters
from neurosim.training.running import draws_for_step

METHODS: dict[str, Any] = {
    "standard": Standard(),
    "noise": ForwardNoise(0.2),
    "adversarial": AdversarialWeights(steps=2),
    "robust": AdversarialWeights(steps=2, eta=0.2),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.neck = nn.BatchNorm1d(64)
        self.bare = nn.BatchNorm1d(64, affine=False)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bare(self.neck(self.trunk(x))))


def network() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()


def loaders() -> Any:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(70, 1, 6, 6, generator=g)
    y = (x.mean((1, 2, 3)) * 300 % 3).long()
    return list(zip(x[:50].split(10), y[:50].split(10), strict=True)), [(x[50:], y[50:])]


OPTIONS: dict[str, Any] = {"epochs": 2, "lr": 0.01, "seed": 5, "device": "cpu"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_frozen_parameters_and_statistics_keep_their_bits(method: str, optimizer: str) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    more: dict[str, Any] = {"optimizer": optimizer, "weight_decay": 0.1, "clip_norm": 1.0}
    train(net, loaders(), method=METHODS[method], freeze=["trunk.*"], **more, **OPTIONS)
    after = net.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if not name.startswith("trunk.")}
    assert all(p.requires_grad for p in net.parameters()), "as it was before"


def test_through_chips_too() -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    hardware = ns.hardware("pcm-joshi-2020")
    train(net, loaders(), method="adversarial", freeze=["trunk.*"], hardware=hardware, **OPTIONS)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(before[name], value)}
    assert moved == {name for name in before if not name.startswith("trunk.")}


def test_a_normalisation_with_one_trained_parameter_moves_its_statistics() -> None:
    net = network()
    train(net, loaders(), freeze=["trunk.1.weight", "head.bias"], **OPTIONS)
    fresh = network().state_dict()
    assert torch.equal(net.trunk[1].weight, fresh["trunk.1.weight"])
    assert not torch.equal(net.trunk[1].running_mean, fresh["trunk.1.running_mean"])
    assert not torch.equal(net.trunk[1].bias, fresh["trunk.1.bias"])


class Spy(nn.Module):
    """Keeps the weights that each forward saw."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x: Tensor) -> Tensor:
        parameters = dict(self.inner.named_parameters())
        self.seen.append({name: p.detach().clone() for name, p in parameters.items()})
        return self.inner(x)


@pytest.mark.parametrize("method", ["noise", "adversarial", "robust"])
def test_methods_neither_disturb_nor_attack_them(method: str) -> None:
    net = network()
    net.trunk.requires_grad_(False)
    spy = Spy(net)
    x, y = loaders()[0][0]
    METHODS[method].backward(Step(spy, x, y, draws_for_step(5, 0), 0.5))
    trunk = [name for name in dict(net.named_parameters()) if name.startswith("trunk.")]
    own = dict(net.named_parameters())
    assert all(torch.equal(seen[name], own[name]) for seen in spy.seen for name in trunk)
    assert any(not torch.equal(seen["head.weight"], own["head.weight"]) for seen in spy.seen)
    assert list(analog_parameters(net)) == ["head.weight", "head.bias"]


@pytest.mark.parametrize("method", METHODS.values())
def test_training_only_normalisations(method: Any) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    train(net, loaders(), method=method, freeze=["trunk.*", "head.*"], **OPTIONS)
    assert not torch.equal(before["neck.weight"], net.neck.weight)
    assert torch.equal(before["head.weight"], net.head.weight)


def test_equals_a_network_that_came_frozen() -> None:
    mine, other = network(), network()
    train(mine, loaders(), method=METHODS["adversarial"], freeze=["trunk.*", "neck.*"], **OPTIONS)
    other.trunk.requires_grad_(False)
    other.neck.requires_grad_(False)
    train(other, loaders(), method=METHODS["adversarial"], **OPTIONS)
    assert torch.equal(parameters_to_vector(mine.parameters()), parameters_to_vector(other.parameters()))
    assert not other.trunk[0].weight.requires_grad


@pytest.mark.parametrize("call", [1, 4, 6, 7])
def test_resume_gives_the_same_bits(tmp_path: Path, call: int) -> None:
    options: dict[str, Any] = {**OPTIONS, "method": METHODS["robust"], "freeze": ["trunk.*"]}
    train(network(), loaders(), out=tmp_path / "whole", **options)
    left = [call]

    def stop(progress: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(network(), loaders(), out=tmp_path / "cut", progress=stop, **options)
    with pytest.raises(UsageError, match=r"cannot be resumed with another configuration: freeze was"):
        train(network(), loaders(), out=tmp_path / "cut", resume=True, **{**options, "freeze": []})
    train(network(), loaders(), out=tmp_path / "cut", resume=True, **options)
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_nothing_frozen_leaves_no_trace(tmp_path: Path) -> None:
    train(network(), loaders(), out=tmp_path, **OPTIONS)
    assert "freeze" not in tomllib.loads((tmp_path / "training.toml").read_text())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"freeze: 'trnk\.\*' matches no parameter .* 'trunk\.\*'"):
        train(network(), loaders(), freeze=["trnk.*"], out=tmp_path / "a", **OPTIONS)
    net = network()
    with pytest.raises(UsageError, match=r"freezing '\*' leaves no parameter to train"):
        train(net, loaders(), freeze=["*"], out=tmp_path / "a", **OPTIONS)
    assert not (tmp_path / "a").exists()
    assert all(p.requires_grad for p in net.parameters())
