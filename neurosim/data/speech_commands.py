"""Keywords: eight words as 98 steps of 40 MFCC, Speech Commands v0.02 (Warden 2018).

Of the data set only its official test part is used here (4,890 clips of one second), at 8 kHz: our own three
parts are cut from it, by speaker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim.data import made, published
from neurosim.data.row import DataSet, Raw, RemoteFile
from neurosim.data.sound import Mfcc, from_mu_law

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]

FILE = RemoteFile(
    "speech_commands_v002_test_8k_ulaw.npz",
    23_044_723,
    "c1a6735711c2d05a4c34aa5b17e86bddbcd2b1aedd95308b1c504d184b852127",
    (),
)
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off")
"""The first eight of the data set's ten keywords (the paper says eight labels, not which)."""
BOUNDS = {"validation": (10.0, 11.0), "test": (11.0, 13.0), "train": (13.0, 20.0)}
"""Which speakers are in which part, by :func:`share`."""
_MAX_PER_CLASS = 2**27 - 1
_CLIPS = 32  # at a time: more leave the cache, and take three times as long
_LAYOUT = "1"  # raise it when the numbers that come out of this file change


def share(speaker: str) -> float:
    """Where the data set's own rule puts a speaker, 0 to 100 (``which_set`` in its README).

    SHA-1 of the speaker's name, mod 2^27, times 100 / (2^27 - 1).  The publishers put speakers below 10 into
    validation and those from 10 to 20 into test; so all speakers here lie between 10 and 20, and the same
    number splits them further (:data:`BOUNDS`).

    >>> round(share("022cd682"), 3), round(share("03401e93"), 3)
    (12.084, 17.644)
    """
    number = int(hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest(), 16)
    return number % (_MAX_PER_CLASS + 1) * 100.0 / _MAX_PER_CLASS


def features(samples: Array) -> Array:
    """MFCC of clips of one second at 8 kHz: (..., 8000) -> float32 (..., 98, 40), before normalising.

    30 ms frames 10 ms apart, 40 mel bands from 20 to 4,000 Hz: see :class:`neurosim.data.sound.Mfcc`.
    """
    import numpy as np

    cepstra: Array = Mfcc()(samples).astype(np.float32)
    return cepstra


def parts_of(clips: Sequence[str]) -> Array:
    """The part of each clip, by its speaker, who is named before ``_nohash_`` in the clip's name.

    >>> parts_of(["022cd682_nohash_0.wav", "03401e93_nohash_1.wav"]).tolist()
    ['test', 'train']
    """
    import numpy as np

    shares = [share(clip.partition("_nohash_")[0]) for clip in clips]
    return np.array([next(part for part, (low, high) in BOUNDS.items() if low <= at < high) for at in shares])


def _make(path: Path) -> dict[str, Tensor]:
    """Normalised MFCC and labels of each part: ``train_x``, ``train_y``, ..."""
    import numpy as np
    import torch

    codes, labels, words, clips = published.arrays(path.parent, FILE, ("x", "y", "words", "clip"))
    number = np.array([WORDS.index(word) if word in WORDS else -1 for word in words.tolist()])[labels]
    used = number >= 0
    codes, number, part = codes[used], number[used], parts_of(clips[used].tolist())
    x = np.concatenate(
        [features(from_mu_law(codes[at : at + _CLIPS])) for at in range(0, len(codes), _CLIPS)]
    )
    order = _order(len(x))
    x, number, part = x[order], number[order], part[order]
    trained = x[part == "train"].astype(np.float64)
    mean, std = trained.mean(axis=(0, 1)), trained.std(axis=(0, 1))
    x = ((x - mean) / std).astype(np.float32)
    made_of: dict[str, Tensor] = {}
    for name in BOUNDS:
        here = part == name
        made_of[f"{name}_x"] = torch.from_numpy(x[here])
        made_of[f"{name}_y"] = torch.from_numpy(number[here].astype(np.int64))
    return made_of


def _order(count: int) -> Array:
    """The published order is by word: a fixed other one, so that the first samples hold every word."""
    from neurosim.random import stream

    order: Array = stream(0, 0, "data", "speech-commands").permutation(count).numpy()
    return order


def read(folder: Path) -> Raw:
    """The clips of eight words in three fixed parts, no speaker in two, the same for every seed.

    Silence and other words are left out: their clips have no speaker of their own in the published file.
    Each coefficient is normalised to mean 0 and variance 1 over all clips and steps of the training part.
    """
    path = published.require(folder, FILE)
    decides = {"file": FILE.sha256, "words": " ".join(WORDS), "mfcc": repr(Mfcc()), "layout": _LAYOUT}
    found = made.kept("speech-commands", decides, lambda: _make(path))
    return Raw(
        (found["train_x"], found["train_y"]),
        (found["validation_x"], found["validation_y"]),
        (found["test_x"], found["test_y"]),
        identity=made.identity(decides),
    )


ROW = DataSet(
    name="speech-commands",
    summary="8 spoken words, 98 steps of 40 MFCC, 3,261 clips of 237 speakers; split by speaker",
    licence="CC BY 4.0",
    source="the official test set of Speech Commands v0.02 (Warden, arXiv:1804.03209), as 16 kHz files in "
    "github.com/thegtagamer/PICO-tinyML-benchmark @c66f6b0d, resampled to 8 kHz, mu-law coded, in one .npz",
    files=(FILE,),
    folders=("speech-commands", "speech_commands", ""),
    read=read,
    classes=WORDS,
)
