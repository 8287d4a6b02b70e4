"""The recurrence of :mod:`neurosim.models.spiking.constants` over all steps by torch operations.

What runs in float64 and wherever the kernels do not; gradients are written by hand, so that no
graph of single steps is kept.  Shapes and meaning as in :mod:`neurosim.models.spiking.kernels`, whose oracle
this is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neurosim.models.spiking import plain_loops
from neurosim.models.spiking.constants import Flag, Row
from neurosim.models.spiking.plain_loops import is_plain
from neurosim.models.spiking.series import Series, of_constants
from neurosim.models.spiking.surrogates import Surrogate

Kept = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor
]  # codes, potentials, adaptations, inputs, synaptic currents


def _rows(constants: Tensor) -> list[Tensor]:
    """Each constant as (chips, 1, N)."""
    return list(constants.unsqueeze(2).unbind(1))


class _Flight:
    """Spikes on their way, (C, B, N) a step: each neuron's arrive ``delays`` steps later."""

    def __init__(self, codes: Tensor, delays: Tensor, delayed: bool) -> None:
        self.codes, self.delays = codes, delays[:, None, :].to(torch.int64)
        self.delayed = delayed

    def due(self, t: int, dtype: torch.dtype) -> Tensor:
        """1 where a spike arrives in step ``t``."""
        if not self.delayed:
            return (self.codes[:, :, t - 1] == 1).to(dtype)
        sent = t - self.delays
        at = sent.clamp(min=0).expand(-1, self.codes.shape[1], -1)
        found = self.codes.gather(2, at.unsqueeze(2)).squeeze(2) == 1
        return (found & (sent >= 0)).to(dtype)


def forward(
    currents: Tensor,
    weight: Tensor,
    constants: Tensor,
    blocked: Tensor,
    delays: Tensor,
    flags: Flag,
    out: tuple[Tensor, ...],
) -> None:
    """Fill spikes and what is kept for backward, (C, B, T, N) each; no steps stand for what is not."""
    if not is_plain(flags) or out[4].shape[2]:
        _forward(currents, weight, constants, blocked, delays, flags, out)
        return
    spikes, codes, potentials = (one.permute(2, 0, 1, 3) for one in out[:3])
    given = currents.permute(2, 0, 1, 3)
    plain_loops.forward(given, weight, constants, spikes, potentials if len(potentials) else None)
    if len(codes):
        codes.copy_(spikes)


def _forward(  # noqa: C901
    currents: Tensor,
    weight: Tensor,
    constants: Tensor,
    blocked: Tensor,
    delays: Tensor,
    flags: Flag,
    out: tuple[Tensor, ...],
) -> None:
    """For any neuron."""
    spikes, codes, potentials, adaptations, inputs, synaptic = out
    keep, keep_inputs = potentials.shape[2] > 0, inputs.shape[2] > 0
    chips, samples, steps, size = currents.shape
    k = _rows(constants)
    recurrent = weight.shape[1] > 0
    weight_t = weight.transpose(1, 2)
    codes = codes.zero_() if keep else torch.zeros_like(spikes, dtype=torch.uint8)
    flight = _Flight(codes, delays, bool(flags & Flag.DELAYED))
    v = k[Row.INITIAL].expand(chips, samples, size).clone()
    spike, current, b = torch.zeros_like(v), torch.zeros_like(v), torch.zeros_like(v)
    left = torch.zeros_like(v, dtype=torch.int32)
    level, leaks = k[Row.THRESHOLD], bool(constants[:, Row.LEAK].any())
    for t in range(steps):
        total = currents[:, :, t]
        if recurrent and t > 0:
            arrived = spike if not flight.delayed else flight.due(t, total.dtype)
            total = torch.baddbmm(total, arrived, weight_t)
        if keep_inputs:
            inputs[:, :, t] = total
        if flags & Flag.SYNAPSE:
            current.mul_(k[Row.SYN_DECAY]).addcmul_(k[Row.SYN_GAIN], total)
            total = current
            if keep_inputs:
                synaptic[:, :, t] = current
        if flags & Flag.ADAPTIVE:
            b.mul_(k[Row.ADA_DECAY]).addcmul_(1 - k[Row.ADA_DECAY], spike)
            level = torch.addcmul(k[Row.THRESHOLD], k[Row.ADA_GAIN], b)
            if keep:
                adaptations[:, :, t] = b
        if not flags & Flag.SUBTRACT:
            v = torch.where(spike > 0, k[Row.RESET], v)
        v.mul_(k[Row.DECAY]).addcmul_(k[Row.GAIN], total)
        if leaks:
            v.add_(k[Row.LEAK])
        if flags & Flag.SUBTRACT:
            v.addcmul_(spike, level, value=-1)
        fires = v > level
        if flags & Flag.REFRACTORY:
            free = left == 0
            if not flags & Flag.SUBTRACT:
                v = torch.where(free, v, k[Row.RESET])
                fires = v > level
            fires = fires & free
            left = torch.where(fires, blocked[:, None, :], (left - 1).clamp_(min=0)).to(torch.int32)
            codes[:, :, t] = torch.where(free, fires, 2)
        else:
            codes[:, :, t] = fires
        spike = spikes[:, :, t].copy_(fires)
        if keep:
            potentials[:, :, t] = v


