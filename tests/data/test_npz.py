"""MedMNIST's layout from strangers: read when right, one sentence when not, and never unpickled."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosim import data
from neurosim.data.npz import read_npz
from neurosim.errors import UsageError

Arrays = dict[str, Any]


def arrays(n: int = 6, shape: tuple[int, ...] = (5, 4), val: bool = True) -> Arrays:
    generator = np.random.default_rng(0)
    made: Arrays = {}
    for part, count in (("train", 2 * n), ("val", n), ("test", n)):
        if part != "val" or val:
            made[f"{part}_images"] = generator.integers(0, 256, (count, *shape)).astype(np.uint8)
            made[f"{part}_labels"] = (np.arange(count) % 3).astype(np.uint8).reshape(-1, 1)
    return made


def npy(header: str, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """An .npy member with any header text."""
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + body


def write(path: Path, members: dict[str, Any], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of arrays (saved as NumPy does) or raw bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for key, value in members.items():
            if not isinstance(value, bytes):
                buffer = io.BytesIO()
                np.save(buffer, value, allow_pickle=True)
                value = buffer.getvalue()
            archive.writestr(f"{key}.npy", value)
    return path


# ---- right files -------------------------------------------------------------------------------------


def test_official_validation_is_kept(tmp_path: Path) -> None:
    made = arrays()
    np.savez_compressed(tmp_path / "set.npz", **made)
    splits = data.load(tmp_path / "set.npz", seed=4)
    assert (splits.name, splits.num_classes) == (str(tmp_path / "set.npz"), 3)
    assert (splits.in_chans, splits.image_size) == (1, (5, 4))
    for part, examples in (("train", splits.train), ("val", splits.validation), ("test", splits.test)):
        expected = torch.from_numpy(made[f"{part}_images"]).unsqueeze(1).float() / 255
        assert torch.equal(examples.inputs, expected)
        assert examples.targets.tolist() == made[f"{part}_labels"].reshape(-1).tolist()


def test_without_validation_it_is_split_from_train(tmp_path: Path) -> None:
    made = arrays(10, val=False)
    np.savez(tmp_path / "set.npz", **made)
    splits = data.load(str(tmp_path / "set.npz"), validation_fraction=0.25)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [15, 5, 10]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colour_images_come_out_channels_first(tmp_path: Path, channels: int) -> None:
    made = arrays(shape=(5, 4, channels))
    np.savez(tmp_path / "set.npz", **made)
    splits = data.load(tmp_path / "set.npz")
    assert splits.train.inputs.shape == (12, channels, 5, 4)
    assert splits.train.inputs.is_contiguous()
    expected = torch.from_numpy(made["train_images"]).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(splits.train.inputs, expected)


@pytest.mark.parametrize("kind", [np.int64, np.int8, ">i4", np.uint64])
def test_labels_of_any_whole_type_flat_or_column(tmp_path: Path, kind: Any) -> None:
    made = arrays()
    made["train_labels"] = made["train_labels"].reshape(-1).astype(kind)
    np.savez(tmp_path / "set.npz", **made)
    assert data.load(tmp_path / "set.npz").train.targets.tolist() == [0, 1, 2] * 4


def test_fortran_order_and_extra_members(tmp_path: Path) -> None:
    made = arrays()
    expected = torch.from_numpy(made["train_images"].copy())
    made["train_images"] = np.asfortranarray(made["train_images"])
    made["extra"] = np.array([{"never": "read"}], dtype=object)
    write(tmp_path / "set.npz", made)
    assert torch.equal(read_npz(tmp_path / "set.npz").train[0], expected)


# ---- wrong and hostile files -------------------------------------------------------------------------


def replaced(**changes: Any) -> Callable[[], Arrays]:
    return lambda: {**arrays(), **changes}


def without(*keys: str) -> Callable[[], Arrays]:
    return lambda: {key: value for key, value in arrays().items() if key not in keys}


HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 28, 28), }"
OVERFLOW = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**30}, 1, 1), }}"
NEGATIVE = "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -28, 28), }"
OBJECTS = "{'descr': '|O', 'fortran_order': False, 'shape': (12, 5, 4), }"
ENDLESS = "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "1, " * 3000 + "), }"
DEEP = "{'descr': '|u1', 'shape': " + "(" * 4000 + ")" * 4000 + "}"
IMAGES = np.zeros((12, 5, 4), np.uint8)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (without("test_images"), r"lacks test_images: expected MedMNIST's layout; it holds 'test_labels"),
        (without("val_labels"), r"lacks val_labels"),
        (lambda: {"x": IMAGES}, r"lacks train_images, train_labels, test_images, test_labels.*holds 'x'"),
        (dict, r"it holds 'nothing'"),
        (replaced(train_images=IMAGES.astype(np.float32)), r"train_images has type float32: expected uint8"),
        (replaced(train_images=IMAGES[0]), r"train_images has shape \(5, 4\): expected \(N, H, W\)"),
        (replaced(train_images=np.zeros((12, 5, 4, 5), np.uint8)), r"with C of 1, 3 or 4"),
        (replaced(train_images=IMAGES[:0]), r"shape \(0, 5, 4\): expected every size to be at least 1"),
        (replaced(train_images=IMAGES[:5]), r"train has 5 images but 12 labels"),
        (replaced(test_images=IMAGES[:6, :4]), r"images of one shape; got \[\(1, 5, 4\), .*\(1, 4, 4\)\]"),
        (replaced(train_labels=np.zeros(12)), r"train_labels has type float64: expected whole numbers"),
        (replaced(train_labels=np.zeros(12, bool)), r"train_labels has type bool"),
        (replaced(train_labels=np.zeros((12, 14), int)), r"\(12, 14\): expected \(N,\) or \(N, 1\)"),
        (replaced(train_labels=np.full(12, -1)), r"train_labels run from -1 to -1"),
        (replaced(train_labels=np.full(12, 2**40)), r"expected classes from 0 to 65535"),
        (replaced(train_labels=np.full(12, 2**64 - 1, np.uint64)), r"expected classes from 0 to 65535"),
        (replaced(**{f"{p}_labels": np.zeros(n, int) for p, n in (("train", 12), ("val", 6), ("test", 6))}),
         r"expected at least 2 classes; every label is 0"),
        (replaced(train_images=np.array([{"a": 1}] * 12, dtype=object)), r"train_images has type object"),
        (replaced(train_images=npy(OBJECTS, b"\x80\x04.")), r"train_images has type object: expected uint8"),
        (replaced(train_images=npy(HUGE, bytes(240))), r"claims shape \(1000000000000, 28, 28\), which"),
        (replaced(train_images=npy(OVERFLOW, bytes(240))), r"claims shape"),
        (replaced(train_images=npy(NEGATIVE, bytes(784))), r"expected every size to be at least 1"),
        (replaced(train_images=npy(ENDLESS, b"x")), r"has shape \(1, 1, 1, .*\.\.\.: expected \(N, H, W\)"),
        (replaced(train_images=npy(DEEP)), r"damaged or not an .npz file"),
        (replaced(train_images=npy("{[]: 1}")), r"damaged or not an .npz file"),
        (replaced(train_images=npy("__import__('os').abort()")), r"damaged or not an .npz file"),
        (replaced(train_images=npy("{" + " " * 20_000 + "}")), r"damaged or not an .npz file"),
        (replaced(train_images=npy("{}", version=(9, 9))), r"version \(9, 9\): expected \(1, 0\)"),
        (replaced(train_images=b""), r"damaged or not an .npz file"),
        (replaced(train_images=b"\x80\x04\x95pickle"), r"damaged or not an .npz file"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_in_one_sentence(
    tmp_path: Path, make: Callable[[], Arrays], sentence: str
) -> None:
    path = write(tmp_path / "set.npz", make())
    tracemalloc.start()
    with pytest.raises(UsageError, match=sentence) as caught:
        data.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < 20e6


class Trap:
    """Unpickling this would raise an alarm that no handler of ours could take for a damaged file."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("key", ["train_images", "train_labels", "val_images", "extra"])
