"""Numbers as spikes: four encoders of time series, one function each, and what reads each of them back.

An encoder takes (N, T, C) and gives (N, T·hold, C) or, with two signs of spike, (N, T, 2C).  A picture or a
vector of features is a series of one step, (N, 1, C).

>>> import torch
>>> x = torch.rand(4, 100, 2)
>>> {name: tuple(encoder.encode(x).shape) for name, encoder in ENCODERS.items()}
{'rate': (4, 1000, 2), 'latency': (4, 1000, 2), 'delta': (4, 100, 4), 'current': (4, 100, 2)}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neurosim.errors import UsageError
from neurosim.random import stream


def rate(
    x: Tensor, *, hold: int = 10, rate_hz: float = 200.0, dt_s: float = 1e-3, seed: int = 0, first: int = 0
) -> Tensor:
    """Poisson spikes, whose rate is the value: (N, T, C) in [0, 1] -> 0 or 1, (N, T·hold, C)::

        s[n, t, c] = 1 with probability 1 - exp(-rate_hz x[n, t // hold, c] dt_s)

    which is the probability p that a Poisson process of that rate has an event within a step.  Steps are
    independent, so the count of ``hold`` steps is binomial: its mean is ``hold`` p, its variance
    ``hold`` p (1 - p).

    Args:
        x: values.
        hold: steps a value.
        rate_hz: of the value 1.
        dt_s: length of a step.
        seed: of the spikes (``stream(seed, 0, "data", "rate-encoder")``).
        first: number of the first series in its data set: series k has the same spikes in whatever batch.

    Raises:
        UsageError: a value outside [0, 1], another shape, or a number out of range.

    >>> import torch
    >>> rate(torch.full((1, 1, 1), 0.5), hold=10_000).mean().item()  # 1 - exp(-0.1) = 0.0952
    0.09560000151395798
    """
    _check(x, unit=True)
    _check_hold(hold)
    _check_positive(rate_hz=rate_hz, dt_s=dt_s)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise UsageError(f"expected first to be a whole number of at least 0; got {first!r}")
    chance = -torch.expm1(-rate_hz * dt_s * x.repeat_interleave(hold, dim=1))
    each = chance[0].numel()
    drawn = stream(seed, 0, "data", "rate-encoder").uniform(
        chance.shape, offset=first * each, device=str(x.device)
    )
    return (drawn < chance).to(x.dtype)


def rate_decode(s: Tensor, *, hold: int = 10, rate_hz: float = 200.0, dt_s: float = 1e-3) -> Tensor:
    """The most likely values of Poisson spikes: (N, T·hold, C) -> (N, T, C), at most 1::

    x = min(1, -ln(1 - count / hold) / (rate_hz dt_s))
    """
    mean = _held(s, hold).mean(dim=2)
    return (-torch.log1p(-mean) / (rate_hz * dt_s)).clamp(max=1.0)


def latency(x: Tensor, *, hold: int = 10) -> Tensor:
    """One spike a value, early where it is large: (N, T, C) in [0, 1] -> 0 or 1, (N, T·hold, C)::

        the spike of x[n, t, c] is in step t hold + round((1 - x[n, t, c]) (hold - 1))

    Read back within half a step: |x - x'| <= 1 / (2 (hold - 1)).

    Args:
        x: values.
        hold: steps a value, at least 2.

    Raises:
        UsageError: a value outside [0, 1], another shape, or ``hold`` below 2.

    >>> import torch
    >>> latency(torch.tensor([[[1.0], [0.5], [0.0]]]), hold=3)[0, :, 0].tolist()
    [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    """
    _check(x, unit=True)
    _check_hold(hold, least=2)
    step = ((1 - x) * (hold - 1)).round().to(torch.int64)
    spikes = torch.zeros((*x.shape, hold), dtype=x.dtype, device=x.device)
    spikes.scatter_(3, step.unsqueeze(3), 1.0)
    return spikes.permute(0, 1, 3, 2).flatten(1, 2)


def latency_decode(s: Tensor, *, hold: int = 10) -> Tensor:
    """The values of latencies: (N, T·hold, C) -> (N, T, C), 1 - step / (hold - 1)."""
    return 1 - _held(s, hold).argmax(dim=2).to(s.dtype) / (hold - 1)


def delta(x: Tensor, *, threshold: float = 0.1, most: int | None = None) -> Tensor:
    """A spike each time the value has risen or fallen by a threshold: (N, T, C) -> counts, (N, T, 2C)::

        n[t] = trunc((x[t] - r[t-1]) / threshold),   r[t] = r[t-1] + threshold n[t],   r[-1] = 0

    An asynchronous delta modulator, sampled: channels 0 ... C-1 hold max(n, 0), those from C on max(-n, 0).
    Read back within a threshold at every step: |x - x'| < threshold, whatever x does.

    Args:
        x: values, any.
        threshold: above 0, in units of x.
        most: at most so many spikes a step and channel (1: spikes are 0 or 1); what is left comes in the
            steps after.  The bound then holds where x never moves by more than ``most`` thresholds a step.

    Raises:
        UsageError: values that are not finite, another shape, or a number out of range.

    >>> import torch
    >>> delta(torch.tensor([[[0.0], [0.25], [0.2], [-0.1]]]), threshold=0.1)[0].tolist()
    [[0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 3.0]]
    """
    _check(x, unit=False)
    _check_positive(threshold=threshold)
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise UsageError(f"expected most to be None or a whole number of at least 1; got {most!r}")
    # the level is threshold times a whole number: counted, not summed, so that no rounding gathers
    scaled = x.to(torch.float64) / threshold
    level = torch.zeros_like(scaled[:, 0])
    counts = torch.empty_like(scaled)
    for t, now in enumerate(scaled.unbind(1)):
        n = torch.trunc(now - level)
        counts[:, t] = n if most is None else n.clamp(-most, most)
        level = level + counts[:, t]
    return torch.cat([counts.clamp(min=0), counts.clamp(max=0).abs()], dim=2).to(x.dtype)


def delta_decode(s: Tensor, *, threshold: float = 0.1) -> Tensor:
    """The levels that up and down spikes have reached: (N, T, 2C) -> (N, T, C)."""
    up, down = s.to(torch.float64).chunk(2, dim=2)
    return (threshold * (up - down).cumsum(dim=1)).to(s.dtype)


def current(x: Tensor, *, hold: int = 1, gain: float = 1.0, offset: float = 0.0) -> Tensor:
    """No spikes: the value as a current into the neurons, held: (N, T, C) -> (N, T·hold, C)::

        i[n, t, c] = gain x[n, t // hold, c] + offset

    Exact, but for rounding.  The unit is that of ``gain``; signed values give currents of both signs.

    Args:
        x: values, any.
        hold: steps a value.
        gain: current of the value 1 above that of 0; not 0.
        offset: current of the value 0.

    Raises:
        UsageError: values that are not finite, another shape, or a number out of range.

    >>> import torch
    >>> current(torch.tensor([[[1.0], [-1.0]]]), hold=2, gain=0.5)[0, :, 0].tolist()
    [0.5, 0.5, -0.5, -0.5]
    """
    _check(x, unit=False)
    _check_hold(hold)
    if not (math.isfinite(gain) and math.isfinite(offset) and gain):
        raise UsageError(f"expected finite gain, not 0, and offset; got {gain!r} and {offset!r}")
    return gain * x.repeat_interleave(hold, dim=1) + offset


def current_decode(i: Tensor, *, hold: int = 1, gain: float = 1.0, offset: float = 0.0) -> Tensor:
    """The values of held currents: (N, T·hold, C) -> (N, T, C)."""
    return (_held(i, hold).mean(dim=2) - offset) / gain


@dataclass(frozen=True)
class Encoder:
    """A row of :data:`ENCODERS`: what it is, what it takes, how well it is read back, and both functions."""

    name: str
    summary: str
    takes: str
    read_back: str
    encode: Callable[..., Tensor]
    decode: Callable[..., Tensor]


ENCODERS: dict[str, Encoder] = {
    row.name: row
    for row in (
        Encoder(
            "rate",
            "Poisson spikes, their rate is the value",
            "[0, 1]",
            "the mean to sqrt(p (1 - p) / hold), p = 1 - exp(-rate_hz x dt_s)",
            rate,
            rate_decode,
        ),
        Encoder(
            "latency", "one spike, early where large", "[0, 1]", "1 / (2 (hold - 1))", latency, latency_decode
        ),
        Encoder("delta", "a spike up or down at each threshold", "finite", "threshold", delta, delta_decode),
        Encoder(
            "current",
            "the value as a held current",
            "finite",
            "exact but for rounding",
            current,
            current_decode,
        ),
    )
}
"""The encoders by name."""


def to_unit(x: Tensor, low: float = -3.0, high: float = 3.0) -> Tensor:
    """Values from ``low`` to ``high`` as 0 to 1, others cut off: what ``rate`` and ``latency`` take.

    >>> import torch
    >>> to_unit(torch.tensor([-6.0, 0.0, 1.5])).tolist()
    [0.0, 0.5, 0.75]
    """
    if not low < high:
        raise UsageError(f"expected low < high; got {low!r} and {high!r}")
    return ((x - low) / (high - low)).clamp(0, 1)


def _held(s: Tensor, hold: int) -> Tensor:
    """(N, T·hold, C) -> (N, T, hold, C)."""
    _check(s, unit=False)
    _check_hold(hold)
    if s.shape[1] % hold:
        raise UsageError(f"expected a multiple of hold={hold} steps; got {s.shape[1]}")
    return s.unflatten(1, (-1, hold))


def _check(x: Tensor, unit: bool) -> None:
    if x.dim() != 3 or not x.is_floating_point() or x.numel() == 0:
        raise UsageError(f"expected floating-point values (N, T, C); got {x.dtype} {tuple(x.shape)}")
    low, high = (bound.item() for bound in torch.aminmax(x))
    if unit and not (low >= 0 and high <= 1):
        raise UsageError(f"expected values in [0, 1] (see to_unit); got {low:g} to {high:g}")
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"expected finite values; got {low:g} to {high:g}")


def _check_hold(hold: int, least: int = 1) -> None:
    if isinstance(hold, bool) or not isinstance(hold, int) or hold < least:
        raise UsageError(f"expected hold to be a whole number of at least {least}; got {hold!r}")


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise UsageError(f"expected {name} above 0; got {number!r}")
