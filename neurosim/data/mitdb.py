"""Heartbeats: four kinds of beat in two leads, MIT-BIH arrhythmia database (Moody and Mark 2001).

Half an hour of two leads of each of 47 patients, 360 samples a second, every beat annotated by two
cardiologists.  The task is that of Buchel, Faber and Muir (ICLR 2022): normal beat (N), left bundle branch
block (L), right bundle branch block (R), premature ventricular contraction (V), from 100 steps around the
beat.  What their text leaves open is decided here, and written at :func:`window_of` and :func:`read`; what
their code does is ``mitdb-reference``, see :func:`by_first_beats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosim.data import made, published, waveforms
from neurosim.data.row import DataSet, Raw, RemoteFile
from neurosim.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]

FILE = RemoteFile(
    "mitdb-1.0.0.tar.xz",
    36_006_620,
    "7a832be6ce71f759d0dbd418689d9d410ccdc74bfdc0efb23b558a0a0ef6ca03",
    (),
)
CLASSES = ("N", "L", "R", "V")
STEPS = 100
LEAD = "MLII"
"""The lead that comes first in every sample (record 114 has it second)."""
PACED = (102, 104, 107, 217)
"""Records of pacemakers, left out, as ANSI/AAMI EC57 advises; 102 and 104 have no MLII either."""
PATIENTS = {
    "train": (
        101,
        106,
        108,
        109,
        112,
        114,
        115,
        116,
        118,
        119,
        122,
        201,
        202,
        203,
        205,
        208,
        209,
        215,
        220,
        230,
    ),
    "validation": (124, 207, 223),
    "test": (
        (100, 103, 105, 111, 113, 117, 121, 123, 200, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233)
        + (234,)
    ),
}
"""Which records are in which part of ``mitdb-patients``, see :func:`by_patient`."""
_CODES = {code: CLASSES.index(symbol) for code, symbol in waveforms.SYMBOLS.items() if symbol in CLASSES}
_MAX_FILE = 2_000_000
_LAYOUT = "2"  # raise it when the numbers that come out of this file change


PEAK_WITHIN = 20
"""Steps of 1/180 s that the peak of a beat may be away from its annotated place, see :func:`at_peak`."""


@dataclass(frozen=True, eq=False)
class Beats:
    """Beats of several records: the record of each, its place in samples of 180 a second, its class."""

    record: Array
    place: Array
    label: Array

    def __getitem__(self, chosen: Array) -> Beats:
        return Beats(self.record[chosen], self.place[chosen], self.label[chosen])


Parts = Callable[[Beats], dict[str, Beats]]
Places = Callable[[Beats, Mapping[int, "Array"]], Beats]


def window_of(codes: Array, places: Array) -> Array:
    """The samples around beats, float32 (beats, 100, 2), each lead of each beat with mean 0 and variance 1.

    Both leads of the record are filtered and decimated by two (``scipy.signal.resample_poly``: 41 taps,
    Kaiser window, no delay), to 180 samples a second.  A window is the 50 samples before the annotated
    place of the beat and the 50 from it on, 556 ms.  Then, for each beat b and lead c::

        x[b, t, c] = (u[b, t, c] - mean_t u[b, :, c]) / max(std_t u[b, :, c], 1)

    with u in codes of 5 microvolt: so no sample depends on other beats, and a lead that is off is 0.

    Args:
        codes: (samples, 2), 360 a second.
        places: of the beats, in samples of 180 a second, each from 50 to samples / 2 - 50.

    >>> import numpy as np
    >>> codes = np.sin(np.arange(800)[:, None] / [20, 30]) * 500
    >>> x = window_of(codes, np.array([100, 200]))
    >>> x.shape, bool(np.abs(x.mean(1)).max() < 1e-6), bool(np.abs(x.std(1) - 1).max() < 1e-6)
    ((2, 100, 2), True, True)
    """
    import numpy as np

    windows = _decimated(codes)[places[:, None] + np.arange(-STEPS // 2, STEPS // 2)]
    centred = windows - windows.mean(axis=1, keepdims=True)
    scaled: Array = (centred / np.maximum(windows.std(axis=1, keepdims=True), 1.0)).astype(np.float32)
    return scaled


def _decimated(codes: Array) -> Array:
    import numpy as np
    from scipy.signal import resample_poly

    slow: Array = resample_poly(codes.astype(np.float64), 1, 2, axis=0, padtype="mean")
    return slow


# where beats are


def as_annotated(beats: Beats, codes: Mapping[int, Array]) -> Beats:
    """Beats at the places that the cardiologists gave them."""
    return beats


def at_peak(beats: Beats, codes: Mapping[int, Array]) -> Beats:
    """Beats moved to the highest peak of their first lead, left out where it is not within ±20 steps.

    Peaks are local maxima inside the window of 100 steps around the annotated place; 20 steps are 111 ms.

    Args:
        beats: with a whole window each.
        codes: of each record, (samples, 2), 360 a second.

    >>> import numpy as np
    >>> codes = np.zeros((1200, 2), np.int16)
    >>> codes[[424, 900]] = 500
    >>> beats = Beats(np.array([7, 7]), np.array([200, 425]), np.array([0, 3]))
    >>> at_peak(beats, {7: codes}).place
    array([212])
    """
    import numpy as np

    half, most = STEPS // 2, PEAK_WITHIN
    moved, kept = beats.place.copy(), np.zeros(len(beats.place), bool)
    for record in np.unique(beats.record):
        here = np.flatnonzero(beats.record == record)
        lead = _decimated(codes[int(record)])[:, 0]
        windows = lead[beats.place[here, None] + np.arange(-half, half)]
        middle = windows[:, 1:-1]
        is_peak = (middle > windows[:, :-2]) & (middle >= windows[:, 2:])
        offset = np.where(is_peak, middle, -np.inf).argmax(1) + 1 - half
        moved[here] += offset
        inside = (moved[here] >= half) & (moved[here] + half <= len(lead))
        kept[here] = is_peak.any(1) & (np.abs(offset) <= most) & inside
    return Beats(beats.record, moved, beats.label)[kept]


# which beats are taken


def balanced(beats: Beats, part: str) -> Beats:
    """As many beats of each class as its rarest class has, chosen by one fixed stream, ordered by another.

    The first order would have the frequent classes first, for theirs are soon all there.

    >>> import numpy as np
    >>> beats = Beats(np.zeros(9, int), np.arange(9), np.array([0, 0, 0, 1, 1, 2, 2, 3, 3]))
    >>> sorted(balanced(beats, "train").label.tolist())
    [0, 0, 1, 1, 2, 2, 3, 3]
    """
    from neurosim.random import stream

    order = stream(0, 0, "data", f"mitdb-{part}").permutation(len(beats.label)).numpy()
    return mixed(first(beats[order]), part)


def first(beats: Beats) -> Beats:
    """The first beats of each class, as many as its rarest class has.

    >>> import numpy as np
    >>> first(Beats(np.zeros(6, int), np.arange(6), np.array([0, 0, 1, 2, 3, 1]))).place.tolist()
    [0, 2, 3, 4]
    """
    import numpy as np

    fewest = np.bincount(beats.label, minlength=len(CLASSES)).min()
    return beats[_ranks(beats.label) < fewest]


def _ranks(labels: Array) -> Array:
    """How many of its class come before each."""
    import numpy as np

    rank = np.zeros(len(labels), np.int64)
    for label in range(len(CLASSES)):
        rank[labels == label] = np.arange((labels == label).sum())
    return rank


def mixed(beats: Beats, part: str) -> Beats:
    """The same beats in an order that knows nothing of classes and patients."""
    from neurosim.random import stream

    return beats[stream(0, 1, "data", f"mitdb-{part}").permutation(len(beats.label)).numpy()]


def by_beat(beats: Beats) -> dict[str, Beats]:
    """The paper's split: 80, 10 and 10 % of the beats of each class, whoever's they are, at random.

    The beats of one patient lie on both sides, next to one another: a network may know the patient.
    """
    return _in_tenths(balanced(beats, "beats"))


def by_first_beats(beats: Beats) -> dict[str, Beats]:
    """The same split of the first beats of each class in the order of records: N is of three patients.

    With :func:`at_peak` it is what the paper's published code does (``ECG/ecg_gen_dataset.py`` and
    ``ecg_data_loader.py``, https://github.com/jubueche/BPTT-Lipschitzness), as far as that can be known: its
    list of beats is not published.  We assume records in ascending order and 200 samples around each beat.
    It pads what a moved window lacks; here the record goes on.
    """
    return _in_tenths(mixed(first(beats), "first"))


def _in_tenths(even: Beats) -> dict[str, Beats]:
    """Eight tenths, one and one of equally frequent classes."""
    tenth = len(even.label) // len(CLASSES) // 10
    rank = _ranks(even.label)
    return {
        "train": mixed(even[rank >= 2 * tenth], "train"),
        "validation": mixed(even[(rank >= tenth) & (rank < 2 * tenth)], "validation"),
        "test": mixed(even[rank < tenth], "test"),
    }


def by_patient(beats: Beats) -> dict[str, Beats]:
    """Whole patients to each part (:data:`PATIENTS`), and as many beats of each class within a part.

    Train and test are DS1 and DS2 of de Chazal, O'Dwyer and Reilly (2004), doi:10.1109/TBME.2004.827359, but
    for record 202, which is of the same man as 201 and goes with it.  They leave no validation part: ours is
    124, 207 and 223 of DS1, the fewest that hold all four classes and leave each of them in training.

    Of bundle branch blocks there are few patients: L has 1 in train, 1 in validation and 2 in test; R has 1,
    2 and 3.
    """
    import numpy as np

    return {
        part: balanced(beats[np.isin(beats.record, records)], f"patients-{part}")
        for part, records in PATIENTS.items()
    }


def _read(path: Path, records: Sequence[int]) -> tuple[dict[int, Array], Beats]:
    """Codes of each record, :data:`LEAD` first, and all of its beats whose window lies inside."""
    import numpy as np

    names = {f"mitdb/{record}.{end}": _MAX_FILE for record in records for end in ("hea", "dat", "atr")}
    files = waveforms.read_tar_xz(path, names)
    codes, found = {}, []
    for record in records:
        header, leads = _leads(path, record, files)
        codes[record] = leads
        times, kinds = waveforms.parse_annotations(
            files[f"mitdb/{record}.atr"], f"{path}: mitdb/{record}.atr"
        )
        places = times // 2
        inside = (places >= STEPS // 2) & (places + STEPS // 2 <= header.samples // 2)
        use = inside & np.isin(kinds, list(_CODES))
        labels = np.array([_CODES[int(kind)] for kind in kinds[use]], np.int64)
        found.append((np.full(len(labels), record), places[use], labels))
    return codes, Beats(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _leads(path: Path, record: int, files: Mapping[str, bytes]) -> tuple[waveforms.Header, Array]:
    where = f"{path}: mitdb/{record}"
    header = waveforms.parse_header(files[f"mitdb/{record}.hea"], f"{where}.hea")
    codes = waveforms.samples_212(files[f"mitdb/{record}.dat"], header, f"{where}.dat")
    leads = [signal.lead for signal in header.signals]
    if header.rate_hz != 360 or LEAD not in leads:
        raise UsageError(
            f"{where}.hea: expected 360 samples a second and a lead {LEAD}; "
            f"got {header.rate_hz:g} and {', '.join(leads)[:80]}"
        )
    return header, codes if leads[0] == LEAD else codes[:, ::-1]


def _make(path: Path, places: Places, parts: Parts) -> dict[str, Tensor]:
    """Inputs, labels and records of each part: ``train_x``, ``train_y``, ``train_record``, ..."""
    import numpy as np
    import torch

    codes, beats = _read(path, sorted(record for part in PATIENTS.values() for record in part))
    made_of: dict[str, Tensor] = {}
    chosen = parts(places(beats, codes))
    whole = Beats(
        *(np.concatenate([getattr(b, f) for b in chosen.values()]) for f in ("record", "place", "label"))
    )
    x = np.zeros((len(whole.label), STEPS, 2), np.float32)
    for record in np.unique(whole.record):
        here = whole.record == record
        x[here] = window_of(codes[int(record)], whole.place[here])
    start = 0
    for name, part in chosen.items():
        here = slice(start, start := start + len(part.label))
        arrays = {"x": x[here], "y": whole.label[here], "record": whole.record[here]}
        made_of |= {f"{name}_{key}": torch.from_numpy(array.copy()) for key, array in arrays.items()}
    return made_of


def read(folder: Path, parts: Parts = by_beat, places: Places = as_annotated) -> Raw:
    """The beats of 44 records in three fixed parts, the same for every seed.

    Left out: the records of pacemakers (:data:`PACED`), all other kinds of beat, and beats whose window
    reaches beyond the record.  Classes are balanced by leaving out beats of the more frequent ones at random.
    The first channel is lead MLII in every sample; the second is the other lead of the record: V1 in 38
    records, V5 in 100, 114 and 123, V2 in 103 and 117, V4 in 124.

    Args:
        folder: holds the archive.
        parts: :func:`by_beat`, :func:`by_patient` or :func:`by_first_beats`.
        places: :func:`as_annotated` or :func:`at_peak`.
    """
    path = published.require(folder, FILE)
    decides = {"file": FILE.sha256, "parts": parts.__name__, "layout": _LAYOUT}
    if places is not as_annotated:
        decides["places"] = places.__name__
    found = made.kept("mitdb", decides, lambda: _make(path, places, parts))
    return Raw(
        (found["train_x"], found["train_y"]),
        (found["validation_x"], found["validation_y"]),
        (found["test_x"], found["test_y"]),
        groups=found["train_record"] if parts is by_patient else None,
        identity=made.identity(decides),
    )


def _row(name: str, how: str, parts: Parts, places: Places = as_annotated) -> DataSet:
    return DataSet(
        name=name,
        summary=f"heartbeats: 2 leads, 100 steps at 180 Hz, 4 classes; {how}",
        licence="ODC-By 1.0 (PhysioNet)",
        source="https://physionet.org/content/mitdb/1.0.0 (doi:10.13026/C2F305; Moody and Mark, "
        "doi:10.1109/51.932724), all 146 files packed into one .tar.xz",
        files=(FILE,),
        folders=("mitdb", ""),
        read=partial(read, parts=parts, places=places),
        classes=CLASSES,
    )


ROW = _row("mitdb", "27,608 beats of 43 patients, split by beat as in the paper", by_beat)
ROW_PATIENTS = _row("mitdb-patients", "the same kinds of beat, split by patient", by_patient)
ROW_REFERENCE = _row(
    "mitdb-reference",
    "18,852 beats of 35 patients, chosen and centred as the code of the paper does",
    by_first_beats,
    at_peak,
)
