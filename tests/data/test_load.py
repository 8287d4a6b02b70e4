"""From names and paths to splits: real digits, made files, and the real sets where NEUROSIM_DATA has them."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosim import data
from neurosim.data import fashion_mnist, places, pneumonia_mnist
from neurosim.errors import UsageError

REAL = os.environ.get("NEUROSIM_DATA", "")
real_data = pytest.mark.skipif(
    not REAL,
    reason="NEUROSIM_DATA is not set: the tests on real Fashion-MNIST and PneumoniaMNIST did NOT run",
)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without data: no NEUROSIM_DATA, an empty cache, and no network."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was reached")

    monkeypatch.delenv("NEUROSIM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


# ---- digits ------------------------------------------------------------------------------------------


def keys(examples: data.Examples) -> list[bytes]:
    """Each example as bytes, class included."""
    return [
        x.numpy().tobytes() + bytes([int(y)]) for x, y in zip(examples.inputs, examples.targets, strict=True)
    ]


def test_digits(nowhere: Path) -> None:
    splits = data.load("digits")
    assert (splits.name, splits.num_classes, splits.in_chans, splits.image_size) == ("digits", 10, 1, (8, 8))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1293, 144, 360]
    assert splits.train.inputs.dtype == torch.float32
    assert float(splits.train.inputs.min()) == 0.0
    assert float(splits.train.inputs.max()) == 1.0
    assert set(splits.test.targets.tolist()) == set(range(10))


def test_digits_are_the_ones_of_scikit_learn_each_once() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images / 16).float().unsqueeze(1)
    everything = data.Examples(inputs, torch.from_numpy(bunch.target).long())
    splits = data.load("digits", seed=5, validation_fraction=0.3)
    read = [*keys(splits.train), *keys(splits.validation), *keys(splits.test)]
    assert sorted(read) == sorted(keys(everything))


@settings(max_examples=5)
@given(seed=st.integers(1, 2**31), fraction=st.floats(0.05, 0.9))
def test_the_seed_moves_validation_but_never_test(seed: int, fraction: float) -> None:
    reference, splits = data.load("digits"), data.load("digits", seed=seed, validation_fraction=fraction)
    assert torch.equal(splits.test.inputs, reference.test.inputs)
    assert splits.sha256 == reference.sha256
    assert len(splits.validation) == round(1437 * fraction)
    assert sorted([*keys(splits.train), *keys(splits.validation)]) == sorted(
        [*keys(reference.train), *keys(reference.validation)]
    )
    assert keys(splits.train)[:50] != keys(reference.train)[:50]


@pytest.mark.parametrize("fraction", [0, 1, 0.0, 1.0, -0.1, 1.5, float("nan"), "0.1"])
def test_wrong_fractions(fraction: Any) -> None:
    with pytest.raises(UsageError, match="expected 0 < validation_fraction < 1"):
        data.load("digits", validation_fraction=fraction)


def test_a_fraction_that_leaves_a_part_empty() -> None:
    with pytest.raises(UsageError, match="of 1437 examples leaves a part empty"):
        data.load("digits", validation_fraction=1e-6)


# ---- names, places -----------------------------------------------------------------------------------


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown data set 'fashion_mnist': did you mean 'fashion-mnist'\?"):
        data.load("fashion_mnist")
    with pytest.raises(UsageError, match=r"unknown data set 'mnist.np': .*path/to/file.npz"):
        data.load("mnist.np")


def test_every_row_can_be_listed() -> None:
    assert data.names() == sorted(data.DATASETS)
    for name, row in data.DATASETS.items():
        assert name == row.name == data.info(name).name
        assert row.summary
        assert row.licence
        assert row.source
        assert row.embedded == (not row.folders)
        for file in row.files:
            assert len(file.sha256) == 64
            assert all(url.endswith(file.name) for url in file.urls)


def test_listing_does_not_import_torch() -> None:
    code = "import sys; from neurosim import data; data.names(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        data.lod  # noqa: B018


def test_missing_data_name_the_places_and_the_command(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as caught:
        data.load("fashion-mnist", folder=nowhere / "mine")
    sentence = str(caught.value)
    assert str(nowhere / "mine") in sentence
    assert str(nowhere / "cache" / "neurosim" / "data") in sentence
    assert "`neurosim data get fashion-mnist`" in sentence
    assert "set NEUROSIM_DATA" in sentence
    monkeypatch.setenv("NEUROSIM_DATA", str(nowhere / "elsewhere"))
    with pytest.raises(UsageError, match=str(nowhere / "elsewhere")):
        data.load("fashion-mnist")


@pytest.mark.parametrize("inside", ["fashion-mnist", "fashion_mnist", ""])
@pytest.mark.parametrize("how", ["folder", "variable", "cache"])
def test_the_places_files_are_found_in(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, inside: str, how: str
) -> None:
    root = nowhere / "cache" / "neurosim" / "data" if how == "cache" else nowhere / "root"
    (root / inside).mkdir(parents=True)
    if how == "variable":
        monkeypatch.setenv("NEUROSIM_DATA", str(root))
    folder = root if how == "folder" else None
    names = [file.name for file in fashion_mnist.ROW.files]
    for name in names[:-1]:
        (root / inside / name).touch()
    assert places.find(fashion_mnist.ROW, folder) is None  # three of four are not enough
    (root / inside / names[-1]).touch()
    assert places.find(fashion_mnist.ROW, folder) == root / inside


# ---- IDX, with files made here -----------------------------------------------------------------------


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def clothes(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small set in Fashion-MNIST's form, in a folder of its own, with its hashes in place of theirs."""
    generator = np.random.default_rng(0)
    content = {}
    folder = nowhere / "fashion_mnist"
    folder.mkdir()
    for name in fashion_mnist.CONTENT:
        count = 40 if name.startswith("train") else 10
        shape = (count, 28, 28) if "images" in name else (count,)
        array = generator.integers(0, 256 if "images" in name else 10, shape).astype(np.uint8)
        (folder / name).write_bytes(gzip.compress(idx(array)))
        content[name] = (shape, hashlib.sha256(idx(array)).hexdigest())
    monkeypatch.setattr(fashion_mnist, "CONTENT", content)
    return folder


