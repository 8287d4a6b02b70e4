"""The loss along random lines: closed forms, what moves and what does not, and that a seed is a line."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurosim.errors import RunError, UsageError
from neurosim.landscape.losses import score_at
from neurosim.landscape.slopes import TABLE_S1, Lines, Protocol, loss_along_lines
from neurosim.random import stream


class Bowl(nn.Module):
    """Logits (0, z) with z = 60 + Σ a·w²: the cross-entropy of class 0 is z, to exp(-60)."""

    def __init__(self, weights: list[float], curvatures: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
        self.a = torch.tensor(curvatures, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        z = 60 + (self.a * self.w**2).sum()
        return torch.stack([torch.zeros(len(x), dtype=z.dtype), z.expand(len(x))], 1)


class Normed(nn.Module):
    """A layer on chips between batch normalisation and dropout; remembers what it computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(6, 3)
        self.seen: list[dict[str, Tensor]] = []
        self.modes: list[bool] = []
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(stream(5, 0, name, "test").normal(tuple(parameter.shape)))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append({name: p.detach().clone() for name, p in self.named_parameters()})
        self.modes.append(self.norm.training or self.drop.training)
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


def some_data(batch: int, count: int = 30, width: int = 4) -> list[tuple[Tensor, Tensor]]:
    x = stream(6, 0, "x", "test").normal((count, width))
    y = stream(6, 0, "y", "test").bits(count) % 3
    return list(zip(x.split(batch), y.split(batch), strict=True))


ZERO = [(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))]


def test_the_protocol_is_that_of_table_s1():
    assert (TABLE_S1.spread, TABLE_S1.points, TABLE_S1.repeats) == (0.2, 50, 5)
    np.testing.assert_array_equal(TABLE_S1.alphas(), np.linspace(-2, 2, 50))


def test_the_slope_of_a_quadratic_is_known_in_closed_form():
    weights, curvatures = [1.0, -2.0, 0.5], [0.3, 0.1, 1.0]
    lines = loss_along_lines(Bowl(weights, curvatures), ZERO, seed=3)
    alphas = np.linspace(-2, 2, 50)
    w, a = np.array(weights), np.array(curvatures)
    for k in range(5):
        n = stream(3, k, "w", "flatness-line").normal(3).double().numpy()
        v = 0.2 * np.abs(w) * n
        # a difference quotient of B·α + C·α² is the derivative in the middle
        slopes = 2 * (a * w * v).sum() + 2 * (a * v * v).sum() * (alphas[1:] + alphas[:-1]) / 2
        assert lines.slopes[k] == pytest.approx(np.abs(slopes).mean(), rel=1e-9)
        np.testing.assert_allclose(
            lines.losses[k], 60 + (a * (w + alphas[:, None] * v) ** 2).sum(1), rtol=1e-12
        )
    assert lines.slope == pytest.approx(lines.slopes.mean())
    assert lines.slope_std == pytest.approx(np.std(lines.slopes, ddof=1))


def test_one_line_has_no_spread():
    assert math.isnan(loss_along_lines(Bowl([1.0], [1.0]), ZERO, Protocol(repeats=1)).slope_std)


def test_slopes_of_given_curves():
    tent = Lines(np.array([-1.0, 0.0, 2.0]), np.array([[3.0, 1.0, 2.0]]), np.zeros((1, 3)))
    assert tent.slope == pytest.approx((2.0 + 0.5) / 2)


def test_steps_are_in_proportion_to_the_weights():
    net = Normed()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    loss_along_lines(net, some_data(30), Protocol(points=2, reach=1.0, repeats=40), seed=1)
    draws = [
        (seen["first.weight"] - before["first.weight"]) / before["first.weight"].abs()
        for seen in net.seen[1::2]  # α = 1
    ]
    drawn = torch.stack(draws).flatten()  # 40·24 normals: a relative error of 1/√1920 = 2.3 %
    assert float(drawn.std()) == pytest.approx(0.2, rel=0.1)
    assert abs(float(drawn.mean())) < 4 * 0.2 / math.sqrt(len(drawn))


def test_only_what_sits_on_chips_moves_and_the_network_is_left_alone():
    net = Normed().train()
    net.drop.eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    loss_along_lines(net, some_data(10), Protocol(points=3, repeats=2))
    assert not any(net.modes)
    for seen in net.seen:
        assert torch.equal(seen["norm.weight"], state["norm.weight"])
        assert torch.equal(seen["norm.bias"], state["norm.bias"])
    moved = {
        name
        for name in state
        if any(not torch.equal(s.get(name, state[name]), state[name]) for s in net.seen)
    }
    assert moved == {"first.weight", "first.bias", "last.weight", "last.bias"}
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert (net.training, net.norm.training, net.drop.training) == (True, True, False)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_a_seed_is_a_set_of_lines_and_more_repeats_add_lines():
    net, data = Normed(), some_data(30)
    few, more = (loss_along_lines(net, data, Protocol(points=4, repeats=n)) for n in (2, 3))
    np.testing.assert_array_equal(few.losses, more.losses[:2])
    other = loss_along_lines(net, data, Protocol(points=4, repeats=2), seed=1)
    assert not np.array_equal(few.losses, other.losses)
    assert not np.array_equal(few.losses[0], few.losses[1])


