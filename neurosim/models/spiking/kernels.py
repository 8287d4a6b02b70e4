"""A spiking layer over all time steps on the CPU: events forward, hand-written gradients backward.

A task runs some samples from the first step to the last, so that their state stays in the cache and nothing
waits between steps.  Sums have one order whatever the number of threads, samples or chips: a sample gives the
same bits alone or in a crowd.  :mod:`neurosim.models.spiking.loops` computes the same in torch.

Arrays (C chips, B samples, T steps, N neurons), all contiguous: currents, spikes, potentials (C, B, T, N);
``constants`` (C, rows of :class:`neurosim.models.spiking.constants.Row`, N).  float32 only.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import prange, types

from neurosim.philox import exp32, intrinsic, kernel, parallel_kernel

# Numbers below are those of Row and Flag in constants.py and of KINDS in surrogates.py.  A code says what a
# neuron did in a step: 1 it spiked, 2 it was refractory, 0 neither.
_BLOCK = 8  # samples whose backward products share the loads of a weight
# steps whose weight gradients are summed together: their deltas stay in the cache
_WINDOW = 64
# tasks that sum weight gradients of their own; a number that threads have no say in, so that sums keep their
# order
_GROUPS = 16


@kernel
def _add_rows(target, rows, which, count):  # type: ignore[no-untyped-def]
    """target += Σ rows[which[e]], four at a time, so that the sum is loaded and stored once for four."""
    size = target.shape[0]
    whole = count - count % 4
    for e in range(0, whole, 4):
        a, b, c, d = rows[which[e]], rows[which[e + 1]], rows[which[e + 2]], rows[which[e + 3]]
        for j in range(size):
            target[j] += (a[j] + b[j]) + (c[j] + d[j])
    for e in range(whole, count):
        a = rows[which[e]]
        for j in range(size):
            target[j] += a[j]


@kernel
def _due(codes, t, delays, delayed, events):  # type: ignore[no-untyped-def]
    """The neurons whose spikes arrive in step ``t``, in order; their number."""
    count = 0
    if delayed:
        for k in range(codes.shape[1]):
            sent = t - delays[k]
            if sent >= 0 and codes[sent, k] == 1:
                events[count] = k
                count += 1
    elif t > 0:
        before = codes[t - 1]
        for k in range(before.shape[0]):
            events[count] = k
            count += 1 if before[k] == 1 else 0
    return count


@kernel
def _forward_sample(  # type: ignore[no-untyped-def]  # noqa: C901
    currents,
    weight_t,
    constants,
    blocked,
    delays,
    flags,
    spikes,
    codes,
    potentials,
    adaptations,
    inputs,
    synaptic,
):
    steps, size = currents.shape
    decay, gain, leak, threshold = constants[0], constants[1], constants[2], constants[3]
    reset, syn_decay, syn_gain = constants[5], constants[6], constants[7]
    ada_decay, ada_gain = constants[8], constants[9]
    synapse, adaptive, subtract = flags & 1 != 0, flags & 2 != 0, flags & 4 != 0
    refractory, delayed = flags & 32 != 0, flags & 64 != 0
    one, zero = currents.dtype.type(1), currents.dtype.type(0)
    v, total, level = constants[4].copy(), np.zeros_like(reset), threshold.copy()
    current, b, last = np.zeros_like(reset), np.zeros_like(reset), np.zeros_like(reset)
    left = np.zeros(size, np.int32)
    events = np.empty(size + 1, np.int32)
    keeps = potentials.shape[0] > 0
    for t in range(steps):
        given, spike, code = currents[t], spikes[t], codes[t]
        for j in range(size):
            total[j] = given[j]
        if weight_t.shape[0] > 0:
            _add_rows(total, weight_t, events, _due(codes, t, delays, delayed, events))
        if inputs.shape[0] > 0:
            kept = inputs[t]
            for j in range(size):
                kept[j] = total[j]
        if synapse:
            for j in range(size):
                current[j] = syn_decay[j] * current[j] + syn_gain[j] * total[j]
                total[j] = current[j]
            if synaptic.shape[0] > 0:
                kept = synaptic[t]
                for j in range(size):
                    kept[j] = current[j]
        if adaptive:
            for j in range(size):
                b[j] = ada_decay[j] * b[j] + (one - ada_decay[j]) * last[j]
                level[j] = threshold[j] + ada_gain[j] * b[j]
            if keeps:
                kept = adaptations[t]
                for j in range(size):
                    kept[j] = b[j]
        if subtract:
            for j in range(size):
                v[j] = decay[j] * v[j] + gain[j] * total[j] + leak[j] - last[j] * level[j]
        else:
            for j in range(size):
                before = reset[j] if last[j] > zero else v[j]
                v[j] = decay[j] * before + gain[j] * total[j] + leak[j]
        if refractory:
            if not subtract:
                for j in range(size):
                    v[j] = reset[j] if left[j] > 0 else v[j]
            for j in range(size):
                free = left[j] == 0
                fires = (v[j] > level[j]) & free
                last[j] = one if fires else zero
                code[j] = 1 if fires else (0 if free else 2)
                left[j] = blocked[j] if fires else max(left[j] - 1, 0)
        else:
            for j in range(size):
                fires = v[j] > level[j]
                last[j] = one if fires else zero
                code[j] = 1 if fires else 0
        for j in range(size):
            spike[j] = last[j]
        if keeps:
            kept = potentials[t]
            for j in range(size):
                kept[j] = v[j]


@parallel_kernel
def forward(  # type: ignore[no-untyped-def]
    currents,
    weight_t,
    constants,
    blocked,
    delays,
    flags,
    spikes,
    codes,
    potentials,
    adaptations,
    inputs,
    synaptic,
):
    """Fill spikes and codes, and of the other arrays those that have a length."""
    chips, samples = currents.shape[0], currents.shape[1]
    for task in prange(chips * samples):
        c, s = task // samples, task % samples
        _forward_sample(
            currents[c, s], weight_t[c], constants[c], blocked[c], delays[c], flags, spikes[c, s], codes[c,
            s],
            potentials[c, s], adaptations[c, s], inputs[c, s], synaptic[c, s],
        )  # fmt: skip


@kernel
def _advance_sample(  # type: ignore[no-untyped-def]
    given, constants, blocked, flags, v, spike, current, b, left, new_v, new_spike, new_current, new_b,
    new_left,
):  # fmt: skip
    decay, gain, leak, threshold = constants[0], constants[1], constants[2], constants[3]
    reset, syn_decay, syn_gain = constants[5], constants[6], constants[7]
    ada_decay, ada_gain = constants[8], constants[9]
    synapse, adaptive, subtract = flags & 1 != 0, flags & 2 != 0, flags & 4 != 0
    refractory = flags & 32 != 0
    one, zero = given.dtype.type(1), given.dtype.type(0)
    for j in range(given.shape[0]):
        total, level = given[j], threshold[j]
        new_current[j] = syn_decay[j] * current[j] + syn_gain[j] * total if synapse else current[j]
        total = new_current[j] if synapse else total
        new_b[j] = ada_decay[j] * b[j] + (one - ada_decay[j]) * spike[j] if adaptive else b[j]
        level = level + ada_gain[j] * new_b[j] if adaptive else level
        if subtract:
            x = decay[j] * v[j] + gain[j] * total + leak[j] - spike[j] * level
        else:
            before = reset[j] if spike[j] > zero else v[j]
            x = decay[j] * before + gain[j] * total + leak[j]
        free = left[j] == 0 or not refractory
        x = x if free or subtract else reset[j]
        fires = x > level and free
        new_v[j] = x
        new_spike[j] = one if fires else zero
        new_left[j] = blocked[j] if fires else max(left[j] - 1, 0)


@parallel_kernel
def advance(  # type: ignore[no-untyped-def]
    given, constants, blocked, flags, v, spike, current, b, left, new_v, new_spike, new_current, new_b,
    new_left,
):  # fmt: skip
    """One step of all neurons, (C, B, N) each, from one state to the next."""
    chips, samples = given.shape[0], given.shape[1]
    for task in prange(chips * samples):
        c, s = task // samples, task % samples
        _advance_sample(
            given[c, s], constants[c], blocked[c], flags, v[c, s], spike[c, s], current[c, s], b[c, s],
            left[c, s], new_v[c, s], new_spike[c, s], new_current[c, s], new_b[c, s], new_left[c, s],
        )  # fmt: skip


@kernel
def _slopes(v, level, kind, height, width, relative, out, out_level):  # type: ignore[no-untyped-def]
    """ds/dv and −ds/dB for every neuron; a loop for each surrogate, so that each runs in vectors."""
    size = v.shape[0]
    one, zero = height.dtype.type(1), height.dtype.type(0)
    h, k = height[0], width[0]
    for j in range(size):
        x = v[j] - level[j]
        out_level[j] = one / level[j] if relative else one
        out[j] = x * out_level[j]
    if kind == 0:
        for j in range(size):
            out[j] = h * max(one - k * abs(out[j]), zero)
    elif kind == 1:
        for j in range(size):
            root = one + k * abs(out[j])
            out[j] = h / (root * root)
    elif kind == 2:
        for j in range(size):
            scaled = k * out[j]
            out[j] = h / (one + scaled * scaled)
    else:
        for j in range(size):
            out[j] = h * exp32(-k * abs(out[j]))
    for j in range(size):
        scaled = out[j] * out_level[j]
        out_level[j] = scaled * v[j] * out_level[j] if relative else scaled
        out[j] = scaled


@intrinsic
def _call_sgemm(typingctx, address, text, sizes, factors, a, b, c):  # type: ignore[no-untyped-def]
    """Call BLAS's ``sgemm_`` at this address: every argument is the address of what it points to."""
    signature = types.void(*[types.uintp] * 7)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        word, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        address, text, sizes, factors, a, b, c = args

        def at(start, index, width):  # type: ignore[no-untyped-def]
            return builder.inttoptr(builder.add(start, word(index * width)), pointer)

        m, n, k, lda, ldb, ldc = (at(sizes, i, 8) for i in range(6))
        alpha, beta = at(factors, 0, 4), at(factors, 1, 4)
        given = [
            at(text, 0, 1),
            at(text, 0, 1),
            m,
            n,
            k,
            alpha,
            at(a, 0, 1),
            lda,
            at(b, 0, 1),
            ldb,
            beta,
            at(c, 0, 1),
            ldc,
        ]
        kind = ir.FunctionType(ir.VoidType(), [pointer] * len(given))
        builder.call(builder.inttoptr(address, kind.as_pointer()), given)
        return context.get_dummy_value()

    return signature, codegen