def test_idx_files(clothes: Path) -> None:
    splits = data.load("fashion-mnist", folder=clothes.parent, seed=3, validation_fraction=0.25)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [30, 10, 10]
    raw = gzip.decompress((clothes / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    expected = np.frombuffer(raw, np.uint8).reshape(10, 1, 28, 28).astype(np.float32) / np.float32(255)
    assert torch.equal(splits.test.inputs, torch.from_numpy(expected))
    labels = gzip.decompress((clothes / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    assert splits.test.targets.tolist() == list(labels)


def test_any_gzip_of_the_same_content_is_the_same_data(clothes: Path) -> None:
    before = data.load("fashion-mnist", folder=clothes).sha256
    for path in clothes.iterdir():
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content, 1, mtime=5))
    assert data.load("fashion-mnist", folder=clothes).sha256 == before


def bomb() -> bytes:
    return gzip.compress(bytes(50_000_000), 9)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda old: old[:-20], "damaged or not a gzip file"),
        (lambda old: b"", "expected 31,376 bytes; got 0"),
        (lambda old: b"not gzip", "damaged or not a gzip file"),
        (lambda old: old[:100] + bytes([old[100] ^ 1]) + old[101:], "train-images"),
        (lambda old: gzip.compress(gzip.decompress(old)[:-1]), "expected 31,376 bytes; got 31,375"),
        (lambda old: gzip.compress(gzip.decompress(old) + b"x"), "expected 31,376 bytes; got more"),
        (lambda old: gzip.compress(gzip.decompress(old)[:-1] + b"x"), "expected decompressed SHA-256"),
        (lambda old: bomb(), "expected 31,376 bytes; got more"),
    ],
)
def test_damaged_idx_files(clothes: Path, spoil: Any, sentence: str) -> None:
    path = clothes / "train-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UsageError, match=sentence) as caught:
        data.load("fashion-mnist", folder=clothes)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_altered_npz_of_a_named_set_is_refused(nowhere: Path) -> None:
    (nowhere / "pneumoniamnist.npz").write_bytes(b"PK")
    with pytest.raises(
        UsageError, match=r"pneumoniamnist.npz is not the published file: expected SHA-256 e179"
    ):
        data.load("pneumonia-mnist", folder=nowhere)


# ---- the real data sets ------------------------------------------------------------------------------


@real_data
def test_real_fashion_mnist() -> None:
    splits = data.load("fashion-mnist", folder=REAL)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [54_000, 6_000, 10_000]
    assert (splits.num_classes, splits.in_chans, splits.image_size) == (10, 1, (28, 28))
    assert torch.bincount(splits.test.targets).tolist() == [1000] * 10
    both = torch.bincount(splits.train.targets) + torch.bincount(splits.validation.targets)
    assert both.tolist() == [6000] * 10
    (mean,), (std,) = splits.train.mean_std()
    assert mean == pytest.approx(0.2860, abs=1e-3)  # the statistics everyone quotes for the 60,000
    assert std == pytest.approx(0.3530, abs=1e-3)


@real_data
def test_real_pneumonia_mnist_keeps_its_official_parts() -> None:
    splits = data.load("pneumonia-mnist", folder=REAL)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [4708, 524, 624]
    assert (splits.num_classes, splits.in_chans, splits.image_size) == (2, 1, (28, 28))
    assert torch.bincount(splits.test.targets).tolist() == [234, 390]
    path = Path(REAL) / "medmnist" / pneumonia_mnist.ROW.files[0].name
    if path.is_file():
        assert data.load(path, seed=9).sha256 == splits.sha256
