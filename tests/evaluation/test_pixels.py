"""Chips whose network gives a class for each pixel: the same numbers as a loop written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import Deployed, Lot, deploy
from neurosim.errors import UsageError
from neurosim.evaluation import blocks, digital_accuracy, evaluate
from neurosim.random import stream

TIMES = (25.0, 3600.0)


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(0.4 * stream(0, 0, name, "test").normal(parameter.shape))
    return net.eval()


def batches(samples: int = 7, size: int = 3) -> list[tuple[Tensor, Tensor]]:
    x = stream(0, 0, "inputs", "test").uniform((samples, 1, 6, 5))
    y = network()(x).argmax(1)
    y[:, ::2] = (y[:, ::2] + 1) % 3
    return list(zip(x.split(size), y.split(size), strict=True))


def net() -> Deployed:
    return deploy(network(), ns.hardware("pcm-joshi-2020"), calibration=batches()[0][0])


def by_hand(logits: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Accuracy and mean cross-entropy over all pixels, one pixel after another."""
    right, losses = 0, []
    for n, i, j in np.ndindex(*targets.shape):
        scores = [float(value) for value in logits[n, :, i, j]]
        right += scores.index(max(scores)) == targets[n, i, j]
        losses.append(math.log(sum(map(math.exp, scores))) - scores[targets[n, i, j]])
    return right / targets.size, math.fsum(losses) / targets.size


def test_chips_equal_a_loop_over_chips_and_pixels() -> None:
    deployed, data = net(), batches()
    table = evaluate(deployed, data, chips=[4, 1], times_s=TIMES, seed=2)
    assert [(row["chip"], row["time_s"]) for row in table.rows()] == [(c, t) for c in (1, 4) for t in TIMES]
    assert set(table["samples"]) == {7}, "images, not pixels"
    deployed.eval()
    targets = torch.cat([y for _, y in data]).numpy()
    for row in table.rows():
        with torch.no_grad(), deployed.on(Lot(deployed.hardware, seed=2)[row["chip"]], row["time_s"]) as chip:
            logits = torch.cat([chip(x)[0] for x, _ in data]).numpy()
        accuracy, loss = by_hand(logits, targets)
        assert row["accuracy"] == accuracy
        assert row["loss"] == pytest.approx(loss, rel=1e-12)
    assert len(set(table["accuracy"])) > 1, "the chips differ"


def test_digital_accuracy_is_that_of_pixels() -> None:
    data = batches()
    logits = np.concatenate([network()(x).detach().numpy() for x, _ in data])
    expected, _ = by_hand(logits, torch.cat([y for _, y in data]).numpy())
    assert digital_accuracy(network(), data) == expected == 0.5


def test_workers_and_few_samples_at_once_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    one = evaluate(net(), batches(), chips=3, times_s=TIMES, workers=1)
    assert evaluate(net(), batches(), chips=3, times_s=TIMES, workers=2) == one
    monkeypatch.setattr(blocks, "_EXACT_AT_ONCE", 1)
    assert evaluate(net(), batches(), chips=3, times_s=TIMES, workers=1) == one


@pytest.mark.parametrize(
    ("outputs", "targets", "sentence"),
    [
        ((2, 3, 4, 4), (2, 4, 5), r"expected \(2, classes, 4, 5\), .* at each of 4 x 5 pixels"),
        ((2, 3), (2, 4, 4), r"outputs have the shape \(2, 3\) .* expected \(2, classes, 4, 4\)"),
        ((2, 3, 4, 4), (2,), r"expected \(2, classes\), one score for each of two or more classes$"),
        ((2, 1, 4, 4), (2, 4, 4), "two or more classes"),
        ((2, 3, 1, 1), (2, 1, 1), "for each sample, or for each of its pixels"),
    ],
)
def test_refusals(outputs: tuple[int, ...], targets: tuple[int, ...], sentence: str) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(outputs)

    with pytest.raises(UsageError, match=sentence):
        digital_accuracy(Fixed(), [(torch.ones(2, 1), torch.zeros(targets).long())])


def test_a_class_that_the_network_has_not() -> None:
    data = [(x, y + 1) for x, y in batches()]
    with pytest.raises(UsageError, match=r"the target 3 is no class: the network has 0 ... 2"):
        digital_accuracy(network(), data)
