"""The quantiser and the calibration of its range."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurosim.devices import Adc, Dac, calibrate_range, quantise
from neurosim.errors import UsageError

values = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40).map(torch.tensor)
scales = st.floats(1e-3, 1e4)
bits = st.integers(2, 16)


@given(values, scales, bits)
def test_quantiser_is_idempotent_odd_and_bounded(v: torch.Tensor, full_scale: float, b: int) -> None:
    q = quantise(v, full_scale, b)
    assert torch.equal(quantise(q, full_scale, b), q)
    assert torch.equal(quantise(-v, full_scale, b), -q)
    assert bool((q.abs() <= full_scale * (1 + 1e-6)).all())
    step = full_scale / (2 ** (b - 1) - 1)
    inside = v.abs() <= full_scale
    assert bool(((q - v).abs()[inside] <= step * 0.5 + 1e-6 * full_scale).all())


@given(values, scales, bits)
def test_quantiser_is_monotone(v: torch.Tensor, full_scale: float, b: int) -> None:
    q = quantise(v.sort().values, full_scale, b)
    assert bool((q.diff() >= 0).all())


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40), bits)
def test_gradient_is_one_inside_and_zero_outside(v: list[float], b: int) -> None:
    x = torch.tensor(v, requires_grad=True)
    (quantise(x, 1.0, b) * 3.0).sum().backward()
    assert torch.equal(x.grad, 3.0 * (x.detach().abs() <= 1.0))


@pytest.mark.parametrize("b", [2, 3, 8, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_code_is_reached_and_zero_is_one_of_them(b: int, dtype: torch.dtype) -> None:
    q = quantise(torch.linspace(-1, 1, 2**19 + 1, dtype=dtype), 1.0, b)
    assert q.dtype == dtype
    assert len(q.unique()) == 2**b - 1
    assert 0.0 in q
    assert float(q.max()) == pytest.approx(1.0)


def test_equals_an_independent_statement() -> None:
    v = np.linspace(-2, 2, 10001)
    expected = np.clip(np.rint(v * 127 / 1.5), -127, 127) * 1.5 / 127
    np.testing.assert_allclose(quantise(torch.from_numpy(v), 1.5, 8).numpy(), expected, rtol=1e-14)


def test_ideal_converter_returns_its_input() -> None:
    v = torch.randn(5)
    assert quantise(v, 1.0, None) is v


def test_input_is_not_mutated_and_saturates_at_infinity_but_keeps_nan() -> None:
    v = torch.tensor([math.inf, -math.inf, math.nan, 0.3])
    q = quantise(v, 1.0, 4)
    assert float(v[3]) == pytest.approx(0.3)
    assert q[:2].tolist() == pytest.approx([1.0, -1.0])
    assert math.isnan(q[2])


def test_one_range_per_chip_broadcasts() -> None:
    v = torch.randn(3, 5, requires_grad=True)
    ranges = torch.tensor([[1.0], [0.5], [0.25]])
    q = quantise(v, ranges, 5)
    for row in range(3):
        assert torch.equal(q[row], quantise(v[row], float(ranges[row]), 5))
    q.sum().backward()
    assert torch.equal(v.grad, (v.detach().abs() <= ranges).float())


def test_works_inside_vmap_and_grad() -> None:
    v = torch.randn(4, 5)
    assert torch.equal(torch.func.vmap(lambda row: quantise(row, 1.0, 4))(v), quantise(v, 1.0, 4))
    slope = torch.func.grad(lambda row: quantise(row, 1.0, 4).sum())(v[0])
    assert torch.equal(slope, (v[0].abs() <= 1).float())


@pytest.mark.parametrize("b", [0, 1, 17, 8.0, True, "8"])
def test_wrong_bits_are_refused(b: int) -> None:
    with pytest.raises(UsageError, match=r"expected 2 to 16 bits, or None \(ideal\); got bits="):
        quantise(torch.ones(2), 1.0, b)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0])])
def test_a_wrong_full_scale_is_refused(scale: float) -> None:
    with pytest.raises(UsageError, match=r"expected a finite full scale above 0; got full_scale="):
        quantise(torch.ones(2), scale, 8)


# ---- calibration ----


@given(values)
def test_max_range_is_the_largest_magnitude_and_never_zero(v: torch.Tensor) -> None:
    found = calibrate_range(v, Dac(bits=8))
    largest = float(v.abs().max())
    assert found == (largest if largest >= 1e-30 else 1.0)
    assert bool(torch.isfinite(quantise(v, found, 8)).all())


@given(values, st.floats(0.01, 100.0))
def test_percentile_equals_numpy(v: torch.Tensor, percentile: float) -> None:
    found = calibrate_range(v, Adc(range="percentile", percentile=percentile))
    expected = float(np.percentile(v.abs().double().numpy(), percentile))
    if expected > 1e-20:
        assert found == pytest.approx(expected, rel=1e-6)
    else:
        assert found > 0


def test_percentile_of_more_values_than_torch_quantile_takes() -> None:
    v = torch.arange(17_000_000, dtype=torch.int32).to(torch.float32)
    found = calibrate_range(v, Adc(range="percentile", percentile=50.0))
    assert found == pytest.approx((v.numel() - 1) / 2, abs=2)


def test_all_zero_data_has_range_one() -> None:
    assert calibrate_range(torch.zeros(10), Dac()) == 1.0
    assert calibrate_range(torch.full((10,), 1e-38), Adc(range="percentile")) == 1.0


def test_mostly_zero_data_falls_back_to_its_largest_value() -> None:
    v = torch.zeros(1000)
    v[3] = -2.5
    assert calibrate_range(v, Adc(range="percentile", percentile=50.0)) == 2.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_calibrate(dtype: torch.dtype) -> None:
    v = torch.tensor([0.5, -2.0, 1.0], dtype=dtype)
    assert calibrate_range(v, Adc(range="percentile", percentile=100.0)) == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_data_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(
        UsageError, match=r"expected finite data to calibrate a converter on; got NaN or infinite"
    ):
        calibrate_range(torch.tensor([1.0, bad, 0.0]), Dac())


def test_empty_data_is_refused() -> None:
    with pytest.raises(UsageError, match=r"expected data to calibrate a converter on; got an empty tensor"):
        calibrate_range(torch.empty(0, 3), Dac())
