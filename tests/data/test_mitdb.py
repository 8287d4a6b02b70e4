"""Heartbeats: WFDB files written here byte by byte, hostile archives, the wfdb package, the real records."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import resample_poly

from neurosim import data, runs, storage
from neurosim.data import mitdb, waveforms
from neurosim.data.waveforms import Header, Signal, parse_annotations, parse_header, read_tar_xz, samples_212
from neurosim.errors import UsageError

REAL = os.environ.get("NEUROSIM_DATA", "")
real_data = pytest.mark.skipif(
    not REAL, reason="NEUROSIM_DATA is not set: the tests on the real MIT-BIH records did NOT run"
)

# ---- writing the three formats --------------------------------------------------------------------------


def dat(codes: Any) -> bytes:
    """Format 212: two 12-bit codes in three bytes."""
    out = bytearray()
    for a, b in np.asarray(codes).tolist():
        a, b = a & 0xFFF, b & 0xFFF
        out += bytes([a & 0xFF, (a >> 8) | (b >> 8) << 4, b & 0xFF])
    return bytes(out)


def hea(record: str, codes: Any, leads: tuple[str, str] = ("MLII", "V1"), rate: str = "360") -> bytes:
    lines = [f"{record} 2 {rate} {len(codes)}"]
    for column, lead in zip(np.asarray(codes).T, leads, strict=True):
        checksum = (int(column.sum()) + 32768) % 65536 - 32768
        lines.append(f"{record}.dat 212 200 11 1024 {column[0]} {checksum} 0 {lead}")
    return ("\r\n".join([*lines, "# 69 M 1085 1629 x1"]) + "\r\n").encode()


def atr(beats: list[tuple[int, int]]) -> bytes:
    """Annotations (time, code), with a long pause and a text, as the real ones have them."""
    out, before = b"", 0
    for time, code in beats:
        step = time - before
        if step > 1023:
            out += (59 << 10).to_bytes(2, "little")
            out += (step >> 16).to_bytes(2, "little") + (step & 0xFFFF).to_bytes(2, "little")
            step = 0
        out += (code << 10 | step).to_bytes(2, "little")
        if code == 28:  # a change of rhythm
            out += (63 << 10 | 3).to_bytes(2, "little") + b"(N\0\0"
        before = time
    return out + b"\0\0"


def tar_xz(
    path: Path, files: dict[str, bytes], more: Callable[[tarfile.TarFile], None] | None = None
) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if more is not None:
            more(archive)
    return path


# ---- samples --------------------------------------------------------------------------------------------


def header(codes: Any) -> Header:
    return parse_header(hea("x", codes))


@given(st.lists(st.tuples(*[st.integers(-2048, 2047)] * 2), min_size=1, max_size=50))
def test_codes_of_format_212(pairs: list[tuple[int, int]]) -> None:
    codes = np.array(pairs)
    found = samples_212(dat(codes), header(codes))
    assert found.dtype == np.int16
    assert np.array_equal(found, codes)


def test_samples_that_are_not_those_of_the_header() -> None:
    codes = np.array([[1, 2], [3, -4], [5, 6]])
    good, head = dat(codes), header(codes)
    with pytest.raises(UsageError, match=r"a.dat has 8 bytes: expected 3 x 3, as its header says"):
        samples_212(good[:-1], head, "a.dat")
    for k in range(len(good)):  # any one flipped bit is seen
        spoiled = bytearray(good)
        spoiled[k] ^= 1 << k % 8
        with pytest.raises(UsageError, match=r"does not match its header: expected first code"):
            samples_212(bytes(spoiled), head, "a.dat")


# ---- headers --------------------------------------------------------------------------------------------

GOOD = (
    "100 2 360 650000\n100.dat 212 200 11 1024 995 -22131 0 MLII\n100.dat 212 200 11 1024 1011 20052 0 V5\n"
)


def test_a_header() -> None:
    found = parse_header(f"# first a comment\n{GOOD}# and last\n".encode())
    assert found == Header(
        "100",
        360.0,
        650_000,
        (Signal("MLII", 200.0, 1024, 995, 65536 - 22131), Signal("V5", 200.0, 1024, 1011, 20052)),
    )
    other = GOOD.replace(" 360 ", " 250.5/360(0) ").replace("200 11 1024 995", "0 11 7 995")
    other = other.replace("200 11 1024 1011", "100.5(-3)/mV 11 1024 1011").replace(
        "V5", "a lead of many words"
    )
    found = parse_header(other.encode())
    assert found.rate_hz == 250.5
    assert [(s.gain_per_mv, s.baseline, s.lead) for s in found.signals] == [
        (200.0, 7, "MLII"),
        (100.5, -3, "a lead of many words"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (GOOD, "", "expected a line 'record 2 rate samples' and two of signals; got '' and 0 more"),
        ("100 2 ", "100 3 ", "got '100 3 360 650000' and 2 more"),
        ("100.dat 212 200 11 1024 1011 20052 0 V5\n", "", "and 1 more"),
        (" 360 ", " many ", "expected sampling rate to be a number from 1 to 100000; got 'many'"),
        (" 360 ", " nan ", "expected sampling rate"),
        (" 650000", " 99999999999999", "expected number of samples to be a whole number from 1 to 1e"),
        (" 650000", " -1", "expected number of samples"),
        (
            "100.dat 212 200 11 1024 995",
            "../x.dat 212 200 11 1024 995",
            "expected '100.dat' 212 .*; got '../x.dat",
        ),
        ("212 200 11 1024 995", "16 200 11 1024 995", "expected '100.dat' 212 "),
        ("212 200 11 1024 995", "212 200/uV 11 1024 995", "expected a signal in mV; got units 'uV'"),
        ("212 200 11 1024 995", "212 200(x)/mV 11 1024 995", "expected baseline to be a whole number"),
        ("995", "9950", "expected first sample to be a whole number from -2048 to 2047; got '9950'"),
        ("-22131", "1e3", "expected checksum to be a whole number"),
        (" 0 MLII", "", "expected '100.dat' 212 gain"),
        ("MLII", "M" * 20_000, "has 20,095 bytes: expected at most 10,000"),
    ],
)
def test_headers_that_are_none(old: str, new: str, sentence: str) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    with pytest.raises(UsageError, match=sentence) as caught:
        parse_header(text.encode(), "100.hea")
    assert str(caught.value).startswith("100.hea")
    assert len(str(caught.value)) < 400


# ---- annotations ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5000), st.sampled_from([1, 2, 3, 5, 8, 12, 28])), max_size=30))
def test_annotations(steps: list[tuple[int, int]]) -> None:
    times = np.cumsum([step for step, _ in steps]).tolist()
    codes = [code for _, code in steps]
    found = parse_annotations(atr(list(zip(times, codes, strict=True))))
    assert found[0].tolist() == times
    assert found[1].tolist() == codes


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "ends in the middle"),
        (atr([(10, 1)])[:-2], "ends in the middle"),
        (atr([(10, 1)])[:-1], "ends in the middle"),
        (atr([(2000, 1)])[:4], "ends in the middle"),
        ((63 << 10 | 1023).to_bytes(2, "little") + b"\0\0", "ends in the middle"),  # text beyond the end
        (atr([(10, 1)])[:-2] + b"\x00\xec\xff\xff\xf0\xff\x00\x04\0\0", "goes back in time"),
        (b"\x00\xec\xff\xff\xf0\xff\x00\x04\0\0", "goes back in time"),  # before the record
    ],
)
def test_annotations_that_are_none(content: bytes, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^a.atr {sentence}"):
        parse_annotations(content, "a.atr")


# ---- archives -------------------------------------------------------------------------------------------

WANTED = {"mitdb/a.hea": 100, "mitdb/a.dat": 100}
FILES = {"mitdb/a.hea": b"head", "mitdb/README": b"passed over", "mitdb/a.dat": b"codes"}


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, to
        archive.addfile(member)

    return add


def claiming(name: str, size: int) -> Callable[[tarfile.TarFile], None]:
    """A member that claims a size and holds nothing."""

    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size = size
        archive.addfile(member, None)

    return add


def test_an_archive(tmp_path: Path) -> None:
    path = tar_xz(tmp_path / "a.tar.xz", FILES)
    assert read_tar_xz(path, WANTED) == {"mitdb/a.hea": b"head", "mitdb/a.dat": b"codes"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.xz"]  # nothing is unpacked


@pytest.mark.parametrize(
    ("files", "more", "sentence"),
    [
        ({"../evil": b"x", **FILES}, None, r"holds '../evil', a name that leads out of it: refused"),
        ({"/etc/evil": b"x", **FILES}, None, r"holds '/etc/evil', a name that leads out of it"),
        ({"mitdb/../../evil": b"x", **FILES}, None, "a name that leads out of it"),
        ({"..\\evil": b"x", **FILES}, None, "a name that leads out of it"),
        (FILES, link("mitdb/b.dat", "/etc/passwd"), r"holds 'mitdb/b.dat', a link or device"),
        (FILES, link("mitdb/b.dat", "mitdb/a.dat", tarfile.LNKTYPE), "a link or device"),
        (FILES, link("mitdb/b", "", tarfile.CHRTYPE), "a link or device"),
        ({"mitdb/a.hea": b""}, None, r"lacks mitdb/a.dat \(1 of 2 files are missing\)"),
        ({**FILES, "mitdb/a.dat": bytes(101)}, None, r"'mitdb/a.dat' has 101 bytes: expected at most 100"),
        (FILES, claiming("mitdb/a.hea", 5), r"holds 'mitdb/a.hea' twice"),
        ({f"mitdb/{k}": b"" for k in range(1001)}, None, "has too many members: expected at most 1,000"),
        ({"mitdb/x": bytes(3_000_000), **FILES}, None, "unpacks to more than 1,000,000 bytes"),
        (FILES, claiming("mitdb/huge", 10**15), "is damaged|unpacks to more"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, files: dict[str, bytes], more: Any, sentence: str) -> None:
    path = tar_xz(tmp_path / "a.tar.xz", files, more)
    with pytest.raises(UsageError, match=sentence) as caught:
        read_tar_xz(path, WANTED, max_bytes=1_000_000)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.xz"]


def test_damaged_archives(tmp_path: Path) -> None:
    path = tar_xz(tmp_path / "a.tar.xz", {**FILES, "mitdb/a.dat": bytes(range(100))})
    whole = path.read_bytes()
    for spoiled in (b"", b"not xz", whole[:40], whole[: len(whole) // 2], lzma.compress(b"no tar")):
        path.write_bytes(spoiled)
        with pytest.raises(UsageError, match=r"is damaged or not a \.tar\.xz archive|lacks mitdb"):
            read_tar_xz(path, WANTED)
    seen = 0
    for k in range(0, len(whole), 3):  # a flipped bit is refused, or the files are whole
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 4]) + whole[k + 1 :])
        try:
            assert read_tar_xz(path, WANTED)["mitdb/a.dat"] == bytes(range(100))
        except UsageError:
            seen += 1
    assert seen > len(whole) // 4


# ---- beats, with records made here ----------------------------------------------------------------------

CODES = {"N": 1, "L": 2, "R": 3, "V": 5, "A": 8}
MANY = 120
SMALL = {"train": (1, 2), "validation": (3,), "test": (4,)}


def made_record(
    record: int, swapped: bool, count: int = 40
) -> tuple[dict[str, bytes], Any, list[tuple[int, str]]]:
    """Two leads of noise, and beats of every kind; those at both ends have no whole window."""
    rng = np.random.default_rng(record)
    length = 800 + 130 * count
    codes = np.clip(rng.normal(1000, 200, (length, 2)), -2048, 2047).astype(np.int64)
    beats = [(40, "N"), *[(300 + 130 * k, "NLRVA"[k % 5]) for k in range(count)], (length - 50, "V")]
    leads = ("V5", "MLII") if swapped else ("MLII", "V1")
    files = {
        f"mitdb/{record}.hea": hea(str(record), codes, leads),
        f"mitdb/{record}.dat": dat(codes),
        f"mitdb/{record}.atr": atr([(5, 28), *[(time, CODES[kind]) for time, kind in beats]]),
    }
    return files, codes[:, ::-1] if swapped else codes, beats


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return archive(tmp_path, monkeypatch, beats=40)


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With enough beats for all parts although most of those in noise have no peak in their middle."""
    return archive(tmp_path, monkeypatch, beats=MANY)


