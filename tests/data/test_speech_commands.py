"""Sounds: MFCC against a literal reference, closed forms and librosa; wave files; keywords, their split."""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurosim import data, storage
from neurosim.data import made, sound, speech_commands
from neurosim.data.sound import Mfcc, from_mu_law, read_wav
from neurosim.errors import UsageError

REAL = os.environ.get("NEUROSIM_DATA", "")
real_data = pytest.mark.skipif(
    not REAL, reason="NEUROSIM_DATA is not set: the tests on real Speech Commands did NOT run"
)

# ---- MFCC -----------------------------------------------------------------------------------------------

SMALL = Mfcc(rate_hz=1000, fft=64, bands=7, coefficients=5, high_hz=450.0, low_hz=10.0, lifter=22.0)


def literal(x: list[float], of: Mfcc) -> list[list[float]]:
    """The formulas of the docstring, number by number."""
    mel = [2595 * math.log10(1 + f / 700) for f in (of.low_hz, of.high_hz)]
    edges = [
        700 * (10 ** ((mel[0] + (mel[1] - mel[0]) * m / (of.bands + 1)) / 2595) - 1)
        for m in range(of.bands + 2)
    ]

    def triangle(m: int, f: float) -> float:
        a, b, c = edges[m : m + 3]
        if a < f <= b:
            return (f - a) / (b - a)
        return (c - f) / (c - b) if b < f < c else 0.0

    found = []
    for t in range(1 + (len(x) - of.window) // of.hop):
        frame = [
            x[t * of.hop + n] * (0.5 - 0.5 * math.cos(2 * math.pi * n / of.window)) for n in range(of.window)
        ]
        power = []
        for k in range(of.fft // 2 + 1):
            re_ = sum(v * math.cos(2 * math.pi * k * n / of.fft) for n, v in enumerate(frame))
            im = sum(v * math.sin(2 * math.pi * k * n / of.fft) for n, v in enumerate(frame))
            power.append(re_ * re_ + im * im)
        logs = [
            math.log(
                max(of.floor, sum(triangle(m, k * of.rate_hz / of.fft) * p for k, p in enumerate(power)))
            )
            for m in range(of.bands)
        ]
        row = []
        for q in range(of.coefficients):
            scale = math.sqrt((1 if q == 0 else 2) / of.bands)
            c = scale * sum(
                v * math.cos(math.pi * q * (2 * m + 1) / (2 * of.bands)) for m, v in enumerate(logs)
            )
            row.append(c * (1 + of.lifter / 2 * math.sin(math.pi * q / of.lifter)))
        found.append(row)
    return found


def test_mfcc_are_the_formulas() -> None:
    x = np.random.default_rng(0).normal(size=75)
    x[40:] *= 1e-6  # some bands of the last frames meet the floor
    assert np.abs(SMALL(x) - np.array(literal(x.tolist(), SMALL))).max() < 1e-9
    assert SMALL(x).shape == (5, 5)


def test_mfcc_are_those_of_librosa() -> None:
    librosa = pytest.importorskip("librosa", reason="librosa is not installed: its MFCC were NOT compared")
    of = Mfcc()
    x = np.random.default_rng(1).normal(size=8000) * np.hanning(8000)
    filters = librosa.filters.mel(
        sr=8000, n_fft=512, n_mels=40, fmin=20, fmax=4000, htk=True, norm=None, dtype=np.float64
    )
    assert np.abs(filters - of.filters()).max() < 1e-12
    padded = np.pad(x, (512 - 240) // 2)  # librosa puts a short frame in the middle of the transform
    spectrum = librosa.stft(padded, n_fft=512, hop_length=80, win_length=240, window="hann", center=False)
    energies = np.maximum(filters @ np.abs(spectrum) ** 2, of.floor)
    theirs = librosa.feature.mfcc(S=np.log(energies), n_mfcc=40, dct_type=2, norm="ortho").T
    assert theirs.shape == (98, 40)
    assert np.abs(of(x) - theirs).max() < 1e-9


def test_the_lifter_is_that_of_python_speech_features() -> None:
    features = pytest.importorskip(
        "python_speech_features", reason="python_speech_features is not installed: NOT compared"
    )
    x = np.random.default_rng(2).normal(size=8000)
    plain, lifted = Mfcc()(x), Mfcc(lifter=22.0)(x)
    assert np.abs(features.lifter(plain, 22) - lifted).max() < 1e-9


def test_silence_has_one_coefficient() -> None:
    cepstra = Mfcc()(np.zeros(8000))
    assert np.allclose(cepstra[:, 0], math.sqrt(40) * math.log(1e-6))
    assert np.abs(cepstra[:, 1:]).max() < 1e-12


@given(gain=st.floats(0.1, 100))
def test_loudness_moves_the_first_coefficient_alone(gain: float) -> None:
    x = np.random.default_rng(3).normal(size=400)
    moved = Mfcc()(gain * x) - Mfcc()(x)
    assert np.allclose(moved[:, 0], 2 * math.sqrt(40) * math.log(gain), atol=1e-9)
    assert np.abs(moved[:, 1:]).max() < 1e-9


@pytest.mark.parametrize("hz", [300.0, 1000.0, 2500.0])
def test_a_tone_is_loudest_in_its_band(hz: float) -> None:
    x = np.sin(2 * np.pi * hz * np.arange(8000) / 8000)
    loudest = Mfcc().energies(x).mean(0).argmax()
    mel = 2595 * np.log10(1 + np.array([20.0, 4000.0, hz]) / 700)
    place = (mel[2] - mel[0]) / (mel[1] - mel[0]) * 41 - 1  # band m has its peak at step m + 1 of 41
    assert abs(loudest - place) <= 1


def test_clips_are_computed_alone() -> None:
    x = np.random.default_rng(4).normal(size=(3, 2, 1000))
    together = Mfcc()(x)
    assert together.shape == (3, 2, 10, 40)
    assert np.allclose(together[2, 1], Mfcc()(x[2, 1]), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fft": 128}, "expected frames of 2 to fft=128 samples, at least one apart; got 240 and 80"),
        ({"hop_s": 0.0}, "at least one apart; got 240 and 0"),
        ({"high_hz": 4001.0}, "expected 0 <= low_hz < high_hz <= 4000 Hz, half the rate; got 20 and 4001"),
        ({"low_hz": 4000.0}, "got 4000 and 4000"),
        ({"coefficients": 41}, "expected 1 to bands=40 coefficients; got 41"),
        ({"floor": 0.0}, "expected a floor above 0"),
        ({"lifter": -1.0}, "a lifter of at least 0"),
    ],
)
def test_settings_that_are_none(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        replace(Mfcc(), **change)


def test_too_short_a_sound() -> None:
    with pytest.raises(UsageError, match=r"expected at least 240 samples; got shape \(239,\)"):
        Mfcc()(np.zeros(239))


# ---- mu-law, wave files ---------------------------------------------------------------------------------


def test_mu_law_is_the_inverse_of_the_published_coding() -> None:
    z = np.linspace(-1, 1, 2001)
    s = np.sign(z) * np.log1p(255 * np.abs(z)) / np.log(256)
    back = from_mu_law(np.round((s + 1) * 127.5).astype(np.uint8))
    # half a step of s, times the slope dz/ds = ln 256 (1/255 + |z|)
    assert bool((np.abs(back - z) <= 0.51 / 127.5 * np.log(256) * (1 / 255 + np.abs(z)) * 1.02).all())
    assert np.array_equal(np.sort(from_mu_law(np.arange(256))), from_mu_law(np.arange(256)))


def wav(path: Path, samples: Any, channels: int = 1, width: int = 2, rate: int = 8000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, {1: "u1", 2: "<i2"}[width]).tobytes())
    return path


def test_wave_files(tmp_path: Path) -> None:
    samples, rate = read_wav(wav(tmp_path / "a.wav", [0, 1, -32768, 32767], rate=16_000))
    assert rate == 16_000
    assert samples.tolist() == [0.0, 1 / 32768, -1.0, 32767 / 32768]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda p: wav(p, [0] * 8, channels=2),
            "expected one channel of 16-bit PCM, .* got 2 channels of 16 bits",
        ),
        (lambda p: wav(p, [0] * 8, width=1), "got 1 channels of 8 bits"),
        (lambda p: wav(p, []), "has 0 samples: expected 1 to 4,800,000"),
        (lambda p: wav(p, [0] * 40, rate=192_001), "192,001 samples a second"),
        (lambda p: p.write_bytes(b""), "is damaged or not a PCM wave file"),
        (lambda p: p.write_bytes(b"RIFFxxxxWAVEjunk"), "is damaged or not a PCM wave file"),
        (lambda p: p.write_bytes(wav(p, [0] * 100).read_bytes()[:-60]), "ends after 70 of 100 samples"),
        (lambda p: p.write_bytes(wav(p, [0] * 100).read_bytes()[:30]), "is damaged or not a PCM wave file"),
        # it claims 2 GB, and holds 200 bytes
        (
            lambda p: p.write_bytes(
                (w := wav(p, [0] * 100).read_bytes())[:40] + struct.pack("<I", 2**31 - 2) + w[44:]
            ),
            "has 1,073,741,823 samples: expected 1 to 4,800,000",
        ),
        (lambda p: None, "cannot read .*: No such file"),
    ],
)
def test_wave_files_that_are_none(tmp_path: Path, spoil: Any, sentence: str) -> None:
    spoil(tmp_path / "a.wav")
    with pytest.raises(UsageError, match=sentence) as caught:
        read_wav(tmp_path / "a.wav")
    assert "\n" not in str(caught.value)