def backward(
    grad_spikes: Tensor,
    weight: Tensor,
    constants: Tensor,
    delays: Tensor,
    flags: Flag,
    surrogate: Surrogate,
    kept: Kept,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of currents, of the weight and of the constants; empty ones where not wanted."""
    if wanted[2] or not is_plain(flags):
        return _backward(grad_spikes, weight, constants, delays, flags, surrogate, kept, wanted)
    grad, codes, potentials = (one.permute(2, 0, 1, 3) for one in (grad_spikes, *kept[:2]))
    grad_currents = torch.empty(grad.shape, dtype=grad.dtype, device=grad.device)
    grad_weight = torch.zeros_like(weight) if wanted[1] and weight.shape[1] else None
    plain_loops.backward(
        grad, weight, constants, surrogate, bool(flags & Flag.DETACHED), codes, potentials, grad_currents,
        grad_weight,
    )  # fmt: skip
    of_weight = weight[:, :0] if grad_weight is None else grad_weight
    return grad_currents.permute(1, 2, 0, 3), of_weight, constants[:, :0]


def _backward(  # noqa: C901
    grad_spikes: Tensor,
    weight: Tensor,
    constants: Tensor,
    delays: Tensor,
    flags: Flag,
    surrogate: Surrogate,
    kept: Kept,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """For any neuron."""
    codes, potentials, adaptations, _, _ = kept
    chips, samples, steps, size = grad_spikes.shape
    k = _rows(constants)
    zero = torch.zeros(chips, samples, size, dtype=grad_spikes.dtype, device=grad_spikes.device)
    grad_currents = torch.empty_like(grad_spikes)
    series = Series.empty(grad_spikes, flags) if wanted[2] else None
    recurrent, adaptive = weight.shape[1] > 0, bool(flags & Flag.ADAPTIVE)
    subtract, detached = bool(flags & Flag.SUBTRACT), bool(flags & Flag.DETACHED)
    delayed, refractory = bool(flags & Flag.DELAYED), bool(flags & Flag.REFRACTORY)
    flight = _Flight(codes, delays, delayed)
    longest = int(delays.max()) if delayed else 1
    returned = [zero.clone() for _ in range(longest)]
    d_v, d_i, d_b, d_level, level_next = zero, zero, zero, zero, k[Row.THRESHOLD]
    fired = (codes[:, :, steps - 1] == 1).to(zero.dtype) if steps else zero
    for t in reversed(range(steps)):
        v, level = potentials[:, :, t], k[Row.THRESHOLD]
        g_spike = grad_spikes[:, :, t] + returned[t % longest]
        if adaptive:
            level = torch.addcmul(level, k[Row.ADA_GAIN], adaptations[:, :, t])
            g_spike.addcmul_(1 - k[Row.ADA_DECAY], d_b)
        after = k[Row.DECAY] * d_v
        if subtract:
            if not detached:
                g_spike.addcmul_(d_v, level_next, value=-1)
        else:
            if not detached:
                g_spike.addcmul_(after, k[Row.RESET] - v)
            after = after * (1 - fired)
        x = v - level
        slope = surrogate.slope(x / level if surrogate.relative else x)
        if surrogate.relative:
            slope = slope / level
        held = codes[:, :, t] == 2 if refractory else None
        if held is not None:
            slope = slope.masked_fill(held, 0.0)
        d_v = torch.addcmul(after, g_spike, slope)
        before = (codes[:, :, t - 1] == 1).to(zero.dtype) if t else zero
        if adaptive or wanted[2]:
            d_level = -g_spike * slope
            if surrogate.relative:
                d_level = d_level * v / level
            if subtract:
                d_level = torch.addcmul(d_level, d_v, before, value=-1)
            d_b = k[Row.ADA_DECAY] * d_b + k[Row.ADA_GAIN] * d_level
        if series is not None:
            series.potentials[:, :, t] = d_v
            series.thresholds[:, :, t] = d_level
            if adaptive:
                series.adaptations[:, :, t] = d_b
        if held is not None and not subtract:
            d_v = d_v.masked_fill(held, 0.0)
        d_u = k[Row.GAIN] * d_v
        if flags & Flag.SYNAPSE:
            d_i = torch.addcmul(d_u, k[Row.SYN_DECAY], d_i)
            d_u = k[Row.SYN_GAIN] * d_i
            if series is not None:
                series.currents[:, :, t] = d_i
        grad_currents[:, :, t] = d_u
        level_next = level
        fired = before
        if recurrent and t > 0:
            product = torch.bmm(d_u, weight)
            if delayed:
                _send_back(returned, product, flight.delays, t)
            else:
                returned[0] = product
    of_weight = weight_gradient(grad_currents, weight, codes, delays, flags, wanted[1])
    summed = constants[:, :0] if series is None else of_constants(series, constants, flags, kept)
    return grad_currents, of_weight, summed


def _send_back(returned: list[Tensor], product: Tensor, delays: Tensor, t: int) -> None:
    """Each neuron's share to the step in which its spike was sent."""
    longest = len(returned)
    for d in range(1, longest + 1):
        if t - d >= 0:
            slot = (t - d) % longest
            returned[slot] = torch.where(delays == d, product, returned[slot])


def weight_gradient(
    deltas: Tensor, weight: Tensor, codes: Tensor, delays: Tensor, flags: Flag, wanted: bool = True
) -> Tensor:
    """Σ over steps and samples of delta ⊗ spike; no rows where nobody wants it or nothing is recurrent."""
    chips, _, steps, size = deltas.shape
    if not wanted or not weight.shape[1]:
        return weight[:, :0]
    flight = _Flight(codes, delays, bool(flags & Flag.DELAYED))
    if not flight.delayed:
        arrived = (codes[:, :, :-1] == 1).to(deltas.dtype).reshape(chips, -1, size)
        return torch.bmm(deltas[:, :, 1:].reshape(chips, -1, size).transpose(1, 2), arrived)
    total = torch.zeros_like(weight)
    for t in range(1, steps):
        total.baddbmm_(deltas[:, :, t].transpose(1, 2), flight.due(t, deltas.dtype))
    return total


def leak_forward(x: Tensor, decay: Tensor) -> Tensor:
    """y[t] = decay·y[t − 1] + x[t] for (C, B, T, N) and decay (C, N)."""
    out = torch.empty_like(x)
    a = decay[:, None, :]
    y = torch.zeros_like(x[:, :, 0]) if x.shape[2] else x
    for t in range(x.shape[2]):
        y = torch.addcmul(x[:, :, t], a, y)
        out[:, :, t] = y
    return out


def leak_backward(grad: Tensor, decay: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of decay."""
    out = torch.empty_like(grad)
    a = decay[:, None, :]
    g = torch.zeros_like(grad[:, :, 0]) if grad.shape[2] else grad
    for t in reversed(range(grad.shape[2])):
        g = torch.addcmul(grad[:, :, t], a, g)
        out[:, :, t] = g
    return out, decay_gradient(out, y)


def decay_gradient(of_x: Tensor, y: Tensor) -> Tensor:
    """That of the decay, (C, N), from the gradient of x at every step."""
    return (of_x[:, :, 1:] * y[:, :, :-1]).sum((1, 2))