def archive(folder: Path, monkeypatch: pytest.MonkeyPatch, beats: int) -> Path:
    """Four small records in the provided form, and a cache of its own."""
    monkeypatch.delenv("NEUROSIM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(mitdb, "PATIENTS", SMALL)
    (folder / "mitdb").mkdir()
    files = {}
    for record in (1, 2, 3, 4):
        files |= made_record(record, record == 2, beats)[0]
    publish(tar_xz(folder / "mitdb" / mitdb.FILE.name, files), monkeypatch)
    return folder


def publish(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mitdb, "FILE", replace(mitdb.FILE, sha256=storage.sha256_file(path)))


def expected(record: int, time: int) -> torch.Tensor:
    """The formulas of the docstring for one beat."""
    _, codes, _ = made_record(record, swapped=record == 2)
    slow = resample_poly(codes.astype(float), 1, 2, axis=0, padtype="mean")
    return normalised(slow[time // 2 - 50 : time // 2 + 50])


def normalised(u: Any) -> torch.Tensor:
    x = [(u[:, c] - u[:, c].mean()) / max(u[:, c].std(), 1.0) for c in range(2)]
    return torch.tensor(np.array(x).T, dtype=torch.float32)


@pytest.mark.parametrize("name", ["mitdb", "mitdb-patients"])
def test_beats(records: Path, name: str) -> None:
    splits = data.load(name, folder=records)
    assert splits.class_names == ("N", "L", "R", "V")
    assert (splits.num_classes, splits.in_chans, splits.image_size) == (4, 2, (100, 1))
    # eight of each kind in a record; those at the ends of it are left out
    each = [26, 3, 3] if name == "mitdb" else [16, 8, 8]
    parts = [splits.train, splits.validation, splits.test]
    assert [part.targets.bincount().tolist() for part in parts] == [[count] * 4 for count in each]
    known: dict[bytes, tuple[int, str]] = {}
    for record in (1, 2, 3, 4):
        for time, kind in made_record(record, swapped=record == 2)[2][1:-1]:
            known[(1e3 * expected(record, time)).round().numpy().tobytes()] = (record, kind)
    seen = []
    for part, these in zip(parts, SMALL.values(), strict=True):
        for x, y in zip(part.inputs, part.targets.tolist(), strict=True):
            record, kind = known[(1e3 * x).round().numpy().tobytes()]
            assert "NLRV"[y] == kind
            assert name == "mitdb" or record in these
            seen.append(x.numpy().tobytes())
    assert len(set(seen)) == len(seen) == 128
    again = data.load(name, folder=records, seed=3)  # from the cache, and of the same parts
    assert torch.equal(again.train.inputs, splits.train.inputs)
    assert again.sha256 == splits.sha256
    if name == "mitdb-patients":
        assert splits.train.groups is not None
        assert set(splits.train.groups.tolist()) == {1, 2}


NAMES = ("mitdb", "mitdb-patients", "mitdb-reference")


def test_the_splits_are_different_data_sets(many: Path) -> None:
    assert len({data.load(name, folder=many).sha256 for name in NAMES}) == len(NAMES)


def test_beats_as_the_papers_code_chooses_them(many: Path) -> None:
    """From what that code does, beat by beat: the highest local maximum, within 20 steps; then the first."""
    kept: dict[str, list[bytes]] = {kind: [] for kind in "NLRV"}
    left_out = 0
    for record in (1, 2, 3, 4):
        _, codes, beats = made_record(record, record == 2, MANY)
        slow = resample_poly(codes.astype(float), 1, 2, axis=0, padtype="mean")
        for time, kind in beats[1:-1]:
            place, lead = time // 2, slow[:, 0]
            inside = range(place - 49, place + 49)
            peaks = [k for k in inside if lead[k] > max(lead[k - 1], lead[k + 1])]
            peak = max(peaks, key=lead.__getitem__)
            left_out += abs(peak - place) > 20
            if kind in kept and abs(peak - place) <= 20:
                kept[kind].append(rounded(normalised(slow[peak - 50 : peak + 50])))
    each = min(len(beats) for beats in kept.values())
    assert left_out > 100
    splits = data.load("mitdb-reference", folder=many)
    parts = (splits.train, splits.validation, splits.test)
    sizes = (each - 2 * (each // 10), each // 10, each // 10)
    assert [part.targets.bincount().tolist() for part in parts] == [[size] * 4 for size in sizes]
    inputs = torch.cat([part.inputs for part in parts])
    targets = torch.cat([part.targets for part in parts])
    for label, kind in enumerate("NLRV"):
        assert sorted(rounded(x) for x in inputs[targets == label]) == sorted(kept[kind][:each])


def rounded(x: torch.Tensor) -> bytes:
    return (1e3 * x).round().numpy().tobytes()


def test_a_lead_that_is_off_is_zero() -> None:
    codes = np.stack([np.full(800, 1024), np.arange(800)], axis=1)
    x = mitdb.window_of(codes, np.array([200]))
    assert np.abs(x[..., 0]).max() < 1e-6
    assert x[0, 0, 1] == pytest.approx(-(3**0.5), rel=0.02)  # a ramp from -sqrt(3) to sqrt(3)


def test_a_beat_is_decimated_without_delay_or_aliases() -> None:
    t = np.arange(4000) / 360
    slow, fast = np.sin(2 * np.pi * 10 * t), np.sin(2 * np.pi * 150 * t)  # 150 Hz would come back as 30 Hz
    x = mitdb.window_of(1000 * np.stack([slow, slow + fast], axis=1), np.array([1000]))[0]
    at = np.arange(950, 1050) / 180
    sine = np.sin(2 * np.pi * 10 * at)
    assert np.abs(x[:, 0] - (sine - sine.mean()) / sine.std()).max() < 0.01
    assert np.abs(x[:, 1] - x[:, 0]).max() < 0.02


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda f: f.update({"mitdb/3.dat": f["mitdb/3.dat"][:-3]}),
            "mitdb/3.dat has 17,997 bytes: expected 3 x 6,000",
        ),
        (lambda f: f.pop("mitdb/4.atr"), r"lacks mitdb/4.atr \(1 of 12 files are missing\)"),
        (
            lambda f: f.update({"mitdb/1.hea": b"hello"}),
            "mitdb/1.hea: expected a line 'record 2 rate samples'",
        ),
        (
            lambda f: f.update({"mitdb/1.hea": f["mitdb/1.hea"].replace(b"MLII", b"V2")}),
            "mitdb/1.hea: expected 360 samples a second and a lead MLII; got 360 and V2, V1",
        ),
        (
            lambda f: f.update({"mitdb/1.hea": f["mitdb/1.hea"].replace(b" 360 ", b" 250 ")}),
            "expected 360 samples a second and a lead MLII; got 250 and MLII, V1",
        ),
        (lambda f: f.update({"mitdb/2.atr": b""}), "mitdb/2.atr ends in the middle"),
    ],
)
def test_damaged_records(records: Path, monkeypatch: pytest.MonkeyPatch, change: Any, sentence: str) -> None:
    files: dict[str, bytes] = {}
    for record in (1, 2, 3, 4):
        files |= made_record(record, swapped=record == 2)[0]
    change(files)
    path = tar_xz(records / "mitdb" / mitdb.FILE.name, files)
    with pytest.raises(UsageError, match="is not the published file: expected SHA-256"):
        data.load("mitdb", folder=records)
    publish(path, monkeypatch)
    with pytest.raises(UsageError, match=sentence) as caught:
        data.load("mitdb", folder=records)
    assert str(path) in str(caught.value)
    assert not list((records / "cache").rglob("*.safetensors"))  # nothing half-made is kept


# ---- the wfdb package -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # wfdb is behind its pandas
def test_records_written_by_wfdb(tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: records were NOT compared with it")
    rng = np.random.default_rng(5)
    codes = rng.integers(-2047, 2048, (1000, 2))
    wfdb.wrsamp(
        "r", fs=360, units=["mV", "mV"], sig_name=["MLII", "V1"], d_signal=codes, fmt=["212", "212"],
        adc_gain=[200.0, 100.0], baseline=[1024, 0], write_dir=str(tmp_path),
    )  # fmt: skip
    times = np.cumsum(rng.integers(1, 3000, 50))
    symbols = rng.choice(["N", "L", "R", "V", "/"], 50)
    wfdb.wrann("r", "atr", times, symbols.tolist(), write_dir=str(tmp_path))
    found = parse_header((tmp_path / "r.hea").read_bytes())
    assert [(s.lead, s.gain_per_mv, s.baseline) for s in found.signals] == [
        ("MLII", 200.0, 1024),
        ("V1", 100.0, 0),
    ]
    assert np.array_equal(samples_212((tmp_path / "r.dat").read_bytes(), found), codes)
    at, kinds = parse_annotations((tmp_path / "r.atr").read_bytes())
    assert np.array_equal(at, times)
    assert [waveforms.SYMBOLS[int(kind)] for kind in kinds] == symbols.tolist()


# ---- the real ones --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_parts_name_every_record_once() -> None:
    named = [record for part in mitdb.PATIENTS.values() for record in part]
    assert len(named) == len(set(named)) == 44
    assert not set(named) & set(mitdb.PACED)
    assert {201, 202} <= set(mitdb.PATIENTS["train"])  # the same man


@pytest.mark.slow
@real_data
def test_real_beats_by_patient(real_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(real_cache))
    splits = data.load("mitdb-patients", folder=REAL)
    parts = (splits.train, splits.validation, splits.test)
    assert [part.targets.bincount().tolist() for part in parts] == [[2165] * 4, [625] * 4, [3200] * 4]
    for part in parts:
        assert part.inputs.shape[1:] == (100, 2)
        assert float(part.inputs.mean(1).abs().max()) < 1e-5
        assert float((part.inputs.std(1, correction=0) - 1).abs().max()) < 1e-4
    groups = splits.train.groups
    assert groups is not None
    assert set(groups.tolist()) <= set(mitdb.PATIENTS["train"])
    assert set(groups[splits.train.targets == 1].tolist()) == {109}
    # a beat is highest near its annotated place, in lead MLII, in most normal beats
    normal = splits.test.inputs[splits.test.targets == 0][..., 0]
    assert float(((normal.argmax(1) - 50).abs() <= 3).float().mean()) > 0.85


@real_data
@pytest.mark.slow
def test_real_beats_by_beat(real_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(real_cache))
    splits = data.load("mitdb", folder=REAL)
    parts = (splits.train, splits.validation, splits.test)
    assert [part.targets.bincount().tolist() for part in parts] == [[5522] * 4, [690] * 4, [690] * 4]
    every = torch.cat([part.inputs for part in parts]).flatten(1)
    assert len(every.unique(dim=0)) == len(every)  # no beat twice
    for part in parts:  # of 100 fair draws of four classes 8 to 45 are of each but with probability 1e-4
        assert all(8 <= count <= 45 for count in part.targets[:100].bincount().tolist())


@real_data
@pytest.mark.slow
def test_real_beats_as_the_papers_code_chooses_them(
    real_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(real_cache))
    splits = data.load("mitdb-reference", folder=REAL)
    parts = (splits.train, splits.validation, splits.test)
    assert [part.targets.bincount().tolist() for part in parts] == [[3771] * 4, [471] * 4, [471] * 4]
    every = torch.cat([part.inputs for part in parts])
    assert len(every.flatten(1).unique(dim=0)) == len(every)
    lead = every[..., 0]
    assert bool((lead[:, 50] > lead[:, 49]).all())
    assert bool((lead[:, 50] >= lead[:, 51]).all())


def test_the_first_beats_are_of_all_classes() -> None:
    """However frequent a class was before the rest of it was left out."""
    label = np.repeat([0, 1, 2, 3], [5000, 300, 300, 200])
    beats = mitdb.Beats(np.zeros(5800, int), np.arange(5800), label)
    first = mitdb.balanced(beats, "train").label[:100]
    assert all(8 <= count <= 45 for count in np.bincount(first, minlength=4))


@real_data
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # wfdb is behind its pandas
def test_real_records_are_those_that_wfdb_reads(tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: real records were NOT compared with it")
    names = [100, 114, 207, 232]  # 114: the other order of leads; 207, 232: long pauses
    wanted = {f"mitdb/{name}.{end}": 2_000_000 for name in names for end in ("hea", "dat", "atr")}
    for name, content in read_tar_xz(Path(REAL) / "mitdb" / mitdb.FILE.name, wanted).items():
        (tmp_path / name.removeprefix("mitdb/")).write_bytes(content)
    for name in names:
        head = parse_header((tmp_path / f"{name}.hea").read_bytes())
        theirs = wfdb.rdrecord(str(tmp_path / str(name)), physical=False)
        assert np.array_equal(samples_212((tmp_path / f"{name}.dat").read_bytes(), head), theirs.d_signal)
        assert [signal.lead for signal in head.signals] == theirs.sig_name
        marks = wfdb.rdann(str(tmp_path / str(name)), "atr")
        times, kinds = parse_annotations((tmp_path / f"{name}.atr").read_bytes())
        assert np.array_equal(times, marks.sample)
        ours = [waveforms.SYMBOLS.get(int(kind), "other") for kind in kinds]
        assert ours == [s if s in waveforms.SYMBOLS.values() else "other" for s in marks.symbol]


# ---- networks for one kind of input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name", "sentence"),
    [
        ("mlp", "mitdb", "mlp reads images, and the data 'mitdb' are time series: expected a network for"),
        ("lsnn-ecg", "digits", "lsnn-ecg reads time series, and the data 'digits' are images"),
    ],
)
def test_a_network_for_another_kind_of_data(records: Path, model: str, name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        runs.new_config(model=model, data=name, data_dir=records)
