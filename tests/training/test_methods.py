"""What every method must do, then what each one claims."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosim.errors import UsageError
from neurosim.training import (
    METHODS,
    PAPER,
    ROBUST,
    AdaptiveSharpnessAware,
    AdversarialModelPerturbation,
    AdversarialWeightPerturbation,
    AdversarialWeights,
    BlockCoordinateDescent,
    Dropout,
    EntropySGD,
    ForwardNoise,
    LowPassFilter,
    MultiplicativeCopies,
    RandomWeightPerturbation,
    RightCensoredNoise,
    SharpnessAware,
    Standard,
    method_from,
)
from neurosim.training.catalogue import describe
from neurosim.training.method import DrawsFor, Step, analog_parameters, divergence
from neurosim.training.running import draws_for_step

DRAWS = draws_for_step(seed=3, step=5)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 5),
        nn.LayerNorm(5),
        nn.Linear(5, 4),
    )


class Tied(nn.Module):
    """One weight used twice, and a parameter that no output needs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.head = nn.Linear(6, 4)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))


INPUTS = {"mlp": (6,), "normed": (1, 6, 6), "tied": (6,)}
NETWORKS = {"mlp": mlp, "normed": normed, "tied": Tied}


def problem(
    name: str = "mlp", dtype: torch.dtype = torch.float32, batch: int = 7
) -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[name]().to(dtype).train()
        return model, torch.randn(batch, *INPUTS[name], dtype=dtype), torch.randint(4, (batch,))


def gradients(
    method: Any, model: nn.Module, x: Tensor, y: Tensor, draws: DrawsFor = DRAWS, progress: float = 0.5
) -> Any:
    model = copy.deepcopy(model)
    metrics = method.backward(Step(model, x, y, draws, progress))
    return {name: p.grad for name, p in model.named_parameters()}, metrics, dict(model.named_buffers())