# ---- the keywords, with a file made here ----------------------------------------------------------------


def which_part(speaker: str) -> str:
    """The data set's own rule, written out, and ours beyond it."""
    percent = (int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % 2**27) * (100 / (2**27 - 1))
    return "validation" if percent < 11 else "test" if percent < 13 else "train"


def speakers(count: int) -> list[str]:
    """Names that the publishers' rule puts into their test part."""
    names = (f"{k:08x}" for k in range(100_000))
    fit = (name for name in names if 10 <= speech_commands.share(name) < 20)
    return [next(fit) for _ in range(count)]


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file in the provided form, its hash in place of the published one, and a cache of its own."""
    monkeypatch.delenv("NEUROSIM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    words = ["_silence_", "_unknown_", "stop", *speech_commands.WORDS]
    said = [(name, word) for name in speakers(60) for word in words]
    folder = tmp_path / "speech_commands"
    folder.mkdir()
    path = folder / speech_commands.FILE.name
    np.savez(
        path,
        x=rng.integers(0, 256, (len(said), 800), dtype=np.uint8),
        y=np.array([words.index(word) for _, word in said], np.uint8),
        words=np.array(words),
        clip=np.array([f"{name}_nohash_0.wav" for name, _ in said]),
    )
    file = replace(speech_commands.FILE, sha256=storage.sha256_file(path))
    monkeypatch.setattr(speech_commands, "FILE", file)
    return tmp_path


def test_keywords(clips: Path) -> None:
    splits = data.load("speech-commands", folder=clips)
    assert splits.class_names == speech_commands.WORDS
    assert (splits.num_classes, splits.in_chans, splits.image_size) == (8, 40, (8, 1))
    counts = {
        part: [which_part(name) for name in speakers(60)].count(part) for part in speech_commands.BOUNDS
    }
    assert min(counts.values()) > 0
    for part, count in counts.items():
        assert getattr(splits, part).targets.bincount().tolist() == [count] * 8
    mean, std = splits.train.mean_std()
    assert np.allclose(mean, 0, atol=1e-5)
    assert np.allclose(std, 1, atol=1e-5)
    assert abs(splits.test.mean_std()[0][0]) > 1e-4  # the constants are those of training
    assert len(set(splits.train.targets[:40].tolist())) == 8  # not in order of words
    again = data.load("speech-commands", folder=clips, seed=7)
    assert torch.equal(again.train.inputs, splits.train.inputs)
    assert again.sha256 == splits.sha256


def test_a_sample_is_its_clip(clips: Path) -> None:
    splits = data.load("speech-commands", folder=clips)
    with np.load(clips / "speech_commands" / speech_commands.FILE.name) as file:
        codes, labels, words = file["x"], file["y"], file["words"]
    of_word = codes[words[labels] == "left"]
    features = Mfcc()(from_mu_law(of_word))
    left = torch.cat([p.inputs[p.targets == 4] for p in (splits.train, splits.validation, splits.test)])
    # normalising scales and shifts each coefficient: what is left of a clip tells which one it is
    order = [int(np.argmin([np.abs(_shape(x) - _shape(f)).sum() for f in features])) for x in left.numpy()]
    assert sorted(order) == list(range(60))


def _shape(x: Any) -> Any:
    """What is left of a series when every coefficient is scaled and shifted."""
    centred = x - x.mean(0)
    return centred / np.abs(centred).max(0)


def test_another_file_is_refused(clips: Path) -> None:
    path = clips / "speech_commands" / speech_commands.FILE.name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match="is not the published file: expected SHA-256"):
        data.load("speech-commands", folder=clips)


# ---- what is kept in the cache --------------------------------------------------------------------------


def test_what_was_made_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def make() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"x": torch.arange(3)}

    assert [made.kept("a", {"file": "1"}, make)["x"].tolist() for _ in range(3)] == [[0, 1, 2]] * 3
    assert len(calls) == 1
    made.kept("a", {"file": "2"}, make)
    assert len(calls) == 2
    (first, _) = sorted((tmp_path / "neurosim" / "made").iterdir())
    for spoiled in (first.read_bytes()[:-1], first.read_bytes()[:-1] + b"\x07", b""):
        first.write_bytes(spoiled)
        before = len(calls)
        made.kept("a", {"file": "1"}, make)
        made.kept("a", {"file": "2"}, make)
        assert len(calls) == before + 1  # the damaged one, and it is whole again


def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neurosim").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert made.kept("a", {"file": "1"}, lambda: {"x": torch.ones(1)})["x"].tolist() == [1.0]


# ---- the real ones --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@real_data
def test_real_keywords(real_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(real_cache))
    splits = data.load("speech-commands", folder=REAL)
    assert (splits.num_classes, splits.in_chans, splits.image_size) == (8, 40, (98, 1))
    counts = [getattr(splits, part).targets.bincount().tolist() for part in ("train", "validation", "test")]
    assert counts == [
        [288, 286, 298, 276, 291, 278, 263, 301],
        [41, 43, 45, 44, 45, 45, 45, 35],
        [90, 76, 82, 86, 76, 73, 88, 66],
    ]
    every = torch.cat([p.inputs for p in (splits.train, splits.validation, splits.test)]).flatten(1)
    part = torch.tensor([0] * 2281 + [1] * 343 + [2] * 637)
    _, inverse, count = every.unique(dim=0, return_inverse=True, return_counts=True)
    twins = [part[inverse == k].unique() for k in (count > 1).nonzero().flatten().tolist()]
    assert len(twins) > 50  # identical clips, as published
    assert all(len(parts) == 1 for parts in twins)


@real_data
def test_real_speakers_are_where_the_publishers_put_them() -> None:
    with np.load(Path(REAL) / "speech_commands" / speech_commands.FILE.name, allow_pickle=False) as file:
        clips, words = file["clip"].tolist(), file["words"][file["y"]].tolist()
    said = [clip.partition("_nohash_")[0] for clip, word in zip(clips, words, strict=True) if word[0] != "_"]
    shares = {name: speech_commands.share(name) for name in said}
    assert len(shares) == 239
    assert all(10 <= at < 20 for at in shares.values())
    assert all(speech_commands.parts_of([f"{n}_nohash_0.wav"])[0] == which_part(n) for n in shares)
    assert sound.Mfcc().window == 240
