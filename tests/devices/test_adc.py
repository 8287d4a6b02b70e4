"""Every ADC architecture, DAC and range, by being listed; formulas against closed forms and hand counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from neurosim.devices import Adc, Dac, calibrate_range, hardware, quantise
from neurosim.devices.adc import ADCS, columns_of, convert
from neurosim.devices.converters import bowed
from neurosim.devices.ranges import learned_step, least_error_range, refined
from neurosim.errors import UsageError
from neurosim.random import Draws, stream

ALPHA = 1e-5
MISMATCH: dict[str, dict[str, float]] = {
    "uniform": {},
    "sar": {"capacitor_std": 0.05},
    "ramp": {"gain_std": 0.02, "offset_std": 0.6, "nonlinearity": 0.02},
    "pipeline": {"gain_std": 0.01, "offset_std": 0.4},
}
kinds = pytest.mark.parametrize("kind", ADCS)


def values(*shape: int) -> Tensor:
    return stream(1, 0, "values", "test").normal(shape)


def state_of(adc: Adc, chips: tuple[int, ...] = (0,), columns: int = 5, part: int = 0) -> dict[str, Tensor]:
    return ADCS[adc.kind].drawn(adc, columns_of(((0, columns),), adc), Draws(0, chips, "layer"), part)


def staircase(adc: Adc, state: dict[str, Tensor], per_step: int = 32) -> tuple[Tensor, Tensor]:
    """Inputs from −full scale to full scale, in steps, and the codes they get: (chips, inputs, columns)."""
    assert adc.bits is not None
    levels = 2 ** (adc.bits - 1) - 1
    u = torch.arange(-levels * per_step, levels * per_step + 1).double() / per_step
    chips, columns = next(iter(state.values())).shape[0], 5
    out = convert(u[None, :, None].expand(chips, -1, columns), float(levels), adc, state)
    return u, out


def test_every_architecture_is_tested() -> None:
    assert set(MISMATCH) == set(ADCS) == set(Adc.model_fields["kind"].annotation.__args__)  # type: ignore[union-attr]


# ---- conformance ----


@kinds
@pytest.mark.parametrize("bits", [2, 5, 8, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_mismatch_it_is_the_uniform_converter(kind: str, bits: int, dtype: torch.dtype) -> None:
    adc, v = Adc(bits=bits, kind=kind), values(2, 40, 5).to(dtype)
    assert torch.equal(convert(v, 1.3, adc, state_of(adc, (0, 1))), quantise(v, 1.3, bits))
    # and so are the formulas of its architecture, but for ties
    levels = 2 ** (bits - 1) - 1
    u = (v.double().abs() * (levels / 1.3)).clamp(max=levels)
    codes = ADCS[kind].codes(u, v < 0, adc, state_of(adc, (0, 1)))
    assert torch.equal(codes, u.round())


@kinds
def test_codes_are_codes_and_inputs_are_left_alone(kind: str) -> None:
    adc, v = Adc(bits=6, kind=kind, **MISMATCH[kind]), 2 * values(3, 50, 5)
    before, full = v.clone(), torch.linspace(0.5, 2.0, 5)
    out = convert(v, full, adc, state_of(adc, (0, 1, 2)))
    codes = out / (full / 31)
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
    assert float(codes.abs().max()) <= 31 + 1e-4
    assert torch.equal(v, before)
    assert out.shape == v.shape
    assert out.dtype == v.dtype
    assert bool(((out * v) >= 0).all())  # the sign is found first


@kinds
def test_a_chip_is_the_same_alone_and_in_a_batch_and_differs_from_others(kind: str) -> None:
    adc, v = Adc(bits=8, kind=kind, **MISMATCH[kind]), values(1, 200, 5)
    together = state_of(adc, (4, 7, 17))
    alone = state_of(adc, (17,))
    for key, tensor in alone.items():
        assert torch.equal(together[key][2:], tensor)
    outs = [convert(v, 2.0, adc, state_of(adc, (chip,))) for chip in (4, 17)]
    assert torch.equal(*outs) == (kind == "uniform")
    if kind != "uniform":
        other = state_of(adc, (17,), part=1)
        assert not all(torch.equal(other[key], alone[key]) for key in alone)


@kinds
def test_columns_share_a_converter(kind: str) -> None:
    adc = Adc(bits=8, kind=kind, columns_per_adc=2, **MISMATCH[kind])
    v = values(1, 300, 1).expand(1, 300, 5).contiguous()
    out = convert(v, 2.0, adc, state_of(adc))
    assert torch.equal(out[..., 0], out[..., 1])
    assert torch.equal(out[..., 2], out[..., 3])
    if kind != "uniform":
        assert not torch.equal(out[..., 1], out[..., 2])


@kinds
def test_the_gradient_is_straight_through(kind: str) -> None:
    adc, v = Adc(bits=4, kind=kind, **MISMATCH[kind]), values(2, 30, 5).requires_grad_()
    convert(v, 1.0, adc, state_of(adc, (0, 1))).sum().backward()
    assert v.grad is not None
    assert torch.equal(v.grad, (v.detach().abs() <= 1.0).float())


@kinds
def test_nan_stays_nan(kind: str) -> None:
    adc = Adc(bits=4, kind=kind, **MISMATCH[kind])
    assert bool(convert(torch.full((1, 1, 5), math.nan), 1.0, adc, state_of(adc)).isnan().all())


# ---- successive approximation ----


def test_three_bits_by_hand() -> None:
    # two capacitors of 1.2 and 1.8 units, in a sum of 3: u + 1/2 is compared with 1.8, then with 1.2 more
    adc = Adc(bits=3, kind="sar", capacitor_std=0.1)
    state = {"weights": torch.tensor([1.2, 1.8], dtype=torch.float64)[None, None, None]}
    u = torch.tensor([0.0, 0.69, 0.71, 1.29, 1.31, 2.49, 2.51, 3.0], dtype=torch.float64)
    codes = convert(u[None, :, None], 3.0, adc, state)[0, :, 0]
    assert codes.tolist() == pytest.approx([0, 0, 1, 1, 2, 2, 3, 3])


def test_the_integral_nonlinearity_of_a_sar_has_the_published_variance() -> None:
    # the level of code m is a sum of m unit capacitors over the sum of all L: variance σ²·m·(1 − m/L)
    adc = Adc(bits=8, kind="sar", capacitor_std=0.03)
    chips = tuple(range(2000))
    weights = state_of(adc, chips, columns=50)["weights"].double().flatten(0, 2)
    levels = 127
    for code in (1, 2, 8, 64, 63, 100):
        bits = torch.tensor([code >> k & 1 for k in range(7)], dtype=torch.float64)
        inl = weights @ bits - code
        expected = 0.03**2 * code * (1 - code / levels)
        count = len(inl)
        statistic = float(inl.var()) / expected * (count - 1)
        low, high = stats.chi2.ppf([ALPHA / 2, 1 - ALPHA / 2], count - 1)
        # first order in σ: the sum of all in the denominator adds σ²/L, well below a per cent
        assert low * 0.995 < statistic < high * 1.005, code
    middle = math.sqrt(0.03**2 * 64 * (1 - 64 / levels))
    assert middle == pytest.approx(0.03 * 2**3.5 / 2, rel=0.01)  # σ·2^(n/2)/2


def test_a_sar_may_miss_codes_and_a_ramp_never_turns_back() -> None:
    sar = Adc(bits=6, kind="sar", capacitor_std=0.3)
    _, out = staircase(sar, state_of(sar, tuple(range(20))))
    assert any(len(out[chip, :, 0].unique()) < 63 for chip in range(20))
    ramp = Adc(bits=6, kind="ramp", gain_std=0.1, offset_std=0.0, nonlinearity=0.1)
    _, out = staircase(ramp, state_of(ramp, tuple(range(20))))
    assert bool((out.diff(dim=1) >= 0).all())


# ---- ramp and pipeline ----


def test_a_ramp_by_its_formula() -> None:
    adc = Adc(bits=6, kind="ramp", gain_std=0.03, offset_std=1.5, nonlinearity=0.04)
    state = state_of(adc, (3,))
    u, out = staircase(adc, state)
    draws, level = Draws(0, (3,), "layer"), 31
    slope = 1 + 0.03 * float(draws.normal("adc ramp[0]", (1,)))
    offset = 1.5 * draws.normal("adc comparators[0]", (5,))[0].double().numpy()
    t = u.abs().numpy()[:, None] / level
    seen = (
        slope * u.abs().numpy()[:, None]
        + 4 * 0.04 * level * t * (1 - t)
        + np.sign(u.numpy())[:, None] * offset
    )
    # at 0 the sign is plus
    seen[u.numpy() == 0] = offset
    codes = np.sign(u.numpy())[:, None] * np.clip(np.round(seen), 0, level)
    off = np.abs(out[0].numpy() - codes)
    assert (off > 1e-6).mean() < 1e-3  # ties


def test_a_stage_of_a_pipeline_by_hand() -> None:
    # 3 bits: two stages; the first amplifier has a gain of 1.8: u = 2.2, r0 = 2.7/4 = 0.675 → 1;
    # 1.8·(0.675 − 0.5) = 0.315 → 0: code 2.  u = 3: r0 = 0.875 → 1; 0.675 → 1: code 3
    adc = Adc(bits=3, kind="pipeline", gain_std=0.1)
    state = {
        "gain": torch.tensor([1.8, 2.0], dtype=torch.float64)[None, None, None],
        "offset": torch.zeros(1, 1, 1, 2, dtype=torch.float64),
    }
    u = torch.tensor([2.2, 3.0, -3.0, 0.4, 0.9], dtype=torch.float64)
    codes = convert(u[None, :, None], 3.0, adc, state)[0, :, 0]
    # 0.9: r0 = 0.35 → 0; 0.63 → 1
    assert codes.tolist() == pytest.approx([2, 3, -3, 0, 1])


@pytest.mark.parametrize(
    ("kind", "field", "key", "mean", "std"),
    [
        ("ramp", "gain_std", "slope", 1.0, 0.02),
        ("ramp", "offset_std", "offset", 0.0, 0.6),
        ("pipeline", "gain_std", "gain", 2.0, 2 * 0.01),
        ("pipeline", "offset_std", "offset", 0.0, 0.4 / 128),
    ],
)
def test_what_is_drawn_is_normal(kind: str, field: str, key: str, mean: float, std: float) -> None:
    adc = Adc(bits=8, kind=kind, **{field: MISMATCH[kind][field]})
    drawn = state_of(adc, tuple(range(20_000)), columns=8)[key]
    if key == "slope":  # one ramp a tile
        assert torch.equal(drawn[..., 0], drawn[..., 7])
        drawn = drawn[..., 0]
    data = drawn.double().flatten().numpy()
    found = stats.kstest((data - mean) / std, "norm")
    assert found.pvalue > ALPHA


# ---- DACs ----


@given(bow=st.floats(-0.3, 0.3), full=st.floats(1e-3, 1e3))
def test_the_largest_deviation_is_the_stated_one(bow: float, full: float) -> None:
    v = torch.linspace(-full, full, 2001, dtype=torch.float64)
    off = bowed(v, full, bow) - v
    assert float(off.abs().max()) == pytest.approx(abs(bow) * full, rel=1e-4, abs=1e-12)
    assert max(abs(float(off[k])) for k in (0, 1000, 2000)) <= 1e-12 * full
    torch.testing.assert_close(off, -off.flip(0))


# ---- ranges ----


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_the_range_of_least_error_is_that_of_a_brute_search(bits: int) -> None:
    data = values(5000).abs()
    levels = 2 ** (bits - 1) - 1
    grid = np.linspace(1e-3, float(data.max()), 8000)
    v = data.double().numpy()
    errors = [np.mean((np.clip(np.round(v / f * levels), 0, levels) * f / levels - v) ** 2) for f in grid]
    found = least_error_range(data, bits)
    again = np.mean((np.clip(np.round(v / found * levels), 0, levels) * found / levels - v) ** 2)
    assert again <= min(errors) * 1.02


@pytest.mark.parametrize(("vectors", "columns"), [(10_000, 100), (5000, 784), (4096, 128)])
def test_the_range_of_much_data_is_that_of_all_columns(vectors: int, columns: int) -> None:
    # every stride of the columns is small: one that were picked from alone would set the range
    data = values(vectors * columns).reshape(vectors, columns).abs()
    stride = -(-data.numel() // 100_000)
    data[:, :: math.gcd(stride, columns)] *= 0.05 if math.gcd(stride, columns) > 1 else 1.0
    v, found = data.double().numpy(), least_error_range(data, 4)

    def error(full: float) -> float:
        return float(np.mean((np.clip(np.round(v / full * 7), 0, 7) * full / 7 - v) ** 2))

    assert error(found) <= 1.02 * min(error(full) for full in np.linspace(0.5, 4.0, 36))


@pytest.mark.parametrize(("bits", "step"), [(2, 1.2240), (3, 0.6508), (4, 0.3534)])
def test_the_step_for_normal_data_is_the_known_one(bits: int, step: float) -> None:
    # J. Max, Quantizing for minimum distortion, IRE Trans. IT-6 (1960), table II: 3, 7 and 15 output levels
    q = torch.linspace(5e-6, 1 - 5e-6, 100_000, dtype=torch.float64)
    normals = torch.erfinv(2 * q - 1) * math.sqrt(2)
    levels = 2 ** (bits - 1) - 1
    assert least_error_range(normals.abs(), bits) / levels == pytest.approx(step, rel=2e-3)


@pytest.mark.parametrize("name", ["max", "percentile", "min-error", "learned"])
def test_every_range_suits_its_data(name: str) -> None:
    for bits in (2, 8, None):
        converter = Adc(bits=bits, range=name, percentile=90.0)
        data = values(1000)
        found = calibrate_range(data, converter)
        assert 0 < found <= float(data.abs().max()) * (1 + 1e-6)
        assert calibrate_range(1000 * data, converter) == pytest.approx(1000 * found, rel=1e-3)
        assert calibrate_range(torch.zeros(3), converter) == 1.0


def test_the_gradient_of_a_learned_step_is_the_published_one() -> None:
    v = torch.tensor([0.1, 0.4, 0.9, 5.0, -5.0], dtype=torch.float64)
    full = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    grads = []
    for k in range(5):
        (grad,) = torch.autograd.grad(learned_step(v, full, 3)[k], full)
        grads.append(float(grad))
    # L = 3, u = v: (round(u) − u)/L inside, ±1 beyond
    assert grads == pytest.approx([-0.1 / 3, -0.4 / 3, 0.1 / 3, 1.0, -1.0])


def test_refinement_is_never_worse_than_its_start() -> None:
    target = torch.tensor([0.3, 2.0])
    found = refined(torch.ones(2), lambda f: (f.log() - target.double().log()).square().sum())
    assert bool(((found.log() - target.log()).abs() < target.log().abs()).all())
    stuck = refined(torch.ones(2), lambda f: (f - 1).square().sum() + 1)
    assert stuck.tolist() == [1.0, 1.0]


# ---- descriptions ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"adc": {"kind": "sar"}}, "expected bits with kind='sar'"),
        ({"adc": {"bits": 8, "capacitor_std": 0.1}}, "expected capacitor_std only with kind='sar'"),
        ({"adc": {"bits": 8, "kind": "sar", "gain_std": 0.1}}, "only with kind='ramp' or kind='pipeline'"),
        ({"dac": {"kind": "bit-serial"}}, "expected bits with kind='bit-serial'"),
        ({"dac": {"bits": 8, "jitter_std": 0.1}}, "expected jitter_std only with kind='pulse-width'"),
        ({"dac": {"kind": "pulse-width", "jitter_std": 0.1}}, "jitter_std, which is in steps"),
        ({"adc": {"bits": 8, "kind": "flash"}}, "got adc.kind='flash'"),
        ({"periphery": {"row_gain_std": -1}}, "got periphery.row_gain_std=-1"),
    ],
)
def test_what_does_not_belong_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        hardware("ideal", **changes)


def test_descriptions_that_use_none_of_it_look_as_they_did() -> None:
    assert Dac(bits=8).model_dump() == {"bits": 8, "range": "max", "percentile": 99.99}
    assert Adc(bits=8).model_dump() == {"bits": 8, "range": "max", "percentile": 99.99}
    assert "periphery" not in hardware("ideal").to_toml()
    made = hardware(
        "ideal", periphery__row_gain_std=0.1, adc={"bits": 8, "kind": "sar", "capacitor_std": 0.1}
    )
    assert "row_gain_std" in made.to_toml()
    assert "capacitor_std" in made.to_toml()
