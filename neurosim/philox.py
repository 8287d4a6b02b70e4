"""Philox-4x32-10 and the normal rule as inlinable scalar functions for numba kernels.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
doi:10.1145/2063384.2063405.  Checked against the Random123 known answers in ``tests/test_random.py``.

Everything is written so that LLVM turns a loop over 16 consecutive blocks into vector code: no
branches, no calls, 32-bit words in, 32-bit floats out.  Shapes and names live in
:mod:`neurosim.random`; this module knows only words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic as _intrinsic

# numba's own annotation forgets that numba, not the caller, passes the typing context
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = _intrinsic

GROUP = 64
"""Elements of one group: 16 consecutive blocks × 4 words, stored word-major."""
LANES = 16

# fuse multiply and add; no NaN, no infinity, no signed zero: never reassociate, which would change bits
FAST = {"contract", "nnan", "ninf", "nsz"}

_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = 0x9E3779B9
_W1 = 0xBB67AE85
_MASK = 0xFFFFFFFF
_S32 = np.uint64(32)


@intrinsic
def _bits_of(typingctx: Any, x: Any) -> Any:
    """The int32 with the bits of a float32."""
    if not isinstance(x, types.Float):
        return None
    signature = types.int32(types.float32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.int32))

    return signature, codegen


@intrinsic
def _float_of(typingctx: Any, x: Any) -> Any:
    """The float32 with the bits of an int32."""
    if not isinstance(x, types.Integer):
        return None
    signature = types.float32(types.int32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return signature, codegen


@intrinsic
def _mulhilo(typingctx: Any, a: Any, b: Any) -> Any:
    """(high, low) 32-bit words of the 64-bit product of two uint32; numba's own ``*`` would widen."""
    signature = types.UniTuple(types.uint32, 2)(types.uint32, types.uint32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = context.get_value_type(types.uint64)
        word = context.get_value_type(types.uint32)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        high = builder.trunc(builder.lshr(product, wide(32)), word)
        low = builder.trunc(product, word)
        return context.make_tuple(builder, sig.return_type, (high, low))

    return signature, codegen


@intrinsic
def _add32(typingctx: Any, a: Any, b: Any) -> Any:
    """uint32 addition that stays 32 bits wide (wraps)."""
    signature = types.uint32(types.uint32, types.uint32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.add(args[0], args[1])

    return signature, codegen


_PM0 = np.uint32(0xD2511F53)
_PM1 = np.uint32(0xCD9E8D57)
_PW0 = np.uint32(_W0)
_PW1 = np.uint32(_W1)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile for one thread, called from other kernels."""
    return _compiled(function, parallel=False)


def parallel_kernel(function: Callable[..., Any]) -> Any:
    """Compile with ``prange`` on every thread; call :func:`neurosim.random.follow_torch_threads` first."""
    return _compiled(function, parallel=True)


def _compiled(function: Callable[..., Any], parallel: bool) -> Any:
    options: dict[str, Any] = {"parallel": parallel, "error_model": "numpy", "fastmath": FAST}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that can be written: compile at every start rather than fail
        return njit(**options)(function)


@njit(inline="always")
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Ten rounds of Philox-4x32: four counter words and two key words (uint32) to four words."""
    for _ in range(10):
        hi0, lo0 = _mulhilo(_PM0, c0)
        hi1, lo1 = _mulhilo(_PM1, c2)
        c0 = hi1 ^ c1 ^ k0
        c1 = lo1
        c2 = hi0 ^ c3 ^ k1
        c3 = lo0
        k0 = _add32(k0, _PW0)
        k1 = _add32(k1, _PW1)
    return c0, c1, c2, c3


_TWO_M32 = np.float32(2.0**-32)
_ONE = np.float32(1.0)
_LN2 = np.float32(0.6931471805599453)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_EXP_MASK = np.int32(0x007FFFFF)
_SHIFT = np.int32(23)
_L0 = np.float32(7.0376836292e-2)
_L1 = np.float32(-1.1514610310e-1)
_L2 = np.float32(1.1676998740e-1)
_L3 = np.float32(-1.2420140846e-1)
_L4 = np.float32(1.4249322787e-1)
_L5 = np.float32(-1.6668057665e-1)
_L6 = np.float32(2.0000714765e-1)
_L7 = np.float32(-2.4999993993e-1)
_L8 = np.float32(3.3333331174e-1)
_HALF = np.float32(0.5)
_TWO = np.float32(2.0)


@njit(inline="always", fastmath=FAST)
def log32(x):  # type: ignore[no-untyped-def]
    """ln x for positive normal float32, within 1 ulp or so (Cephes ``logf`` coefficients)."""
    bits = _bits_of(x)
    # exponent such that the mantissa lies in [sqrt(1/2), sqrt(2))
    shifted = np.int32(bits - _SQRT_HALF_BITS)
    exponent = np.float32(np.int32(shifted >> _SHIFT))
    m = _float_of(np.int32((shifted & _EXP_MASK) + _SQRT_HALF_BITS)) - _ONE
    p = _L0
    p = p * m + _L1
    p = p * m + _L2
    p = p * m + _L3
    p = p * m + _L4
    p = p * m + _L5
    p = p * m + _L6
    p = p * m + _L7
    p = p * m + _L8
    m2 = m * m
    return exponent * _LN2 + (m + m2 * (p * m - _HALF))


# sin and cos on [-π/4, π/4] (Cephes ``sinf`` and ``cosf`` coefficients)
_S0 = np.float32(-1.9515295891e-4)
_S1 = np.float32(8.3321608736e-3)
_S2 = np.float32(-1.6666654611e-1)
_C0 = np.float32(2.443315711809948e-5)
_C1 = np.float32(-1.388731625493765e-3)
_C2 = np.float32(4.166664568298827e-2)
_HALF_PI_M30 = np.float32(np.pi / 2 * 2.0**-30)
_EIGHTH = np.int32(1 << 29)
_THIRTY = np.int32(30)
_I1 = np.int32(1)
_I2 = np.int32(2)


@njit(inline="always", fastmath=FAST)
def box_muller(a, b):  # type: ignore[no-untyped-def]
    """Two standard normals from two uint32 words.

    u = (a + 1/2) 2^-32 in (0, 1], rounded to float32; φ = π b' 2^-31 with b' = b read as int32;
    n = sqrt(-2 ln u) (cos φ, sin φ).  |n| <= 6.8.  The angle is reduced by exact integer
    arithmetic to [-π/4, π/4] and a quadrant, whose signs and swap are selects, not branches.
    """
    u = (np.float32(a) + _HALF) * _TWO_M32
    r = np.sqrt(-_TWO * log32(u))
    word = np.int32(b)
    quadrant = np.int32(np.int32(word + _EIGHTH) >> _THIRTY)
    h = np.float32(np.int32(word - np.int32(quadrant << _THIRTY))) * _HALF_PI_M30
    z = h * h
    s = r * (h + h * z * (_S2 + z * (_S1 + z * _S0)))
    c = r * (_ONE - _HALF * z + z * z * (_C2 + z * (_C1 + z * _C0)))
    odd = (quadrant & _I1) != 0
    cos = s if odd else c
    sin = c if odd else s
    # the quadrant is -2, -1, 0 or 1: cos φ is negated in 1 and -2, sin φ in -1 and -2
    cos = -cos if ((quadrant ^ (quadrant >> _I1)) & _I1) != 0 else cos
    sin = -sin if (quadrant & _I2) != 0 else sin
    return cos, sin


_LOG2E = np.float32(1.4426950408889634)
_EXP_HI = np.float32(0.693359375)
_EXP_LO = np.float32(-2.12194440e-4)
_E0 = np.float32(1.9875691500e-4)
_E1 = np.float32(1.3981999507e-3)
_E2 = np.float32(8.3334519073e-3)
_E3 = np.float32(4.1665795894e-2)
_E4 = np.float32(1.6666665459e-1)
_E5 = np.float32(5.0000001201e-1)
_EXP_MAX = np.float32(88.0)
_ROUND = np.float32(12582912.0)  # adding and subtracting 1.5 * 2^23 rounds to an integer
_BIAS = np.int32(127)


@njit(inline="always", fastmath=FAST)
def exp32(x):  # type: ignore[no-untyped-def]
    """e^x in float32 for |x| <= 87, within 1 ulp or so (Cephes ``expf`` coefficients); clipped beyond."""
    x = min(max(x, -_EXP_MAX + _ONE), _EXP_MAX)
    n = (x * _LOG2E + _ROUND) - _ROUND
    r = x - n * _EXP_HI - n * _EXP_LO
    p = _E0
    p = p * r + _E1
    p = p * r + _E2
    p = p * r + _E3
    p = p * r + _E4
    p = p * r + _E5
    p = p * r * r + r + _ONE
    return p * _float_of(np.int32(np.int32(np.int32(n) + _BIAS) << _SHIFT))
