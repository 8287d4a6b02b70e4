"""Validation of mismatched networks, and which epoch is best by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from neurosim.errors import UsageError
from neurosim.landscape.attack import PAPER, attack_weights
from neurosim.random import stream
from neurosim.training import train

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)) - 0.5
Y = (X[:, 0] > 0).long()
BATCHES = [(X[k : k + 20], Y[k : k + 20]) for k in range(0, 60, 20)]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def trained(**options: Any) -> Any:
    model = network()
    return model, train(model, (BATCHES, BATCHES), epochs=4, seed=7, lr=0.05, **options)


def test_measures_what_mismatched_weights_do() -> None:
    """The last epoch's numbers, by hand on the network that it left."""
    model, result = trained(validation_mismatch=0.5)
    right, loss = 0, 0.0
    for draw in range(4):
        weights = {
            name: p.detach() * (1 + 0.5 * stream(7, draw, name, "validation-mismatch").normal(p.shape))
            for name, p in model.named_parameters()
            if not name.startswith("1.")
        }
        logits = functional_call(model, weights, (X,))
        right += int((logits.argmax(1) == Y).sum())
        loss += nn.functional.cross_entropy(logits, Y, reduction="sum").item()
    row = result.history[result.best_epoch - 1]
    assert row["validation_mismatch_accuracy"] == right / 240
    assert row["validation_mismatch_loss"] == pytest.approx(loss / 240, rel=1e-5)
    assert row["validation_accuracy"] == int((model(X).argmax(1) == Y).sum()) / 60


def test_decides_which_epoch_is_best() -> None:
    _, result = trained(validation_mismatch=0.8)
    found = [
        (row["validation_mismatch_accuracy"], -row["validation_mismatch_loss"]) for row in result.history
    ]
    assert result.best_epoch == 1 + found.index(max(found))
    assert result.best_validation_accuracy == result.history[result.best_epoch - 1]["validation_accuracy"]


@pytest.mark.parametrize("method", ["standard", "ema"])
def test_measures_what_an_attack_leaves(method: str) -> None:
    """Of the weights that the run ends with, averaged ones where there is an average."""
    model, result = trained(validation_attack=0.3, method=method)
    attacked = attack_weights(model, BATCHES, [0.3], PAPER, draws=0, seed=7)[0].attacked
    assert result.history[result.best_epoch - 1]["validation_attack_accuracy"] == attacked.mean().item()


def test_an_attack_decides_before_mismatch_and_plain_numbers() -> None:
    _, result = trained(validation_attack=0.3, validation_mismatch=0.3)
    best = {}
    for kind in ("attack_accuracy", "mismatch_accuracy", "accuracy"):
        found = [row[f"validation_{kind}"] for row in result.history]
        best[kind] = 1 + found.index(max(found))
    assert result.best_epoch == best["attack_accuracy"]
    assert best["attack_accuracy"] not in (best["mismatch_accuracy"], best["accuracy"])


def test_an_attack_at_validation_does_not_touch_the_training() -> None:
    """Not even where reading the data and the network itself draw from torch's generator."""
    found = []
    for options in ({}, {"validation_attack": 0.3}):
        model = nn.Sequential(network(), nn.Dropout(0.5))
        loader = DataLoader(TensorDataset(X, Y), batch_size=20, shuffle=True)
        result = train(model, (loader, loader), epochs=4, seed=7, lr=0.05, **options)
        found.append([row["loss"] for row in result.history])
    assert found[0] == found[1]


def test_does_not_touch_the_training() -> None:
    _, plain = trained()
    _, checked = trained(validation_mismatch=0.3)
    assert [row["loss"] for row in checked.history] == [row["loss"] for row in plain.history]
    assert "validation_mismatch_accuracy" not in plain.history[0]
    assert plain.history[0].keys() < checked.history[0].keys()


@pytest.mark.parametrize("name", ["validation_mismatch", "validation_attack"])
@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), "much"])
def test_names_what_is_wrong(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"expected {name}, a finite number > 0; got"):
        trained(**{name: value}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
