"""Digital-to-analog and analog-to-digital conversion: a uniform symmetric quantiser and its range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurosim.devices.hardware import MAX_BITS, MIN_BITS, Converter
from neurosim.devices.ranges import least_error_range
from neurosim.errors import UsageError

# Data whose range is smaller than this is taken as all zero: 1/step would overflow float32.
SMALLEST_RANGE = 1e-30


def quantise(values: Tensor, full_scale: float | Tensor, bits: int | None) -> Tensor:
    """Symmetric mid-tread quantiser with L = 2^(bits−1) − 1 codes on each side of zero.

        q = clip(round(v·L/full_scale), −L, L)·(full_scale/L)

    Ties round to even; zero stays zero; values outside ±full_scale saturate; NaN stays NaN.
    Quantising twice changes nothing.

    Args:
        values: any shape, floating point.
        full_scale: the range, above 0; a tensor broadcasts (one range per chip or tile) and takes no
            gradient.
        bits: 2 to 16, or None for an ideal converter, which returns ``values`` itself.

    Returns:
        Same shape and type as ``values``.  The gradient is straight-through by definition:
        1 where |v| ≤ full_scale, 0 outside.

    Raises:
        UsageError: bits or full scale out of range.

    >>> quantise(torch.tensor([-2.0, 0.0, 0.4, 0.6, 1.0]), 1.0, 2).tolist()
    [-1.0, 0.0, 0.0, 1.0, 1.0]
    """
    if bits is None:
        return values
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise UsageError(f"expected {MIN_BITS} to {MAX_BITS} bits, or None (ideal); got bits={bits!r}")
    _check_scale(full_scale)
    return _Quantise.apply(values, full_scale, 2 ** (bits - 1) - 1)


def bowed(values: Tensor, full_scale: float, nonlinearity: float) -> Tensor:
    """A converter's smooth integral non-linearity, odd and cubic, 0 at 0 and at both ends.

        v → v·(1 + c·(1 − (v/full_scale)²))        c = nonlinearity·3√3/2

    Args:
        values: between ±full_scale.
        full_scale: of the converter.
        nonlinearity: the largest deviation from the line through the ends, at v = full_scale/√3, as a
            fraction of full scale.

    >>> bowed(torch.tensor([0.0, 3**-0.5, 1.0]), 1.0, 0.01)
    tensor([0.0000, 0.5874, 1.0000])
    """
    if nonlinearity == 0.0:
        return values
    share = values * (1.0 / full_scale)
    # beyond the ends, where an ideal converter does not saturate, it goes on straight
    bend = (1.0 - share * share).clamp(min=0.0)
    return values * (1.0 + nonlinearity * (1.5 * math.sqrt(3.0)) * bend)


class _Quantise(torch.autograd.Function):
    """The quantiser with its straight-through gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, full_scale: Any, levels: int) -> Tensor:
        # multiply by reciprocals, not divide: CPU, GPU and fused kernels then agree to the last bit
        codes = (values * (levels / full_scale)).round_().clamp(-levels, levels)
        return codes.mul_(full_scale / levels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, full_scale, _ = inputs
        # the mask itself is left to backward: inference must not pay for it
        ctx.number = None if isinstance(full_scale, Tensor) else full_scale
        ctx.save_for_backward(values, *(() if ctx.number is not None else (full_scale,)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        values, *saved = ctx.saved_tensors
        full_scale = saved[0] if saved else ctx.number
        return grads[0] * (values.abs() <= full_scale), None, None


def calibrate_range(values: Tensor, converter: Converter) -> float:
    """The full scale a converter should have for data like ``values``.

    The largest magnitude; or the given percentile of the magnitudes (linear interpolation between
    neighbours; where that is zero because most values are, the largest); or that of the least mean square
    error, which ``"learned"`` starts from.  Never zero: data that is all zero, or below 1e-30, gives 1.0.

    Args:
        values: any shape, any size.
        converter: a Dac or Adc; its ``range`` and ``percentile`` decide.

    Raises:
        UsageError: empty data, NaN or infinite values.

    >>> from neurosim.devices import Dac
    >>> calibrate_range(torch.tensor([0.5, -2.0]), Dac(bits=8))
    2.0
    """
    if values.numel() == 0:
        raise UsageError("expected data to calibrate a converter on; got an empty tensor")
    magnitudes = values.detach().abs().reshape(-1)
    largest = float(magnitudes.amax())
    if not math.isfinite(largest):
        raise UsageError("expected finite data to calibrate a converter on; got NaN or infinite values")
    found = _RANGES[converter.range](magnitudes, largest, converter)
    if found < SMALLEST_RANGE:
        found = largest
    return found if found >= SMALLEST_RANGE else 1.0


_RANGES: dict[str, Callable[[Tensor, float, Converter], float]] = {
    "max": lambda magnitudes, largest, converter: largest,
    "percentile": lambda magnitudes, largest, converter: _percentile(magnitudes, converter.percentile),
    "min-error": lambda magnitudes, largest, converter: _least_error(magnitudes, largest, converter),
    # where gradients start
    "learned": lambda magnitudes, largest, converter: _least_error(magnitudes, largest, converter),
}
"""How a full scale is found, by the name that ``range`` takes."""


def _least_error(magnitudes: Tensor, largest: float, converter: Converter) -> float:
    if converter.bits is None or largest < SMALLEST_RANGE:
        return largest
    return least_error_range(magnitudes, converter.bits)


def _percentile(magnitudes: Tensor, percentile: float) -> float:
    """By selection and not torch.quantile, which sorts and refuses more than 16 million values."""
    position = percentile / 100 * (magnitudes.numel() - 1)
    below = math.floor(position)
    above = min(below + 1, magnitudes.numel() - 1)
    data = magnitudes.to("cpu", torch.promote_types(magnitudes.dtype, torch.float32)).numpy()
    chosen = np.partition(data, (below, above))
    low, high = float(chosen[below]), float(chosen[above])
    return low + (high - low) * (position - below)


def _check_scale(full_scale: float | Tensor) -> None:
    if isinstance(full_scale, Tensor):
        right = bool(((full_scale > 0) & torch.isfinite(full_scale)).all())
    else:
        right = 0 < full_scale < math.inf
    if not right:
        raise UsageError(f"expected a finite full scale above 0; got full_scale={full_scale!r}")
