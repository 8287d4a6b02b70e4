"""Spike encoders: their equations literally, what is read back, and the statistics of Poisson spikes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neurosim.data import encoders
from neurosim.data.encoders import ENCODERS, current, delta, latency, rate, to_unit
from neurosim.errors import UsageError


def series(n: int = 3, steps: int = 20, channels: int = 2, seed: int = 0) -> torch.Tensor:
    """Values in [0, 1]."""
    return torch.rand(n, steps, channels, generator=torch.Generator().manual_seed(seed))


def test_the_table_holds_the_functions() -> None:
    assert list(ENCODERS) == ["rate", "latency", "delta", "current"]
    for name, row in ENCODERS.items():
        assert row.name == name == row.encode.__name__
        assert row.decode.__name__ == f"{name}_decode"
        assert row.decode(row.encode(series())).shape == series().shape
        assert row.summary
        assert row.takes
        assert row.read_back


# ---- rate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "rate_hz"), [(0.0, 200.0), (0.3, 100.0), (1.0, 200.0), (1.0, 5000.0)])
def test_counts_of_poisson_spikes_are_binomial(value: float, rate_hz: float) -> None:
    hold, n = 20, 20_000
    counts = rate(torch.full((n, 1, 1), value), hold=hold, rate_hz=rate_hz).sum(1).flatten().int().numpy()
    p = 1 - math.exp(-rate_hz * value * 1e-3)
    expected = stats.binom.pmf(np.arange(hold + 1), hold, p) * n
    seen = np.bincount(counts, minlength=hold + 1)
    common = expected >= 5
    if common.sum() < 2:  # every count is the same
        assert (counts == round(hold * p)).all()
        return
    merged = [np.append(x[common], x[~common].sum()) for x in (seen, expected)]
    if merged[1][-1] < 1:
        merged = [x[:-1] for x in merged]
        merged[1] *= merged[0].sum() / merged[1].sum()
    assert stats.chisquare(*merged).pvalue > 1e-4  # one false alarm in 10,000


def test_steps_are_independent() -> None:
    spikes = rate(torch.full((1, 1, 1), 0.5), hold=200_000, rate_hz=1000.0)[0, :, 0]
    p = float(spikes.mean())
    for lag in (1, 2, 7):
        product = float((spikes[lag:] * spikes[:-lag]).mean())
        assert abs(product - p * p) < 4 * p * (1 - p) / math.sqrt(200_000)


@given(start=st.integers(0, 8), stop=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_a_series_has_the_same_spikes_in_every_batch(start: int, stop: int, seed: int) -> None:
    x = series(9, 7, 3)
    whole = rate(x, hold=3, seed=seed)
    if start < stop:
        assert torch.equal(rate(x[start:stop], hold=3, seed=seed, first=start), whole[start:stop])
    assert not torch.equal(rate(x, hold=3, seed=seed + 1), whole)


def test_rates_are_read_back_within_their_deviation() -> None:
    x = series(4, 30, 2)
    hold = 4000
    back = encoders.rate_decode(rate(x, hold=hold), hold=hold)
    p = 1 - torch.exp(-0.2 * x)
    # of -ln(1 - mean) / 0.2, to first order
    deviation = (p * (1 - p) / hold).sqrt() / (0.2 * (1 - p))
    assert float(((back - x) / deviation.clamp(min=1e-3)).abs().max()) < 5
    assert encoders.rate_decode(torch.ones(1, 5, 1), hold=5).tolist() == [[[1.0]]]


# ---- latency --------------------------------------------------------------------------------------------


@given(values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12), hold=st.integers(2, 40))
def test_latencies(values: list[float], hold: int) -> None:
    x = torch.tensor(values).view(1, -1, 1)
    spikes = latency(x, hold=hold)
    frames = spikes.view(len(values), hold)
    assert frames.sum(1).tolist() == [1.0] * len(values)
    for value, frame in zip(values, frames, strict=True):
        assert abs((1 - value) * (hold - 1) - int(frame.argmax())) <= 0.5 + 1e-5
    back = encoders.latency_decode(spikes, hold=hold)
    assert float((back - x).abs().max()) <= 0.5 / (hold - 1) + 1e-6


# ---- delta ----------------------------------------------------------------------------------------------


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30),
    threshold=st.floats(0.01, 10),
)
def test_deltas_follow_within_a_threshold(values: list[float], threshold: float) -> None:
    x = torch.tensor(values, dtype=torch.float64).view(1, -1, 1)
    spikes = delta(x, threshold=threshold)
    assert torch.equal(spikes, spikes.round())
    assert float(spikes.min()) >= 0
    assert not bool((spikes[..., 0] * spikes[..., 1]).any())  # never up and down at once
    back = encoders.delta_decode(spikes, threshold=threshold)
    assert float((back - x).abs().max()) < threshold * (1 + 1e-9)


@given(steps=st.lists(st.floats(-2, 2), min_size=1, max_size=40), most=st.integers(1, 3))
def test_limited_deltas_follow_what_is_slow_enough(steps: list[float], most: int) -> None:
    x = torch.tensor(steps, dtype=torch.float64).clamp(-most, most).cumsum(0).view(1, -1, 1) * 0.5
    spikes = delta(x, threshold=0.5, most=most)
    assert float(spikes.max()) <= most
    assert float((encoders.delta_decode(spikes, threshold=0.5) - x).abs().max()) < 0.5 + 1e-9


def test_a_delta_catches_up_after_a_jump() -> None:
    x = torch.full((1, 10, 1), 0.45)
    spikes = delta(x, threshold=0.1, most=1)
    assert spikes[0, :, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert float(spikes[0, :, 1].sum()) == 0


def test_channels_of_deltas_do_not_meet() -> None:
    x = series(2, 15, 3) - 0.5
    together = delta(x, threshold=0.05)
    for c in range(3):
        alone = delta(x[..., c : c + 1], threshold=0.05)
        assert torch.equal(together[..., [c, 3 + c]], alone)


# ---- current --------------------------------------------------------------------------------------------


def test_currents() -> None:
    x = series() - 0.5
    i = current(x, hold=4, gain=2e-9, offset=1e-9)
    for n, t, c in ((0, 0, 0), (2, 19, 1), (1, 7, 0)):
        held = i[n, 4 * t : 4 * t + 4, c]
        assert held.tolist() == [pytest.approx(2e-9 * float(x[n, t, c]) + 1e-9, rel=1e-6)] * 4
    assert torch.allclose(encoders.current_decode(i, hold=4, gain=2e-9, offset=1e-9), x, atol=1e-6)


def test_to_unit() -> None:
    assert to_unit(torch.tensor([-1.0, 0.0, 2.0, 9.0]), 0.0, 4.0).tolist() == [0.0, 0.0, 0.5, 1.0]
    with pytest.raises(UsageError, match=r"expected low < high; got 1.0 and 1.0"):
        to_unit(torch.zeros(1), 1.0, 1.0)


# ---- wrong use ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ENCODERS))
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (torch.zeros(3, 4), r"expected floating-point values \(N, T, C\); got torch.float32 \(3, 4\)"),
        (torch.zeros(3, 4, 1, dtype=torch.int64), r"expected floating-point values"),
        (torch.zeros(0, 4, 1), r"expected floating-point values"),
        (torch.full((1, 2, 1), float("nan")), r"got nan to nan"),
        (torch.tensor([[[0.0], [math.inf]]]), r"got 0 to inf"),
    ],
)
def test_values_that_are_none(name: str, values: torch.Tensor, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        ENCODERS[name].encode(values)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: rate(x + 1), r"expected values in \[0, 1\] \(see to_unit\)"),
        (lambda x: latency(x - 1), r"expected values in \[0, 1\]"),
        (lambda x: rate(x, hold=0), r"expected hold to be a whole number of at least 1; got 0"),
        (lambda x: rate(x, rate_hz=0.0), r"expected rate_hz above 0; got 0.0"),
        (lambda x: rate(x, dt_s=math.nan), r"expected dt_s above 0; got nan"),
        (lambda x: rate(x, first=-1), r"expected first to be a whole number of at least 0; got -1"),
        (lambda x: latency(x, hold=1), r"expected hold to be a whole number of at least 2; got 1"),
        (lambda x: latency(x, hold=True), r"expected hold .* got True"),
        (lambda x: delta(x, threshold=-0.1), r"expected threshold above 0; got -0.1"),
        (lambda x: delta(x, most=0), r"expected most to be None or a whole number of at least 1; got 0"),
        (lambda x: current(x, gain=0.0), r"expected finite gain, not 0"),
        (lambda x: encoders.rate_decode(x, hold=3), r"expected a multiple of hold=3 steps; got 20"),
    ],
)
def test_wrong_numbers(call: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        call(series())
