"""Analog-to-digital converters that are not ideal: successive approximation, ramp, pipeline.

All are sign-magnitude with L = 2^(bits−1) − 1 codes on each side, as :func:`neurosim.devices.quantise`: the
sign is found first, the magnitude then.  What is mismatched is drawn once per chip and converter and never
again.  With u = |v|·L/full_scale the magnitude in steps, and without mismatch, all give round(u).  One row of
:data:`ADCS` an architecture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurosim.devices.converters import quantise
from neurosim.devices.hardware import Adc
from neurosim.random import Draws


class Columns(NamedTuple):
    """Which converter, and which ramp, each column of a part has.

    Attributes:
        adc: number of the converter, (columns,).
        tile: number of the tile, (columns,).
    """

    adc: Tensor
    tile: Tensor


def columns_of(col_ranges: tuple[tuple[int, int], ...], adc: Adc) -> Columns:
    """The converters of the columns of each tile, ``adc.columns_per_adc`` neighbours to one.

    >>> columns_of(((0, 3), (3, 5)), Adc(bits=8, columns_per_adc=2)).adc.tolist()
    [0, 0, 1, 2, 2]
    """
    converters, tiles, before = [], [], 0
    for tile, (left, right) in enumerate(col_ranges):
        own = [before + column // adc.columns_per_adc for column in range(right - left)]
        converters += own
        tiles += [tile] * (right - left)
        before = own[-1] + 1
    return Columns(torch.tensor(converters), torch.tensor(tiles))


class Architecture(ABC):
    """What an architecture draws, and how it turns magnitudes into codes."""

    @staticmethod
    @abstractmethod
    def drawn(adc: Adc, columns: Columns, draws: Draws, part: int) -> dict[str, Tensor]:
        """What differs between converters: entries (chips, 1, columns, …)."""

    @staticmethod
    @abstractmethod
    def codes(u: Tensor, negative: Tensor, adc: Adc, state: dict[str, Tensor]) -> Tensor:
        """Codes of magnitudes.

        Args:
            u: magnitudes in steps, (chips, vectors, columns).
            negative: where the sign is minus.
            adc: the description.
            state: what :meth:`drawn` gave.
        """


class Uniform(Architecture):
    """round(u), ties to even."""

    @staticmethod
    def drawn(adc: Adc, columns: Columns, draws: Draws, part: int) -> dict[str, Tensor]:
        return {}

    @staticmethod
    def codes(u: Tensor, negative: Tensor, adc: Adc, state: dict[str, Tensor]) -> Tensor:
        return u.round()


class Sar(Architecture):
    """Successive approximation with binary-weighted capacitors.

    Capacitor k of n = bits − 1 has 2^k units: w_k = 2^k·(1 + σ·2^(−k/2)·N(0, 1)).  Charge redistribution
    compares u with the capacitors switched on, as a fraction of all::

        V(code) = L·Σ_k bit_k·w_k / Σ_k w_k        bit_k = 1 if u + 1/2 ≥ V(bits above k, and k)

    from the largest to the smallest.  INL at a code m of L has the variance σ²·m·(1 − m/L) steps², at most
    σ²·L/4 (M. Saberi et al., Analysis of power consumption and linearity in capacitive digital-to-analog
    converters used in successive approximation ADCs, IEEE TCAS-I 58, 2011: σ_INL = σ·2^(n/2)/2).  Not
    modelled: settling, comparator noise (see ``array.output_noise_std``), parasitic and bridge capacitors.
    """

    @staticmethod
    def drawn(adc: Adc, columns: Columns, draws: Draws, part: int) -> dict[str, Tensor]:
        assert adc.bits is not None
        count = adc.bits - 1
        units = 2.0 ** torch.arange(count)
        n = draws.normal(f"adc capacitors[{part}]", (_converters(columns), count))
        units = units.to(n)
        capacitors = units + adc.capacitor_std * units.sqrt() * n
        weights = capacitors * (units.sum() / capacitors.sum(-1, keepdim=True))
        return {"weights": weights[:, columns.adc.to(n.device)].unsqueeze(1)}

    @staticmethod
    def codes(u: Tensor, negative: Tensor, adc: Adc, state: dict[str, Tensor]) -> Tensor:
        weights = state["weights"].to(u)
        reached, code, wanted = torch.zeros_like(u), torch.zeros_like(u), u + 0.5
        for k in range(weights.shape[-1] - 1, -1, -1):
            trial = reached + weights[..., k]
            on = wanted >= trial
            reached = torch.where(on, trial, reached)
            code += on * float(2**k)
        return code


class Ramp(Architecture):
    """A ramp shared by the columns of a tile, a comparator for each converter.

        code = round((1 + g)·u + 4·bow·L·t·(1 − t) ± o)        t = u/L

    g is the slope error of the tile's ramp, o the offset of the comparator, in steps; the offset has the
    sign of the input.  Not modelled: the steps of a stepped ramp, jitter of its clock.
    """

    @staticmethod
    def drawn(adc: Adc, columns: Columns, draws: Draws, part: int) -> dict[str, Tensor]:
        tiles = int(columns.tile.max()) + 1
        slope = draws.normal(f"adc ramp[{part}]", (tiles,))
        offset = draws.normal(f"adc comparators[{part}]", (_converters(columns),))
        place = slope.device
        return {
            "slope": 1.0 + adc.gain_std * slope[:, columns.tile.to(place)].unsqueeze(1),
            "offset": adc.offset_std * offset[:, columns.adc.to(place)].unsqueeze(1),
        }

    @staticmethod
    def codes(u: Tensor, negative: Tensor, adc: Adc, state: dict[str, Tensor]) -> Tensor:
        seen = u * state["slope"].to(u)
        if adc.nonlinearity:
            t = u * (1.0 / _levels(adc))
            seen = seen + 4.0 * adc.nonlinearity * _levels(adc) * t * (1.0 - t)
        offset = state["offset"].to(u)
        return (seen + torch.where(negative, -offset, offset)).round()


class Pipeline(Architecture):
    """One bit a stage, n = bits − 1 stages; an amplifier doubles what is left over for the next.

        r_0 = (u + 1/2)/2^n      d_k = 1 if r_k ≥ 1/2      r_(k+1) = 2(1 + g_k)·(r_k − d_k/2) + o_k/2^n
        code = Σ_k d_k·2^(n−1−k)

    g_k is the gain error of the residue amplifier of stage k, o_k its offset in steps of the code.  A stage
    has no redundant levels and nothing is calibrated: the effect of an error is the raw one (W. Kester, ed.,
    Data Conversion Handbook, Analog Devices 2005, ch. 3).  Not modelled: sub-ADC offsets apart from o_k,
    settling, droop.
    """

    @staticmethod
    def drawn(adc: Adc, columns: Columns, draws: Draws, part: int) -> dict[str, Tensor]:
        assert adc.bits is not None
        shape, place = (_converters(columns), adc.bits - 1), columns.adc
        gain = draws.normal(f"adc stage gains[{part}]", shape)
        offset = draws.normal(f"adc stage offsets[{part}]", shape)
        place = place.to(gain.device)
        return {
            "gain": 2.0 * (1.0 + adc.gain_std * gain[:, place].unsqueeze(1)),
            "offset": (adc.offset_std / 2.0 ** (adc.bits - 1)) * offset[:, place].unsqueeze(1),
        }

    @staticmethod
    def codes(u: Tensor, negative: Tensor, adc: Adc, state: dict[str, Tensor]) -> Tensor:
        gain, offset = state["gain"].to(u), state["offset"].to(u)
        stages = gain.shape[-1]
        left, code = (u + 0.5) * 2.0**-stages, torch.zeros_like(u)
        for k in range(stages):
            on = left >= 0.5
            code += on * float(2 ** (stages - 1 - k))
            left = gain[..., k] * (left - 0.5 * on) + offset[..., k]
        return code


ADCS: dict[str, type[Architecture]] = {"uniform": Uniform, "sar": Sar, "ramp": Ramp, "pipeline": Pipeline}
"""Every architecture, by the name that ``adc.kind`` takes."""


def convert(values: Tensor, full_scale: float | Tensor, adc: Adc, state: dict[str, Tensor]) -> Tensor:
    """What a converter makes of ``values``, in their units: codes times the step.

    Args:
        values: (chips, vectors, columns).
        full_scale: as for :func:`neurosim.devices.quantise`.
        adc: the description, with bits.
        state: of these chips, as the architecture's ``drawn`` gave it.

    Returns:
        Values within ±full_scale.  The gradient is straight-through: 1 inside the range, 0 outside.

    >>> mismatch = Draws(0, (0,), "layer")
    >>> adc = Adc(bits=8, kind="sar", capacitor_std=0.02)
    >>> state = ADCS["sar"].drawn(adc, columns_of(((0, 1),), adc), mismatch, 0)
    >>> convert(torch.tensor([[[0.5]]]), 1.0, adc, state).shape
    torch.Size([1, 1, 1])
    """
    if not adc.mismatched:
        return quantise(values, full_scale, adc.bits)
    found: Tensor = _Convert.apply(values, full_scale, adc, state)
    return found


class _Convert(torch.autograd.Function):
    """Codes with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, full_scale: Any, adc: Adc, state: dict[str, Tensor]) -> Tensor:
        levels = _levels(adc)
        u = (values.abs() * (levels / full_scale)).clamp(max=levels)
        codes = ADCS[adc.kind].codes(u, values < 0, adc, state).clamp(0.0, levels)
        ctx.number = None if isinstance(full_scale, Tensor) else full_scale
        ctx.save_for_backward(values, *(() if ctx.number is not None else (full_scale,)))
        found = torch.copysign(codes * (full_scale / levels), values)
        return torch.where(values.isnan(), values, found)  # a comparison would hide it

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        values, *saved = ctx.saved_tensors
        full_scale = saved[0] if saved else ctx.number
        return grads[0] * (values.abs() <= full_scale), None, None, None


def _levels(adc: Adc) -> float:
    assert adc.bits is not None
    return float(2 ** (adc.bits - 1) - 1)


def _converters(columns: Columns) -> int:
    return int(columns.adc.max()) + 1