@kernel
def _products(deltas, t, weight, out, rows, blas):  # type: ignore[no-untyped-def]
    """out = deltas[:rows, t] · weight, (rows, N)·(N, N): by BLAS at that address, or, at 0, by loops."""
    size = weight.shape[0]
    if blas != 0:
        # column-major BLAS sees the transposes: outᵀ = weightᵀ · deltasᵀ; low halves serve 32-bit integers
        # too
        text = np.full(8, 78, np.uint8)  # "N"
        sizes = np.array([size, rows, size, size, deltas.shape[1] * size, size], np.int64)
        factors = np.array([1.0, 0.0], np.float32)
        _call_sgemm(
            np.uintp(blas), np.uintp(text.ctypes.data), np.uintp(sizes.ctypes.data),
            np.uintp(factors.ctypes.data),
            np.uintp(weight.ctypes.data), np.uintp(deltas[0, t].ctypes.data), np.uintp(out.ctypes.data),
        )  # fmt: skip
        return
    for s in range(rows):
        row = out[s]
        for k in range(size):
            row[k] = 0
    whole = size - size % 4
    for j in range(0, whole, 4):
        w0, w1, w2, w3 = weight[j], weight[j + 1], weight[j + 2], weight[j + 3]
        for s in range(rows):
            y, d = out[s], deltas[s, t]
            a0, a1, a2, a3 = d[j], d[j + 1], d[j + 2], d[j + 3]
            for k in range(size):
                y[k] = (((y[k] + a0 * w0[k]) + a1 * w1[k]) + a2 * w2[k]) + a3 * w3[k]
    for j in range(whole, size):
        w0 = weight[j]
        for s in range(rows):
            y, a0 = out[s], deltas[s, t, j]
            for k in range(size):
                y[k] += a0 * w0[k]


