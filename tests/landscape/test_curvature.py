"""The curvature against a dense Hessian, closed forms, and the loss that mismatch is seen to cost."""

from __future__ import annotations

import functools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, hessian

from neurosim.errors import RunError, UsageError
from neurosim.landscape.curvature import (
    Curvature,
    rise_under_mismatch,
    signs_like,
    top_eigenvalue,
    trace,
)
from neurosim.landscape.losses import score_at
from neurosim.random import stream

Batches = list[tuple[Tensor, Tensor]]
NAMES = ("0.weight", "0.bias", "3.weight", "3.bias")


def small(activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    """A network with batch normalisation, in float64: 47 parameters on chips, 10 beside them."""
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), activation(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for name, tensor in (*net.named_parameters(), ("running", net[1].running_mean)):
            tensor.copy_(0.7 * stream(8, 0, name, "test").normal(tuple(tensor.shape)))
    return net


def some_data(batch: int, count: int = 24) -> Batches:
    x = stream(9, 0, "x", "test").normal((count, 4)).double()
    y = stream(9, 0, "y", "test").bits(count) % 3
    return list(zip(x.split(batch), y.split(batch), strict=True))


@functools.cache
def hessian_of(activation: type[nn.Module]) -> tuple[Tensor, Tensor]:
    """Weights on chips, flat, and the Hessian by forward over reverse differentiation."""
    net = small(activation).eval()
    ((x, y),) = some_data(24)
    weights = dict(net.named_parameters())
    sizes = [weights[name].numel() for name in NAMES]

    def loss(flat: Tensor) -> Tensor:
        parts = zip(NAMES, flat.split(sizes), strict=True)
        there = {name: part.view(weights[name].shape) for name, part in parts}
        return nn.functional.cross_entropy(functional_call(net, there, (x,)), y)

    flat = torch.cat([weights[name].detach().flatten() for name in NAMES])
    with warnings.catch_warnings():  # torch's own use of torch.jit
        warnings.simplefilter("ignore", DeprecationWarning)
        return flat, hessian(loss)(flat).detach()


def dense(activation: type[nn.Module] = nn.Tanh, *, relative: bool) -> Tensor:
    flat, found = hessian_of(activation)
    return flat.abs()[:, None] * found * flat.abs() if relative else found


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_products_are_those_of_the_dense_hessian(relative: bool, activation: type[nn.Module]):
    net = small(activation)
    curvature = Curvature(net, some_data(7), relative=relative)
    assert curvature.names == NAMES and curvature.size == 43
    whole = dense(activation, relative=relative)
    for column in range(0, curvature.size, 5):
        unit = torch.zeros(curvature.size, dtype=torch.float64)
        unit[column] = 1.0
        torch.testing.assert_close(curvature.times(unit), whole[:, column], rtol=1e-9, atol=1e-12)
    vector = stream(1, 0, "v", "test").normal(curvature.size).double()
    torch.testing.assert_close(curvature.times(vector), whole @ vector, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("relative", [False, True])
def test_the_top_eigenvalue_is_that_of_the_dense_hessian(relative: bool):
    net = small()
    whole = dense(relative=relative)
    exact = torch.linalg.eigvalsh(whole)[-1]
    curvature = Curvature(net, some_data(24), relative=relative)
    for tolerance in (1e-1, 1e-3, 1e-8):
        found = top_eigenvalue(curvature, tolerance=tolerance)
        assert abs(found.value - float(exact)) <= found.residual + 1e-12
        assert found.residual <= tolerance * float(torch.linalg.eigvalsh(whole).abs().max()) * (1 + 1e-9)
        left = whole @ found.vector - found.value * found.vector
        assert float(left.norm()) == pytest.approx(found.residual, rel=1e-3, abs=1e-12)
        assert float(found.vector.norm()) == pytest.approx(1.0)
    assert found.products <= curvature.size


def test_the_top_eigenvalue_is_that_of_scipy():
    curvature = Curvature(small(), some_data(24), relative=True)
    operator = LinearOperator(
        (curvature.size,) * 2,
        matvec=lambda v: curvature.times(torch.tensor(v).flatten()).numpy(),
        dtype=np.float64,
    )
    start = stream(2, 0, "v0", "test").normal(curvature.size).double().numpy()
    ((theirs,), _) = eigsh(operator, k=1, which="LA", v0=start)
    assert top_eigenvalue(curvature, tolerance=1e-7).value == pytest.approx(theirs, rel=1e-9)


class Bowl(nn.Module):
    """Logits (0, z) with z = 60 + Σ a·w²: the cross-entropy of class 0 is z, to exp(-60)."""

    def __init__(self, weights: list[float], curvatures: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
        self.a = torch.tensor(curvatures, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        z = 60 + (self.a * self.w**2).sum()
        return torch.stack([torch.zeros(len(x), dtype=z.dtype), z.expand(len(x))], 1)


ZERO: Batches = [(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))]
WEIGHTS, CURVATURES = [1.0, -2.0, 0.5, 0.0], [0.5, -3.0, 1.5, 9.0]


def test_the_top_is_the_largest_and_not_the_most_negative():
    net = Bowl(WEIGHTS, CURVATURES)  # H = diag(1, -6, 3, 18), |Θ|H|Θ| = diag(1, -24, 0.75, 0)
    assert top_eigenvalue(Curvature(net, ZERO)).value == pytest.approx(18.0)
    assert top_eigenvalue(Curvature(net, ZERO, relative=True)).value == pytest.approx(1.0)


def test_signs_find_the_trace_of_a_diagonal_at_once():
    net = Bowl(WEIGHTS, CURVATURES)
    found = trace(Curvature(net, ZERO), draws=3)
    assert (found.value, found.standard_error) == (pytest.approx(16.0), pytest.approx(0.0, abs=1e-9))
    assert trace(Curvature(net, ZERO, relative=True), draws=2).value == pytest.approx(-22.25)


def test_a_loss_that_is_straight_has_no_curvature():
    class Straight(Bowl):
        def forward(self, x: Tensor) -> Tensor:
            z = 60 + (self.a * self.w).sum()
            return torch.stack([torch.zeros(len(x), dtype=z.dtype), z.expand(len(x))], 1)

    curvature = Curvature(Straight([1.0, 2.0], [1.0, 1.0]), ZERO)
    assert float(curvature.times(torch.ones(2, dtype=torch.float64)).norm()) < 1e-20
    assert top_eigenvalue(curvature).value == pytest.approx(0.0, abs=1e-20)
    assert trace(curvature, draws=2).value == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize("relative", [False, True])
def test_the_trace_is_unbiased_and_its_error_is_what_it_says(relative: bool):
    net = small()
    whole = dense(relative=relative)
    found = trace(Curvature(net, some_data(24), relative=relative), draws=150, seed=2)
    exact = float(whole.trace())
    beside = whole - torch.diag(whole.diagonal())
    error = math.sqrt(2 * float(beside.square().sum()) / 150)
    assert found.standard_error == pytest.approx(error, rel=0.3)
    assert abs(found.value - exact) < 4 * error


def test_signs_are_signs():
    drawn = signs_like(torch.zeros(100, 100), stream(0, 0, "w", "test"))
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(drawn.mean())) < 4 / 100


def test_mismatch_costs_half_zeta_squared_times_the_relative_trace_of_a_quadratic():
    net = Bowl(WEIGHTS, CURVATURES)
    for zeta in (0.01, 0.5):  # exact at any size
        found = rise_under_mismatch(net, ZERO, zeta, draws=400)
        assert abs(found.value - 0.5 * zeta**2 * -22.25) < 4 * found.standard_error


def test_mismatch_costs_half_zeta_squared_times_the_relative_trace_of_a_network():
    net, data, zeta = small(), some_data(24), 0.02
    exact = float(dense(relative=True).trace())
    found = rise_under_mismatch(net, data, zeta, draws=600)
    assert found.standard_error < 0.06 * abs(0.5 * zeta**2 * exact)
    assert found.value == pytest.approx(0.5 * zeta**2 * exact, abs=4 * found.standard_error)


def test_the_draws_of_mismatch_are_multiplicative_and_on_chips_alone():
    net = Bowl([0.0, 2.0], [100.0, 1.0])  # a weight of 0 stays 0
    n = stream(4, 0, "w", "flatness-mismatch").normal(2)[1].double()
    found = rise_under_mismatch(net, ZERO, 0.1, draws=1, seed=4)
    assert found.value == pytest.approx(float((2 * 0.1 * n) ** 2), rel=1e-9)
    assert math.isnan(found.standard_error)


def test_batches_make_no_difference():
    vector = stream(1, 0, "v", "test").normal(43).double()
    whole, *parts = (Curvature(small(), some_data(size)).times(vector) for size in (24, 7, 1))
    for part in parts:
        torch.testing.assert_close(part, whole, rtol=1e-10, atol=1e-13)


def test_the_network_is_left_alone():
    net = small().train()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    curvature = Curvature(net, some_data(24))
    top_eigenvalue(curvature)
    trace(curvature, draws=2)
    rise_under_mismatch(net, some_data(24), 0.1, draws=2)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_same_seed_same_bits_and_more_draws_go_on():
    curvature = Curvature(small(), some_data(24))
    assert top_eigenvalue(curvature, seed=1).value == top_eigenvalue(curvature, seed=1).value
    assert trace(curvature, draws=3) == trace(curvature, draws=3)
    assert trace(curvature, draws=3) != trace(curvature, draws=3, seed=1)
    one, two = (trace(curvature, draws=n).value for n in (1, 2))
    second = curvature.drawn(signs_like, 0, 1, "flatness-trace")
    assert 2 * two - one == pytest.approx(float(second @ curvature.times(second)), rel=1e-12)
    state = torch.get_rng_state()
    top_eigenvalue(curvature)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_direction_is_a_step_in_the_weights():
    net = small()
    absolute, relative = (Curvature(net, some_data(24), relative=which) for which in (False, True))
    vector = torch.arange(43.0, dtype=torch.float64)
    steps = absolute.direction(vector)
    assert list(steps) == list(NAMES) and steps["0.weight"].shape == (5, 4)
    assert steps["3.bias"].tolist() == [40.0, 41.0, 42.0]
    scaled = relative.direction(vector)["3.bias"]
    torch.testing.assert_close(scaled, steps["3.bias"] * net[3].bias.detach().abs())


def test_attention_has_a_second_derivative():
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            q = self.heads(x).view(len(x), 1, 2, 2)
            return nn.functional.scaled_dot_product_attention(q, q, q).flatten(1)[:, :3]

    net = Attend()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(stream(8, 0, name, "test").normal(tuple(p.shape)))
    net, data = net.double(), some_data(24)
    vector = torch.ones(20, dtype=torch.float64)
    analytic = float(vector @ Curvature(net, data).times(vector))
    h = 1e-3
    losses = [
        score_at(net, data, {name: p.detach() + step for name, p in net.named_parameters()}).loss
        for step in (-h, 0.0, h)
    ]
    assert analytic == pytest.approx((losses[0] - 2 * losses[1] + losses[2]) / h**2, rel=1e-4)


def test_what_cannot_be_differentiated_twice_is_said_in_one_sentence():
    class Distances(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return torch.cdist(super().forward(input), torch.eye(3).double())

    curvature = Curvature(Distances(4, 3).double(), some_data(24))
    with pytest.raises(RunError, match=r"cannot be differentiated twice: .*not implemented"):
        curvature.times(torch.ones(15, dtype=torch.float64))


def test_too_few_products_are_an_error():
    with pytest.raises(RunError, match="not found within 1e-06 after 2 products"):
        top_eigenvalue(Curvature(small(), some_data(24)), tolerance=1e-6, products=2)


def test_wrong_arguments_are_refused():
    curvature = Curvature(small(), some_data(24))
    for call, sentence in (
        (lambda: curvature.times(torch.ones(5)), r"vector of shape \(43,\); got \(5,\)"),
        (lambda: top_eigenvalue(curvature, tolerance=0.0), "tolerance between 0 and 1; got 0.0"),
        (lambda: top_eigenvalue(curvature, products=0), "at least one product"),
        (lambda: trace(curvature, draws=0), "draws to be a whole number of at least 1; got 0"),
        (lambda: rise_under_mismatch(small(), some_data(24), 0.0), "zeta above 0; got 0.0"),
        (lambda: rise_under_mismatch(small(), [], 0.1), "at least one batch"),
        (lambda: Curvature(small(), []).times(torch.ones(43).double()), "at least one batch"),
        (lambda: Curvature(nn.BatchNorm1d(3), []), "no parameters that sit on chips"),
    ):
        with pytest.raises(UsageError, match=sentence):
            call()