def test_batches_make_no_difference():
    net = Normed().double()
    data = [[(x.double(), y) for x, y in some_data(size)] for size in (30, 7, 1)]
    whole, *parts = (loss_along_lines(net, batches, Protocol(points=3, repeats=2)) for batches in data)
    for part in parts:
        np.testing.assert_allclose(part.losses, whole.losses, rtol=1e-12)
        np.testing.assert_array_equal(part.accuracies, whole.accuracies)


def test_pixels_weigh_alike():
    net = nn.Conv2d(1, 2, 1).double()
    x = stream(6, 0, "pixels", "test").normal((6, 1, 4, 4)).double()
    y = (x[:, 0] > 0).long()
    logits = net(x).detach()
    whole, parts = score_at(net, [(x, y)]), score_at(net, [(x[:1], y[:1]), (x[1:], y[1:])])
    assert whole.loss == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-12)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    assert whole.targets == 96 and whole.accuracy == float((logits.argmax(1) == y).double().mean())


def test_the_middle_of_an_odd_line_is_the_network_itself():
    net, data = Normed(), some_data(30)
    lines = loss_along_lines(net, data, Protocol(points=5, repeats=2))
    assert lines.losses[:, 2].tolist() == [score_at(net, data).loss] * 2


def test_a_kernel_stays_in_its_layout():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    net(torch.zeros(1, 3, 5, 5))
    net = net.to(memory_format=torch.channels_last)
    seen = []
    net[0].register_forward_hook(lambda module, *_: seen.append(module.weight.stride()))
    data = [(torch.zeros(2, 3, 5, 5), torch.zeros(2, dtype=torch.int64))]
    loss_along_lines(net, data, Protocol(points=2, repeats=1))
    assert set(seen) == {net[0].weight.stride()}


def test_progress_counts_passes():
    told: list[tuple[int, int]] = []
    loss_along_lines(
        Bowl([1.0], [1.0]), ZERO, Protocol(points=2, repeats=2), progress=lambda *step: told.append(step)
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"spread": 0.0}, "spread of a line above 0; got 0.0"),
        ({"reach": math.inf}, "reach of a line above 0; got inf"),
        ({"points": 1}, "points to be a whole number of at least 2; got 1"),
        ({"repeats": 0}, "repeats to be a whole number of at least 1; got 0"),
        ({"repeats": True}, "repeats"),
    ],
)
def test_wrong_protocols_are_refused(options: dict, sentence: str):
    with pytest.raises(UsageError, match=sentence):
        Protocol(**options)


def test_wrong_data_and_networks_are_refused():
    with pytest.raises(UsageError, match="at least one batch"):
        loss_along_lines(Normed(), [])
    with pytest.raises(UsageError, match="read once only"):
        loss_along_lines(Normed(), iter(some_data(10)))
    with pytest.raises(UsageError, match="no parameters that sit on chips"):
        loss_along_lines(nn.BatchNorm1d(3), some_data(10, width=3))
    with pytest.raises(UsageError, match="expected logits"):
        loss_along_lines(nn.Linear(4, 3), [(torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64))])
    net = nn.Linear(4, 3)
    nn.init.constant_(net.weight, math.inf)
    with pytest.raises(RunError, match="the loss of Linear is nan"):
        score_at(net, some_data(10))


def test_what_is_not_trained_moves_only_where_named_and_keeps_its_sign():
    net, data = Normed(), some_data(30)
    net.tau = nn.Parameter(torch.tensor([0.02, 0.5]), requires_grad=False)
    net.first.weight.requires_grad_(False)
    for patterns, expected in ((), set()), (("tau", "first.w*"), {"tau", "first.weight"}):
        net.seen.clear()
        loss_along_lines(net, data, Protocol(spread=2.0, repeats=1, points=9), parameters=patterns)
        fixed = {"tau": net.tau, "first.weight": net.first.weight}
        moved = {name for seen in net.seen for name, p in fixed.items() if not torch.equal(seen[name], p)}
        assert moved == expected
        assert all(bool((seen["tau"] >= 0.01 * net.tau).all()) for seen in net.seen)
    flipped = [bool((seen["first.weight"].sign() != net.first.weight.sign()).any()) for seen in net.seen]
    assert any(flipped), "weights may"
    with pytest.raises(UsageError, match=r"parameters: 'taus' matches no parameter .* did you mean 'tau'"):
        loss_along_lines(net, data, parameters=["taus"])