def same(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> bool:
    return a.keys() == b.keys() and all(
        (u is None and v is None) or (u is not None and v is not None and torch.equal(u, v))
        for u, v in ((a[k], b[k]) for k in a)
    )


# one row a method: an object that acts, and one of zero strength
ACTING = {
    "standard": [Standard()],
    "noise": [ForwardNoise(0.3), ForwardNoise(0.2, ramp=0.8)],
    "adversarial": [
        AdversarialWeights(steps=3),
        PAPER,
        AdversarialWeights(beta=2.0, zeta=0.3, steps=1, start="uniform"),
        AdversarialWeights(steps=2, norm="l2", scale="layer-rms"),
        AdversarialWeights(steps=2, scale="layer-max", reuse=True),
    ],
    "dropout": [Dropout(0.3)],
    "damp": [
        MultiplicativeCopies(0.3, copies=3),
        MultiplicativeCopies(0.2, copies=20, ramp=0.8),
        MultiplicativeCopies(0.3, copies=3, antithetic=True),
    ],
    "trice": [RightCensoredNoise(0.3), RightCensoredNoise(0.2, threshold=-0.5, ramp=0.8)],
    "rwp": [RandomWeightPerturbation(), RandomWeightPerturbation(0.3, mix=1.0, scale="weight")],
    "lpf": [LowPassFilter(0.05, draws=3)],
    "sam": [SharpnessAware()],
    "asam": [AdaptiveSharpnessAware()],
    "awp": [AdversarialWeightPerturbation(), AdversarialWeightPerturbation(0.1, 3, "box", "weight")],
    "amp": [AdversarialModelPerturbation(), AdversarialModelPerturbation(0.2, steps=3)],
    "entropy-sgd": [EntropySGD(), EntropySGD(steps=1, thermal=0.0)],
    "abcd": [BlockCoordinateDescent(0.3, 0.5)],
    "combined": [
        method_from("noise+adversarial+ema", {"eta": 0.2, "adversarial": {"steps": 2}}),
        method_from("sam+adversarial+clip+swa", {"adversarial": {"steps": 1}}),
    ],
}
ZERO = {
    "standard": Standard(),
    "noise": ForwardNoise(eta=0.0),
    "adversarial": AdversarialWeights(beta=0.0, eta=0.0),
    "dropout": Dropout(0.0),
    "damp": MultiplicativeCopies(0.0),
    "trice": RightCensoredNoise(0.0),
    "rwp": RandomWeightPerturbation(0.0),
    "lpf": LowPassFilter(0.0),
    "sam": SharpnessAware(0.0),
    "asam": AdaptiveSharpnessAware(0.0),
    "awp": AdversarialWeightPerturbation(0.0),
    "amp": AdversarialModelPerturbation(0.0),
    "entropy-sgd": EntropySGD(steps=0),
    "abcd": BlockCoordinateDescent(0.0),
    "combined": method_from("noise+adversarial+ema", {"eta": 0.0, "adversarial": {"beta": 0.0}}),
}
# act on the task loss or after the step, no gradient of their own: TestParts, test_averaging.py
PARTS = {"distil", "clip", "ema", "swa"}
EVERY = [pytest.param(method, id=str(method)) for row in ACTING.values() for method in row]
networks = pytest.mark.parametrize("network", NETWORKS)


def test_every_method_has_its_rows() -> None:
    assert METHODS.keys() | {"combined"} == ACTING.keys() | PARTS
    assert ACTING.keys() == ZERO.keys()


class TestEveryMethod:
    @networks
    @pytest.mark.parametrize("name", ZERO)
    def test_zero_strength_is_standard_to_the_bit(self, name: str, network: str) -> None:
        expected, metrics, buffers = gradients(Standard(), *problem(network))
        got, got_metrics, got_buffers = gradients(ZERO[name], *problem(network))
        assert same(got, expected)
        assert same(got_buffers, buffers)
        assert got_metrics["loss"] == metrics["loss"]

    @networks
    @pytest.mark.parametrize("method", EVERY)
    def test_is_deterministic_and_leaves_the_global_generator(self, method: Any, network: str) -> None:
        before = torch.get_rng_state()
        first = gradients(method, *problem(network))
        second = gradients(method, *problem(network))
        assert same(first[0], second[0])
        assert first[1] == second[1]
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("batch", [2, 3, 5])
    @pytest.mark.parametrize("method", EVERY)
    def test_the_last_batch_of_an_epoch_may_be_small(self, method: Any, batch: int) -> None:
        """Batch normalisation of features has no statistics of one sample: no part may have less than two."""
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)).train()
        _, x, y = problem("mlp", batch=batch)
        grads, metrics, _ = gradients(method, model, x, y)
        assert math.isfinite(metrics["loss"])
        assert all(g is not None and bool(torch.isfinite(g).all()) for g in grads.values())

    @networks
    @pytest.mark.parametrize("method", EVERY)
    def test_parameters_stay_and_gradients_accumulate(self, method: Any, network: str) -> None:
        model, x, y = problem(network)
        once, _, _ = gradients(method, model, x, y)
        values = {name: p.detach().clone() for name, p in model.named_parameters()}
        for p in model.parameters():
            p.grad = torch.full_like(p, 3.0)
        method.backward(Step(model, x, y, DRAWS, 0.5))
        for name, p in model.named_parameters():
            assert torch.equal(p, values[name])
            added = torch.zeros_like(p) if once[name] is None else once[name]
            torch.testing.assert_close(p.grad, added + 3.0, rtol=1e-5, atol=1e-5)

    @networks
    @pytest.mark.parametrize("method", EVERY)
    def test_counts_its_passes(self, method: Any, network: str) -> None:
        model, x, y = problem(network)
        samples: list[int] = []
        model.register_forward_hook(lambda _, args, __: samples.append(len(args[0])))
        method.backward(Step(model, x, y, DRAWS, 0.5))
        assert sum(samples) == method.passes * len(x)

    @pytest.mark.parametrize("method", EVERY)
    def test_names_what_does_not_fit(self, method: Any) -> None:
        model, x, y = problem()
        with pytest.raises(
            UsageError, match=r"expected logits \(batch, classes\) and targets \(batch,\); got"
        ):
            method.backward(Step(model, x, y[:3], DRAWS, 0.5))

    @pytest.mark.parametrize("method", EVERY)
    def test_frozen_parameters_get_no_gradient(self, method: Any) -> None:
        model, x, y = problem("normed")
        model[0].weight.requires_grad_(False)
        model[1].weight.requires_grad_(False)
        method.backward(Step(model, x, y, DRAWS, 0.5))
        assert model[0].weight.grad is None
        assert model[1].weight.grad is None
        assert model[4].weight.grad is not None

    @pytest.mark.parametrize("method", EVERY)
    def test_is_described_and_made_again(self, method: Any) -> None:
        table = describe(method)
        assert method_from(table.pop("name"), table) == method

    @pytest.mark.parametrize("method", EVERY)
    def test_channels_last_gives_the_same_numbers(self, method: Any) -> None:
        model, x, y = problem("normed")
        plain, _, _ = gradients(method, model, x, y)
        model.to(memory_format=torch.channels_last)
        other, _, _ = gradients(method, model, x.contiguous(memory_format=torch.channels_last), y)
        for name in plain:
            torch.testing.assert_close(other[name], plain[name], rtol=2e-4, atol=2e-5)

    @pytest.mark.parametrize("method", EVERY)
    def test_every_pass_runs_in_the_layout_of_the_parameters(self, method: Any) -> None:
        """One input channel: arithmetic on such a kernel forgets channels-last, and torch slows down."""
        model, x, y = problem("normed")
        model.to(memory_format=torch.channels_last)
        seen: list[bool] = []
        model[0].register_forward_hook(
            lambda _, args, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
        )
        method.backward(Step(model, x, y, DRAWS, 0.5))
        assert len(seen) >= method.passes
        assert all(seen)


