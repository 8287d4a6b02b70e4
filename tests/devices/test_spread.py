"""Mismatch of any parameter: its statistics, its names, its gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from neurosim.devices import hardware
from neurosim.devices.spread import Spread
from neurosim.errors import UsageError
from neurosim.random import Draws

ALPHA = 1e-5
COUNT = 1_000_000


def draws(*chips: int, name: str = "tau") -> Draws:
    return Draws(3, chips or (0,), name)


def many(spread: Spread, value: float = 20.0) -> torch.Tensor:
    """A million samples of one number, in float64."""
    return spread.sample(torch.full((COUNT // 4,), value, dtype=torch.float64), draws(0, 1, 2, 9)).flatten()


CASES = [
    Spread(relative_std=0.1),
    Spread(absolute_std=2.0),
    Spread(relative_std=0.1, absolute_std=2.0),
    Spread(distribution="lognormal", relative_std=0.1),
    Spread(distribution="lognormal", relative_std=1.0),
    Spread(distribution="uniform", relative_std=0.2),
    Spread(distribution="uniform", absolute_std=3.0),
]


@pytest.mark.parametrize("value", [20.0, -20.0])
@pytest.mark.parametrize("spread", CASES, ids=lambda s: s.in_words())
def test_mean_and_standard_deviation_are_those_stated(spread: Spread, value: float):
    x = many(spread, value).numpy()
    std = math.hypot(spread.relative_std * value, spread.absolute_std)
    z = float(stats.norm.isf(ALPHA / 2))
    assert abs(x.mean() - value) < z * std / math.sqrt(COUNT)
    fourth = float(((x - value) ** 4).mean())
    error = math.sqrt((fourth - std**4) / COUNT)  # of the variance
    assert abs(((x - value) ** 2).mean() - std**2) < z * error


def test_distributions_are_those_stated():
    s = math.sqrt(math.log1p(0.5**2))
    cases = [
        (Spread(relative_std=0.5), stats.norm(20.0, 10.0)),
        (
            Spread(distribution="lognormal", relative_std=0.5),
            stats.lognorm(s, scale=20.0 * math.exp(-(s**2) / 2)),
        ),
        (
            Spread(distribution="uniform", relative_std=0.5),
            stats.uniform(20.0 - 10.0 * 3**0.5, 20.0 * 3**0.5),
        ),
    ]
    for spread, expected in cases:
        assert stats.kstest(many(spread).numpy(), expected.cdf).pvalue > ALPHA


def test_relative_and_absolute_parts_are_independent():
    both = many(Spread(relative_std=0.1, absolute_std=2.0)) - 20.0
    relative = many(Spread(relative_std=0.1)) - 20.0
    absolute = both - relative
    r = float(torch.corrcoef(torch.stack([relative, absolute]))[0, 1])
    assert abs(r) < float(stats.norm.isf(ALPHA / 2)) / math.sqrt(COUNT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("distribution", ["normal", "lognormal", "uniform"])
def test_no_spread_is_the_value_to_the_bit(distribution: str, dtype: torch.dtype):
    value = torch.tensor([1.7, -0.0, 0.0, 3e-5, -6e4], dtype=dtype)
    found = Spread(distribution=distribution).sample(value, draws(4, 5))  # type: ignore[arg-type]
    assert found.dtype == dtype
    for row in found:
        assert torch.equal(row, value)
        assert torch.equal(row.signbit(), value.signbit())
    found.zero_()  # memory of its own
    assert float(value[0]) != 0


@pytest.mark.parametrize("spread", CASES, ids=lambda s: s.in_words())
def test_a_chip_is_the_same_alone_and_in_a_crowd(spread: Spread):
    value = torch.linspace(-1, 3, 70).reshape(7, 10)
    crowd = spread.sample(value, draws(*range(20)))
    assert torch.equal(spread.sample(value, draws(17))[0], crowd[17])
    assert torch.equal(spread.sample(value, draws(5, 2)), crowd[[5, 2]])
    for a, b in itertools.combinations(crowd[:4], 2):
        assert not torch.equal(a, b)
    assert not torch.equal(spread.sample(value, draws(0, name="other"))[0], crowd[0])


@pytest.mark.parametrize("spread", CASES, ids=lambda s: s.in_words())
def test_gradients_are_right(spread: Spread):
    value = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: spread.sample(v, draws(0, 3)), (value,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype):
    value = torch.linspace(0.5, 2, 100, dtype=dtype)
    for spread in CASES:
        wide = spread.sample(value.float(), draws(0, 1))
        assert torch.equal(spread.sample(value, draws(0, 1)), wide.to(dtype))


def test_a_lognormal_keeps_the_sign():
    assert bool((many(Spread(distribution="lognormal", relative_std=10.0)) > 0).all())


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_any_shape(shape: tuple[int, ...]):
    assert Spread(relative_std=0.1).sample(torch.ones(shape), draws(0, 1)).shape == (2, *shape)


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="expected absolute_std = 0 with distribution 'lognormal'"):
        Spread(distribution="lognormal", absolute_std=0.1)
    with pytest.raises(UsageError, match="expected at least 0; got relative_std=-1"):
        Spread(relative_std=-1)
    with pytest.raises(UsageError, match=r"floating-point numbers in 'tau'; got torch\.int64"):
        Spread(relative_std=0.1).sample(torch.ones(3, dtype=torch.int64), draws())
    with pytest.raises(UsageError, match=r"did you mean 'parameters\.\*\.tau\.relative_std'\?"):
        hardware("ideal", parameters={"*.tau": {"relativ_std": 0.1}})