@kernel
def _step_back_plain(  # type: ignore[no-untyped-def]  # noqa: C901
    given, constants, flags, kind, height, width, code, v, returned, d_v, target, slope, inverse
):
    """:func:`_step_back` for a membrane alone, when its constants need no gradient."""
    size = target.shape[0]
    decay, gain, threshold, reset = constants[0], constants[1], constants[3], constants[5]
    one, zero = height.dtype.type(1), height.dtype.type(0)
    reach = zero if flags & 8 != 0 else one
    h, k = height[0], width[0]
    if kind == 0:
        for j in range(size):
            slope[j] = h * inverse[j] * max(one - k * abs((v[j] - threshold[j]) * inverse[j]), zero)
    elif kind == 1:
        for j in range(size):
            root = one + k * abs((v[j] - threshold[j]) * inverse[j])
            slope[j] = h * inverse[j] / (root * root)
    elif kind == 2:
        for j in range(size):
            scaled = k * (v[j] - threshold[j]) * inverse[j]
            slope[j] = h * inverse[j] / (one + scaled * scaled)
    else:
        for j in range(size):
            slope[j] = h * inverse[j] * exp32(-k * abs((v[j] - threshold[j]) * inverse[j]))
    if flags & 4 != 0:
        for j in range(size):
            g = given[j] + returned[j] - reach * d_v[j] * threshold[j]
            d_v[j] = decay[j] * d_v[j] + g * slope[j]
    else:
        for j in range(size):
            after = decay[j] * d_v[j]
            g = given[j] + returned[j] + reach * after * (reset[j] - v[j])
            d_v[j] = (zero if code[j] == 1 else after) + g * slope[j]
    for j in range(size):
        target[j] = gain[j] * d_v[j]