class TestForwardNoise:
    def test_gradient_is_that_of_the_noisy_network(self) -> None:
        model, x, y = problem(dtype=torch.float64)
        got, metrics, _ = gradients(ForwardNoise(0.3), model, x, y)
        other = copy.deepcopy(model)
        with torch.no_grad():
            for name, p in other.named_parameters():
                p += p.abs() * 0.3 * DRAWS(f"{name}:forward-noise").normal(p.shape)
        expected, expected_metrics, _ = gradients(Standard(), other, x, y)
        for name in got:
            torch.testing.assert_close(got[name], expected[name])
        assert metrics["loss"] == pytest.approx(expected_metrics["loss"])

    def test_each_step_and_parameter_draws_anew(self) -> None:
        model, x, y = problem()
        one, _, _ = gradients(ForwardNoise(0.3), model, x, y, draws_for_step(3, 5))
        two, _, _ = gradients(ForwardNoise(0.3), model, x, y, draws_for_step(3, 6))
        assert not same(one, two)

    def test_ramp_grows_from_zero(self) -> None:
        model, x, y = problem()
        standard, _, _ = gradients(Standard(), model, x, y)
        assert same(gradients(ForwardNoise(0.3, ramp=0.5), model, x, y, progress=0.0)[0], standard)
        full, _, _ = gradients(ForwardNoise(0.3), model, x, y)
        assert same(gradients(ForwardNoise(0.3, ramp=0.5), model, x, y, progress=0.5)[0], full)
        assert ForwardNoise(0.3, ramp=0.5).strength(0.25) == pytest.approx(0.15)

    def test_normalisation_layers_are_not_noisy(self) -> None:
        model, _, _ = problem("normed")
        assert list(analog_parameters(model)) == [
            "0.weight",
            "0.bias",
            "4.weight",
            "4.bias",
            "6.weight",
            "6.bias",
        ]


