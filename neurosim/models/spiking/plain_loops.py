"""The recurrence by torch operations where it is a membrane and a subtraction, which is most of all LIFs.

As :mod:`neurosim.models.spiking.loops`, without synapse, adaptation, refractory time and delays, so that
everything but the recurrence itself is folded into numbers that do not change from step to step::

    v[t] = α·v[t−1] + (g·u[t] + l) + A·s[t−1]                A = diag(g)·W − diag(θ)
    e[t] = α·e[t+1] + p[t]·(∂s[t] + e[t+1]·E)                E = W − diag(θ/g),  p[t] = g·∂s/∂v[t]

with e the gradient of u.  A step is three operations either way; what does not wait for the step before is
computed for some steps at once, as many as stay in the cache.  Buffers have time first: the samples of a step
lie together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurosim.models.spiking.constants import Flag, Row
from neurosim.models.spiking.surrogates import Surrogate

_WINDOW = {"cpu": 1 << 17}  # numbers that are computed at once: what a core's cache holds
_ELSEWHERE = 1 << 22  # where launches cost more than memory
_OTHERS = Flag.SYNAPSE | Flag.ADAPTIVE | Flag.REFRACTORY | Flag.DELAYED


def is_plain(flags: Flag) -> bool:
    """Whether a neuron is a membrane and a subtraction."""
    return bool(flags & Flag.SUBTRACT) and not flags & _OTHERS


def forward(
    currents: Tensor, weight: Tensor, constants: Tensor, spikes: Tensor, potentials: Tensor | None
) -> None:
    """Fill spikes and, where there is room for them, potentials.

    Args:
        currents, spikes, potentials: (T, C, B, N), the latter two contiguous.
        weight: (C, N, N), or (C, 0, 0).
        constants: (C, rows, N).
    """
    decay, gain, leak, threshold = (
        _row(constants, r) for r in (Row.DECAY, Row.GAIN, Row.LEAK, Row.THRESHOLD)
    )
    folded = _folded(weight, gain, threshold).transpose(1, 2).contiguous()  # products are faster so
    step = _window(currents)
    scratch = torch.empty_like(spikes[:step])
    v, s = _row(constants, Row.INITIAL).expand(currents.shape[1:]), None
    for low in range(0, len(currents), step):
        here = slice(low, low + step)
        driven = scratch[: len(currents[here])] if potentials is None else potentials[here]
        v = v.clone()  # that of the last step, whose place may be taken
        torch.addcmul(leak, currents[here], gain, out=driven)
        for drive, fires in zip(driven.unbind(0), spikes[here].unbind(0), strict=True):
            drive.addcmul_(decay, v)
            if s is not None:
                _react(drive, s, folded, threshold)
            torch.gt(drive, threshold, out=fires)
            v, s = drive, fires


def _react(v: Tensor, spikes: Tensor, folded: Tensor, threshold: Tensor) -> None:
    """What the spikes of the step before do to the potential."""
    if folded.shape[1]:
        v.baddbmm_(spikes, folded)
    else:
        v.addcmul_(spikes, threshold, value=-1)


def backward(
    grad_spikes: Tensor,
    weight: Tensor,
    constants: Tensor,
    surrogate: Surrogate,
    detached: bool,
    codes: Tensor,
    potentials: Tensor,
    grad_currents: Tensor,
    grad_weight: Tensor | None,
) -> None:
    """Fill the gradient of currents and, where it is wanted, add to that of the weight.

    Args:
        grad_spikes, codes, potentials, grad_currents: (T, C, B, N), the last contiguous.
        weight, grad_weight: (C, N, N); constants: (C, rows, N).
        surrogate: the derivative of a spike.
        detached: whether the gradient leaves resets out.
    """
    decay, gain, threshold = (_row(constants, r) for r in (Row.DECAY, Row.GAIN, Row.THRESHOLD))
    ratio = torch.where(gain == 0, 0, threshold / gain) * (0 if detached else 1)
    folded = _folded(weight, torch.ones_like(gain), ratio)
    step, back = _window(potentials), torch.empty_like(grad_currents[0])
    after: Tensor | None = None
    for low in reversed(range(0, len(potentials), step)):
        here = slice(low, low + step)
        slopes = _slopes(potentials[here], threshold, gain, surrogate)
        deltas = torch.mul(slopes, grad_spikes[here], out=grad_currents[here])
        for delta, slope in reversed(list(zip(deltas.unbind(0), slopes.unbind(0), strict=True))):
            if after is not None:
                delta.addcmul_(decay, after)
                delta.addcmul_(slope, _returned(after, folded, ratio, back))
            after = delta
        if grad_weight is not None:
            _add_weight(grad_weight, grad_currents, codes, low, low + len(deltas))


def _returned(after: Tensor, folded: Tensor, ratio: Tensor, out: Tensor) -> Tensor:
    """The gradient of the spikes of a step by way of the step after."""
    if folded.shape[1]:
        return torch.bmm(after, folded, out=out)
    return torch.mul(after, -ratio, out=out)


def _slopes(v: Tensor, threshold: Tensor, gain: Tensor, surrogate: Surrogate) -> Tensor:
    """g·∂s/∂v of some steps."""
    x = v - threshold
    if not surrogate.relative:
        return surrogate.slope(x) * gain
    return surrogate.slope(x.div_(threshold)) * (gain / threshold)


def _add_weight(total: Tensor, deltas: Tensor, codes: Tensor, low: int, high: int) -> None:
    """Σ delta ⊗ spike over the samples of some steps, whose deltas are in the cache."""
    low = max(low, 1)
    arrived = codes[low - 1 : high - 1].to(deltas.dtype)
    given, taken = (one.transpose(0, 1).flatten(1, 2) for one in (deltas[low:high], arrived))
    total.baddbmm_(given.transpose(1, 2), taken)


def _row(constants: Tensor, row: Row) -> Tensor:
    """(C, 1, N)."""
    return constants[:, None, row]


def _folded(weight: Tensor, rows: Tensor, diagonal: Tensor) -> Tensor:
    """diag(rows)·W − diag(diagonal), or nothing where there is no weight."""
    if not weight.shape[1]:
        return weight
    return weight * rows.transpose(1, 2) - torch.diag_embed(diagonal[:, 0].expand(len(weight), -1))


def _window(x: Tensor) -> int:
    """How many steps at once."""
    return max(1, _WINDOW.get(x.device.type, _ELSEWHERE) // max(1, x.shape[1:].numel()))
