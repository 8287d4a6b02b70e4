"""The streams' numbers on a GPU, one kernel a tensor: about 400 small ones otherwise.

Words are those of :func:`neurosim.random.torch_words` to the bit; normals agree to 1e-6 (absolute), computed
in float64 as there.  Only imported where Triton is installed.  On one H100, 493,642 normals took 0.095 ms,
and 1.8 ms by torch operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

_TILE = 1024
_TURN = tl.constexpr(math.pi * 2.0**-31)


@triton.jit
def _philox(low, high, chip, k0, k1):  # type: ignore[no-untyped-def]
    c0, c1, c2, c3 = low, high, chip, chip * 0
    for _ in tl.static_range(10):
        high0, high1 = tl.umulhi(c0, 0xD2511F53), tl.umulhi(c2, 0xCD9E8D57)
        low0, low1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _block_words(row_chip, place, k0, k1):  # type: ignore[no-untyped-def]
    """The four words of the block that holds each element, and which of them is the element's."""
    block = (place // 64) * 16 + place % 16
    chip = (place * 0 + row_chip).to(tl.uint32)
    key0, key1 = (place * 0 + k0).to(tl.uint32), (place * 0 + k1).to(tl.uint32)
    w0, w1, w2, w3 = _philox(block.to(tl.uint32), (block >> 32).to(tl.uint32), chip, key0, key1)
    return w0, w1, w2, w3, (place % 64) // 16


@triton.jit  # type: ignore[untyped-decorator]
def _fill_words(out, chips, count, offset, k0, k1, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.program_id(1), tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    w0, w1, w2, w3, which = _block_words(tl.load(chips + row), column + offset, k0, k1)
    word = tl.where(which == 0, w0, tl.where(which == 1, w1, tl.where(which == 2, w2, w3)))
    tl.store(out + row * count + column, word.to(tl.int64), mask=column < count)


@triton.jit  # type: ignore[untyped-decorator]
def _fill_normals(out, chips, count, offset, k0, k1, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.program_id(1), tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    w0, w1, w2, w3, which = _block_words(tl.load(chips + row), column + offset, k0, k1)
    a, b = tl.where(which < 2, w0, w2), tl.where(which < 2, w1, w3)
    u = (a.to(tl.float32) + 0.5) * 2.3283064365386963e-10  # 2⁻³², rounded to float32: part of the rule
    radius = tl.sqrt(-2.0 * tl.log(u.to(tl.float64)))
    angle = b.to(tl.int32, bitcast=True).to(tl.float64) * _TURN
    normal = radius * tl.where(which % 2 == 0, tl.cos(angle), tl.sin(angle))
    tl.store(out + row * count + column, normal.to(tl.float32), mask=column < count)


def words(
    chips: Sequence[int], count: int, offset: int, k0: int, k1: int, device: torch.device
) -> torch.Tensor:
    """Bits of many chips, (chips, count), int64."""
    return _filled(_fill_words, torch.int64, chips, count, offset, k0, k1, device)


def normals(
    chips: Sequence[int], count: int, offset: int, k0: int, k1: int, device: torch.device
) -> torch.Tensor:
    """Normals of many chips, (chips, count), float32."""
    return _filled(_fill_normals, torch.float32, chips, count, offset, k0, k1, device)


def _filled(
    kernel: triton.JITFunction,
    kind: torch.dtype,
    chips: Sequence[int],
    count: int,
    offset: int,
    k0: int,
    k1: int,
    device: torch.device,
) -> torch.Tensor:
    out = torch.empty((len(chips), count), dtype=kind, device=device)
    if count and len(chips):
        rows = torch.tensor(chips, dtype=torch.int64, device=device)
        with torch.cuda.device(device):
            kernel[(triton.cdiv(count, _TILE), len(chips))](out, rows, count, offset, k0, k1, TILE=_TILE)
    return out