class TestAttack:
    def test_follows_the_algorithm_by_hand(self) -> None:
        """Logits Θx of one sample, two classes: the gradient of the KL is (q − p)xᵀ."""
        model = nn.Linear(2, 2, bias=False).double()
        theta = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
        with torch.no_grad():
            model.weight.copy_(theta)
        x = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
        zeta, steps, std = 0.2, 4, 1e-3
        p = (x @ theta.T).softmax(-1)
        delta = std * DRAWS("weight:attack").normal((2, 2)).double()
        for _ in range(steps):
            q = (x @ (theta + theta.abs() * delta).T).softmax(-1)
            delta = (delta + zeta / steps * ((q - p).T @ x).sign()).clamp(-zeta, zeta)
        got = AdversarialWeights(zeta=zeta, steps=steps, initial_std=std).attack(model, x, x @ theta.T, DRAWS)
        torch.testing.assert_close(got["weight"], delta, rtol=0, atol=1e-15)

    @networks
    @pytest.mark.parametrize(("zeta", "std"), [(0.1, 1e-3), (0.01, 0.5), (1.5, 0.0)])
    def test_stays_in_the_box(self, network: str, zeta: float, std: float) -> None:
        model, x, _ = problem(network)
        method = AdversarialWeights(zeta=zeta, steps=5, initial_std=std)
        clean = copy.deepcopy(model)(x)
        for name, delta in method.attack(model, x, clean, DRAWS).items():
            theta = dict(model.named_parameters())[name]
            star = torch.addcmul(theta, theta.abs(), delta)
            assert delta.abs().max() <= zeta
            assert bool(((star - theta).abs() <= zeta * theta.abs() * (1 + 1e-5) + 1e-7).all())

    def test_hurts_more_than_chance(self) -> None:
        model, x, _ = problem("normed", batch=64)
        clean = copy.deepcopy(model)(x).detach()
        delta = AdversarialWeights(zeta=0.1).attack(model, x, clean, DRAWS)
        theta = dict(model.named_parameters())

        def harm(step: dict[str, Tensor]) -> float:
            moved = {name: theta[name] + theta[name].abs() * d for name, d in step.items()}
            return divergence(clean, torch.func.functional_call(copy.deepcopy(model), moved, (x,))).item()

        chance = [
            harm(
                {
                    name: 0.1 * torch.sign(draws_for_step(9, k)(name).normal(d.shape))
                    for name, d in delta.items()
                }
            )
            for k in range(20)
        ]
        assert harm(delta) > 3 * max(chance)

    def test_leaves_model_buffers_and_mode(self) -> None:
        model, x, _ = problem("normed")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        clean = copy.deepcopy(model)(x)
        AdversarialWeights(steps=2).attack(model, x, clean, DRAWS)
        assert same(dict(model.state_dict()), before)
        assert model.training
        assert all(p.grad is None for p in model.parameters())


