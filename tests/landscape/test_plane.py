"""The loss on a plane: where a point of the grid lies, random directions, and given ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.landscape.losses import score_at
from neurosim.landscape.plane import loss_over_plane, random_direction
from neurosim.random import stream


def network() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(0.3 * stream(8, 0, name, "test").normal(tuple(parameter.shape)))
    return net


def some_data(batch: int) -> list[tuple[Tensor, Tensor]]:
    x = stream(9, 0, "x", "test").normal((20, 1, 5, 5))
    y = stream(9, 0, "y", "test").bits(20) % 4
    return list(zip(x.split(batch), y.split(batch), strict=True))


ON_CHIPS = ("0.weight", "0.bias", "4.weight", "4.bias")


@pytest.mark.parametrize("scale", ["weight", "filter"])
def test_a_point_of_the_grid_is_the_loss_at_those_weights(scale: str):
    net, data = network(), some_data(20)
    plane = loss_over_plane(net, data, reach=0.6, points=3, scale=scale, seed=2)
    np.testing.assert_array_equal(plane.at, [-0.6, 0.0, 0.6])
    first, second = (random_direction(net, k, scale=scale, seed=2) for k in (0, 1))
    parameters = dict(net.named_parameters())
    for (row, column), (a, b) in {(0, 2): (0.6, -0.6), (1, 0): (-0.6, 0.0), (2, 1): (0.0, 0.6)}.items():
        there = {name: parameters[name].detach() + a * first[name] + b * second[name] for name in ON_CHIPS}
        score = score_at(net, data, there)
        assert plane.losses[row, column] == pytest.approx(score.loss, rel=1e-6)
        assert plane.accuracies[row, column] == score.accuracy
    here = score_at(net, data)
    assert (plane.losses[1, 1], plane.accuracies[1, 1]) == (here.loss, here.accuracy)


def test_relative_directions_are_multiplicative_normals():
    net = network()
    direction = random_direction(net, 1, seed=7)
    assert tuple(direction) == ON_CHIPS
    for name, step in direction.items():
        weight = net.get_parameter(name).detach()
        n = stream(7, 1, name, "flatness-plane").normal(tuple(weight.shape))
        torch.testing.assert_close(step, weight.abs() * n)


def test_filters_of_a_direction_are_as_long_as_those_of_the_network():
    net = network()
    direction = random_direction(net, 0, scale="filter")
    for name in ("0.weight", "4.weight"):
        lengths = net.get_parameter(name).detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(direction[name].flatten(1).norm(dim=1), lengths)
    assert float(direction["0.bias"].norm()) == pytest.approx(float(net[0].bias.detach().norm()))
    drawn = stream(0, 0, "0.weight", "flatness-plane").normal((3, 1, 3, 3))
    aligned = nn.functional.cosine_similarity(direction["0.weight"].flatten(1), drawn.flatten(1))
    torch.testing.assert_close(aligned, torch.ones(3))


def test_given_directions_may_leave_parameters_out():
    net, data = network(), some_data(20)
    bias = {"4.bias": torch.tensor([1.0, 0.0, 0.0, 0.0])}
    kernel = {"0.weight": torch.ones(3, 1, 3, 3)}
    plane = loss_over_plane(net, data, (bias, kernel), reach=2.0, points=3)
    logits = net.eval()(some_data(20)[0][0]).detach()
    targets = some_data(20)[0][1]
    for column, a in ((0, -2.0), (2, 2.0)):
        moved = logits + a * bias["4.bias"]
        expected = float(nn.functional.cross_entropy(moved, targets))
        assert plane.losses[1, column] == pytest.approx(expected, rel=1e-5)
    assert plane.losses[0, 1] != plane.losses[1, 1] != plane.losses[2, 1]


def test_batches_and_repetition_make_no_difference_and_a_seed_does():
    net = network().double()
    data = [[(x.double(), y) for x, y in some_data(size)] for size in (20, 3)]
    whole, parts = (loss_over_plane(net, batches, points=3) for batches in data)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-12)
    np.testing.assert_array_equal(loss_over_plane(net, data[0], points=3).losses, whole.losses)
    assert not np.array_equal(loss_over_plane(net, data[0], points=3, seed=1).losses, whole.losses)


def test_the_network_is_left_alone():
    net = network().train()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    loss_over_plane(net, some_data(7), points=2)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"reach": 0.0}, "reach of a plane above 0; got 0.0"),
        ({"reach": math.nan}, "reach of a plane above 0; got nan"),
        ({"points": 1}, "points to be a whole number of at least 2; got 1"),
        ({"scale": "filters"}, "did you mean 'filter'"),
        ({"directions": ({"4.bia": torch.zeros(4)}, {})}, "did you mean '4.bias'"),
        ({"directions": ({}, {"1.weight": torch.zeros(3)})}, "unknown parameter in a direction"),
        ({"directions": ({"4.bias": torch.zeros(3)}, {})}, r"has shape \(3,\): expected .* \(4,\)"),
    ],
)
def test_wrong_use_is_refused(options: dict, sentence: str):
    with pytest.raises(UsageError, match=sentence):
        loss_over_plane(network(), some_data(20), **options)
