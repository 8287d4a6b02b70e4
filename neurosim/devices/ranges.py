"""Full scales of converters that suit data: of least error, and refined by gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SAMPLES = 100_000  # beyond it, evenly picked ones stand for all
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_ROUNDS, _CANDIDATES = 3, 48


def least_error_range(magnitudes: Tensor, bits: int) -> float:
    """The full scale that minimises the mean square error of clipping and rounding.

        argmin over f of mean (v − q(v; f))²        q of :func:`neurosim.devices.quantise`

    Found on a grid that is refined three times around its best point; the optimum trades clipping of rare
    large values against the step (R. Banner et al., Post training 4-bit quantization of convolutional
    networks for rapid-deployment, NeurIPS 2019, arXiv:1810.05723).

    Args:
        magnitudes: |v|, any shape, finite, not all 0.
        bits: of the converter.

    >>> normals = torch.linspace(0.5e-4, 1 - 0.5e-4, 10_000).mul(2).sub(1).erfinv() * 2**0.5
    >>> round(least_error_range(normals.abs(), 4) / 7, 2)    # the step; Max (1960): 0.3534
    0.35
    """
    data = _evenly(magnitudes.detach().flatten()).double()
    levels = 2 ** (bits - 1) - 1
    low, high = 0.0, float(data.max())
    best = high
    for _ in range(_ROUNDS):
        grid = torch.linspace(low, high, _CANDIDATES + 1, dtype=torch.float64)[1:]
        errors = torch.stack([_error(data, float(full), levels) for full in grid])
        at = int(errors.argmin())
        best = float(grid[at])
        low, high = float(grid[max(0, at - 1)]) if at else 0.0, float(grid[min(len(grid) - 1, at + 1)])
    return best


def _evenly(data: Tensor) -> Tensor:
    """At most so many values, from everywhere.

    By multiples of the golden ratio: a stride that has a factor in common with the number of columns would
    see some columns only.
    """
    if data.numel() <= _SAMPLES:
        return data
    turns = torch.arange(_SAMPLES, dtype=torch.float64) * _GOLDEN
    return data[((turns - turns.floor()) * data.numel()).long().to(data.device)]


def _error(data: Tensor, full: float, levels: int) -> Tensor:
    step = full / levels
    return ((data / step).round().clamp(max=levels) * step - data).square().mean()


class _LearnedStep(torch.autograd.Function):
    """A quantiser with the gradient of Esser et al. with respect to its full scale.

    S. K. Esser et al., Learned step size quantization, ICLR 2020, arXiv:1902.08153: inside the range
    ∂q/∂step = round(v/step) − v/step, beyond it ±L; full scale = L·step.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, full_scale: Tensor, levels: int) -> Tensor:
        share = values * (levels / full_scale)
        codes = share.round().clamp(-levels, levels)
        ctx.save_for_backward(share, codes)
        ctx.levels, ctx.shape = levels, full_scale.shape
        return codes * (full_scale / levels)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        share, codes = ctx.saved_tensors
        levels = ctx.levels
        inside = share.abs() <= levels
        slope = torch.where(inside, codes - share, codes) / levels
        return grads[0] * inside, (grads[0] * slope).sum_to_size(ctx.shape), None


def learned_step(values: Tensor, full_scale: Tensor, bits: int) -> Tensor:
    """:func:`neurosim.devices.quantise` whose full scale has a gradient; it broadcasts."""
    found: Tensor = _LearnedStep.apply(values, full_scale, 2 ** (bits - 1) - 1)
    return found


def refined(start: Tensor, error: Callable[[Tensor], Tensor], steps: int = 60, lr: float = 0.02) -> Tensor:
    """Full scales by Adam on their logarithms: the best of all steps, the start included.

    Args:
        start: above 0.
        error: what to minimise, as a function of the full scales that autograd follows.
    """
    logs = start.detach().double().log().requires_grad_()
    optimiser = torch.optim.Adam([logs], lr=lr)
    best, least = start.detach().clone(), math.inf
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            found = error(logs.exp())
            if float(found.detach()) < least:
                least, best = float(found.detach()), logs.detach().exp().to(start)
            found.backward()
            optimiser.step()
    return best
