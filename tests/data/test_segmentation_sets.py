"""Masks, groups and few samples: made files with other formulas, and the real sets with NEUROSIM_DATA."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurosim import data, storage
from neurosim.data import brain_tumour, dsb2018_nuclei, masks, pneumonia_mnist
from neurosim.data.examples import Examples, few_indices, split_groups
from neurosim.errors import RunError, UsageError

REAL = os.environ.get("NEUROSIM_DATA", "")
real_data = pytest.mark.skipif(
    not REAL, reason="NEUROSIM_DATA is not set: the tests on real nuclei, tumours and lungs did NOT run"
)

# ---- Examples with a class a pixel ----------------------------------------------------------------------


def pictures(n: int = 6, groups: torch.Tensor | None = None) -> Examples:
    targets = torch.arange(n * 6).view(n, 2, 3) % 3
    return Examples((targets / 2).unsqueeze(1).float(), targets, groups)


def numbers(examples: Examples) -> list[int]:
    """The group of each example."""
    assert examples.groups is not None
    return [int(group) for group in examples.groups]


def test_pixels_keep_with_their_images() -> None:
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    examples = pictures(6, groups)
    assert examples.task == "segmentation"
    for part in (examples[[4, 1]], examples[groups == 1], examples[::2]):
        assert torch.equal(part.inputs[:, 0] * 2, part.targets.float())
    assert numbers(examples[[4, 1]]) == [2, 0]
    for inputs, targets in data.Batches(examples, 4, shuffle_seed=3):
        assert targets.shape[1:] == (2, 3)
        assert torch.equal(inputs[:, 0] * 2, targets.float())


def test_groups_that_are_none() -> None:
    with pytest.raises(UsageError, match=r"expected groups int64 \(6,\); got int64 \(5,\)"):
        pictures(6, torch.zeros(5, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"expected groups int64 \(6,\); got float32 \(6,\)"):
        pictures(6, torch.zeros(6))


# ---- splitting by groups --------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=30),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**31),
)
def test_no_group_is_on_both_sides(sizes: list[int], fraction: float, seed: int) -> None:
    groups = torch.repeat_interleave(3 * torch.arange(len(sizes)), torch.tensor(sizes))
    held = max(1, round(fraction * len(sizes)))
    if held >= len(sizes):
        with pytest.raises(UsageError, match="groups leaves a part empty"):
            split_groups(groups, fraction, seed)
        return
    train, validation = split_groups(groups, fraction, seed)
    inside = set(groups[validation].tolist())
    assert not inside & set(groups[train].tolist())
    assert len(inside) == held
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(len(groups)))
    # one in each stretch: the k-th smallest lies within the k-th of `held` equal parts
    for k, group in enumerate(sorted(inside)):
        assert k * len(sizes) <= (group // 3) * held < (k + 1) * len(sizes)


def test_the_seed_decides_the_groups() -> None:
    groups = torch.arange(50) // 5
    first, again, other = (set(groups[split_groups(groups, 0.3, s)[1]].tolist()) for s in (0, 0, 1))
    assert first == again != other
    everyone = {g for s in range(60) for g in groups[split_groups(groups, 0.1, s)[1]].tolist()}
    assert everyone == set(range(10))


# ---- few samples ----------------------------------------------------------------------------------------


@given(
    labels=st.lists(st.integers(0, 2), min_size=3, max_size=40),
    n=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_few_of_each_class(labels: list[int], n: int, seed: int) -> None:
    targets = torch.tensor([0, 1, 2, *labels])
    groups = torch.arange(len(targets)) % 7
    examples = Examples(torch.zeros(len(targets), 1, 1, 1), targets, groups)
    if int(targets.bincount().min()) < n:
        with pytest.raises(UsageError, match=rf"per_class={n} is more than the \d+ .* of class"):
            few_indices(examples, n, seed)
        return
    chosen = few_indices(examples, n, seed)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert targets[chosen].bincount(minlength=3).tolist() == [n] * 3
    if n > 1:
        assert set(few_indices(examples, n - 1, seed).tolist()) < set(chosen.tolist())
    for label in range(3):  # every group once before any twice
        taken = groups[chosen[targets[chosen] == label]].bincount(minlength=7)
        there = groups[targets == label].bincount(minlength=7)
        assert all(int(taken[a]) >= min(int(there[a]), int(taken[b]) - 1) for a in range(7) for b in range(7))


def test_few_pictures() -> None:
    assert len(few_indices(pictures(), 4, 0)) == 4
    with pytest.raises(UsageError, match="per_class=7 is more than the 6 training examples images"):
        few_indices(pictures(), 7, 0)


@pytest.mark.parametrize("per_class", [0, -1, 2.0, True])
def test_wrong_numbers_of_samples(per_class: Any) -> None:
    with pytest.raises(UsageError, match="expected per_class to be a whole number of at least 1"):
        data.load("digits", per_class=per_class)


def test_few_digits() -> None:
    whole, few, other = (
        data.load("digits", seed=4),
        data.load("digits", seed=4, per_class=7),
        data.load("digits"),
    )
    assert few.train.targets.bincount().tolist() == [7] * 10
    assert torch.equal(few.validation.inputs, whole.validation.inputs)
    assert torch.equal(few.test.inputs, whole.test.inputs)
    assert few.sha256 == whole.sha256
    assert torch.equal(few.train.inputs, whole.few(7, seed=4).train.inputs)
    assert not torch.equal(few.train.inputs, other.few(7).train.inputs)


# ---- masks by rule --------------------------------------------------------------------------------------


@given(values=st.lists(st.integers(0, 255), min_size=2, max_size=40))
def test_otsu_is_the_brute_force_maximum(values: list[int]) -> None:
    array = np.array(values, np.uint8)

    def between(t: int) -> float:
        low, high = array[array <= t].astype(float), array[array > t].astype(float)
        if not len(low) or not len(high):
            return -1.0
        return len(low) * len(high) * float(high.mean() - low.mean()) ** 2

    best = max(between(t) for t in range(256))
    assert between(masks.otsu(array)) == pytest.approx(best, rel=1e-9)


@given(box=st.tuples(*[st.floats(0.2, 0.8)] * 2, *[st.floats(0.0, 0.4)] * 2))
def test_an_ellipse_has_its_area_and_lies_in_its_box(box: tuple[float, ...]) -> None:
    flags = masks.ellipse(box, 40, 60)
    assert flags.any()
    cx, cy, w, h = box
    rows, columns = np.nonzero(flags)
    assert np.abs(columns + 0.5 - cx * 60).max() <= max(w * 30, 0.75) + 1e-9
    assert np.abs(rows + 0.5 - cy * 40).max() <= max(h * 20, 0.75) + 1e-9
    if min(w * 60, h * 40) > 8:
        assert flags.sum() == pytest.approx(np.pi * w * 30 * h * 20, rel=0.1)


def test_lungs_of_a_drawn_chest() -> None:
    chest = np.full((28, 28), 200, np.uint8)
    chest[:, 0] = chest[0, :] = 0  # outside the body
    truth = np.zeros((28, 28), bool)
    truth[6:20, 5:11] = truth[6:20, 18:24] = True
    chest[truth] = 60
    chest[12, 7] = 210  # a vessel inside a lung
    assert np.array_equal(pneumonia_mnist.lungs(chest[None])[0], truth)


# ---- made files -----------------------------------------------------------------------------------------


def write(monkeypatch: pytest.MonkeyPatch, module: Any, folder: Path, **arrays: Any) -> Path:
    """An archive under the module's file name, its hash in place of the published one."""
    path = folder / module.FILE.name
    np.savez(path, **arrays)
    monkeypatch.setattr(module, "FILE", replace(module.FILE, sha256=storage.sha256_file(path)))
    return path


