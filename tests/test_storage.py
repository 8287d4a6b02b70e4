"""Files are whole or absent; damage never passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from neurosim import storage
from neurosim.errors import RunError, UsageError

TYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def sample() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(3, 5, generator=g),
        "bias": torch.randn(3, generator=g, dtype=torch.float64),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False, True]),
        "façade/é": torch.arange(5, dtype=torch.int8),
    }


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    same = [torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a.keys() & b.keys()]
    return a.keys() == b.keys() and all(same)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 2), (2, 0, 5)], ids=str)
def test_every_type_and_shape_comes_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensors = {"t": (torch.rand(shape) * 5).to(dtype)}
    storage.save_tensors(tmp_path / "f", tensors, {"a": "b"})
    back, meta = storage.load_tensors(tmp_path / "f")
    assert equal(back, tensors)
    assert meta == {"a": "b"}


def test_non_contiguous_and_channels_last_tensors_are_stored_by_value(tmp_path: Path) -> None:
    tensors = {"t": torch.randn(4, 6).t(), "c": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)}
    storage.save_tensors(tmp_path / "f", tensors)
    assert equal(storage.load_tensors(tmp_path / "f")[0], tensors)


def test_a_type_without_a_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot store tensor 'z' of type torch.complex64"):
        storage.save_tensors(tmp_path / "f", {"z": torch.zeros(1, dtype=torch.complex64)})
    assert not (tmp_path / "f").exists()


def test_the_safetensors_library_reads_our_files(tmp_path: Path) -> None:
    storage.save_tensors(tmp_path / "f", sample(), {"k": "v"})
    assert equal(load_file(tmp_path / "f"), sample())


def test_equal_contents_are_equal_bytes_in_any_order_and_process(tmp_path: Path) -> None:
    meta = {k: k for k in "abcdefgh"}
    storage.save_tensors(tmp_path / "one", sample(), meta)
    storage.save_tensors(tmp_path / "two", dict(reversed(sample().items())), dict(reversed(meta.items())))
    code = (
        "import sys, torch; from neurosim import storage\n"
        "t, m = storage.load_tensors(sys.argv[1]); storage.save_tensors(sys.argv[2], t, m)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "one", tmp_path / "three"], check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "three").read_bytes()


def test_every_bit_flip_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    storage.save_tensors(path, sample(), {"epoch": "3"})
    good = path.read_bytes()
    flips = range(len(good) * 8)  # all of them: some 5,000
    for flip in flips:
        bad = bytearray(good)
        bad[flip // 8] ^= 1 << flip % 8
        path.write_bytes(bad)
        with pytest.raises(RunError, match=r"f\.safetensors"):
            storage.load_tensors(path)
    assert len(flips) > 200


def test_every_truncation_and_a_tail_are_detected(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    storage.save_tensors(path, sample())
    good = path.read_bytes()
    for length in [*range(0, len(good), 3), len(good) - 1]:
        path.write_bytes(good[:length])
        with pytest.raises(RunError, match="damaged"):
            storage.load_tensors(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(RunError, match="damaged"):
        storage.load_tensors(path)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(RunError, match=r"nothing.* is missing"):
        storage.load_tensors(tmp_path / "nothing")
    save_file({"t": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(RunError, match="carries no checksum"):
        storage.load_tensors(tmp_path / "foreign")
    torch.save({"t": torch.zeros(2)}, tmp_path / "pickle")
    with pytest.raises(RunError, match="damaged or not a safetensors file"):
        storage.load_tensors(tmp_path / "pickle")


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    storage.write_text(path, "old")

    def fail() -> None:
        with storage.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"cannot write .*f: No space left on device"):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: the write fails part-way."""
    code = (
        "import resource, signal, sys, torch; from neurosim import storage, errors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "storage.save_tensors(sys.argv[1], {'t': torch.zeros(10)})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "try: storage.save_tensors(sys.argv[1], {'t': torch.zeros(10000)})\n"
        "except errors.RunError as error: print(error)\n"
    )
    path = tmp_path / "f"
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    assert done.stdout == f"cannot write {path}: File too large\n"
    assert len(storage.load_tensors(path)[0]["t"]) == 10
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_path_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    storage.write_text(tmp_path / "file", "x")
    with pytest.raises(RunError, match="cannot write"):
        storage.write_text(tmp_path / "file" / "below", "x")
    with pytest.raises(RunError, match="cannot write"):
        storage.append_json(tmp_path / "file" / "below", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot write"):
        storage.write_text(tmp_path / "f", "x")


ROWS = st.lists(
    st.dictionaries(
        st.text(max_size=5),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        max_size=4,
    ),
    max_size=5,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=ROWS, cut=st.integers(0, 10_000), extra=ROWS)
def test_rows_torn_anywhere_keep_what_was_whole_and_take_more(
    tmp_path_factory: pytest.TempPathFactory, rows: list, cut: int, extra: list
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    storage.write_json_lines(path, rows)
    assert storage.read_json_lines(path) == rows
    data = path.read_bytes()
    torn = data[: cut % (len(data) + 1)]
    path.write_bytes(torn)
    kept = storage.read_json_lines(path)
    # a line that lacks nothing but its newline is whole
    assert kept == rows[: len(kept)]
    assert len(kept) in (torn.count(b"\n"), torn.count(b"\n") + 1)
    for row in extra:
        storage.append_json(path, row)
    assert storage.read_json_lines(path) == kept + extra


def test_a_row_that_is_not_json_is_refused_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.append_json(path, {"loss": float("nan")})
    assert not path.exists()


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a"\n{"a": 2}\n', '{"a": 1}\n[1, 2]\n'])
def test_a_bad_line_within_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(RunError, match=r"rows\.jsonl:2 is not a JSON"):
        storage.read_json_lines(path)


def test_no_rows_yet_is_no_error(tmp_path: Path) -> None:
    assert storage.read_json_lines(tmp_path / "none") == []


def test_checksums_tell_names_shapes_types_and_metadata_apart() -> None:
    zeros = torch.zeros(2, 3)
    sums = {
        storage.sha256_tensors({"a": zeros}),
        storage.sha256_tensors({"b": zeros}),
        storage.sha256_tensors({"a": zeros.reshape(3, 2)}),
        storage.sha256_tensors({"a": zeros.to(torch.int32)}),
        storage.sha256_tensors({"a": zeros}, {"k": "v"}),
        storage.sha256_tensors({"a": zeros}, {"k": "w"}),
    }
    assert len(sums) == 6


def test_sha256_of_a_file(tmp_path: Path) -> None:
    storage.write_text(tmp_path / "f", json.dumps({}))
    assert storage.sha256_file(tmp_path / "f").startswith("44136fa355b3678a")