@kernel
def _weights_back(  # type: ignore[no-untyped-def]
    low, high, rows, codes, delays, delayed, deltas, grad_weight_t, where, counts
):
    """Add what steps low … high − 1 of a block say of the weight: a neuron's spikes one after the other.

    So its row of the weight's gradient is loaded and stored once for four spikes, and not for each.
    """
    size, steps = deltas.shape[2], deltas.shape[1]
    for k in range(size):
        counts[k] = 0
    for s in range(rows):
        for t in range(max(low, 1), high):
            if delayed:
                for k in range(size):
                    sent = t - delays[k]
                    if sent >= 0 and codes[s, sent, k] == 1:
                        where[k, counts[k]] = s * steps + t
                        counts[k] += 1
            else:
                before = codes[s, t - 1]
                for k in range(size):
                    if before[k] == 1:
                        where[k, counts[k]] = s * steps + t
                        counts[k] += 1
    flat = deltas.reshape(deltas.shape[0] * steps, size)
    for k in range(size):
        _add_rows(grad_weight_t[k], flat, where[k], counts[k])


@kernel
def _step_back(  # type: ignore[no-untyped-def]  # noqa: C901
    t, grad_spikes, constants, flags, kind, height, width, codes, potentials, adaptations, inputs, synaptic,
    returned, carried, grad_currents, grad_constants, scratch,
):  # fmt: skip
    """One sample, one step: from the gradient of its spikes to that of its input.

    carried: gradients of the potential, the synaptic current and the adaptation of the next step, and its
    threshold (4, N).
    """
    size = returned.shape[0]
    decay, gain, threshold, reset = constants[0], constants[1], constants[3], constants[5]
    syn_decay, syn_gain, ada_decay, ada_gain = constants[6], constants[7], constants[8], constants[9]
    synapse, adaptive, subtract = flags & 1 != 0, flags & 2 != 0, flags & 4 != 0
    detached, relative, refractory = flags & 8 != 0, flags & 16 != 0, flags & 32 != 0
    one, zero = height.dtype.type(1), height.dtype.type(0)
    wanted = grad_constants.shape[0] > 0
    d_v, d_i, d_b, level_next = carried[0], carried[1], carried[2], carried[3]
    g_spike, slope, slope_level, level, d_after = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    v, code, given = potentials[t], codes[t], grad_spikes[t]
    for j in range(size):
        g_spike[j] = given[j] + returned[j]
    if adaptive:
        b = adaptations[t]
        for j in range(size):
            level[j] = threshold[j] + ada_gain[j] * b[j]
            g_spike[j] += (one - ada_decay[j]) * d_b[j]
    else:
        for j in range(size):
            level[j] = threshold[j]
    if subtract:
        if not detached:
            for j in range(size):
                g_spike[j] -= d_v[j] * level_next[j]
        for j in range(size):
            d_after[j] = decay[j] * d_v[j]
    else:
        if not detached:
            for j in range(size):
                g_spike[j] += decay[j] * d_v[j] * (reset[j] - v[j])
        if wanted:
            for j in range(size):
                grad_constants[5, j] += decay[j] * d_v[j] if code[j] == 1 else zero
        for j in range(size):
            d_after[j] = zero if code[j] == 1 else decay[j] * d_v[j]
    _slopes(v, level, kind, height, width, relative, slope, slope_level)
    if refractory:
        for j in range(size):
            free = zero if code[j] == 2 else one
            slope[j] *= free
            slope_level[j] *= free
    for j in range(size):
        d_v[j] = d_after[j] + g_spike[j] * slope[j]
    if adaptive or wanted:
        for j in range(size):
            slope_level[j] = -g_spike[j] * slope_level[j]  # the gradient of the threshold
        if subtract and t > 0:
            before = codes[t - 1]
            for j in range(size):
                slope_level[j] -= d_v[j] if before[j] == 1 else zero
        for j in range(size):
            d_b[j] = ada_decay[j] * d_b[j] + ada_gain[j] * slope_level[j]
    if refractory and not subtract:
        for j in range(size):  # held at the reset
            held = code[j] == 2
            if wanted:
                grad_constants[5, j] += d_v[j] if held else zero
            d_v[j] = zero if held else d_v[j]
    target = grad_currents[t]
    if synapse:
        for j in range(size):
            d_i[j] = syn_decay[j] * d_i[j] + gain[j] * d_v[j]
            target[j] = syn_gain[j] * d_i[j]
    else:
        for j in range(size):
            target[j] = gain[j] * d_v[j]
    for j in range(size):
        level_next[j] = level[j]
    if wanted:
        _constants_back(
            t, constants, synapse, adaptive, subtract, codes, potentials, adaptations, inputs, synaptic, d_v,
            d_i,
            d_b, slope_level, grad_constants,
        )  # fmt: skip