def test_nothing_is_unpickled(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "set.npz", {**arrays(), key: np.array([Trap()], dtype=object)})
    if key == "extra":
        assert len(data.load(path).train) == 12
        return
    with pytest.raises(UsageError, match=f"{key} has type object"):
        data.load(path)


def test_a_zip_bomb_is_refused_by_its_declared_size(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2000, 1000, 1000), }"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key in arrays():
            if key != "train_images":
                archive.writestr(f"{key}.npy", b"")
        with archive.open("train_images.npy", "w", force_zip64=True) as file:
            start = npy(header)
            file.write(start)
            block = bytes(10_000_000)
            for _ in range(20):  # 200 MB here; the reader's limit is lowered below to match
                file.write(block)
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"would unpack to 200,000,\d+ bytes: expected at most 100,000,000"):
        read_npz(path, max_bytes=100_000_000)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_bomb_that_lies_about_its_size_unpacks_no_further(tmp_path: Path) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (12, 5, 4), }"
    members = {**arrays(), "train_images": npy(header, bytes(30_000_000))}
    path = write(tmp_path / "set.npz", members)
    true = struct.pack("<I", len(members["train_images"]))
    told = struct.pack("<I", len(members["train_images"]) - 30_000_000 + 240)
    content = path.read_bytes()
    assert content.count(true) == 2  # local and central header
    path.write_bytes(content.replace(true, told))
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"damaged or not an .npz file"):
        data.load(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_file_larger_than_the_limit_is_not_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "set.npz", arrays())
    with pytest.raises(UsageError, match=r"bytes: expected at most 100"):
        read_npz(path, max_bytes=100)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_twice_many_or_oddly_compressed(tmp_path: Path) -> None:
    path = write(tmp_path / "set.npz", arrays())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_images.npy", b"again")
    with pytest.raises(UsageError, match="holds 'train_images' twice"):
        data.load(path)
    path = write(tmp_path / "set.npz", {**arrays(), **{f"x{k}": b"" for k in range(1000)}})
    with pytest.raises(UsageError, match="has 1,006 members: expected at most 1,000"):
        data.load(path)
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = write(tmp_path / "set.npz", arrays(), compression)
        with pytest.raises(UsageError, match=r"has compression \d+: expected deflate"):
            data.load(path)


def test_files_that_are_no_zip(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with pytest.raises(UsageError, match=r"set.npz is missing: expected an .npz file"):
        data.load(path)
    for content in (b"", b"PK\x05\x06", b"\x93NUMPY", b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"set.npz is damaged or not an .npz file"):
            data.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match=r"set.npz is missing"):
        data.load(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_truncation_is_refused(tmp_path: Path, compression: int) -> None:
    content = write(tmp_path / "whole.npz", arrays(2), compression).read_bytes()
    path = tmp_path / "set.npz"
    for length in range(0, len(content), 41):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError, match=r"set.npz"):
            data.load(path)


@settings(max_examples=200)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), stored=st.booleans())
def test_a_flipped_bit_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, where: float, bit: int, stored: bool
) -> None:
    path = tmp_path_factory.mktemp("flip") / "set.npz"
    write(path, arrays(2), zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
    expected = data.load(path).sha256
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        read = data.load(path)
    except UsageError as error:
        assert "\n" not in str(error)
    else:  # a date, a permission, a byte of padding
        assert read.sha256 == expected