def test_averaged_nuclei(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    n = dsb2018_nuclei.TEST_EXAMPLES + 3
    image = rng.integers(0, 256, (n, 8, 8)).astype(np.uint8)
    instance = rng.integers(0, 2, (n, 8, 8)).astype(np.uint8) * 100
    names = np.array([f"{k:04x}" for k in rng.permutation(n)])
    path = write(monkeypatch, dsb2018_nuclei, tmp_path, image=image, instance=instance, image_id=names)
    raw = dsb2018_nuclei.read(tmp_path, side=4)
    assert raw.test[0].shape == raw.test[1].shape == (n - 3, 2, 2)
    for k in range(n):
        place = int(names[k], 16)
        part, at = (raw.test, place) if place < n - 3 else (raw.train, place - (n - 3))
        for i in range(2):
            for j in range(2):
                here = np.s_[k, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                assert abs(int(part[0][at, i, j]) - image[here].mean()) <= 0.5
                assert int(part[1][at, i, j]) == int((instance[here] > 0).mean() > 0.5)
    published = dsb2018_nuclei.read(tmp_path)
    assert torch.equal(published.test[0], torch.from_numpy(image[names.argsort()][:-3]))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match="is not the published file: expected SHA-256"):
        dsb2018_nuclei.read(tmp_path)


def test_every_pair_of_train_and_test_slices_is_a_gap_apart() -> None:
    ids = torch.arange(1, 3065)
    block, train, test = brain_tumour.parts(ids)
    assert not (train & test).any()
    assert int((ids[train][:, None] - ids[test][None]).abs().min()) == brain_tumour.GAP + 1
    assert not set(block[train].tolist()) & set(block[test].tolist())
    assert int(test.sum()) == 624
    assert int((~train & ~test).sum()) == 2 * 16 * 13


# ---- the real ones --------------------------------------------------------------------------------------


@real_data
def test_real_nuclei() -> None:
    splits = data.load("dsb2018-nuclei", folder=REAL, seed=2)
    assert (splits.task, splits.num_classes, splits.image_size) == ("segmentation", 2, (64, 64))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [240, 27, 67]
    inputs, targets = splits.train.inputs[:, 0], splits.train.targets
    assert float(inputs[targets == 1].mean()) > 4 * float(inputs[targets == 0].mean())  # nuclei glow


@real_data
def test_real_tumours_and_their_masks_share_the_split() -> None:
    kinds, drawn = (data.load(name, folder=REAL, seed=3) for name in ("brain-tumour", "brain-tumour-masks"))
    assert (kinds.task, drawn.task, kinds.num_classes, drawn.num_classes) == (
        "classification",
        "segmentation",
        3,
        2,
    )
    for part in ("train", "validation", "test"):
        one, other = getattr(kinds, part), getattr(drawn, part)
        assert torch.equal(one.inputs, other.inputs)
        assert set(one.targets.tolist()) == {0, 1, 2}
        assert bool((other.targets.sum((1, 2)) > 0).all())
    assert not set(numbers(kinds.train)) & set(numbers(kinds.validation))
    few = kinds.few(10, seed=1).train
    assert few.targets.bincount().tolist() == [10, 10, 10]
    assert len(set(numbers(few))) >= 20
    # contrast agent makes a meningioma brighter than what is just around it, or the masks are misplaced
    images, inside = drawn.test.inputs[:, 0], drawn.test.targets.bool()
    wide = torch.nn.functional.max_pool2d(inside.unsqueeze(1).float(), 9, 1, 4)[:, 0].bool() & ~inside
    brighter = [
        float(image[here].mean()) > float(image[around].mean())
        for image, here, around, kind in zip(images, inside, wide, kinds.test.targets, strict=True)
        if kind == 0
    ]
    assert sum(brighter) / len(brighter) > 0.8


@real_data
def test_real_lungs() -> None:
    splits = data.load("pneumonia-mnist-masks", folder=REAL)
    plain = data.load("pneumonia-mnist", folder=REAL)
    assert torch.equal(splits.test.inputs, plain.test.inputs)
    covered = splits.test.targets.float().mean((1, 2))
    assert 0.15 < float(covered.median()) < 0.35
    assert splits.num_classes == 2


def test_files_that_nobody_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NEUROSIM_DATA", raising=False)
    with pytest.raises(RunError, match=r"no publisher serves this file; put it into .*brain-tumour"):
        data.get("brain-tumour", tmp_path)
    with pytest.raises(UsageError, match=r"no publisher serves cheng3064_64.npz; put it there"):
        data.load("brain-tumour", folder=tmp_path)