@kernel
def _constants_back(  # type: ignore[no-untyped-def]
    t, constants, synapse, adaptive, subtract, codes, potentials, adaptations, inputs, synaptic, d_v, d_i,
    d_b,
    d_level, grad_constants,
):  # fmt: skip
    """Add what one step says of the constants."""
    zero = constants.dtype.type(0)
    for j in range(d_v.shape[0]):
        fired = t > 0 and codes[t - 1, j] == 1
        before = potentials[t - 1, j] if t > 0 else constants[4, j]
        if fired and not subtract:
            before = constants[5, j]
        current = synaptic[t, j] if synapse else inputs[t, j]
        grad_constants[0, j] += d_v[j] * before
        grad_constants[1, j] += d_v[j] * current
        grad_constants[2, j] += d_v[j]
        grad_constants[3, j] += d_level[j]
        if t == 0:
            grad_constants[4, j] += constants[0, j] * d_v[j]
        if synapse:
            grad_constants[6, j] += d_i[j] * (synaptic[t - 1, j] if t > 0 else zero)
            grad_constants[7, j] += d_i[j] * inputs[t, j]
        if adaptive:
            was = adaptations[t - 1, j] if t > 0 else zero
            spike = constants.dtype.type(1) if fired else zero
            grad_constants[8, j] += d_b[j] * (was - spike)
            grad_constants[9, j] += d_level[j] * adaptations[t, j]


