"""Both legs of differential pairs together: from weights to what is left of them on chips.

The definition is :class:`neurosim.devices.mappings.OneSidedPair` and a device's ``program`` and ``age`` on
each leg.  Where memory is the bottleneck, one kernel does it all in a pass: :data:`FUSED`, one row a device,
equal to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neurosim.devices.device import Device, check_time, fusable
from neurosim.devices.kernels import age_pcm_pair, program_pcm_difference, program_pcm_pair
from neurosim.devices.mapping import to_fractions
from neurosim.devices.mappings import OneSidedPair
from neurosim.devices.pcm import Pcm
from neurosim.random import Draws, follow_torch_threads

Draw = tuple[Draws, Draws]


class Pair(NamedTuple):
    """Programmed pairs of devices on some chips.

    Attributes:
        legs: the state of each leg's devices, as ``Device.program`` returns it, entries (chips, *shape).
        fresh: (g+ − g−)/(g_max − g_min) right after programming, (chips, *shape).
        scale: from there to units of the weight, () or (outputs, 1, …).
    """

    legs: tuple[dict[str, Tensor], dict[str, Tensor]]
    fresh: Tensor
    scale: Tensor


def program_pair(
    device: Device, weight: Tensor, scaling: Literal["per-layer", "per-column"], draws: Draw
) -> Pair:
    """Write a weight, (outputs, …), into pairs of devices on the chips of ``draws``, one of each leg.

    Raises:
        UsageError: as :func:`to_conductances`.

    >>> from neurosim.devices import Ideal
    >>> legs = Draws(0, (0, 1), "w+"), Draws(0, (0, 1), "w-")
    >>> program_pair(Ideal(), torch.tensor([[1.0, -0.5]]), "per-layer", legs).fresh.tolist()
    [[[1.0, -0.5]], [[1.0, -0.5]]]
    """
    x, scale = to_fractions(weight, scaling)
    return Pair(*program_fractions(device, x, draws), scale)


def program_fractions(
    device: Device, x: Tensor, draws: Draw
) -> tuple[tuple[dict[str, Tensor], dict[str, Tensor]], Tensor]:
    """``legs`` and ``fresh`` of one-sided pairs that should hold ``x``, fractions of full scale."""
    fused = FUSED.get(type(device))
    if fused is not None and fusable(x) and x.numel():
        both, fresh = fused[0](device, x.contiguous(), draws)
        return both, fresh
    plus, minus = OneSidedPair().targets(x, device)
    legs = device.program(plus, draws[0]), device.program(minus, draws[1])
    return legs, difference(device, legs[0]["g_siemens"], legs[1]["g_siemens"])


def age_pair(device: Device, pair: Pair, time_s: float, draws: Draw) -> Tensor:
    """(g+ − g−)/(g_max − g_min) at an age, (chips, *shape)."""
    if check_time(time_s) == 0.0:
        return pair.fresh
    fused = FUSED.get(type(device))
    if fused is not None and pair.fresh.numel() and fusable(*pair.legs[0].values(), *pair.legs[1].values()):
        return fused[1](device, pair, time_s, draws)
    plus, minus = (device.age(leg, time_s, draw) for leg, draw in zip(pair.legs, draws, strict=True))
    return difference(device, plus, minus)


def program_difference(device: Device, x: Tensor, draws: Draw) -> Tensor | None:
    """``fresh`` of :func:`program_fractions`, which autograd follows, in one pass over memory.

    For training, where chips are programmed anew in every step and never age; None for devices without such a
    kernel, or off the CPU.
    """
    ours = type(device) is Pcm and x.device.type == "cpu" and x.dtype == torch.float32
    if not ours or not x.numel():
        return None
    return cast(Tensor, _PcmDifference.apply(x.contiguous(), device, draws))


class _PcmDifference(torch.autograd.Function):
    """(g+ − g−)/(g_max − g_min) of programmed devices as a function of fractions of full conductance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: Pcm, draws: Draw) -> Tensor:
        chips = draws[0].chips
        fresh = torch.empty(len(chips), *x.shape)
        slope = torch.empty_like(fresh)
        most, _, c0, c1, c2, *_ = device.programming_constants()
        low, span = device.g_min_siemens, device.g_max_siemens - device.g_min_siemens
        follow_torch_threads()
        program_pcm_difference(
            x.detach().reshape(-1).numpy(), fresh.flatten(1).numpy(), slope.flatten(1).numpy(),
            np.array(chips, np.int64), np.concatenate([one.keys("programming") for one in draws]),
            np.float32(low), np.float32(span), most, c0, c1, c2,
        )  # fmt: skip
        ctx.save_for_backward(slope)
        return fresh

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (grads[0] * slope).sum(0), None, None


def difference(device: Device, plus: Tensor, minus: Tensor) -> Tensor:
    """(g+ − g−)/(g_max − g_min)."""
    return (plus - minus) * (1.0 / (device.g_max_siemens - device.g_min_siemens))


def _program_pcm(device: Device, x: Tensor, draws: Draw) -> tuple[Any, Tensor]:
    assert isinstance(device, Pcm)
    chips, count = draws[0].chips, x.numel()
    g = torch.empty(2, len(chips), count)
    nu, fresh = torch.empty_like(g), torch.empty(len(chips), count)
    keys = np.concatenate([one.keys("programming", "drift") for one in draws])
    low, span = device.g_min_siemens, device.g_max_siemens - device.g_min_siemens
    follow_torch_threads()
    program_pcm_pair(
        x.reshape(-1).numpy(), g.numpy(), nu.numpy(), fresh.numpy(), np.array(chips, np.int64), keys,
        np.float32(low), np.float32(span), *device.programming_constants(),
    )  # fmt: skip
    shape = (len(chips), *x.shape)
    legs = tuple(
        {"g_siemens": g[leg].reshape(shape), "drift_exponent": nu[leg].reshape(shape)} for leg in (0, 1)
    )
    return legs, fresh.reshape(shape)


def _age_pcm(device: Device, pair: Pair, time_s: float, draws: Draw) -> Tensor:
    assert isinstance(device, Pcm)
    chips = draws[0].chips
    g, nu = (_both(pair, key) for key in ("g_siemens", "drift_exponent"))
    out = torch.empty(len(chips), g.shape[2])
    keys = np.concatenate([one.keys(f"read-noise@{time_s!r}") for one in draws])
    inv_span = np.float32(1.0 / (device.g_max_siemens - device.g_min_siemens))
    follow_torch_threads()
    age_pcm_pair(
        g.numpy(), nu.numpy(), out.numpy(), np.array(chips, np.int64), keys, inv_span,
        *device.ageing_constants(time_s),
    )  # fmt: skip
    return out.reshape(pair.fresh.shape)


def _both(pair: Pair, key: str) -> Tensor:
    """An entry of both legs as (2, chips, devices); without a copy where they lie side by side."""
    plus, minus = (leg[key].flatten(1) for leg in pair.legs)
    size = plus.numel()
    beside = plus.is_contiguous() and minus.is_contiguous() and (
        minus.data_ptr() == plus.data_ptr() + size * plus.element_size()
        and plus.untyped_storage().data_ptr() == minus.untyped_storage().data_ptr()
    )  # fmt: skip
    if beside:
        return plus.as_strided((2, *plus.shape), (size, plus.shape[1], 1))
    return torch.stack([plus, minus])


FUSED: dict[type[Device], tuple[Callable[..., Any], Callable[..., Tensor]]] = {
    Pcm: (_program_pcm, _age_pcm),
}
