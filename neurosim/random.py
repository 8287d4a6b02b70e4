"""Named, counter-based random streams: chip 17 is chip 17 on every machine, alone or in a crowd.

A stream is named by *(lot, chip, name, effect)*: never by the order of calls, so that adding a layer
or an effect shifts nobody else's noise.  Its bits are Philox-4x32-10 (Salmon et al. 2011,
doi:10.1145/2063384.2063405) with

* key = the first 8 bytes of BLAKE2b over the JSON list [lot, name, effect], as two little-endian words;
* counter = (block low, block high, chip, 0).

Elements come in groups of 64, made of 16 consecutive blocks of four words: element *e* of a group is
word *e // 16* of block *e % 16*.  Vector units and GPU warps then store contiguously.

Bits and uniforms are identical on every device.  Normals follow the Box-Muller rule of
:func:`neurosim.philox.box_muller` on words (0, 1) and (2, 3) of a block and agree across devices to
1e-6 (absolute).  Nothing here touches torch's or NumPy's global generators.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import config, njit, prange, set_num_threads

from neurosim import philox as _p
from neurosim.errors import UsageError
from neurosim.philox import kernel, parallel_kernel

_TRITON = importlib.util.find_spec("triton") is not None  # comes with torch for CUDA on Linux
_CHIP_LIMIT = 2**32
_OFFSET_LIMIT = 2**62  # so that positions stay within 64-bit integers
_ZERO = np.uint32(0)
_TWO_M24 = np.float32(2.0**-24)
_CHUNK = 256  # groups a task: small enough to balance the threads, large enough to hide the dispatch


@njit(inline="always")
def group_words(lane, block_low, block_high, chip, k0, k1):  # type: ignore[no-untyped-def]
    """The four words of one lane of a group."""
    return _p.philox(_p._add32(block_low, np.uint32(lane)), block_high, chip, _ZERO, k0, k1)


@kernel
def _bits_group(out, low, high, chip, k0, k1):  # type: ignore[no-untyped-def]
    for lane in range(16):
        w0, w1, w2, w3 = group_words(lane, low, high, chip, k0, k1)
        out[lane] = w0
        out[16 + lane] = w1
        out[32 + lane] = w2
        out[48 + lane] = w3


@kernel
def normal_group(out, low, high, chip, k0, k1):  # type: ignore[no-untyped-def]
    """Fill 64 float32 with the normals of the group whose first block is (low, high)."""
    for lane in range(16):
        w0, w1, w2, w3 = group_words(lane, low, high, chip, k0, k1)
        n0, n1 = _p.box_muller(w0, w1)
        n2, n3 = _p.box_muller(w2, w3)
        out[lane] = n0
        out[16 + lane] = n1
        out[32 + lane] = n2
        out[48 + lane] = n3


@njit(inline="always")
def block_words(group):  # type: ignore[no-untyped-def]
    """(low, high) words of the number of a group's first block."""
    block = np.uint64(group) * np.uint64(16)
    return np.uint32(block & np.uint64(0xFFFFFFFF)), np.uint32(block >> np.uint64(32))


# The two kernels differ in one call only.  numba caches machine code for module-level functions but
# not for ones made by a factory, and a second of compilation at every start would be worse than a twin.
@parallel_kernel
def _fill_bits(out, chips, offset, k0, k1):  # type: ignore[no-untyped-def]
    count = out.shape[1]
    first = offset // 64
    groups = (offset + count + 63) // 64 - first
    tasks = (groups + _CHUNK - 1) // _CHUNK
    for task in prange(out.shape[0] * tasks):
        row = task // tasks
        start = first + (task % tasks) * _CHUNK
        buffer = np.empty(64, np.uint32)
        target = out[row]  # contiguous by type, which a slice of the two-dimensional array is not
        for g in range(start, min(start + _CHUNK, first + groups)):
            low, high = block_words(g)
            begin = g * 64 - offset
            _bits_group(buffer, low, high, np.uint32(chips[row]), k0, k1)
            for e in range(max(0, -begin), min(64, count - begin)):
                target[begin + e] = buffer[e]


@parallel_kernel
def _fill_normals(out, chips, offset, k0, k1):  # type: ignore[no-untyped-def]
    count = out.shape[1]
    first = offset // 64
    groups = (offset + count + 63) // 64 - first
    tasks = (groups + _CHUNK - 1) // _CHUNK
    for task in prange(out.shape[0] * tasks):
        row = task // tasks
        start = first + (task % tasks) * _CHUNK
        buffer = np.empty(64, np.float32)
        target = out[row]
        for g in range(start, min(start + _CHUNK, first + groups)):
            low, high = block_words(g)
            begin = g * 64 - offset
            if begin >= 0 and begin + 64 <= count:
                normal_group(target[begin : begin + 64], low, high, np.uint32(chips[row]), k0, k1)
            else:
                normal_group(buffer, low, high, np.uint32(chips[row]), k0, k1)
                for e in range(max(0, -begin), min(64, count - begin)):
                    target[begin + e] = buffer[e]


