"""A spiking layer over all time steps on a GPU: one kernel forward, one backward.

Torch launches three kernels a step for the simplest neuron, and twenty for others; here the steps are a loop
inside one.  Forward a program runs a sample of a chip: its state stays in registers, and a step adds the row
of the weight of each neuron that has just spiked, in the order of the kernels for the CPU.  Backward a
program runs some samples of a chip, whose products share the loads of the weight.  What a program leaves for
itself (who has spiked, the gradient of a step) goes through memory, between barriers.

Only imported where Triton is installed, which comes with torch for CUDA on Linux.  float32, at most
:data:`WIDEST` neurons.  :mod:`neurosim.models.spiking.loops` has the same functions in torch.  Tests run
these kernels in Triton's interpreter and compile them for two generations of GPUs; they were not timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from neurosim.models.spiking.constants import Flag, Row
from neurosim.models.spiking.loops import Kept, decay_gradient, weight_gradient
from neurosim.models.spiking.series import Series, of_constants
from neurosim.models.spiking.surrogates import Surrogate

WIDEST = 1024
_BLOCK = 16  # samples of a program backward: the least that a product on tensor cores takes
_FORWARD = ("SYNAPSE", "ADAPTIVE", "SUBTRACT", "REFRACTORY", "DELAYED")  # flags that change spikes
_ROWS = tl.constexpr(len(Row))
# Row and Flag as the compiler wants them
_DECAY, _GAIN, _LEAK, _THRESHOLD = (
    tl.constexpr(int(r)) for r in (Row.DECAY, Row.GAIN, Row.LEAK, Row.THRESHOLD)
)
_INITIAL, _RESET, _SYN_DECAY = (tl.constexpr(int(r)) for r in (Row.INITIAL, Row.RESET, Row.SYN_DECAY))
_SYN_GAIN, _ADA_DECAY, _ADA_GAIN = (tl.constexpr(int(r)) for r in (Row.SYN_GAIN, Row.ADA_DECAY, Row.ADA_GAIN))


@triton.jit
def _weight_row(weight, events, at, n, real, size):  # type: ignore[no-untyped-def]
    """The row of the neuron that is event ``at``."""
    return tl.load(weight + tl.load(events + at) * size + n, mask=real, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def forward_kernel(  # type: ignore[no-untyped-def]  # noqa: C901
    currents, weight_t, constants, blocked, delays, events, spikes, codes, potentials, adaptations, inputs,
    synaptic, samples, steps, size, in_chip, in_sample, in_step, w_chip, out_chip, out_sample, out_step,
    SYNAPSE: tl.constexpr, ADAPTIVE: tl.constexpr, SUBTRACT: tl.constexpr, REFRACTORY: tl.constexpr,
    DELAYED: tl.constexpr, RECURRENT: tl.constexpr, CODES: tl.constexpr, KEEP: tl.constexpr,
    KEEP_INPUTS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """All steps of one sample of one chip."""
    task = tl.program_id(0).to(tl.int64)
    in_step, out_step = task * 0 + in_step, task * 0 + out_step  # 64 bits: steps lie far apart
    chip, sample = task // samples, task % samples
    n = tl.arange(0, WIDE)
    real = n < size
    k = constants + chip * _ROWS * size + n
    decay, gain = (
        tl.load(k + _DECAY * size, mask=real, other=0.0),
        tl.load(k + _GAIN * size, mask=real, other=0.0),
    )
    leak = tl.load(k + _LEAK * size, mask=real, other=0.0)
    threshold = tl.load(k + _THRESHOLD * size, mask=real, other=1.0)
    reset = tl.load(k + _RESET * size, mask=real, other=0.0)
    syn_decay = tl.load(k + _SYN_DECAY * size, mask=real, other=0.0)
    syn_gain = tl.load(k + _SYN_GAIN * size, mask=real, other=0.0)
    ada_decay = tl.load(k + _ADA_DECAY * size, mask=real, other=0.0)
    ada_gain = tl.load(k + _ADA_GAIN * size, mask=real, other=0.0)
    block = tl.load(blocked + chip * size + n, mask=real, other=0)
    delay = tl.load(delays + chip * size + n, mask=real, other=1)
    given = currents + chip * in_chip + sample * in_sample + n
    out = chip * out_chip + sample * out_sample + n
    weight_t += chip * w_chip
    v = tl.load(k + _INITIAL * size, mask=real, other=0.0)
    current, b, last, level = v * 0.0, v * 0.0, v * 0.0, threshold
    left = tl.zeros([WIDE], tl.int32)
    for t in range(steps):
        total = tl.load(given + t * in_step, mask=real, other=0.0)
        if RECURRENT:
            if DELAYED:
                tl.debug_barrier()  # spikes of earlier steps are in memory
                sent = t - delay
                due = tl.load(spikes + out + sent * out_step, mask=real & (sent >= 0), other=0.0) > 0.0
            else:
                due = last > 0.0
            arriving = due.to(tl.int32)
            count = tl.sum(arriving, 0)
            # two lists in turn: while some threads still read one, none writes it
            listed = events + (task * 2 + t % 2) * WIDE
            tl.store(listed + tl.cumsum(arriving, 0) - arriving, n, mask=due)
            tl.debug_barrier()
            whole = count - count % 4
            for e in range(0, whole, 4):
                first = _weight_row(weight_t, listed, e, n, real, size)
                second = _weight_row(weight_t, listed, e + 1, n, real, size)
                third = _weight_row(weight_t, listed, e + 2, n, real, size)
                fourth = _weight_row(weight_t, listed, e + 3, n, real, size)
                total += (first + second) + (third + fourth)
            for e in range(whole, count):
                total += _weight_row(weight_t, listed, e, n, real, size)
        at = out + t * out_step
        if KEEP_INPUTS:
            tl.store(inputs + at, total, mask=real)
        if SYNAPSE:
            current = syn_decay * current + syn_gain * total
            total = current
            if KEEP_INPUTS:
                tl.store(synaptic + at, current, mask=real)
        if ADAPTIVE:
            b = ada_decay * b + (1.0 - ada_decay) * last
            level = threshold + ada_gain * b
            if KEEP:
                tl.store(adaptations + at, b, mask=real)
        if SUBTRACT:
            v = decay * v + gain * total + leak - last * level
        else:
            v = decay * tl.where(last > 0.0, reset, v) + gain * total + leak
        if REFRACTORY:
            free = left == 0
            if not SUBTRACT:
                v = tl.where(free, v, reset)
            fires = (v > level) & free
            code = tl.where(fires, 1, tl.where(free, 0, 2))
            left = tl.where(fires, block, tl.maximum(left - 1, 0))
        else:
            fires = v > level
            code = fires.to(tl.int32)
        last = fires.to(tl.float32)
        tl.store(spikes + at, last, mask=real)
        if CODES:
            tl.store(codes + at, code.to(tl.uint8), mask=real)
        if KEEP:
            tl.store(potentials + at, v, mask=real)


@triton.jit  # type: ignore[untyped-decorator]
def _slope(x, height, steepness, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """The surrogate of that number in :data:`neurosim.models.spiking.surrogates.KINDS`."""
    if KIND == 0:
        return height * tl.maximum(1.0 - steepness * tl.abs(x), 0.0)
    elif KIND == 1:
        root = 1.0 + steepness * tl.abs(x)
        return height / (root * root)
    elif KIND == 2:
        return height / (1.0 + steepness * x * steepness * x)
    else:
        return height * tl.exp(-steepness * tl.abs(x))


@triton.jit  # type: ignore[untyped-decorator]
def _product(deltas, weight, row, here, n, real, size, CHUNK: tl.constexpr, WIDE: tl.constexpr,  # type: ignore[no-untyped-def]
             BLOCK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """(samples, N)·(N, N), some rows of the weight at a time."""
    total = tl.zeros([BLOCK, WIDE], tl.float32)
    for low in range(0, size, CHUNK):
        j = low + tl.arange(0, CHUNK)
        of_sample = tl.load(
            deltas + row[:, None] + j[None, :], mask=here[:, None] & (j < size)[None, :], other=0.0
        )
        of_weight = tl.load(
            weight + j[:, None] * size + n[None, :], mask=(j < size)[:, None] & real[None, :], other=0.0
        )
        total = tl.dot(of_sample, of_weight, total, input_precision=PRECISION)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def backward_kernel(  # type: ignore[no-untyped-def]  # noqa: C901
    grad_spikes, weight, constants, delays, codes, potentials, adaptations, flying, grad_currents, series_v,
    series_i, series_b, series_level, samples, steps, size, longest, height, steepness,
    in_chip, in_sample, in_step, kept_chip, kept_sample, kept_step, w_chip, out_chip, out_sample, out_step,
    SYNAPSE: tl.constexpr, ADAPTIVE: tl.constexpr, SUBTRACT: tl.constexpr, REFRACTORY: tl.constexpr,
    DELAYED: tl.constexpr, DETACHED: tl.constexpr, RELATIVE: tl.constexpr, KIND: tl.constexpr,
    RECURRENT: tl.constexpr, SERIES: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All steps of some samples of one chip, from the last to the first."""
    blocks = tl.cdiv(samples, BLOCK)
    task = tl.program_id(0).to(tl.int64)
    in_step, kept_step, out_step = task * 0 + in_step, task * 0 + kept_step, task * 0 + out_step  # 64 bits
    chip, low = task // blocks, (task % blocks) * BLOCK
    n = tl.arange(0, WIDE)
    line = tl.arange(0, BLOCK)
    sample = low + line
    here, real = sample < samples, n < size
    mask = here[:, None] & real[None, :]
    k = constants + chip * _ROWS * size + n
    decay = tl.load(k + _DECAY * size, mask=real, other=0.0)[None, :]
    gain = tl.load(k + _GAIN * size, mask=real, other=0.0)[None, :]
    threshold = tl.load(k + _THRESHOLD * size, mask=real, other=1.0)[None, :]
    reset = tl.load(k + _RESET * size, mask=real, other=0.0)[None, :]
    syn_decay = tl.load(k + _SYN_DECAY * size, mask=real, other=0.0)[None, :]
    syn_gain = tl.load(k + _SYN_GAIN * size, mask=real, other=0.0)[None, :]
    ada_decay = tl.load(k + _ADA_DECAY * size, mask=real, other=0.0)[None, :]
    ada_gain = tl.load(k + _ADA_GAIN * size, mask=real, other=0.0)[None, :]
    delay = tl.load(delays + chip * size + n, mask=real, other=1)[None, :]
    weight += chip * w_chip
    given = chip * in_chip + sample[:, None] * in_sample + n[None, :]
    kept = chip * kept_chip + sample[:, None] * kept_sample + n[None, :]
    row = chip * out_chip + sample * out_sample
    out = row[:, None] + n[None, :]
    flight = flying + task * longest * BLOCK * WIDE + line[:, None] * WIDE + n[None, :]
    zeros = tl.zeros([BLOCK, WIDE], tl.float32)
    d_v, d_i, d_b, returned, level_next = zeros, zeros, zeros, zeros, zeros + threshold
    for back in range(steps):
        t = steps - 1 - back
        g_spike = tl.load(grad_spikes + given + t * in_step, mask=mask, other=0.0)
        v = tl.load(potentials + kept + t * kept_step, mask=mask, other=0.0)
        code = tl.load(codes + kept + t * kept_step, mask=mask, other=0)
        if RECURRENT and DELAYED:
            returned = tl.load(flight + (t % longest) * BLOCK * WIDE)
        g_spike += returned
        level = zeros + threshold
        if ADAPTIVE:
            b = tl.load(adaptations + kept + t * kept_step, mask=mask, other=0.0)
            level += ada_gain * b
            g_spike += (1.0 - ada_decay) * d_b
        after = decay * d_v
        if SUBTRACT:
            if not DETACHED:
                g_spike -= d_v * level_next
        else:
            if not DETACHED:
                g_spike += after * (reset - v)
            after = tl.where(code == 1, 0.0, after)
        x = v - level
        if RELATIVE:
            slope = _slope(x / level, height, steepness, KIND) / level
        else:
            slope = _slope(x, height, steepness, KIND)
        if REFRACTORY:
            slope = tl.where(code == 2, 0.0, slope)
        d_v = after + g_spike * slope
        at = out + t * out_step
        if SERIES or ADAPTIVE:
            d_level = -g_spike * slope
            if RELATIVE:
                d_level = d_level * v / level
            if SUBTRACT:
                before = tl.load(
                    codes + kept + (t - 1) * kept_step, mask=mask & (n * 0 + t > 0)[None, :], other=0
                )
                d_level -= tl.where(before == 1, d_v, 0.0)
            d_b = ada_decay * d_b + ada_gain * d_level
        if SERIES:
            tl.store(series_v + at, d_v, mask=mask)
            tl.store(series_level + at, d_level, mask=mask)
            if ADAPTIVE:
                tl.store(series_b + at, d_b, mask=mask)
        if REFRACTORY and not SUBTRACT:
            d_v = tl.where(code == 2, 0.0, d_v)
        d_u = gain * d_v
        if SYNAPSE:
            d_i = d_u + syn_decay * d_i
            d_u = syn_gain * d_i
            if SERIES:
                tl.store(series_i + at, d_i, mask=mask)
        tl.store(grad_currents + at, d_u, mask=mask)
        level_next = level
        if RECURRENT:
            tl.debug_barrier()  # this step's gradient is in memory
            returned = _product(
                grad_currents + t * out_step, weight, row, here, n, real, size, CHUNK, WIDE, BLOCK, PRECISION
            )
            if DELAYED:
                slot = (t - delay + longest) % longest
                tl.store(flight + slot * BLOCK * WIDE, returned, mask=mask & (t >= delay))
                tl.debug_barrier()


