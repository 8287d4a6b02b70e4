"""The forms of published fits, as small pure functions: what several devices share.

They take tensors (any shape, float32 or float64, differentiable) or plain numbers, and import torch only
where tensors are made.  None uses torch's ``pow``, whose last bit differs between the vectorised body and the
tail of a tensor: a device must not depend on where in a tensor it lies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    Values = TypeVar("Values", Tensor, float)


def polynomial(coefficients: Sequence[float], x: Values) -> Values:
    """Σ c_k·x^k, c0 first, by Horner's rule; same shape and type as ``x``.

    >>> polynomial((1.0, 2.0, 3.0), 2.0)
    17.0
    """
    value = x * 0.0 + coefficients[-1]
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


def power(x: Tensor, exponent: float, least: float) -> Tensor:
    """max(x, least)^exponent for positive ``least``; no gradient flows below it.

    >>> import torch
    >>> power(torch.tensor([0.0, 4.0]), -0.5, 0.25)
    tensor([2.0000, 0.5000])
    """
    return (x.clamp(min=least).log() * exponent).exp()


def clipped_line(x: Tensor, slope: float, offset: float, low: float, high: float) -> Tensor:
    """clip(slope·x + offset, low, high); most fits take x = ln(g/g_max).

    >>> import torch
    >>> clipped_line(torch.tensor([-9.0, 0.5, 9.0]), 2.0, 1.0, 0.0, 5.0).tolist()
    [0.0, 2.0, 5.0]
    """
    return (x * slope + offset).clamp(low, high)


def pieces(x: Tensor, split: float, below: Tensor, above: Tensor) -> Tensor:
    """``below`` where x < split, else ``above``; both must be finite everywhere, or gradients are not.

    >>> import torch
    >>> x = torch.tensor([0.1, 0.5, 0.9])
    >>> pieces(x, 0.5, -x, x).tolist()
    [-0.10000000149011612, 0.5, 0.8999999761581421]
    """
    import torch

    return torch.where(x < split, below, above)


def log_elapsed(time_s: float, t0_s: float) -> float:
    """ln((t + t0)/t0): power-law drift multiplies a conductance by exp(−ν·log_elapsed).

    >>> round(log_elapsed(20.0, 20.0), 4)
    0.6931
    """
    return math.log1p(time_s / t0_s)


def slow_noise_growth(total_s: float, read_s: float) -> float:
    """√ln((T + t_r)/(2 t_r)), 0 where T < t_r: how 1/f noise grows with the time T since programming.

    Nandakumar et al., ICECS 2019, doi:10.1109/ICECS46596.2019.8964852.

    >>> round(slow_noise_growth(20.0, 250e-9), 3)
    4.184
    """
    return math.sqrt(max(math.log(total_s + read_s) - math.log(2 * read_s), 0.0))


def in_log_time(times_s: Sequence[float], rows: Sequence[Sequence[float]], time_s: float) -> list[float]:
    """Rows of numbers known at some times, interpolated linearly in ln t; outside the times, the nearest row.

    Args:
        times_s: rising, more than 0.
        rows: one for each time, equally long.

    >>> in_log_time((1.0, 100.0), [(0.0, 4.0), (2.0, 8.0)], 10.0)
    [1.0, 6.0]
    >>> in_log_time((1.0, 100.0), [(0.0, 4.0), (2.0, 8.0)], 0.0)
    [0.0, 4.0]
    """
    if time_s <= times_s[0]:
        return list(rows[0])
    for (early, first), (late, second) in itertools.pairwise(zip(times_s, rows, strict=True)):
        if time_s < late:
            part = math.log(time_s / early) / math.log(late / early)
            return [a + part * (b - a) for a, b in zip(first, second, strict=True)]
    return list(rows[-1])


def extremes(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Least and greatest value of a smooth function on [low, high], both ends included, to three digits.

    For texts that people read: it looks at 1,001 points.

    >>> extremes(lambda x: x * (1 - x), 0.0, 1.0)
    (0.0, 0.25)
    """
    values = [function(low + (high - low) * k / 1000) for k in range(1001)]
    return min(values), max(values)