class TestAdversarial:
    @pytest.mark.parametrize("eta", [0.0, 0.3])
    @pytest.mark.parametrize("network", ["mlp", "normed"])
    def test_gradient_agrees_with_finite_differences_at_fixed_delta(self, network: str, eta: float) -> None:
        """float64; the affine parameters of normalisation layers see the task loss alone."""
        model, x, y = problem(network, torch.float64)
        method = AdversarialWeights(beta=0.7, zeta=0.2, steps=3, eta=eta)
        got, metrics, _ = gradients(method, model, x, y)
        delta = method.attack(model, x, copy.deepcopy(model)(x), DRAWS)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        analog = analog_parameters(model).keys()
        noise = {n: start[n].abs() * eta * DRAWS(f"{n}:forward-noise").normal(start[n].shape) for n in analog}

        def loss(theta: dict[str, Tensor], of_affine: bool) -> float:
            other = copy.deepcopy(model)
            with torch.no_grad():
                task = torch.func.functional_call(
                    other, {**theta, **{n: theta[n] + noise[n] for n in analog}}, (x,)
                )
                total = F.cross_entropy(task, y)
                if not of_affine:
                    clean = torch.func.functional_call(other, theta, (x,))
                    star = {n: theta[n] + theta[n].abs() * delta[n] for n in analog}
                    attacked = torch.func.functional_call(other, {**theta, **star}, (x,))
                    p = clean.softmax(-1)
                    kl = (p * (p.log() - attacked.log_softmax(-1))).sum(-1).mean()
                    total = total + 0.7 * kl
            return float(total)

        assert metrics["loss"] == pytest.approx(loss(start, of_affine=False), rel=1e-10)
        step = 1e-6
        for name, value in start.items():
            for index in [0, value.numel() // 2, value.numel() - 1]:
                ends = []
                for sign in (1, -1):
                    moved = {**start, name: value.clone()}
                    moved[name].view(-1)[index] += sign * step
                    ends.append(loss(moved, of_affine=name not in analog))
                slope = (ends[0] - ends[1]) / (2 * step)
                assert got[name].view(-1)[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-8), (
                    name,
                    index,
                )

    def test_gradient_by_hand(self) -> None:
        """One sample, logits Θx: ∂KL/∂Θ* = (q − p)xᵀ, ∂KL/∂Θ = p⊙(log p/q − KL) xᵀ, J = 1 + sign(Θ)δ."""
        model = nn.Linear(3, 2, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[0.3, -1.2, 0.7], [-0.4, 0.9, 2.0]]))
        x, y = torch.tensor([[0.5, -0.8, 1.1]], dtype=torch.float64), torch.tensor([1])
        method = AdversarialWeights(beta=0.5, zeta=0.3, steps=2)
        theta = model.weight.detach()
        delta = method.attack(model, x, x @ theta.T, DRAWS)["weight"]
        p = (x @ theta.T).softmax(-1)
        q = (x @ (theta + theta.abs() * delta).T).softmax(-1)
        kl = (p * (p / q).log()).sum()
        task = (p - F.one_hot(y, 2)).T @ x
        rob = ((q - p).T @ x) * (1 + theta.sign() * delta) + (p * ((p / q).log() - kl)).T @ x
        got, metrics, _ = gradients(method, model, x, y)
        torch.testing.assert_close(got["weight"], task + 0.5 * rob, rtol=1e-12, atol=1e-12)
        assert metrics["robust_loss"] == pytest.approx(kl.item())
        assert metrics["task_loss"] == pytest.approx(-math.log(p[0, 1].item()))

    @pytest.mark.parametrize("eta", [0.0, 0.3])
    def test_statistics_are_those_of_ordinary_training(self, eta: float) -> None:
        _, _, standard = gradients(Standard(), *problem("normed"))
        _, _, robust = gradients(AdversarialWeights(steps=2, eta=eta), *problem("normed"))
        assert same(robust, standard)
        assert int(robust["1.num_batches_tracked"]) == 1

    def test_affine_parameters_receive_only_the_natural_gradient(self) -> None:
        standard, _, _ = gradients(Standard(), *problem("normed"))
        robust, _, _ = gradients(AdversarialWeights(beta=5.0, steps=2), *problem("normed"))
        for name in ("1.weight", "1.bias", "5.weight", "5.bias"):
            torch.testing.assert_close(robust[name], standard[name], rtol=1e-6, atol=1e-8)
        assert not torch.allclose(robust["0.weight"], standard["0.weight"], rtol=1e-2)

    def test_extreme_logits_stay_finite(self) -> None:
        model, x, y = problem()
        with torch.no_grad():
            for p in model.parameters():
                p *= 1e4
        got, metrics, _ = gradients(AdversarialWeights(), model, x, y)
        assert all(math.isfinite(value) for value in metrics.values())
        assert all(bool(torch.isfinite(g).all()) for g in got.values())

    def test_paper_is_the_papers_row(self) -> None:
        assert dataclasses.asdict(PAPER) == {
            "beta": 0.1,
            "zeta": 0.1,
            "steps": 10,
            "eta": 0.3,
            "initial_std": 1e-3,
            "norm": "box",
            "scale": "weight",
            "start": "point",
            "every": 1,
            "reuse": False,
            "parameters": (),
        }
        assert PAPER.passes == 13

    def test_robust_costs_less_than_half_of_it(self) -> None:
        table = describe(ROBUST)
        assert table["name"] == "damp+adversarial+ema"
        assert (table["damp"]["sigma"], table["adversarial"]["steps"]) == (0.4, 3)
        assert ROBUST.passes == 6


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("adversaril", {}, "unknown method 'adversaril': did you mean 'adversarial'"),
        ("noise", {"etta": 1}, "unknown parameter of method 'noise' 'etta': did you mean 'eta'"),
        ("standard", {"eta": 1}, "unknown parameter of method 'standard' 'eta'"),
        ("noise", {"eta": -0.1}, r"expected 0 <= eta <= 10; got eta=-0.1"),
        ("noise", {"eta": "a"}, r"got eta='a'"),
        ("noise", {"eta": float("nan")}, r"got eta=nan"),
        ("noise", {"ramp": 1.5}, r"expected 0 <= ramp <= 1; got ramp=1.5"),
        ("adversarial", {"steps": 0}, r"expected steps, an integer >= 1; got steps=0"),
        ("adversarial", {"steps": 2.5}, r"got steps=2.5"),
        ("adversarial", {"beta": True}, r"got beta=True"),
        ("adversarial", {"zeta": float("inf")}, r"got zeta=inf"),
        ("adversarial", {"initial_std": -1}, r"got initial_std=-1"),
    ],
)
def test_wrong_names_and_values_are_named(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        method_from(name, params)
