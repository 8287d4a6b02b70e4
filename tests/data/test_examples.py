"""Examples, Batches and the split: disjoint, complete, and a function of the seed alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurosim.data.examples import Batches, Examples, split_indices
from neurosim.errors import UsageError
from neurosim.random import stream


def numbered(n: int, size: tuple[int, int] = (2, 2)) -> Examples:
    """Example k holds k/n in every pixel and has class k."""
    values = torch.arange(n, dtype=torch.float32) / max(n, 1)
    return Examples(values.view(-1, 1, 1, 1).expand(n, 1, *size).contiguous(), torch.arange(n))


# ---- Examples -------------------------------------------------------------------------------------------


def test_indexing() -> None:
    examples = numbered(10)
    assert len(examples) == 10
    assert examples[2:5].targets.tolist() == [2, 3, 4]
    assert examples[::3].targets.tolist() == [0, 3, 6, 9]
    assert examples[[7, 1]].targets.tolist() == [7, 1]
    assert examples[torch.tensor([4])].targets.tolist() == [4]
    assert examples[examples.targets > 7].targets.tolist() == [8, 9]
    assert torch.equal(examples[[7, 1]].inputs, examples.inputs[[7, 1]])
    assert repr(examples) == "Examples(n=10, channels=1, height=2, width=2)"


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (3, r"for one example use \[3:4\]"),
        (slice(5, 5), r"at least one example"),
        ([10], r"expected indices below 10; got \[10\]"),
        (torch.zeros(10, dtype=torch.bool), r"at least one example"),
    ],
)
def test_wrong_indices(index: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        numbered(10)[index]


X = torch.zeros(4, 1, 2, 2)
Y = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("inputs", "targets", "sentence"),
    [
        (X[:0], Y[:0], r"at least one example; got inputs of shape \(0, 1, 2, 2\)"),
        (X[..., :0], Y, r"at least one example"),
        (X, Y[:3], r"one target an input; got 4 inputs, 3 targets"),
        (X.double(), Y, r"expected inputs float32 \(N, C, H, W\), .*; got float64 \(4, 1, 2, 2\)"),
        (X[0, 0], Y, r"expected inputs float32 \(N, C, H, W\), .*; got float32 \(2, 2\)"),
        (X, Y.int(), r"expected targets int64 \(N,\) or \(N, H, W\); got int32 \(4,\)"),
        (X, Y[:, None], r"expected targets int64 \(N,\) or \(N, H, W\); got int64 \(4, 1\)"),
        (X, Y.view(4, 1, 1), r"one class a pixel of inputs \(4, 1, 2, 2\); got targets \(4, 1, 1\)"),
        (X[:3], Y.view(4, 1, 1).expand(4, 2, 2), r"one target an input; got 3 inputs, 4 targets"),
        (X, Y.view(4, 1, 1).expand(4, 2, 2) - 1, r"expected classes from 0; got -1"),
        (X.clone().index_fill_(0, torch.tensor([2]), float("nan")), Y, r"every input in \[0, 1\]; got .*nan"),
        (X + float("inf"), Y, r"every input in \[0, 1\]; got values from inf to inf"),
        (X - 0.5, Y, r"every input in \[0, 1\]; got values from -0.5"),
        (X + 1.5, Y, r"every input in \[0, 1\]; got values from 1.5 to 1.5"),
        (X, Y - 1, r"expected classes from 0; got -1"),
    ],
)
def test_examples_that_are_none(inputs: torch.Tensor, targets: torch.Tensor, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Examples(inputs, targets)


def test_mean_and_deviation_of_each_channel() -> None:
    inputs = torch.rand((2500, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    inputs[:, 2] = 0.25
    mean, std = Examples(inputs, torch.zeros(2500, dtype=torch.int64)).mean_std()
    flat = inputs.double().transpose(0, 1).reshape(3, -1)
    assert mean == pytest.approx(flat.mean(1).tolist(), abs=1e-12)
    assert std[:2] == pytest.approx(flat.std(1, correction=0).tolist()[:2], abs=1e-12)
    assert std[2] == 1.0  # a constant channel is not divided by nothing


# ---- Batches --------------------------------------------------------------------------------------------


@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 2**31), epoch=st.integers(0, 999))
def test_an_epoch_reads_every_example_once(n: int, size: int, seed: int, epoch: int) -> None:
    examples = numbered(n, (1, 1))
    batches = Batches(examples, size, seed)
    seen = list(batches.epoch(epoch))
    assert len(seen) == len(batches)
    assert all(len(targets) == size for _, targets in seen[:-1])
    targets = torch.cat([targets for _, targets in seen])
    assert torch.equal(targets, stream(seed, epoch, "data", "shuffle").permutation(n))
    assert torch.equal(torch.cat([inputs for inputs, _ in seen]), examples.inputs[targets])


def test_without_a_seed_the_order_is_the_data_order() -> None:
    batches = Batches(numbered(7), 3)
    for epoch in (0, 5):
        assert [targets.tolist() for _, targets in batches.epoch(epoch)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_iterating_is_epoch_0_every_time() -> None:
    batches = Batches(numbered(20), 4, shuffle_seed=1)

    def order(pairs: Any) -> list[int]:
        return [int(target) for _, targets in pairs for target in targets]

    assert order(batches) == order(batches) == order(batches.epoch(0))
    assert order(batches.epoch(1)) != order(batches)
    assert order(Batches(numbered(20), 4, shuffle_seed=2)) != order(batches)


def test_the_batch_size_does_not_change_the_order() -> None:
    small, large = Batches(numbered(20), 3, 5), Batches(numbered(20), 20, 5)
    (_, expected), *_ = large.epoch(4)
    assert torch.equal(torch.cat([targets for _, targets in small.epoch(4)]), expected)


def test_shuffling_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    list(Batches(numbered(20), 3, 5))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_wrong_batch_sizes(size: Any) -> None:
    with pytest.raises(UsageError, match="batch_size to be a whole number of at least 1"):
        Batches(numbered(3), size)


def test_a_wrong_epoch_is_told_at_once() -> None:
    with pytest.raises(UsageError, match="epoch of at least 0; got -1"):
        Batches(numbered(3), 1).epoch(-1)


# ---- the split --------------------------------------------------------------------------------------------


@given(n=st.integers(2, 300), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**31))
def test_the_split_is_a_permutation_cut_in_two(n: int, fraction: float, seed: int) -> None:
    held = round(n * fraction)
    if not 0 < held < n:
        with pytest.raises(UsageError, match="leaves a part empty"):
            split_indices(n, fraction, seed)
        return
    train, validation = split_indices(n, fraction, seed)
    assert len(validation) == held
    order = stream(seed, 0, "data", "split").permutation(n)
    assert torch.equal(torch.cat([validation, train]), order)
    assert sorted(order.tolist()) == list(range(n))


def test_seeds_split_differently() -> None:
    first, again, other = (split_indices(100, 0.2, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other