def follow_torch_threads() -> None:
    """Give the kernels as many threads as torch has now: both share one OpenMP pool, and one setting.

    A process told to use one thread (``OMP_NUM_THREADS=1``, a worker of a pool) must not wait for a
    second one in every kernel: on a busy machine that costs a scheduling quantum each time.  Where both
    use one libgomp (torch's wheel), the first call starts numba's threads and with them overwrites
    torch's setting, which is then given back.  Not done on import: a process that forks should be
    able to import first.
    """
    threads = torch.get_num_threads()
    most: int = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # numba sets it when imported
    set_num_threads(max(1, min(threads, most)))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def key_words(lot: int, name: str, effect: str) -> tuple[int, int]:
    """The two 32-bit key words of a stream family.

    >>> key_words(0, "fc1.weight", "programming") == key_words(0, "fc1.weight", "drift")
    False
    """
    text = json.dumps([lot, name, effect], ensure_ascii=True).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    try:
        dims = tuple(operator.index(d) for d in (shape if isinstance(shape, Iterable) else (shape,)))
    except TypeError:
        dims = (-1,)
    if any(d < 0 for d in dims):
        raise UsageError(f"expected a shape of non-negative sizes; got {shape!r}")
    return dims


def _offset(offset: int) -> int:
    try:
        number = operator.index(offset)
    except TypeError:
        number = -1
    if not 0 <= number < _OFFSET_LIMIT:
        raise UsageError(f"expected an offset from 0 to 2**62 - 1; got {offset!r}")
    return number


def check_chips(chips: Sequence[int]) -> tuple[int, ...]:
    """Chip numbers as a tuple; UsageError unless each is an integer in [0, 2**32)."""
    for chip in chips:
        if isinstance(chip, bool) or not isinstance(chip, (int, np.integer)) or not 0 <= chip < _CHIP_LIMIT:
            raise UsageError(f"expected chip numbers, integers from 0 to 2**32 - 1; got {chip!r}")
    return tuple(int(chip) for chip in chips)


@dataclass(frozen=True)
class Stream:
    """An endless row of random numbers with a name.  Make one with :func:`stream`.

    Every method takes a shape and an ``offset``, counted in elements from the start of the row, and
    always returns the same numbers for the same arguments.
    """

    lot: int
    chip: int
    name: str
    effect: str

    def bits(self, shape: int | Sequence[int], offset: int = 0, device: str = "cpu") -> torch.Tensor:
        """int64 tensor that holds uniformly random uint32 values.

        >>> stream(0, 17, "fc1.weight", "programming").bits(2).tolist()
        [2790212633, 4146872806]
        """
        return _bits(self, (self.chip,), _shape(shape), offset, torch.device(device))[0]

    def uniform(self, shape: int | Sequence[int], offset: int = 0, device: str = "cpu") -> torch.Tensor:
        """float32 in [0, 1): (bits >> 8) · 2⁻²⁴, identical on every device."""
        return (self.bits(shape, offset, device) >> 8).to(torch.float32) * float(_TWO_M24)

    def normal(self, shape: int | Sequence[int], offset: int = 0, device: str = "cpu") -> torch.Tensor:
        """float32 standard normals, |n| ≤ 6.8."""
        return self.normals(shape, [self.chip], offset, device)[0]

    def normals(
        self, shape: int | Sequence[int], chips: Sequence[int], offset: int = 0, device: str = "cpu"
    ) -> torch.Tensor:
        """Normals of many chips at once, (len(chips), \\*shape); row k is that of chip ``chips[k]`` alone."""
        return _normals(self, check_chips(chips), _shape(shape), offset, torch.device(device))

    def permutation(self, n: int) -> torch.Tensor:
        """A uniformly random order of 0 … n−1 (int64): the order of 64-bit random keys, ties by index."""
        words = self.bits((2, n))
        keys = ((words[0] - 2**31) << 32) | words[1]
        return torch.argsort(keys, stable=True)


def stream(lot: int, chip: int, name: str, effect: str) -> Stream:
    """The stream of one effect on one named tensor of one chip of one lot.

    Args:
        lot: seed of the lot, any integer.
        chip: number of the chip in the lot, 0 … 2³²−1 (training uses the step number).
        name: what the numbers are for, usually a parameter's name.
        effect: which effect draws them, such as ``"programming"``.

    Raises:
        UsageError: ``lot`` is not an integer or ``chip`` is out of range.

    >>> a = stream(0, 17, "fc1.weight", "programming")
    >>> import torch; torch.equal(a.normal(100)[40:], a.normal(60, offset=40))
    True
    """
    if isinstance(lot, bool) or not isinstance(lot, (int, np.integer)):
        raise UsageError(f"expected a lot seed, an integer; got {lot!r}")
    (chip,) = check_chips([chip])
    return Stream(int(lot), chip, name, effect)