@kernel
def _backward_block(  # type: ignore[no-untyped-def]  # noqa: C901
    rows, grad_spikes, weight, constants, delays, longest, flags, kind, height, width, codes, potentials,
    adaptations, inputs, synaptic, grad_currents, grad_weight_t, grad_constants, blas,
):  # fmt: skip
    """Some samples of one chip, from the last step to the first."""
    steps, size = grad_spikes.shape[1], grad_spikes.shape[2]
    recurrent, delayed = weight.shape[0] > 0, flags & 64 != 0
    plain = flags & 35 == 0 and grad_constants.shape[1] == 0
    dtype = grad_spikes.dtype
    returned = np.zeros((longest, rows, size), dtype)  # gradients of spikes in flight, by step modulo delay
    carried = np.zeros((rows, 4, size), dtype)
    products = np.zeros((rows, size), dtype)
    scratch = np.zeros((6, size), dtype)
    inverse = scratch[5]
    for j in range(size):
        inverse[j] = dtype.type(1) / constants[3, j] if flags & 16 != 0 else dtype.type(1)
    where = np.empty((size, rows * _WINDOW if grad_weight_t.shape[0] > 0 else 0), np.int32)
    counts = np.zeros(size, np.int32)
    for back in range(steps):
        t = steps - 1 - back
        for s in range(rows):
            if plain:
                _step_back_plain(
                    grad_spikes[s, t], constants, flags, kind, height, width, codes[s, t], potentials[s, t],
                    returned[t % longest, s], carried[s, 0], grad_currents[s, t], scratch[0], inverse,
                )  # fmt: skip
            else:
                _step_back(
                    t, grad_spikes[s], constants, flags, kind, height, width, codes[s], potentials[s],
                    adaptations[s], inputs[s], synaptic[s], returned[t % longest, s], carried[s],
                    grad_currents[s], grad_constants[s], scratch,
                )  # fmt: skip
        if recurrent and t > 0:
            if delayed:
                _products(grad_currents, t, weight, products, rows, blas)
                for s in range(rows):
                    for k in range(size):
                        if t >= delays[k]:
                            returned[(t - delays[k]) % longest, s, k] = products[s, k]
            else:
                _products(grad_currents, t, weight, returned[0], rows, blas)
        if grad_weight_t.shape[0] > 0 and t % _WINDOW == 0:
            _weights_back(
                t,
                min(t + _WINDOW, steps),
                rows,
                codes,
                delays,
                delayed,
                grad_currents,
                grad_weight_t,
                where,
                counts,
            )


@parallel_kernel
def backward(  # type: ignore[no-untyped-def]
    grad_spikes, weight, constants, delays, longest, flags, kind, height, width, codes, potentials,
    adaptations,
    inputs, synaptic, grad_currents, grad_weight_t, grad_constants, blas,
):  # fmt: skip
    """Fill the gradients of currents; add to those of weights (groups, C, N, N) and constants."""
    chips, samples = grad_spikes.shape[0], grad_spikes.shape[1]
    blocks = (samples + _BLOCK - 1) // _BLOCK
    groups = grad_weight_t.shape[0]
    for task in prange(chips * groups):
        c, group = task // groups, task % groups
        for block in range(group, blocks, groups):
            low = block * _BLOCK
            high = min(low + _BLOCK, samples)
            _backward_block(
                high - low, grad_spikes[c, low:high], weight[c], constants[c], delays[c], longest, flags,
                kind, height,
                width, codes[c, low:high], potentials[c, low:high], adaptations[c, low:high], inputs[c,
                low:high], synaptic[c, low:high], grad_currents[c, low:high], grad_weight_t[group, c],
                grad_constants[c, low:high], blas,
            )  # fmt: skip


def groups(samples: int) -> int:
    """How many tasks a chip's samples are backward: at most a number that threads have no say in.

    >>> groups(64), groups(3), groups(1000)
    (8, 1, 16)
    """
    return max(1, min(_GROUPS, -(-samples // _BLOCK)))


@parallel_kernel
def leak_forward(x, decay, out):  # type: ignore[no-untyped-def]
    """y[t] = decay·y[t − 1] + x[t] for (C, B, T, N) and decay (C, N)."""
    chips, samples, steps, size = x.shape
    for task in prange(chips * samples):
        c, s = task // samples, task % samples
        a = decay[c]
        for t in range(steps):
            given, y = x[c, s, t], out[c, s, t]
            if t == 0:
                for j in range(size):
                    y[j] = given[j]
            else:
                before = out[c, s, t - 1]
                for j in range(size):
                    y[j] = a[j] * before[j] + given[j]


@parallel_kernel
def leak_backward(grad, decay, y, grad_x, grad_decay):  # type: ignore[no-untyped-def]
    """g[t] = grad[t] + decay·g[t + 1]; that of decay, (C, B, N), is Σ g[t]·y[t − 1]."""
    chips, samples, steps, size = grad.shape
    for task in prange(chips * samples):
        c, s = task // samples, task % samples
        a, total = decay[c], grad_decay[c, s]
        for back in range(steps):
            t = steps - 1 - back
            given, g = grad[c, s, t], grad_x[c, s, t]
            if back == 0:
                for j in range(size):
                    g[j] = given[j]
            else:
                after = grad_x[c, s, t + 1]
                for j in range(size):
                    g[j] = given[j] + a[j] * after[j]
            if t > 0:
                before = y[c, s, t - 1]
                for j in range(size):
                    total[j] += g[j] * before[j]
