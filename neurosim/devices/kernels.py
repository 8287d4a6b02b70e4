"""CPU kernels that touch memory once where torch would touch it five times.

Each is the fused, multi-threaded twin of a few torch operations elsewhere in this room, which remain
the definition: tests compare the two.  numba compiles them on first use and caches the machine code,
so that a user needs no compiler.

The white noise of a read is indexed by *vector* (one row of a product) and column, never by call:
vector v, column c of a tile with C columns is element ``v * pitch(C) + c`` of its stream.  The pitch
is a multiple or a divisor of a group of 64, so that whole groups serve whole rows.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from neurosim.philox import exp32, kernel, log32, parallel_kernel
from neurosim.random import block_words, normal_group

# adding and subtracting 1.5 * 2^23 rounds a float32 below 2^22 to the nearest integer, ties to even
_ROUND = np.float32(12582912.0)


def pitch(columns: int) -> int:
    """Stream elements that one vector of ``columns`` outputs takes.

    >>> [pitch(c) for c in (1, 10, 64, 65, 512)]
    [1, 16, 64, 128, 512]
    """
    if columns >= 64:
        return -(-columns // 64) * 64
    return 1 << (columns - 1).bit_length()


@njit(inline="always")
def _convert(value, inv_step, limit, scale):  # type: ignore[no-untyped-def]
    code = min(max(value * inv_step, -limit), limit)
    return ((code + _ROUND) - _ROUND) * scale


@njit(inline="always")
def _group(buffer, group, chip, k0, k1):  # type: ignore[no-untyped-def]
    low, high = block_words(group)
    normal_group(buffer, low, high, chip, k0, k1)


# One row of a tile.  Whole contiguous rows, few arrays and a destination apart from the source: LLVM
# can prove them apart at run time and use vector instructions (0.12 ns an output instead of 1.1; this
# is why sigma, inv_step and limit are one number a tile, and why rows are sliced before the loop).


@kernel
def _convert_set(y, out, n, sigma, inv_step, limit, scale, bias):  # type: ignore[no-untyped-def]
    for c in range(y.size):
        out[c] = _convert(y[c] + sigma * n[c], inv_step, limit, scale[c]) + bias[c]


@kernel
def _convert_add(y, out, n, sigma, inv_step, limit, scale):  # type: ignore[no-untyped-def]
    for c in range(y.size):
        out[c] += _convert(y[c] + sigma * n[c], inv_step, limit, scale[c])


@kernel
def _scale_set(y, out, n, sigma, scale, bias):  # type: ignore[no-untyped-def]
    for c in range(y.size):
        out[c] = (y[c] + sigma * n[c]) * scale[c] + bias[c]


@kernel
def _scale_add(y, out, n, sigma, scale):  # type: ignore[no-untyped-def]
    for c in range(y.size):
        out[c] += (y[c] + sigma * n[c]) * scale[c]


@njit(inline="always")
def _row(line, total, n, sigma, inv_step, limit, scale, bias, add, adc):  # type: ignore[no-untyped-def]
    if adc and add:
        _convert_add(line, total, n, sigma, inv_step, limit, scale)
    elif adc:
        _convert_set(line, total, n, sigma, inv_step, limit, scale, bias)
    elif add:
        _scale_add(line, total, n, sigma, scale)
    else:
        _scale_set(line, total, n, sigma, scale, bias)


@parallel_kernel
def read_tile(  # type: ignore[no-untyped-def]
    y, out, left, right, sigma, inv_step, limit, scale, bias, first, chip, k0, k1, pitch, add, adc, noise
):
    """Noise, ADC, scale and sum of one tile's products in one pass over memory.

    The tile owns columns left … right of y.  With n the white noise of each vector and column
    (0 unless ``noise``)::

        t = y + sigma * n
        if adc: t = clip(round(t * inv_step), -limit, limit)
        add:  out += t * scale          else:  out = t * scale + bias

    Shapes: y and out (vectors, C), contiguous float32, not overlapping; scale and bias (C,).
    ``first`` is the number of the first vector in the noise stream (k0, k1, chip); ``pitch`` is
    ``pitch(right - left)``.
    """
    vectors = y.shape[0]
    columns = right - left
    if columns >= 64:
        per = pitch // 64
        rows = max(1, 16384 // columns)
        for task in prange((vectors + rows - 1) // rows):
            n = np.zeros(pitch, np.float32)
            gain, shift = scale[left:right], bias[left:right]
            for v in range(task * rows, min(vectors, task * rows + rows)):
                if noise:
                    for g in range(per):
                        _group(n[g * 64 : g * 64 + 64], (first + v) * per + g, chip, k0, k1)
                line, total = y[v][left:right], out[v][left:right]
                _row(line, total, n, sigma, inv_step, limit, gain, shift, add, adc)
    else:
        per = 64 // pitch  # vectors a group
        begin = first // per
        groups = (first + vectors + per - 1) // per - begin
        chunk = 64
        for task in prange((groups + chunk - 1) // chunk):
            n = np.zeros(64, np.float32)
            gain, shift = scale[left:right], bias[left:right]
            for g in range(begin + task * chunk, begin + min(groups, task * chunk + chunk)):
                if noise:
                    _group(n, g, chip, k0, k1)
                for v in range(max(0, g * per - first), min(vectors, (g + 1) * per - first)):
                    at = (first + v - g * per) * pitch
                    part = n[at : at + pitch]
                    line, total = y[v][left:right], out[v][left:right]
                    _row(line, total, part, sigma, inv_step, limit, gain, shift, add, adc)


@parallel_kernel
def quantise_rows(x, out, inv_step, limit, step):  # type: ignore[no-untyped-def]
    """out = clip(round(x * inv_step), ±limit) * step for a 2-D array with any row stride."""
    rows, columns = x.shape
    for r in prange(rows):
        line = x[r]
        target = out[r]
        for e in range(columns):
            target[e] = _convert(line[e], inv_step, limit, step)


_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_TWO = np.float32(2.0)
_HALF = np.float32(0.5)
_TASK = 64  # groups of 64 devices a task


@kernel
def _conductance_group(target, g, n, inv_max, c0, c1, c2):  # type: ignore[no-untyped-def]
    for e in range(target.size):
        x = target[e] * inv_max
        sigma = max((c2 * x + c1) * x + c0, _ZERO)
        g[e] = max(target[e] + sigma * n[e], _ZERO)


@kernel
def _exponent_group(target, nu, m, inv_max, tiny, a, b, low, high, c, d, least, most, scale):  # type: ignore[no-untyped-def]
    for e in range(target.size):
        log_x = log32(max(target[e] * inv_max, tiny))
        mu = min(max(a * log_x + b, low), high)
        sd = min(max(c * log_x + d, least), most)
        nu[e] = abs(mu + sd * m[e]) * scale


@njit(inline="always")
def _program_group(target, g, nu, n, m, inv_max, tiny, c0, c1, c2, mean, std, scale):  # type: ignore[no-untyped-def]
    # two loops of three arrays each: with more LLVM gives up proving them apart, and takes one at a time
    _conductance_group(target, g, n, inv_max, c0, c1, c2)
    _exponent_group(
        target, nu, m, inv_max, tiny, mean[0], mean[1], mean[2], mean[3], std[0], std[1], std[2], std[3],
        scale,
    )  # fmt: skip


@parallel_kernel
def program_pcm(  # type: ignore[no-untyped-def]
    target, g, nu, chips, keys, inv_max, tiny, c0, c1, c2, mean, std, scale
):
    """``Pcm.program`` of one leg on many chips: target (devices,), g and nu (chips, devices), siemens.

    ``keys`` holds the key words of the programming and the drift stream; ``mean`` and ``std`` hold
    slope, offset, minimum and maximum of the drift moments.
    """
    count = target.size
    groups = (count + 63) // 64
    tasks = (groups + _TASK - 1) // _TASK
    for task in prange(len(chips) * tasks):
        k = task // tasks
        chip = np.uint32(chips[k])
        n, m = np.empty(64, np.float32), np.empty(64, np.float32)
        row_g, row_nu = g[k], nu[k]
        first = (task % tasks) * _TASK
        for group in range(first, min(first + _TASK, groups)):
            _group(n, group, chip, keys[0], keys[1])
            _group(m, group, chip, keys[2], keys[3])
            a = group * 64
            b = min(a + 64, count)
            _program_group(
                target[a:b], row_g[a:b], row_nu[a:b], n, m, inv_max, tiny, c0, c1, c2, mean, std, scale
            )


@kernel
def _subtract(plus, minus, out, scale):  # type: ignore[no-untyped-def]
    for e in range(plus.size):
        out[e] = (plus[e] - minus[e]) * scale


@parallel_kernel
def program_pcm_pair(  # type: ignore[no-untyped-def]
    x, g, nu, fresh, chips, keys, low, span, inv_max, tiny, c0, c1, c2, mean, std, scale
):
    """``Pcm.program`` of both legs on many chips, straight from fractions of full conductance.

    x is (devices,), −1 to 1; g and nu are (2, chips, devices), siemens; ``fresh`` receives
    (g+ − g−)/span, (chips, devices); ``keys`` those of :func:`program_pcm` of one leg, then of the other;
    ``low`` is the smallest conductance.
    """
    count = x.size
    groups = (count + 63) // 64
    tasks = (groups + _TASK - 1) // _TASK
    inv_span = _ONE / span
    for task in prange(len(chips) * tasks):
        k = task // tasks
        chip = np.uint32(chips[k])
        n, m, target = np.empty(64, np.float32), np.empty(64, np.float32), np.empty(64, np.float32)
        first = (task % tasks) * _TASK
        for group in range(first, min(first + _TASK, groups)):
            a = group * 64
            b = min(a + 64, count)
            for leg in range(2):
                sign = _ONE if leg == 0 else -_ONE
                line = x[a:b]
                for e in range(b - a):
                    target[e] = low + span * max(sign * line[e], _ZERO)
                _group(n, group, chip, keys[4 * leg], keys[4 * leg + 1])
                _group(m, group, chip, keys[4 * leg + 2], keys[4 * leg + 3])
                _program_group(
                    target[0 : b - a], g[leg, k][a:b], nu[leg, k][a:b], n, m, inv_max, tiny, c0, c1, c2, mean,
                    std, scale,
                )  # fmt: skip
            _subtract(g[0, k][a:b], g[1, k][a:b], fresh[k][a:b], inv_span)


@kernel
def _slope_group(line, target, n, slope, sign, inv_max, c0, c1, c2):  # type: ignore[no-untyped-def]
    """Adds the derivative of one leg, where the weight is on its side; half of it at zero."""
    for e in range(line.size):
        x = target[e] * inv_max
        sigma = (c2 * x + c1) * x + c0
        rise = (_TWO * c2 * x + c1) * inv_max if sigma >= _ZERO else _ZERO
        kept = _ONE if target[e] + max(sigma, _ZERO) * n[e] >= _ZERO else _ZERO
        side = _ONE if sign * line[e] > _ZERO else (_HALF if line[e] == _ZERO else _ZERO)
        slope[e] += side * kept * (_ONE + rise * n[e])


@parallel_kernel
def program_pcm_difference(  # type: ignore[no-untyped-def]
    x, fresh, slope, chips, keys, low, span, inv_max, c0, c1, c2
):
    """What :func:`program_pcm_pair` leaves in ``fresh``, and its derivative in x, both (chips, devices).

    With target = low + span·max(±x, 0) and g = max(target + σ(target)·n, 0) of each leg::

        d fresh/dx = [target + σ n >= 0]·(1 + σ′(target)·n)   of the leg on whose side x is

    ``keys`` are those of programming of one leg, then of the other.
    """
    count = x.size
    groups = (count + 63) // 64
    tasks = (groups + _TASK - 1) // _TASK
    inv_span = _ONE / span
    for task in prange(len(chips) * tasks):
        k = task // tasks
        chip = np.uint32(chips[k])
        n, target = np.empty(64, np.float32), np.empty(64, np.float32)
        g = np.empty((2, 64), np.float32)
        first = (task % tasks) * _TASK
        for group in range(first, min(first + _TASK, groups)):
            a = group * 64
            b = min(a + 64, count)
            line, rise = x[a:b], slope[k][a:b]
            rise[:] = _ZERO
            for leg in range(2):
                sign = _ONE if leg == 0 else -_ONE
                for e in range(b - a):
                    target[e] = low + span * max(sign * line[e], _ZERO)
                _group(n, group, chip, keys[2 * leg], keys[2 * leg + 1])
                _conductance_group(target[0 : b - a], g[leg][0 : b - a], n, inv_max, c0, c1, c2)
                _slope_group(line, target[0 : b - a], n, rise, sign, inv_max, c0, c1, c2)
            _subtract(g[0][0 : b - a], g[1][0 : b - a], fresh[k][a:b], inv_span)


@kernel
def _age_group(g, nu, out, n, log_time, growth, inv_max, tiny, coefficient, power, largest):  # type: ignore[no-untyped-def]
    for e in range(g.size):
        drifted = g[e] * exp32(-log_time * nu[e])
        q = min(exp32(-power * log32(max(g[e] * inv_max, tiny))) * coefficient, largest)
        out[e] = max(drifted + drifted * q * growth * n[e], _ZERO)


@parallel_kernel
def age_pcm(  # type: ignore[no-untyped-def]
    g, nu, out, chips, keys, log_time, growth, inv_max, tiny, coefficient, power, largest
):
    """``Pcm.age`` of one leg on many chips, all (chips, devices), siemens; ``keys`` of the read noise."""
    count = g.shape[1]
    groups = (count + 63) // 64
    tasks = (groups + _TASK - 1) // _TASK
    for task in prange(len(chips) * tasks):
        k = task // tasks
        chip = np.uint32(chips[k])
        n = np.empty(64, np.float32)
        row_g, row_nu, row_out = g[k], nu[k], out[k]
        first = (task % tasks) * _TASK
        for group in range(first, min(first + _TASK, groups)):
            _group(n, group, chip, keys[0], keys[1])
            a = group * 64
            b = min(a + 64, count)
            _age_group(
                row_g[a:b], row_nu[a:b], row_out[a:b], n, log_time, growth, inv_max, tiny,
                coefficient, power, largest,
            )  # fmt: skip


@parallel_kernel
def age_pcm_pair(  # type: ignore[no-untyped-def]
    g, nu, out, chips, keys, inv_span, log_time, growth, inv_max, tiny, coefficient, power, largest
):
    """``Pcm.age`` of both legs on many chips, and what is left of them: (g+ − g−)/span, (chips, devices).

    g and nu are (2, chips, devices), siemens; ``keys`` of the read noise of one leg, then of the other.
    """
    count = g.shape[2]
    groups = (count + 63) // 64
    tasks = (groups + _TASK - 1) // _TASK
    for task in prange(len(chips) * tasks):
        k = task // tasks
        chip = np.uint32(chips[k])
        n, plus, minus = np.empty(64, np.float32), np.empty(64, np.float32), np.empty(64, np.float32)
        first = (task % tasks) * _TASK
        for group in range(first, min(first + _TASK, groups)):
            a = group * 64
            b = min(a + 64, count)
            _group(n, group, chip, keys[0], keys[1])
            _age_group(
                g[0, k][a:b], nu[0, k][a:b], plus, n, log_time, growth, inv_max, tiny, coefficient, power,
                largest,
            )  # fmt: skip
            _group(n, group, chip, keys[2], keys[3])
            _age_group(
                g[1, k][a:b], nu[1, k][a:b], minus, n, log_time, growth, inv_max, tiny, coefficient, power,
                largest,
            )  # fmt: skip
            _subtract(plus[0 : b - a], minus[0 : b - a], out[k][a:b], inv_span)


@kernel
def _add_magnitudes(line, lanes):  # type: ignore[no-untyped-def]
    for lane in range(16):
        lanes[lane] += abs(line[lane])


@parallel_kernel
def sum_magnitudes(matrix, edges, out):  # type: ignore[no-untyped-def]
    """Σ|w| of matrix (chips, columns, rows) between the edges (parts, 2) of rows: (chips, parts, columns)."""
    chips, columns, _ = matrix.shape
    for task in prange(chips * columns):
        k, c = task // columns, task % columns
        line = matrix[k, c]
        lanes = np.empty(16, np.float32)
        for p in range(edges.shape[0]):
            start, stop = edges[p, 0], edges[p, 1]
            lanes[:] = _ZERO
            whole = (stop - start) // 16 * 16
            for e in range(start, start + whole, 16):
                _add_magnitudes(line[e : e + 16], lanes)
            total = _ZERO
            for e in range(start + whole, stop):
                total += abs(line[e])
            for lane in range(16):
                total += lanes[lane]
            out[k, p, c] = total
