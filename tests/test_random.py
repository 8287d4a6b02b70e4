"""Streams: the published bits, their layout, and statistics with a stated error rate.

Every statistical test is on fixed streams, so it either always passes or always fails; its rate is the
chance that a correct generator would have been refused when the test was written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import get_num_threads, njit, set_num_threads
from scipy import stats

from neurosim import philox
from neurosim.errors import UsageError
from neurosim.random import (
    Draws,
    Stream,
    check_chips,
    follow_torch_threads,
    key_words,
    stream,
    torch_normals,
    torch_philox,
    torch_words,
)

ALPHA = 1e-5  # chance that a right generator fails one statistical test
CPU = torch.device("cpu")
MASK = 0xFFFFFFFF

# Random123 1.14, tests/kat_vectors, "philox4x32 10": counter, key, answer
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

words = st.integers(0, MASK)
chip_numbers = st.integers(0, 2**32 - 1)
offsets = st.one_of(st.integers(0, 300), st.integers(2**32 - 200, 2**32 + 200), st.integers(0, 2**60))


def plain_philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Salmon et al. 2011, section 4.3, in Python's unbounded integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        hi0, lo0 = divmod(0xD2511F53 * c0, 2**32)
        hi1, lo1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def plain_words(
    lot: int, chip: int, name: str, effect: str, element: int
) -> tuple[tuple[int, ...], int, int]:
    """(the four words of the element's block, which word it is, its lane): the layout rule, restated."""
    group, e = divmod(element, 64)
    block = group * 16 + e % 16
    digest = hashlib.blake2b(json.dumps([lot, name, effect]).encode(), digest_size=8).digest()
    key = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    return plain_philox((block & MASK, block >> 32, chip, 0), key), e // 16, e % 16


def plain_normal(lot: int, chip: int, name: str, effect: str, element: int) -> float:
    """Box and Muller on words (0, 1) and (2, 3) of the block."""
    block, word, _ = plain_words(lot, chip, name, effect, element)
    a, b = block[word // 2 * 2], block[word // 2 * 2 + 1]
    u = float(np.float32((np.float32(a) + np.float32(0.5)) * np.float32(2.0**-32)))
    angle = math.pi * (b - 2**32 * (b >= 2**31)) * 2.0**-31
    return math.sqrt(-2 * math.log(u)) * (math.cos(angle) if word % 2 == 0 else math.sin(angle))


@njit
def numba_philox(c, k):  # type: ignore[no-untyped-def]
    return philox.philox(c[0], c[1], c[2], c[3], k[0], k[1])


@njit
def numba_scalars(x, a, b):  # type: ignore[no-untyped-def]
    logs, exps = np.empty_like(x), np.empty_like(x)
    for i in range(x.size):
        logs[i] = philox.log32(abs(x[i]))
        exps[i] = philox.exp32(x[i])
    return logs, exps, philox.box_muller(a, b)


def numba_block(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    out = numba_philox(np.array(counter, np.uint32), np.array(key, np.uint32))
    return tuple(int(word) for word in out)


def torch_block(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    out = torch_philox([torch.tensor(word) for word in counter], (key[0], key[1]))
    return tuple(int(word) for word in out)


# ---- the published bits ----


@pytest.mark.parametrize("implementation", [plain_philox, numba_block, torch_block])
@pytest.mark.parametrize("counter,key,answer", KNOWN, ids=["zeros", "ones", "digits of pi"])
def test_random123_known_answers(implementation, counter, key, answer) -> None:  # type: ignore[no-untyped-def]
    assert implementation(counter, key) == answer


@given(st.tuples(words, words, words, words), st.tuples(words, words))
def test_three_implementations_agree(counter: tuple[int, ...], key: tuple[int, int]) -> None:
    expected = plain_philox(counter, key)
    assert numba_block(counter, key) == expected
    assert torch_block(counter, key) == expected


@settings(max_examples=50)
@given(st.integers(-(2**70), 2**70), chip_numbers, st.text(max_size=8), st.text(max_size=8), offsets)
def test_layout_and_names_equal_a_plain_statement(
    lot: int, chip: int, name: str, effect: str, offset: int
) -> None:
    source = stream(lot, chip, name, effect)
    bits, uniform = source.bits(70, offset), source.uniform(70, offset)
    normal = source.normal(70, offset).double()
    for i in (0, 1, 17, 63, 64, 69):
        block, word, _ = plain_words(lot, chip, name, effect, offset + i)
        assert int(bits[i]) == block[word]
        assert float(uniform[i]) == (block[word] >> 8) * 2.0**-24
        assert float(normal[i]) == pytest.approx(
            plain_normal(lot, chip, name, effect, offset + i), rel=0, abs=1e-6
        )


def test_names_do_not_run_together() -> None:
    names = [(1, "a", "b"), (1, "ab", ""), (1, "", "ab"), (11, "a", "b"), (1, 'a", "b', ""), (-1, "a", "b")]
    assert len({key_words(*name) for name in names}) == len(names)


# ---- numba and torch ----


@settings(max_examples=60)
@given(st.lists(chip_numbers, min_size=1, max_size=4), st.integers(0, 400), offsets)
def test_numba_and_torch_give_the_same_bits_and_close_normals(
    chips: list[int], count: int, offset: int
) -> None:
    k0, k1 = key_words(5, "w", "programming")
    family = stream(5, 0, "w", "programming")
    expected = torch_words(chips, count, offset, k0, k1, CPU)
    for row, chip in enumerate(chips):
        assert torch.equal(stream(5, chip, "w", "programming").bits(count, offset), expected[row])
    difference = family.normals(count, chips, offset) - torch_normals(chips, count, offset, k0, k1, CPU)
    assert count == 0 or float(difference.abs().max()) <= 1e-6


def test_normals_agree_to_1e_6_on_millions_of_samples() -> None:
    k0, k1 = key_words(0, "w", "programming")
    fast = stream(0, 3, "w", "programming").normal(2_000_000)
    assert float((fast - torch_normals([3], 2_000_000, 0, k0, k1, CPU)[0]).abs().max()) <= 1e-6


@pytest.mark.parametrize("a", [0, 1, 2**31, MASK - 128, MASK - 127, MASK])
@pytest.mark.parametrize("b", [0, 1, 2**29 - 1, 2**29, 2**30, 2**31 - 1, 2**31, 3 * 2**29, MASK])
def test_box_muller_at_the_corners(a: int, b: int) -> None:
    u = float(np.float32((np.float32(a) + np.float32(0.5)) * np.float32(2.0**-32)))
    angle = math.pi * (b - 2**32 * (b >= 2**31)) * 2.0**-31
    radius = math.sqrt(-2 * math.log(u))
    _, _, pair = numba_scalars(np.ones(1, np.float32), np.uint32(a), np.uint32(b))
    assert pair == pytest.approx((radius * math.cos(angle), radius * math.sin(angle)), rel=0, abs=1e-6)
    assert max(abs(value) for value in pair) <= 6.8


def test_logarithm_and_exponential_within_two_ulp() -> None:
    x = np.concatenate([np.geomspace(1e-36, 1e36, 200_001), np.linspace(0.5, 2.0, 200_001)]).astype(
        np.float32
    )
    logs, _, _ = numba_scalars(x, np.uint32(0), np.uint32(0))
    exact = np.log(x.astype(np.float64))
    # near x = 1, ln x is the difference of numbers of about 2^-24: absolute there
    assert np.abs(logs - exact).max(initial=0, where=np.abs(exact) < 1) <= 2 * 2.0**-24
    assert (np.abs(logs - exact) / np.maximum(np.abs(exact), 1)).max() <= 2 * 2.0**-23
    y = np.linspace(-86.9, 86.9, 400_001).astype(np.float32)
    _, exps, _ = numba_scalars(y, np.uint32(0), np.uint32(0))
    assert np.abs(exps / np.exp(y.astype(np.float64)) - 1).max() <= 2 * 2.0**-23


def test_exponential_is_clipped_beyond_its_range() -> None:
    _, exps, _ = numba_scalars(np.array([-1e30, -200, 200, 1e30], np.float32), np.uint32(0), np.uint32(0))
    assert exps[0] == exps[1] <= np.exp(-86.9)
    assert exps[2] == exps[3] >= np.exp(87.9)
    assert np.isfinite(exps).all()


# ---- slices of a stream ----


@settings(max_examples=60)
@given(st.integers(0, 300), st.integers(0, 300), offsets)
def test_offsets_are_slices(head: int, tail: int, offset: int) -> None:
    source = stream(1, 2, "w", "drift")
    for draw in (source.bits, source.uniform, source.normal):
        whole = draw(head + tail, offset)
        assert torch.equal(whole[:head], draw(head, offset))
        assert torch.equal(whole[head:], draw(tail, offset + head))


@settings(max_examples=30)
@given(st.lists(chip_numbers, max_size=5), st.lists(st.integers(0, 9), max_size=3), offsets)
def test_many_chips_equal_one_by_one(chips: list[int], shape: list[int], offset: int) -> None:
    family = stream(4, 99, "conv.weight+", "programming")
    normals = family.normals(shape, chips, offset)
    assert normals.shape == (len(chips), *shape)
    draws = Draws(4, tuple(chips), "conv.weight+")
    for row, chip in enumerate(chips):
        alone = stream(4, chip, "conv.weight+", "programming")
        assert torch.equal(normals[row], alone.normal(shape, offset))
        assert torch.equal(draws.normal("programming", shape)[row], alone.normal(shape))
        assert torch.equal(draws.uniform("programming", shape)[row], alone.uniform(shape))


def test_shape_only_folds_the_row() -> None:
    source = stream(0, 0, "w", "e")
    assert torch.equal(source.normal((4, 5, 6)).flatten(), source.normal(120))
    assert torch.equal(source.bits((2, 50)).flatten(), source.bits(100))
    assert source.normal(()).shape == ()
    assert float(source.normal(())) == float(source.normal(1))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads(), get_num_threads()
    yield
    torch.set_num_threads(before[0])
    set_num_threads(before[1])


def test_number_of_threads_does_not_matter(threads: None) -> None:
    source = stream(0, 0, "w", "e")
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append((source.normals(100_003, [1, 2, 3], 5), source.bits(100_003, 5)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_kernels_take_the_threads_of_torch(threads: None) -> None:
    torch.set_num_threads(1)
    follow_torch_threads()
    assert get_num_threads() == 1


def test_draws_hand_kernels_the_keys_of_their_streams() -> None:
    keys = Draws(7, (0,), "w+").keys("programming", "drift")
    assert keys.dtype == np.uint32
    assert keys.tolist() == [*key_words(7, "w+", "programming"), *key_words(7, "w+", "drift")]


# ---- statistics; each at ALPHA unless it says otherwise ----


def test_uniforms_are_uniform_and_below_one() -> None:
    u = stream(0, 0, "w", "e").uniform(4_000_000).numpy()
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert u.dtype == np.float32
    assert stats.kstest(u.astype(np.float64), "uniform", method="asymp").pvalue > ALPHA


def test_largest_bits_are_below_one() -> None:
    # the 24 leading bits all set: found by search, so that the edge of the interval is really met
    source = stream(0, 0, "w", "e")
    bits, u = source.bits(2**24), source.uniform(2**24)
    assert int(bits.max()) >> 8 >= 2**24 - 20
    assert torch.equal(u.double() * 2.0**24, (bits >> 8).double())


def test_every_bit_is_fair() -> None:
    n = 1_000_000
    bits = stream(3, 1, "w", "e").bits(n).numpy()
    ones = np.array([((bits >> b) & 1).sum() for b in range(32)])
    z = (ones - n / 2) / math.sqrt(n / 4)
    assert np.abs(z).max() < stats.norm.isf(ALPHA / 2 / 32)  # Bonferroni over the bits


def test_normals_are_normal() -> None:
    n = stream(0, 0, "w", "e").normal(4_000_000).double().numpy()
    assert stats.kstest(n, "norm", method="asymp").pvalue > ALPHA
    for word in range(4):  # each of cos and sin, of both pairs of words
        part = n.reshape(-1, 4, 16)[:, word].reshape(-1)
        assert stats.kstest(part, "norm", method="asymp").pvalue > ALPHA / 4


def test_tails_of_normals_have_the_right_weight() -> None:
    n = stream(0, 7, "w", "e").normal(8_000_000).abs()
    for z in (3.0, 4.0, 5.0):
        expected = len(n) * 2 * stats.norm.sf(z)
        low, high = stats.poisson.ppf([ALPHA / 6, 1 - ALPHA / 6], expected)
        assert low <= int((n > z).sum()) <= high


NEIGHBOURS = {
    "chips": (stream(0, 0, "w", "e"), stream(0, 1, "w", "e")),
    "far chips": (stream(0, 0, "w", "e"), stream(0, 2**31, "w", "e")),
    "names": (stream(0, 0, "fc1.weight+", "e"), stream(0, 0, "fc1.weight-", "e")),
    "effects": (stream(0, 0, "w", "programming"), stream(0, 0, "w", "drift")),
    "ages": (stream(0, 0, "w", "read-noise@25.0"), stream(0, 0, "w", "read-noise@26.0")),
    "lots": (stream(0, 0, "w", "e"), stream(1, 0, "w", "e")),
}


@pytest.mark.parametrize("what", NEIGHBOURS)
def test_neighbouring_streams_are_uncorrelated(what: str) -> None:
    a, b = (source.normal(1_000_000).double() for source in NEIGHBOURS[what])
    bound = stats.norm.isf(ALPHA / 2 / 7)  # seven lags a pair of streams
    for lag in (0, 1, -1, 16, -16, 64, -64):
        x, y = (a[lag:], b[: len(b) - lag]) if lag >= 0 else (a[:lag], b[-lag:])
        assert abs(float((x * y).sum())) / math.sqrt(len(x)) < bound


def test_a_stream_is_uncorrelated_with_itself() -> None:
    a = stream(0, 0, "w", "e").normal(2_000_000).double()
    bound = stats.norm.isf(ALPHA / 2 / 10)
    for lag in (1, 2, 3, 4, 15, 16, 17, 32, 63, 64):
        assert abs(float((a[lag:] * a[:-lag]).sum())) / math.sqrt(len(a) - lag) < bound


def test_squares_within_a_block_are_uncorrelated() -> None:
    # cos and sin of one radius: independent only if radius and angle are right
    n = stream(0, 0, "w", "e").normal(4_000_000).double().reshape(-1, 4, 16) ** 2 - 1
    count = n[:, 0].numel()
    for i in range(4):
        for j in range(i):
            z = float((n[:, i] * n[:, j]).sum()) / (2 * math.sqrt(count))
            assert abs(z) < stats.norm.isf(ALPHA / 2 / 6)


# ---- permutations ----


@given(st.integers(0, 500), chip_numbers)
def test_a_permutation_holds_every_index_once(n: int, chip: int) -> None:
    order = stream(0, chip, "data", "order").permutation(n)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(n))


def test_permutations_of_four_are_uniform() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for chip in range(4800):
        order = tuple(stream(0, chip, "data", "order").permutation(4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > ALPHA


def test_where_an_element_goes_is_uniform() -> None:
    places = [int(stream(1, chip, "data", "order").permutation(1000)[0]) for chip in range(2000)]
    assert stats.chisquare(np.bincount(np.array(places) // 50, minlength=20)).pvalue > ALPHA


# ---- errors and global state ----


def test_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    source = stream(0, 0, "w", "e")
    source.bits(10), source.uniform(10), source.normal(10), source.permutation(10)
    torch_normals([0], 10, 0, 1, 2, CPU)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002


@pytest.mark.parametrize("chip", [-1, 2**32, 1.0, "3", True, None])
def test_wrong_chips_are_refused(chip: object) -> None:
    message = r"expected chip numbers, integers from 0 to 2\*\*32 - 1; got "
    with pytest.raises(UsageError, match=message):
        stream(0, chip, "w", "e")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        stream(0, 0, "w", "e").normals(3, [0, chip])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=message):
        Draws(0, (0, chip), "w").uniform("e", 3)  # type: ignore[arg-type]


def test_chips_of_numpy_are_plain_integers() -> None:
    chips = check_chips([np.int64(3), np.uint8(5)])  # type: ignore[list-item]
    assert chips == (3, 5)
    assert [type(chip) for chip in chips] == [int, int]


@pytest.mark.parametrize("lot", [1.0, "0", None, True])
def test_a_wrong_lot_is_refused(lot: object) -> None:
    with pytest.raises(UsageError, match="expected a lot seed, an integer; got"):
        stream(lot, 0, "w", "e")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [-1, (3, -2), (2.5,), 2.5, "ab"])
def test_a_wrong_shape_is_refused(shape: object) -> None:
    with pytest.raises(UsageError, match="expected a shape of non-negative sizes; got"):
        stream(0, 0, "w", "e").normal(shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [-1, 2**62, 1.5])
def test_a_wrong_offset_is_refused(offset: object) -> None:
    source: Stream = stream(0, 0, "w", "e")
    for draw in (source.bits, source.uniform, source.normal):
        with pytest.raises(UsageError, match=r"expected an offset from 0 to 2\*\*62 - 1; got"):
            draw(3, offset)  # type: ignore[arg-type]


def test_the_last_offset_works() -> None:
    last = 2**62 - 65
    block, word, _ = plain_words(0, 5, "w", "e", last)
    assert int(stream(0, 5, "w", "e").bits(64, last)[0]) == block[word]
    k0, k1 = key_words(0, "w", "e")
    assert torch.equal(torch_words([5], 64, last, k0, k1, CPU)[0], stream(0, 5, "w", "e").bits(64, last))
