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

from neurosim.philox import log32  # noqa: F401  (compiled into the device kernels)
from neurosim.random import normal_group

_FAST = {"contract", "nnan", "ninf", "nsz"}
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
    block = np.uint64(group) * np.uint64(16)
    low = np.uint32(block & np.uint64(0xFFFFFFFF))
    high = np.uint32(block >> np.uint64(32))
    normal_group(buffer, low, high, chip, k0, k1)


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def _read_inplace(y, n, sigma, inv_step, limit, scale, bias):  # type: ignore[no-untyped-def]
    for e in range(y.size):
        y[e] = _convert(y[e] + sigma[e] * n[e], inv_step[e], limit[e], scale[e]) + bias[e]


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def _read_add(y, acc, n, sigma, inv_step, limit, scale):  # type: ignore[no-untyped-def]
    for e in range(y.size):
        acc[e] += _convert(y[e] + sigma[e] * n[e], inv_step[e], limit[e], scale[e])


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def _noise_inplace(y, n, sigma, scale, bias):  # type: ignore[no-untyped-def]
    for e in range(y.size):
        y[e] = (y[e] + sigma[e] * n[e]) * scale[e] + bias[e]


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def _noise_add(y, acc, n, sigma, scale):  # type: ignore[no-untyped-def]
    for e in range(y.size):
        acc[e] += (y[e] + sigma[e] * n[e]) * scale[e]


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def _segment(y, acc, n, sigma, inv_step, limit, scale, bias, add, adc):  # type: ignore[no-untyped-def]
    if adc:
        if add:
            _read_add(y, acc, n, sigma, inv_step, limit, scale)
        else:
            _read_inplace(y, n, sigma, inv_step, limit, scale, bias)
    elif add:
        _noise_add(y, acc, n, sigma, scale)
    else:
        _noise_inplace(y, n, sigma, scale, bias)


@njit(parallel=True, cache=True, error_model="numpy", fastmath=_FAST)
def read_tile(  # type: ignore[no-untyped-def]
    y, acc, sigma, inv_step, limit, scale, bias, first, chip, k0, k1, pitch, add, adc, noise
):
    """Noise, ADC, scale and sum of one tile's products in one pass over memory.

    With n the white noise of each vector and column (0 unless ``noise``)::

        t = y + sigma * n
        if adc: t = clip(round(t * inv_step), -limit, limit)
        add:  acc += t * scale          else:  y = t * scale + bias     (acc is not touched)

    Shapes: y and acc (vectors, C), contiguous float32; sigma, inv_step, limit, scale and bias (C,).
    ``first`` is the number of the first vector in the noise stream (k0, k1, chip).
    """
    vectors, columns = y.shape
    if columns >= 64:
        per = pitch // 64
        rows = max(1, 16384 // columns)
        for task in prange((vectors + rows - 1) // rows):
            buffer = np.zeros(64, np.float32)
            for v in range(task * rows, min(vectors, task * rows + rows)):
                line = y[v]
                total = acc[v] if add else line
                for g in range(per):
                    a = g * 64
                    b = min(a + 64, columns)
                    if noise:
                        _group(buffer, (first + v) * per + g, chip, k0, k1)
                    _segment(
                        line[a:b], total[a:b], buffer, sigma[a:b], inv_step[a:b], limit[a:b],
                        scale[a:b], bias[a:b], add, adc,
                    )  # fmt: skip
    else:
        per = 64 // pitch  # vectors a group
        begin = first // per
        groups = (first + vectors + per - 1) // per - begin
        chunk = 64
        for task in prange((groups + chunk - 1) // chunk):
            buffer = np.zeros(64, np.float32)
            for g in range(task * chunk, min(groups, task * chunk + chunk)):
                if noise:
                    _group(buffer, begin + g, chip, k0, k1)
                for k in range(per):
                    v = (begin + g) * per + k - first
                    if 0 <= v < vectors:
                        line = y[v]
                        total = acc[v] if add else line
                        n = buffer[k * pitch : k * pitch + columns]
                        _segment(line, total, n, sigma, inv_step, limit, scale, bias, add, adc)


@njit(parallel=True, cache=True, error_model="numpy", fastmath=_FAST)
def quantise_rows(x, out, inv_step, limit, step):  # type: ignore[no-untyped-def]
    """out = clip(round(x * inv_step), ±limit) * step for a 2-D array with any row stride."""
    rows, columns = x.shape
    for r in prange(rows):
        line = x[r]
        target = out[r]
        for e in range(columns):
            target[e] = _convert(line[e], inv_step, limit, step)
