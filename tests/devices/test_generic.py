"""The generic device: every distribution and law against scipy, and where it is another device.

Statistical tests use fixed streams and a false-alarm rate of ALPHA each: they fail for a reason.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from neurosim.devices import DEVICES, Gaussian
from neurosim.devices.generic import Generic
from neurosim.errors import UsageError
from neurosim.random import Draws

ALPHA = 1e-5
SAMPLES = 1_000_000
G_MAX = 25e-6
DISTRIBUTIONS = ("normal", "lognormal", "uniform")
LAWS = ("absolute", "proportional", "inverse")
EVERY = list(itertools.product(DISTRIBUTIONS, LAWS))


def sigma_of(law: str, std: float, x: float) -> float:
    """Standard deviation as a fraction of g_max, stated once more."""
    return {"absolute": std, "proportional": std * x, "inverse": min(std / x, 1.0)}[law]


def law_of(distribution: str, mean: float, std: float) -> object:
    """A frozen scipy distribution of this mean and standard deviation."""
    if distribution == "normal":
        return stats.norm(mean, std)
    if distribution == "uniform":
        return stats.uniform(mean - math.sqrt(3) * std, 2 * math.sqrt(3) * std)
    s = math.sqrt(math.log(1 + (std / mean) ** 2))
    return stats.lognorm(s, scale=mean * math.exp(-(s**2) / 2))


def programmed(device: Generic, x: float, samples: int = SAMPLES) -> np.ndarray:
    """Fractions of g_max."""
    g = torch.full((samples,), x * G_MAX, dtype=torch.float64)
    return device.program(g, Draws(0, (0,), "w+"))["g_siemens"][0].numpy() / G_MAX


@pytest.mark.parametrize("distribution,law", EVERY)
def test_a_million_devices_follow_the_law(distribution: str, law: str) -> None:
    x, std = 0.6, 0.05
    sample = programmed(Generic(distribution=distribution, law=law, std=std), x)
    expected = law_of(distribution, x, sigma_of(law, std, x))
    assert stats.kstest(sample, expected.cdf).pvalue > ALPHA  # type: ignore[attr-defined]


@pytest.mark.parametrize("distribution,law", EVERY)
@pytest.mark.parametrize("x", [0.3, 1.0])
def test_the_mean_is_the_target_and_the_deviation_is_sigma(distribution: str, law: str, x: float) -> None:
    std = 0.04
    # a cut would raise the mean of the widest
    sample = programmed(Generic(distribution=distribution, law=law, std=std, below_zero="kept"), x)
    sigma = sigma_of(law, std, x)
    # a mean has deviation σ/√n, a standard deviation of a lognormal this narrow about σ/√n too
    within = stats.norm.isf(ALPHA / 2) * sigma / math.sqrt(SAMPLES)
    assert abs(sample.mean() - x) < within
    assert abs(sample.std() - sigma) < 2 * within


def test_a_lognormal_keeps_its_mean_and_not_its_median() -> None:
    sample = programmed(Generic(distribution="lognormal", std=0.8), 0.5)
    s2 = math.log(1 + 0.8**2)
    assert abs(np.median(sample) / (0.5 * math.exp(-s2 / 2)) - 1) < 5e-3
    assert abs(sample.mean() / 0.5 - 1) < 5e-3
    assert sample.min() > 0


def test_an_inverse_law_is_cut() -> None:
    device = Generic(law="inverse", std=0.01, std_max=0.05, below_zero="kept")
    x = torch.tensor([0.0, 1e-6, 0.1, 0.2, 0.4, 1.0], dtype=torch.float64)
    found = device.std_siemens(x * G_MAX) / G_MAX
    torch.testing.assert_close(
        found, torch.tensor([0.05, 0.05, 0.05, 0.05, 0.025, 0.01], dtype=torch.float64)
    )


@pytest.mark.parametrize("shape", [(), (7, 9), (1001,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_kept_proportional_normal_is_the_gaussian_device_to_the_bit(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    g, draws = torch.rand(shape, dtype=dtype) * G_MAX, Draws(3, (0, 17), "w+")
    ours = Generic(std=0.3, below_zero="kept").program(g, draws)["g_siemens"]
    assert torch.equal(ours, Gaussian(relative_std=0.3).program(g, draws)["g_siemens"])


def test_what_is_below_zero_is_cut_or_kept() -> None:
    cut, kept = (
        programmed(Generic(std=0.5, below_zero=way), 0.4)  # type: ignore[arg-type]
        for way in ("cut", "kept")
    )
    assert np.array_equal(cut, np.maximum(kept, 0))
    assert stats.binomtest(int((kept < 0).sum()), SAMPLES, stats.norm.cdf(-2.0)).pvalue > ALPHA


@pytest.mark.parametrize("distribution,law", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_spread_is_exact(distribution: str, law: str, dtype: torch.dtype) -> None:
    device = Generic(distribution=distribution, law=law, std=0.0)
    g = torch.linspace(0, G_MAX, 101, dtype=dtype)
    made = device.program(g, Draws(0, (0, 1), "w+"))["g_siemens"]
    assert torch.equal(made, g.expand(2, -1))
    assert not device.effects()[0].acts


@pytest.mark.parametrize("distribution,law", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_shape_and_law_conforms(distribution: str, law: str, dtype: torch.dtype) -> None:
    """What the conformance suite asks of the default: finite, differentiable, one chip or many."""
    device, chips = Generic(distribution=distribution, law=law), (0, 5, 4_000_000_000)
    g = torch.linspace(0, G_MAX, 203, dtype=dtype).requires_grad_()
    together = device.program(g, Draws(1, chips, "w+"))["g_siemens"]
    assert together.shape == (3, 203)
    assert together.dtype == dtype
    assert bool(torch.isfinite(together).all())
    together.sum().backward()
    assert g.grad is not None
    assert bool(torch.isfinite(g.grad).all())
    for row, chip in enumerate(chips):
        assert torch.equal(together[row], device.program(g, Draws(1, (chip,), "w+"))["g_siemens"][0])
    assert torch.equal(device.age({"g_siemens": together}, 1e8, Draws(1, chips, "w+")), together)


@pytest.mark.parametrize("distribution,law", EVERY)
def test_gradients_are_those_of_what_is_computed(distribution: str, law: str) -> None:
    device = Generic(distribution=distribution, law=law)

    def made(x: torch.Tensor) -> torch.Tensor:
        return device.program(x * G_MAX, Draws(2, (0, 1), "w+"))["g_siemens"] / G_MAX

    assert torch.autograd.gradcheck(
        made, torch.linspace(0.45, 0.95, 9, dtype=torch.float64, requires_grad=True)
    )


@pytest.mark.parametrize("law", LAWS)
def test_a_narrow_lognormal_has_a_gradient_in_float32(law: str) -> None:
    g = torch.linspace(0, G_MAX, 100).requires_grad_()
    made = Generic(distribution="lognormal", law=law, std=1e-6).program(g, Draws(0, (0,), "w+"))["g_siemens"]  # type: ignore[arg-type]
    made.sum().backward()
    assert g.grad is not None
    assert bool(torch.isfinite(g.grad).all())


def test_a_lognormal_without_conductance_has_none() -> None:
    for law in LAWS:
        device = Generic(distribution="lognormal", law=law)  # type: ignore[arg-type]
        made = device.program(torch.zeros(1000), Draws(0, (0,), "w+"))["g_siemens"]
        assert torch.equal(made, torch.zeros(1, 1000))


def test_words_and_errors() -> None:
    assert DEVICES["generic"] is Generic
    (effect,) = Generic(distribution="uniform", law="inverse", std=0.02).effects()
    assert effect.size == "uniform, standard deviation 2 % of g_max at g_max, as 1/g, at most 100 %"
    with pytest.raises(UsageError, match="'normal', 'lognormal' or 'uniform'; got distribution='cauchy'"):
        Generic(distribution="cauchy")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected at least 0; got std=-1"):
        Generic(std=-1)