@triton.jit  # type: ignore[untyped-decorator]
def leak_kernel(  # type: ignore[no-untyped-def]
    x, decay, out, samples, steps, size, in_chip, in_sample, in_step, out_chip, out_sample, out_step,
    BACK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y[t] = a·y[t − 1] + x[t] of one sample of one chip, from the first step or, back, from the last."""
    task = tl.program_id(0).to(tl.int64)
    in_step, out_step = task * 0 + in_step, task * 0 + out_step
    chip, sample = task // samples, task % samples
    n = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    real = n < size
    a = tl.load(decay + chip * size + n, mask=real, other=0.0)
    given, found = (
        x + chip * in_chip + sample * in_sample + n,
        out + chip * out_chip + sample * out_sample + n,
    )
    y = tl.zeros([WIDE], tl.float32)
    for step in range(steps):
        t = step
        if BACK:
            t = steps - 1 - step
        y = a * y + tl.load(given + t * in_step, mask=real, other=0.0)
        tl.store(found + t * out_step, y, mask=real)


def takes(x: Tensor) -> bool:
    """Whether the kernels compute it; :mod:`neurosim.models.spiking.loops` does the rest."""
    return x.device.type == "cuda" and x.dtype == torch.float32 and x.shape[-1] <= WIDEST


def forward(
    currents: Tensor,
    weight: Tensor,
    constants: Tensor,
    blocked: Tensor,
    delays: Tensor,
    flags: Flag,
    out: tuple[Tensor, ...],
) -> None:
    """Fill spikes and what is kept for backward, as :func:`neurosim.models.spiking.loops.forward`."""
    chips, samples, steps, size = currents.shape
    if not currents.numel():
        return
    wide = _wide(size)
    recurrent = weight.shape[1] > 0
    currents, weight_t = _dense(currents), _each_dense(weight.transpose(1, 2))
    events = torch.empty(
        (chips * samples, 2, wide) if recurrent else 0, dtype=torch.int32, device=currents.device
    )
    with _on(currents):
        forward_kernel[(chips * samples,)](
            currents, weight_t, constants.contiguous(), blocked.contiguous(), delays.contiguous(), events,
            *out, samples, steps, size, *currents.stride()[:3], weight_t.stride(0), *out[0].stride()[:3],
            **_parts(flags, *_FORWARD), RECURRENT=recurrent,
            CODES=out[1].shape[2] > 0, KEEP=out[2].shape[2] > 0, KEEP_INPUTS=out[4].shape[2] > 0, WIDE=wide,
            enable_fp_fusion=True, num_warps=_warps(wide),
        )  # fmt: skip


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
    """Gradients as of :func:`neurosim.models.spiking.loops.backward`."""
    grad_currents = torch.empty(grad_spikes.shape, dtype=grad_spikes.dtype, device=grad_spikes.device)
    series = Series.empty(grad_currents, flags) if wanted[2] else None
    if grad_spikes.numel():
        layer = (weight, constants.contiguous(), delays.contiguous())
        _launch_backward(grad_spikes, layer, flags, surrogate, _alike(kept[:3]), grad_currents, series)
    of_weight = weight_gradient(grad_currents, weight, kept[0], delays, flags, wanted[1])
    summed = constants[:, :0] if series is None else of_constants(series, constants, flags, kept)
    return grad_currents, of_weight, summed


def _launch_backward(
    grad_spikes: Tensor,
    layer: tuple[Tensor, Tensor, Tensor],
    flags: Flag,
    surrogate: Surrogate,
    kept: Sequence[Tensor],
    grad_currents: Tensor,
    series: Series | None,
) -> None:
    """Fill the gradient of the currents, and the series where there is one."""
    weight, constants, delays = layer
    chips, samples, steps, size = grad_spikes.shape
    wide, recurrent = _wide(size), weight.shape[1] > 0
    delayed = recurrent and bool(flags & Flag.DELAYED)
    longest = int(delays.max()) if delayed else 1
    grad, matrix = _dense(grad_spikes), _each_dense(weight)
    tasks = chips * triton.cdiv(samples, _BLOCK)
    flying = grad.new_zeros((tasks, longest, _BLOCK, wide) if delayed else 0)
    unused = (grad_currents,) * 4
    rooms = unused if series is None else (
        series.potentials, series.currents, series.adaptations, series.thresholds
    )  # fmt: skip
    with _on(grad):
        backward_kernel[(tasks,)](
            grad, matrix, constants, delays, *kept, flying, grad_currents, *rooms, samples, steps, size,
            longest, surrogate.height, surrogate.steepness, *grad.stride()[:3], *kept[0].stride()[:3],
            matrix.stride(0), *grad_currents.stride()[:3],
            **_parts(flags, *_FORWARD, "DETACHED", "RELATIVE"),
            KIND=surrogate.number, RECURRENT=recurrent, SERIES=series is not None, WIDE=wide, BLOCK=_BLOCK,
            CHUNK=16, PRECISION="ieee" if torch.version.hip else "tf32x3", enable_fp_fusion=True,
            num_warps=8 if wide <= 512 else 16, num_stages=2 if wide <= 512 else 1,
        )  # fmt: skip


def leak_forward(x: Tensor, decay: Tensor) -> Tensor:
    """y[t] = decay·y[t − 1] + x[t] for (C, B, T, N) and decay (C, N)."""
    return _leak(x, decay, back=False)


def leak_backward(grad: Tensor, decay: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of decay."""
    of_x = _leak(grad, decay, back=True)
    return of_x, decay_gradient(of_x, y)


def _leak(x: Tensor, decay: Tensor, back: bool) -> Tensor:
    chips, samples, steps, size = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        given, wide = _dense(x), min(_wide(size), 128)
        with _on(x):
            leak_kernel[(chips * samples, triton.cdiv(size, wide))](
                given, decay.contiguous(), out, samples, steps, size, *given.stride()[:3], *out.stride()[:3],
                BACK=back, WIDE=wide, enable_fp_fusion=True, num_warps=_warps(wide),
            )  # fmt: skip
    return out


def _parts(flags: Flag, *names: str) -> dict[str, bool]:
    return {name: bool(flags & Flag[name]) for name in names}


def _wide(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def _warps(wide: int) -> int:
    return max(1, min(8, wide // 64))


def _dense(x: Tensor) -> Tensor:
    """Neurons next to each other; other axes as they lie."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _alike(kept: Sequence[Tensor]) -> Sequence[Tensor]:
    """What forward kept with its steps where the first of it has them, for one set of strides: a vmap may
    have copied some of it."""
    used = [one for one in kept if one.numel()]
    if all(one.stride() == used[0].stride() and one.stride(-1) == 1 for one in used):
        return kept
    return [one.contiguous() for one in kept]


def _each_dense(weight: Tensor) -> Tensor:
    """Every chip's matrix contiguous; one for all chips stays one."""
    if weight.shape[0] > 1 and weight.stride(0) == 0:
        return weight[:1].contiguous().expand_as(weight)
    return weight.contiguous()


def _on(x: Tensor) -> Any:
    return torch.cuda.device(x.device if x.device.type == "cuda" else -1)
