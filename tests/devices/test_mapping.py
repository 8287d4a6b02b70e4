"""Weights to conductances and back; the split into tiles."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurosim.devices import Array, Gaussian, Ideal, Pcm, tile_grid, tiles, to_conductances, to_weights
from neurosim.errors import UsageError
from neurosim.random import Draws

SCALINGS = ["per-layer", "per-column"]
DEVICES = [Ideal(), Pcm(), Ideal(g_min_siemens=1e-6, g_max_siemens=30e-6)]

weights = st.lists(
    st.floats(-1e6, 1e6, width=32).map(lambda v: 0.0 if abs(v) < 1e-6 else v), min_size=12, max_size=12
)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("scaling", SCALINGS)
@given(values=weights)
def test_round_trip_and_bounds(device: Ideal, scaling: str, values: list[float]) -> None:
    w = torch.tensor(values).reshape(3, 4)
    pair = to_conductances(w, device, scaling)  # type: ignore[arg-type]
    # float32; with g_min > 0 the resolution is that of the full scale
    torch.testing.assert_close(to_weights(*pair, device), w, rtol=1e-6, atol=1e-6 * float(w.abs().max()))
    for leg in (pair.g_plus, pair.g_minus):
        assert float(leg.min()) >= device.g_min_siemens * (1 - 1e-6)
        assert float(leg.max()) <= device.g_max_siemens * (1 + 1e-6)
    resting = torch.minimum(pair.g_plus, pair.g_minus)
    torch.testing.assert_close(resting, torch.full_like(resting, device.g_min_siemens))


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 5, 5)])
def test_scale_is_the_largest_weight_of_layer_or_output(shape: tuple[int, ...]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer, column = (to_conductances(w, Ideal(), s).scale for s in ("per-layer", "per-column"))  # type: ignore[arg-type]
    assert layer.shape == ()
    assert float(layer) == float(w.abs().max())
    assert column.shape == (3, *[1] * (len(shape) - 1))
    assert torch.equal(column.flatten(), w.abs().reshape(3, -1).amax(1))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_zero_layers_and_outputs_have_scale_one_and_stay_zero(scaling: str) -> None:
    w = torch.tensor([[0.0, 0.0], [2.0, -1.0]])
    pair = to_conductances(w, Ideal(), scaling)  # type: ignore[arg-type]
    assert torch.equal(to_weights(*pair, Ideal())[0], torch.zeros(2))
    zero = to_conductances(torch.zeros(2, 3), Ideal(), scaling)  # type: ignore[arg-type]
    assert bool((zero.scale == 1).all())
    assert torch.equal(to_weights(*zero, Ideal()), torch.zeros(2, 3))
    assert to_conductances(torch.zeros(0, 3), Ideal(), scaling).g_plus.shape == (0, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_gradient_of_the_round_trip_is_one_even_at_zero(device: Ideal, scaling: str) -> None:
    w = torch.tensor([[0.0, 0.0], [2.0, -1.0]], dtype=torch.float64, requires_grad=True)
    to_weights(*to_conductances(w, device, scaling), device).sum().backward()  # type: ignore[arg-type]
    torch.testing.assert_close(w.grad, torch.ones_like(w))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_gaussian_device_makes_the_mismatch_of_the_paper(scaling: str) -> None:
    w = torch.randn(20, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    device, pair = Gaussian(relative_std=0.3), to_conductances(w, Gaussian(), scaling)  # type: ignore[arg-type]
    plus, minus = Draws(0, (4,), "w+"), Draws(0, (4,), "w-")
    legs = [device.program(g, d)["g_siemens"] for g, d in ((pair.g_plus, plus), (pair.g_minus, minus))]
    made = to_weights(legs[0], legs[1], pair.scale, device)[0]
    n = torch.where(w > 0, plus.normal("programming", (20, 30))[0], minus.normal("programming", (20, 30))[0])
    torch.testing.assert_close(made, w * (1 + 0.3 * n.double()), rtol=1e-12, atol=0)


def test_legs_may_carry_leading_axes() -> None:
    w = torch.randn(4, 5)
    pair = to_conductances(w, Ideal(), "per-column")
    many = to_weights(pair.g_plus.expand(3, 4, 5), pair.g_minus.expand(3, 4, 5), pair.scale, Ideal())
    torch.testing.assert_close(many, w.expand(3, 4, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_widened(dtype: torch.dtype) -> None:
    w = torch.randn(4, 5, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
    pair = to_conductances(w, Ideal(), "per-layer")
    assert pair.g_plus.dtype == pair.scale.dtype == torch.float32
    back = to_weights(*pair, Ideal())
    torch.testing.assert_close(back, w.detach().float(), rtol=1e-6, atol=0)
    back.sum().backward()
    torch.testing.assert_close(w.grad, torch.ones_like(w))


@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1e21])
def test_weights_of_any_size_come_back(magnitude: float) -> None:
    w = torch.tensor([[1.0, -0.25], [0.0, 0.5]]) * magnitude
    torch.testing.assert_close(
        to_weights(*to_conductances(w, Pcm(), "per-layer"), Pcm()), w, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_weights_that_are_not_finite_are_refused(bad: float, scaling: str) -> None:
    w = torch.ones(2, 3)
    w[1, 2] = bad
    with pytest.raises(
        UsageError, match=r"expected finite weights of at most 1e\+22; got NaN, .* of shape 2x3"
    ):
        to_conductances(w, Ideal(), scaling)  # type: ignore[arg-type]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match=r"expected scaling 'per-layer' or 'per-column'; got 'per-row'"):
        to_conductances(torch.ones(2, 2), Ideal(), "per-row")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"expected a floating-point weight; got torch\.int64"):
        to_conductances(torch.ones(2, 2, dtype=torch.int64), Ideal(), "per-layer")
    with pytest.raises(UsageError, match=r"expected a weight of shape \(out, \.\.\.\); got one without axes"):
        to_conductances(torch.tensor(1.0), Ideal(), "per-layer")
    with pytest.raises(UsageError, match=r"expected a matrix size of 0 or more; got -1"):
        tiles(-1, 1, Array())


@given(
    rows=st.integers(0, 3000),
    cols=st.integers(0, 3000),
    height=st.integers(1, 600),
    width=st.integers(1, 600),
)
def test_tiles_cover_the_matrix_once_in_balance(rows: int, cols: int, height: int, width: int) -> None:
    grid = tile_grid(rows, cols, Array(rows=height, cols=width))
    for slices, total, largest in ((grid.row_slices, rows, height), (grid.col_slices, cols, width)):
        covered = [index for part in slices for index in range(part.start, part.stop)]
        assert covered == list(range(total))
        sizes = [part.stop - part.start for part in slices]
        assert len(sizes) == math.ceil(total / largest)
        assert not sizes or (max(sizes) <= largest and max(sizes) - min(sizes) <= 1)
    assert grid.count == len(grid.row_slices) * len(grid.col_slices)
    expected = rows * cols / (grid.count * height * width) if grid.count else 0.0
    assert grid.utilisation == pytest.approx(expected)
    assert tiles(rows, cols, Array(rows=height, cols=width)) == list(grid.row_slices)
