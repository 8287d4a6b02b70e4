"""Networks that give a class for each pixel: losses and Dice against numpy, and every method trains one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import neurosim as ns
from neurosim import storage
from neurosim.errors import UsageError
from neurosim.training import AdversarialWeights, ForwardNoise, Standard, train
from neurosim.training.method import Step, divergence, task_loss
from neurosim.training.running import draws_for_step
from neurosim.training.tally import Tally

METHODS: dict[str, Any] = {
    "standard": Standard(),
    "noise": ForwardNoise(0.2),
    "adversarial": AdversarialWeights(steps=2),
    "robust": AdversarialWeights(steps=2, eta=0.2),
}


def network(classes: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        first = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        return nn.Sequential(first, nn.Conv2d(6, classes, 3, padding=1))


def squares(count: int = 24, size: int = 8) -> tuple[Tensor, Tensor]:
    """Bright squares on a grey ground: (count, 1, size, size) and 1 where a square is."""
    g = torch.Generator().manual_seed(4)
    masks = torch.zeros(count, size, size, dtype=torch.int64)
    for mask in masks:
        y, x = torch.randint(size - 3, (2,), generator=g).tolist()
        mask[y : y + 3, x : x + 3] = 1
    return (0.3 + 0.4 * masks + 0.3 * torch.rand(masks.shape, generator=g))[:, None], masks


def loaders() -> dict[str, Any]:
    x, y = squares()
    return {
        "train": list(zip(x[:16].split(8), y[:16].split(8), strict=True)),
        "validation": [(x[16:], y[16:])],
    }


def log_softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    shifted = logits - logits.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


shapes = st.tuples(st.integers(1, 4), st.integers(2, 5), st.lists(st.integers(1, 5), min_size=1, max_size=3))


def drawn(shape: tuple[int, int, list[int]], seed: int) -> tuple[Tensor, Tensor]:
    batch, classes, sides = shape
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (batch, *sides), generator=g)
    return 2 * torch.randn(batch, classes, *sides, generator=g, dtype=torch.float64), targets


@given(shapes, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_task_loss_is_the_mean_over_pixels(shape: Any, seed: int) -> None:
    logits, targets = drawn(shape, seed)
    logs = log_softmax(logits.numpy(), 1)
    terms = [-logs[(b, int(targets[(b, *s)]), *s)] for b, *s in np.ndindex(*targets.shape)]
    assert float(task_loss(logits, targets)) == pytest.approx(np.mean(terms), rel=1e-12)


@given(shapes, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_divergence_is_the_mean_over_pixels(shape: Any, seed: int) -> None:
    (clean, _), (attacked, _) = drawn(shape, seed), drawn(shape, seed + 1)
    p, q = log_softmax(clean.numpy(), 1), log_softmax(attacked.numpy(), 1)
    assert float(divergence(clean, attacked)) == pytest.approx(
        np.mean((np.exp(p) * (p - q)).sum(1)), rel=1e-9
    )


@given(shapes, st.integers(0, 2**31), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_measures_equal_counts_by_hand_over_all_batches(shape: Any, seed: int, batches: int) -> None:
    tally = Tally()
    everything = [drawn(shape, seed + number) for number in range(batches)]
    for logits, targets in everything:
        tally.add(logits, targets)
    found = np.concatenate([logits.numpy().argmax(1).ravel() for logits, _ in everything])
    truth = np.concatenate([targets.numpy().ravel() for _, targets in everything])
    scores = []
    for k in range(1, shape[1]):
        mine, real = set(np.flatnonzero(found == k)), set(np.flatnonzero(truth == k))
        if mine or real:
            scores.append(2 * len(mine & real) / (len(mine) + len(real)))
    measures = tally.measures()
    assert measures["dice"] == pytest.approx(np.mean(scores) if scores else 1.0, rel=1e-12)
    assert measures["accuracy"] == pytest.approx(np.mean(found == truth), rel=1e-12)


def test_classification_has_no_dice() -> None:
    tally = Tally()
    tally.add(torch.eye(3), torch.tensor([0, 1, 1]))
    assert tally.measures().keys() == {"loss", "accuracy"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_one(method: str) -> None:
    result = train(network(), loaders(), method=METHODS[method], epochs=40, lr=0.05, seed=1)
    first, last = result.history[0], result.history[result.best_epoch - 1]
    assert last["validation_dice"] > max(0.9, first["validation_dice"])
    assert last["validation_accuracy"] > 0.95
    assert result.best_validation_accuracy == last["validation_accuracy"]


def test_best_is_the_epoch_of_highest_dice_and_it_is_what_is_saved(tmp_path: Path) -> None:
    """Scripted logits: accuracy is highest in the first epoch, Dice in the third."""
    y = torch.zeros(1, 2, 8, dtype=torch.int64)
    y[0, 0, :2] = 1
    nothing = torch.zeros(1, 2, 8)  # accuracy 14/16, Dice 0
    half = y.float().clone()
    half[0, 0, 1] = 0
    half[0, 1, :3] = 1  # accuracy 12/16, Dice 2/(4 + 2)
    wide = torch.zeros(1, 2, 8)
    wide[0, 0, :6] = 1  # accuracy 12/16, Dice 4/8
    script = itertools.cycle([nothing, half, wide, half])

    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            one = torch.zeros(1, 2, 8) if self.training else next(script)
            return torch.stack([1 - one, one], 1) + self.weight

    x = torch.zeros(1, 1, 2, 8)
    result = train(Scripted(), ([(x, y)], [(x, y)]), epochs=4, out=tmp_path)
    assert [row["validation_dice"] for row in result.history] == pytest.approx([0, 1 / 3, 1 / 2, 1 / 3])
    assert [row["validation_accuracy"] for row in result.history] == [14 / 16, 12 / 16, 12 / 16, 12 / 16]
    assert (result.best_epoch, result.best_validation_accuracy) == (3, 12 / 16)
    _, facts = storage.load_tensors(tmp_path / "model.safetensors")
    assert (facts["epoch"], facts["validation_dice"]) == ("3", "0.5")


@pytest.mark.parametrize("call", [1, 3, 5])
def test_resumed_ends_with_the_same_bits(tmp_path: Path, call: int) -> None:
    options: dict[str, Any] = {"epochs": 2, "method": METHODS["robust"], "seed": 3, "device": "cpu"}
    train(network(), loaders(), out=tmp_path / "whole", **options)
    left = [call]

    def stop(progress: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(network(), loaders(), out=tmp_path / "cut", progress=stop, **options)
    train(network(), loaders(), out=tmp_path / "cut", resume=True, **options)
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize("chips", [None, 4])
def test_trains_through_chips(chips: int | None) -> None:
    hardware = ns.hardware("pcm-joshi-2020")
    result = train(network(), loaders(), epochs=20, lr=0.05, hardware=hardware, chips_per_batch=chips)
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]


@pytest.mark.parametrize("method", METHODS.values())
@pytest.mark.parametrize(("outputs", "targets"), [((2, 3), (2, 4)), ((2, 3, 4), (2,)), ((2, 3, 4), (2, 5))])
def test_shapes_that_do_not_fit(method: Any, outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    class Fixed(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).sum() + torch.zeros(outputs)

    wanted = r"expected logits \(batch, classes, \.\.\.\) and targets \(batch, \.\.\.\); got"
    with pytest.raises(UsageError, match=wanted):
        method.backward(
            Step(Fixed(1, 1), torch.ones(2, 1), torch.zeros(targets).long(), draws_for_step(0, 0))
        )


def test_targets_of_other_samples_are_refused() -> None:
    x, y = squares()
    data = [(x, y[:-1])]
    with pytest.raises(UsageError, match=r"or \(batch, \.\.\.\) with a class for each pixel; got"):
        train(network(), (data, data), epochs=1)
