"""Gradients by hand: softmax regression, z = Θx, where ∇L(Θ) = mean over samples of (softmax(z) − y)·xᵀ."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosim.errors import UsageError
from neurosim.training import (
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
from neurosim.training.clipping import WeightClipping
from neurosim.training.combined import Combined
from neurosim.training.distillation import Distillation
from neurosim.training.method import Step, sizes
from neurosim.training.running import draws_for_step

DRAWS = draws_for_step(seed=2, step=9)
THETA = torch.tensor([[0.5, -1.0, 0.2], [2.0, 0.1, -0.3]], dtype=torch.float64)
X = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0], [-0.7, 0.1, 0.9], [0.4, 0.4, 0.4]], dtype=torch.float64)
Y = torch.tensor([0, 1, 1, 0])
ONE_HOT = F.one_hot(Y, 2).double()


def slope(theta: Tensor, chosen: slice = slice(None)) -> Tensor:
    x, y = X[chosen], ONE_HOT[chosen]
    return ((x @ theta.T).softmax(-1) - y).T @ x / len(x)


def drawn(effect: str) -> Tensor:
    return DRAWS(f"weight:{effect}").normal((2, 3)).double()


def found(method: Any, x: Tensor = X, y: Tensor = Y, **changes: Any) -> Tensor:
    model = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(THETA)
    method.backward(Step(model, x, y, DRAWS, **changes))
    assert model.weight.grad is not None
    return model.weight.grad


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


def rms(t: Tensor) -> Tensor:
    return t.square().mean().sqrt()


class TestUphill:
    def test_sam(self) -> None:
        g = slope(THETA)
        close(found(SharpnessAware(0.3)), slope(THETA + 0.3 * g / g.norm()))

    def test_asam(self) -> None:
        scale = THETA.abs() + 0.05
        g = slope(THETA)
        close(
            found(AdaptiveSharpnessAware(0.7, 0.05)), slope(THETA + 0.7 * scale**2 * g / (scale * g).norm())
        )

    def test_sam_is_amp_of_one_step(self) -> None:
        close(found(SharpnessAware(0.3)), found(AdversarialModelPerturbation(0.3, steps=1)))

    def test_amp_of_two_steps(self) -> None:
        first = slope(THETA)
        half = 0.2 * first / first.norm()
        second = slope(THETA + half)
        offset = half + 0.2 * second / second.norm()
        assert offset.norm() <= 0.4
        close(found(AdversarialModelPerturbation(0.4, steps=2)), slope(THETA + offset))

    def test_awp_reaches_the_wall_of_its_layer(self) -> None:
        g = slope(THETA)
        close(found(AdversarialWeightPerturbation(0.1)), slope(THETA + 0.1 * THETA.norm() * g / g.norm()))

    def test_awp_in_the_box_of_the_paper(self) -> None:
        first = slope(THETA).sign() * 0.1
        second = (first + slope(THETA + THETA.abs() * first).sign() * 0.1).clamp(-0.2, 0.2)
        method = AdversarialWeightPerturbation(0.2, steps=2, norm="box", scale="weight")
        close(found(method), slope(THETA + THETA.abs() * second))


class TestNoisy:
    @pytest.mark.parametrize("scale", ["weight", "one", "layer-max", "layer-rms", "filter"])
    def test_noise_in_every_measure(self, scale: str) -> None:
        expected: Mapping[str, Tensor] = {
            "weight": THETA.abs(),
            "one": torch.ones((), dtype=torch.float64),
            "layer-max": torch.tensor(2.0, dtype=torch.float64),
            "layer-rms": rms(THETA),
            "filter": THETA.square().mean(1, keepdim=True).sqrt(),
        }
        close(sizes(THETA, scale).double(), expected[scale].double())
        noisy = THETA + 0.4 * expected[scale] * drawn("forward-noise")
        close(found(ForwardNoise(0.4, scale=scale)), slope(noisy))

    def test_size_that_varies(self) -> None:
        """η·|1 + spread·N| has the mean of a folded normal; one number for all weights of a step."""
        ratios = []
        for step in range(400):
            model = nn.Linear(3, 2, bias=False).double()
            plain, wide = [
                _offset(model, ForwardNoise(0.4, spread=s), draws_for_step(2, step)) for s in (0.0, 0.5)
            ]
            ratio = wide / plain
            torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-4, atol=1e-6)
            ratios.append(float(ratio[0]))
        folded = 0.5 * math.sqrt(2 / math.pi) * math.exp(-2.0) + math.erf(2 / math.sqrt(2))
        assert abs(sum(ratios) / 400 - folded) < 4 * 0.5 / 20

    def test_damp_passes_the_gradient_through_the_product(self) -> None:
        expected = torch.zeros(2, 3, dtype=torch.float64)
        for k, part in enumerate((slice(0, 2), slice(2, 4))):
            factor = 1 + 0.4 * drawn(f"damp#{k}")
            expected += 0.5 * slope(THETA * factor, part) * factor
        close(found(MultiplicativeCopies(0.4, copies=2)), expected)

    def test_antithetic_copies_come_in_pairs(self) -> None:
        """Of four parts the second is at the mirror image of the first, and so are the last two."""
        expected = torch.zeros(2, 3, dtype=torch.float64)
        for k, sign in enumerate((1, -1, 1, -1)):
            factor = 1 + sign * 0.4 * drawn(f"damp#{k // 2}")
            expected += 0.25 * slope(THETA * factor, slice(k, k + 1)) * factor
        close(found(MultiplicativeCopies(0.4, copies=4, antithetic=True)), expected)

    def test_antithetic_copies_leave_no_noise_of_first_order(self) -> None:
        """With equal parts the gradient differs from the clean one by σ² and not by σ."""
        x, y = X[:1].expand(4, -1), Y[:1].expand(4)

        def noise(sigma: float, antithetic: bool) -> float:
            method = MultiplicativeCopies(sigma, copies=4, antithetic=antithetic)
            return float((found(method, x, y) - found(Standard(), x, y)).norm())

        assert noise(1e-2, True) / noise(1e-3, True) == pytest.approx(100.0, rel=1e-3)
        assert noise(1e-2, False) / noise(1e-3, False) == pytest.approx(10.0, rel=0.05)
        assert noise(1e-3, True) < 0.01 * noise(1e-3, False)

    def test_trice_cuts_what_is_too_large(self) -> None:
        noise = drawn("right-censored").clamp(max=0.2)
        close(found(RightCensoredNoise(0.4, threshold=0.2)), slope(THETA * (1 + 0.4 * noise)))

    def test_an_infinite_threshold_is_forward_noise(self) -> None:
        """Of another stream, and of weights with their signs: the same distribution."""
        noise = drawn("right-censored")
        close(found(RightCensoredNoise(0.4, threshold=1e9)), slope(THETA + 0.4 * THETA * noise))

    def test_rwp_mixes(self) -> None:
        noisy = THETA + 0.4 * THETA.abs() * drawn("random-perturbation")
        method = RandomWeightPerturbation(0.4, mix=0.25, scale="weight")
        close(found(method), 0.75 * slope(THETA) + 0.25 * slope(noisy))

    def test_lpf_averages(self) -> None:
        filters = THETA.square().mean(1, keepdim=True).sqrt()
        width = 0.1 * (1 + 14 * (1 - math.cos(math.pi * 0.5)) / 2)
        expected = sum(
            0.5 * slope(THETA + width * filters * drawn(f"low-pass#{k}"), part)
            for k, part in enumerate((slice(0, 2), slice(2, 4)))
        )
        close(found(LowPassFilter(0.1, draws=2), progress=0.5), expected)  # type: ignore[arg-type]

    def test_dropout_scales_what_it_keeps(self) -> None:
        model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).double()
        words = [int(word) for word in DRAWS("0#0:dropout").bits(10)]
        halves = torch.tensor([half for word in words for half in (word & 0xFFFF, word >> 16)])
        signed = torch.where(halves < 2**15, halves, halves - 2**16)
        kept = (signed >= round(0.4 * 2**16) - 2**15).double().view(4, 5) / 0.6
        expected = F.cross_entropy(model[1](model[0](X) * kept), Y)
        expected.backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        metrics = Dropout(0.4).backward(Step(model, X, Y, DRAWS))
        assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-12)
        for p, g in zip(model.parameters(), grads, strict=True):
            close(p.grad, g)  # type: ignore[arg-type]


def _offset(model: nn.Module, method: ForwardNoise, draws: Any) -> Tensor:
    """Where the forward took place, off the weights."""
    seen: list[Tensor] = []
    model.register_forward_hook(lambda module, args, out: seen.append(module.weight.detach().clone()))
    method.backward(Step(model, X, Y, draws))
    return (seen[-1] - dict(model.named_parameters())["weight"].detach()).flatten()


class TestOthers:
    def test_entropy_sgd(self) -> None:
        lr, gamma, alpha = 0.2, 0.05, 0.75
        at, mean = THETA.clone(), THETA.clone()
        for _ in range(3):
            at = at - lr * (slope(at) + gamma * (at - THETA))
            mean = alpha * mean + (1 - alpha) * at
        reach = lr * sum((1 - alpha) * alpha ** (3 - k) * k for k in (1, 2, 3))
        method = EntropySGD(steps=3, inner_lr=lr, gamma=gamma, alpha=alpha, thermal=0.0)
        close(found(method), (THETA - mean) / reach)

    def test_entropy_sgd_is_the_gradient_where_the_loss_is_a_plane(self) -> None:
        """Steps so short that the slope stays."""
        close_to = found(EntropySGD(steps=4, inner_lr=1e-7, thermal=0.0))
        torch.testing.assert_close(close_to, slope(THETA), rtol=1e-5, atol=1e-7)

    def test_abcd_turns_a_block_round(self) -> None:
        block = DRAWS("weight:block").uniform((2, 3)) < 0.3
        assert 0 < int(block.sum()) < 6
        g = slope(THETA)
        close(found(BlockCoordinateDescent(0.3, ascent=0.2)), torch.where(block, -0.2 * g, g))

    def test_clipping_keeps_weights_near_the_rest(self) -> None:
        layer = nn.Linear(40, 30)
        spread, mean = torch.std_mean(layer.weight.detach())
        before = layer.weight.detach().clone()
        bias = layer.bias.detach().clone()
        WeightClipping(1.0).apply_(layer)
        torch.testing.assert_close(layer.weight.detach(), before.clamp(mean - spread, mean + spread))
        assert not torch.equal(layer.weight, before)
        assert torch.equal(layer.bias, bias)


class TestDistillation:
    def test_gradient_by_hand(self) -> None:
        """∂/∂z of T²·KL(p_t ‖ softmax(z/T)) is T·(softmax(z/T) − p_t)."""
        model = nn.Linear(3, 2, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(THETA)
        taught = X @ torch.tensor([[1.0, 0.5, -0.2], [-0.5, 0.3, 0.8]], dtype=torch.float64).T
        told = Distillation(alpha=0.4, temperature=3.0)
        soft = told.soft(nn.Identity(), taught)
        Standard().backward(Step(model, X, Y, DRAWS, soft=soft))
        z = X @ THETA.T
        by_teacher = 3.0 * ((z / 3).softmax(-1) - (taught / 3).softmax(-1)).T @ X / len(X)
        close(model.weight.grad, 0.6 * slope(THETA) + 0.4 * by_teacher)  # type: ignore[arg-type]

    def test_a_part_of_a_batch_takes_its_part_of_the_opinion(self) -> None:
        model = nn.Linear(3, 2, bias=False).double()
        soft = Distillation(alpha=1.0).soft(nn.Linear(3, 2).double(), X)
        whole = Step(model, X, Y, DRAWS, soft=soft)
        losses = [part.loss(model(part.inputs)).item() for part in whole.parts(2)]
        assert sum(losses) / 2 == pytest.approx(whole.loss(model(X)).item(), rel=1e-12)

    def test_no_weight_is_no_teacher(self) -> None:
        assert Distillation(alpha=0.0).soft(nn.Linear(3, 2), X.float()) is None
        assert Distillation(alpha=0.0).extra_passes == 0.0


class TestCombined:
    def test_noise_and_attack_are_the_attack_with_noise(self) -> None:
        alone = AdversarialWeights(beta=0.5, zeta=0.2, steps=3, eta=0.3)
        joined = method_from(
            "noise+adversarial",
            {"noise": {"eta": 0.3}, "adversarial": {"beta": 0.5, "zeta": 0.2, "steps": 3}},
        )
        torch.testing.assert_close(found(joined), found(alone), rtol=1e-12, atol=1e-13)

    def test_terms_add_up(self) -> None:
        attack = AdversarialWeights(beta=0.5, steps=2)
        added = found(Combined(Standard(), (attack,))) - slope(THETA)
        close(found(Combined(SharpnessAware(0.3), (attack,))), found(SharpnessAware(0.3)) + added)

    def test_attacked_copies_leave_statistics_alone(self) -> None:
        method = method_from("noise+adversarial", {"noise": {"eta": 0.3}, "adversarial": {"steps": 2}})
        states = []
        for chosen in (ForwardNoise(0.3), method):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
            chosen.backward(Step(model, X, Y, DRAWS))
            states.append(copy.deepcopy(model[1].state_dict()))
        noisy, attacked = states
        # the clean forward that the attack is measured from writes none either
        assert all(torch.equal(noisy[key], attacked[key]) for key in noisy)

    @pytest.mark.parametrize(
        ("name", "params", "said"),
        [
            (
                "noise+sam",
                {},
                r"methods 'noise' and 'sam' do not go together: expected one objective at most",
            ),
            ("ema+swa", {}, r"methods 'ema' and 'swa' do not go together: expected one average at most"),
            ("noise+noise", {}, r"method 'noise\+noise': expected each part once"),
            ("noise+nois", {}, r"unknown method 'nois': did you mean 'noise'\?"),
            ("noise+ema", {"noise": 3}, r"expected the parameters of method 'noise'; got 3"),
            ("noise+damp", {}, r"do not go together"),
            ("noise+ema", {"decai": 0.9}, r"unknown parameter of method 'noise\+ema' 'decai': did you mean"),
            (
                "noise+ema",
                {"ema": {"decai": 0.9}},
                r"unknown parameter of method 'ema' 'decai': did you mean",
            ),
            (
                "noise+adversarial",
                {"scale": "one"},
                r"scale may be that of several parts: say noise.scale or",
            ),
            ("noise+adversarial", {"adversarial": {"eta": 0.3}}, r"eta is for it alone"),
            ("adversarial+clip", {"adversarial": {"eta": 0.3}}, r"eta is for it alone"),
        ],
    )
    def test_says_what_does_not_go_together(self, name: str, params: dict[str, Any], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            method_from(name, params)

    def test_order_of_parts_does_not_matter(self) -> None:
        a = method_from("ema+noise+adversarial", {"steps": 2, "noise": {"eta": 0.1}})
        b = method_from("noise+adversarial+ema", {"adversarial": {"steps": 2}, "eta": 0.1})
        assert a == b
        assert describe(a)["name"] == "noise+adversarial+ema"

    @pytest.mark.parametrize("name", ["ema", "swa", "clip", "distil"])
    def test_parts_alone_are_joined_with_the_task_loss(self, name: str) -> None:
        method = method_from(name, {"teacher": "runs/a"} if name == "distil" else {})
        table = describe(method)
        assert table["name"] == name
        assert method_from(table.pop("name"), table) == method
        assert isinstance(method, Combined)
        close(found(method), slope(THETA))

    def test_a_teacher_is_asked_for(self, tmp_path: Path) -> None:
        from neurosim.training import train

        data = [(X.float(), Y)]
        with pytest.raises(UsageError, match=r"method 'distil' needs a teacher: a run's folder"):
            train(nn.Linear(3, 2), (data, data), method="distil", epochs=1, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