@dataclass(frozen=True)
class Draws:
    """The draws of one tensor on several chips: what device physics receives instead of a generator.

    >>> Draws(0, (3, 17), "fc1.weight+").normal("programming", (4, 5)).shape
    torch.Size([2, 4, 5])
    """

    lot: int
    chips: tuple[int, ...]
    name: str
    device: str = "cpu"

    def normal(self, effect: str, shape: int | Sequence[int]) -> torch.Tensor:
        """Standard normals, (chips, \\*shape), float32."""
        return stream(self.lot, 0, self.name, effect).normals(shape, self.chips, device=self.device)

    def keys(self, *effects: str) -> np.ndarray:
        """Key words of the streams of some effects, (2 · effects,) uint32: for fused kernels."""
        words = [word for effect in effects for word in key_words(self.lot, self.name, effect)]
        return np.array(words, np.uint32)

    def uniform(self, effect: str, shape: int | Sequence[int]) -> torch.Tensor:
        """Uniforms in [0, 1), (chips, \\*shape), float32."""
        family = stream(self.lot, 0, self.name, effect)
        words = _bits(family, check_chips(self.chips), _shape(shape), 0, torch.device(self.device))
        return (words >> 8).to(torch.float32) * float(_TWO_M24)


def _bits(
    family: Stream, chips: tuple[int, ...], shape: tuple[int, ...], offset: int, device: torch.device
) -> torch.Tensor:
    count, offset = math.prod(shape), _offset(offset)
    k0, k1 = key_words(family.lot, family.name, family.effect)
    if device.type != "cpu":
        return torch_words(chips, count, offset, k0, k1, device).reshape(len(chips), *shape)
    out = np.empty((len(chips), count), np.uint32)
    follow_torch_threads()
    _fill_bits(out, np.array(chips, np.int64), offset, np.uint32(k0), np.uint32(k1))
    return torch.from_numpy(out.astype(np.int64)).reshape(len(chips), *shape)


def _normals(
    family: Stream, chips: tuple[int, ...], shape: tuple[int, ...], offset: int, device: torch.device
) -> torch.Tensor:
    count, offset = math.prod(shape), _offset(offset)
    k0, k1 = key_words(family.lot, family.name, family.effect)
    if device.type != "cpu":
        return torch_normals(chips, count, offset, k0, k1, device).reshape(len(chips), *shape)
    out = torch.empty((len(chips), count), dtype=torch.float32)
    follow_torch_threads()
    _fill_normals(out.numpy(), np.array(chips, np.int64), offset, np.uint32(k0), np.uint32(k1))
    return out.reshape(len(chips), *shape)


# The same numbers from torch operations alone: what a GPU runs, and the CPU kernel's oracle.


def torch_philox(counter: Sequence[torch.Tensor], key: tuple[int, int]) -> list[torch.Tensor]:
    """Philox-4x32-10 on int64 tensors that hold uint32 words; any device."""
    mask = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wraps mod 2**64, as the words need
        c0, c1, c2, c3 = ((p1 >> 32) & mask) ^ c1 ^ k0, p1 & mask, ((p0 >> 32) & mask) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return [c0, c1, c2, c3]


def _torch_groups(
    chips: Sequence[int], count: int, offset: int, k0: int, k1: int, device: torch.device
) -> list[torch.Tensor]:
    """The four words of every block that touches [offset, offset + count): each (chips, groups, 16)."""
    first, last = offset // 64, (offset + count + 63) // 64
    block = torch.arange(first * 16, last * 16, device=device, dtype=torch.int64).reshape(1, -1, 16)
    chip = torch.tensor(chips, device=device, dtype=torch.int64).reshape(-1, 1, 1)
    low, high = torch.broadcast_tensors(block & 0xFFFFFFFF, chip)[0], (block >> 32).expand(len(chips), -1, -1)
    return torch_philox([low, high, chip.expand_as(low), torch.zeros_like(low)], (k0, k1))


def torch_words(
    chips: Sequence[int], count: int, offset: int, k0: int, k1: int, device: torch.device
) -> torch.Tensor:
    """Bits of many chips (chips, count), int64: by torch operations, or one kernel on a GPU with Triton."""
    if device.type == "cuda" and _TRITON:
        from neurosim.random_gpu import words as fill

        return fill(chips, count, offset, k0, k1, device)
    words = torch.stack(_torch_groups(chips, count, offset, k0, k1, device), dim=2)
    start = offset % 64
    return words.reshape(len(chips), -1)[:, start : start + count]


def torch_normals(
    chips: Sequence[int], count: int, offset: int, k0: int, k1: int, device: torch.device
) -> torch.Tensor:
    """Normals of many chips, (chips, count), float32; as :func:`torch_words`."""
    if device.type == "cuda" and _TRITON:
        from neurosim.random_gpu import normals

        return normals(chips, count, offset, k0, k1, device)
    w = _torch_groups(chips, count, offset, k0, k1, device)
    planes = []
    for a, b in ((w[0], w[1]), (w[2], w[3])):
        u = (a.float() + 0.5) * 2.0**-32  # rounded to float32: part of the rule
        radius = torch.sqrt(-2.0 * torch.log(u.double()))
        angle = (b - ((b >> 31) << 32)).double() * (math.pi * 2.0**-31)
        planes += [radius * torch.cos(angle), radius * torch.sin(angle)]
    start = offset % 64
    return torch.stack(planes, dim=2).reshape(len(chips), -1)[:, start : start + count].float()
