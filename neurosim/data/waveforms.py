"""WFDB records (PhysioNet), from strangers: header, samples and annotations, out of a tar archive.

The formats are those of https://physionet.org/physiotools/wag/ (header(5), signal(5), annot(5)), as far as
the MIT-BIH arrhythmia database uses them: two signals in one file of format 212, MIT annotations.
Nothing is ever unpacked to disk, so no name inside an archive can lead anywhere.
"""

from __future__ import annotations

import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from neurosim.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MAX_BYTES = 2**28
_MAX_MEMBERS = 1_000
_MAX_HEADER = 10_000
SYMBOLS = {1: "N", 2: "L", 3: "R", 5: "V", 12: "/"}
"""Codes of annotations that are used here, and the symbols they are printed as (annot(5))."""
_SKIP, _NUM, _SUB, _CHN, _AUX = 59, 60, 61, 62, 63


@dataclass(frozen=True)
class Signal:
    """One lead: its name, and what turns its codes into millivolt: (code - baseline) / gain_per_mv.

    ``first`` and ``checksum`` are what the header says of the codes: the first, and the sum of all mod 2^16.
    """

    lead: str
    gain_per_mv: float
    baseline: int
    first: int
    checksum: int


@dataclass(frozen=True)
class Header:
    """What the ``.hea`` file of a record says: name, sampling rate, number of samples, and its two leads."""

    record: str
    rate_hz: float
    samples: int
    signals: tuple[Signal, ...]


# ---------------------------------------------------------------- the archive


def read_tar_xz(path: Path, wanted: Mapping[str, int], max_bytes: int = MAX_BYTES) -> dict[str, bytes]:
    """The members of a ``.tar.xz`` that are named in ``wanted`` (name -> the most bytes it may have).

    The archive is read once, front to back, in memory; other regular files are passed over.

    Args:
        path: the archive.
        wanted: every one of these must be there, once, as a regular file.
        max_bytes: the most that the whole archive may unpack to.

    Raises:
        UsageError: a name that leads out of the archive, a link or device, a name twice, a file that is too
            long or missing, too many members, or bytes that are no such archive.
    """
    found: dict[str, bytes] = {}
    try:
        with lzma.open(path) as raw:
            capped: Any = _Capped(raw, path, max_bytes)  # of a stream, tarfile calls read() alone
            with tarfile.open(fileobj=capped, mode="r|") as archive:
                for number, member in enumerate(archive):
                    if number >= _MAX_MEMBERS:
                        raise UsageError(f"{path} has too many members: expected at most {_MAX_MEMBERS:,}")
                    _check_member(path, member, max_bytes)
                    if member.name in wanted and member.isreg():
                        _add(path, archive, member, wanted[member.name], found)
    except UsageError:
        raise
    except Exception as error:  # whatever lzma and tarfile meet in a damaged or hostile file
        raise UsageError(f"{path} is damaged or not a .tar.xz archive ({_brief(error)})") from error
    if missing := [name for name in wanted if name not in found]:
        raise UsageError(f"{path} lacks {missing[0]} ({len(missing)} of {len(wanted)} files are missing)")
    return found


class _Capped:
    """A file that is read front to back, and no further than ``limit`` bytes."""

    def __init__(self, file: IO[bytes], path: Path, limit: int) -> None:
        self.file, self.path, self.limit, self.done = file, path, limit, 0

    def read(self, size: int) -> bytes:
        block = self.file.read(size)
        self.done += len(block)
        if self.done > self.limit:
            raise UsageError(f"{self.path} unpacks to more than {self.limit:,} bytes")
        return block


def _check_member(path: Path, member: tarfile.TarInfo, max_bytes: int) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise UsageError(f"{path} holds {_brief(member.name)}, a name that leads out of it: refused")
    if not (member.isreg() or member.isdir()):
        raise UsageError(f"{path} holds {_brief(member.name)}, a link or device: expected files and folders")
    # tarfile steps over whatever size a member claims, also far beyond the end of the file
    if member.offset_data + member.size > max_bytes:
        raise UsageError(f"{path} unpacks to more than {max_bytes:,} bytes")


def _add(
    path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, most: int, found: dict[str, bytes]
) -> None:
    """Read one wanted member of an open archive into ``found``."""
    if member.name in found:
        raise UsageError(f"{path} holds {_brief(member.name)} twice: expected each file once")
    if member.size > most:
        raise UsageError(
            f"{path}: {_brief(member.name)} has {member.size:,} bytes: expected at most {most:,}"
        )
    file = archive.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) != member.size:
        raise UsageError(
            f"{path}: {_brief(member.name)} ends after {len(content):,} of {member.size:,} bytes"
        )
    found[member.name] = content


# ---------------------------------------------------------------- header


def parse_header(content: bytes, where: str = "header") -> Header:
    """Read a ``.hea`` file of two signals in one file of format 212.

    The first line that is not a comment is ``record signals rate samples``; then one line a signal,
    ``file format gain resolution zero first checksum block lead``.  ``gain`` may hold a baseline and units,
    ``gain(baseline)/units``; 0 means 200 codes a millivolt, and without a baseline it is ``zero``.

    Raises:
        UsageError: anything else, with the line.

    >>> text = b"100 2 360 650000\\n100.dat 212 200 11 1024 995 -22131 0 MLII\\n100.dat 212 200 11 1024 1011 20052 0 V5\\n"
    >>> header = parse_header(text)
    >>> header.record, header.rate_hz, header.samples, [signal.lead for signal in header.signals]
    ('100', 360.0, 650000, ['MLII', 'V5'])
    """  # noqa: E501
    if len(content) > _MAX_HEADER:
        raise UsageError(f"{where} has {len(content):,} bytes: expected at most {_MAX_HEADER:,}")
    text = content.decode("latin-1")  # comments may hold anything
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first = lines[0].split() if lines else []
    if len(first) < 4 or first[1] != "2" or len(lines) != 3:
        raise UsageError(
            f"{where}: expected a line 'record 2 rate samples' and two of signals; "
            f"got {_brief(lines[0] if lines else '')} and {max(0, len(lines) - 1)} more"
        )
    rate = _number(first[2].split("/")[0].split("(")[0], where, "sampling rate", low=1, high=100_000)
    samples = int(_number(first[3], where, "number of samples", low=1, high=10**8, whole=True))
    return Header(first[0], rate, samples, tuple(_signal(line, first[0], where) for line in lines[1:]))


def _signal(line: str, record: str, where: str) -> Signal:
    fields = line.split(maxsplit=8)
    if len(fields) < 9 or fields[0] != f"{record}.dat" or fields[1] != "212":
        raise UsageError(
            f"{where}: expected {_brief(record + '.dat')} 212 gain resolution zero first checksum block "
            f"lead; got {_brief(line)}"
        )
    gain, _, units = fields[2].partition("/")
    if units not in ("", "mV"):
        raise UsageError(f"{where}: expected a signal in mV; got units {_brief(units)}")
    gain, bracket, baseline = gain.partition("(")
    zero = _number(fields[4], where, "zero", -2048, 2047, whole=True)
    if bracket:
        zero = _number(baseline.removesuffix(")"), where, "baseline", -(2**31), 2**31, whole=True)
    return Signal(
        lead=fields[8],
        gain_per_mv=_number(gain, where, "gain", low=0, high=1e6) or 200.0,
        baseline=int(zero),
        first=int(_number(fields[5], where, "first sample", -2048, 2047, whole=True)),
        checksum=int(_number(fields[6], where, "checksum", -65_536, 65_535, whole=True)) % 65_536,
    )


def _number(text: str, where: str, what: str, low: float, high: float, whole: bool = False) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise UsageError(
            f"{where}: expected {what} to be {kind} from {low:g} to {high:g}; got {_brief(text)}"
        )
    return value


# ---------------------------------------------------------------- samples, annotations


def samples_212(content: bytes, header: Header, where: str = "samples") -> Array:
    """Codes of the two leads, int16 (samples, 2), -2048 to 2047.

    Format 212 puts two 12-bit two's complement codes a and b (one of each lead) into three bytes:
    ``a[7:0]``, ``b[11:8] a[11:8]``, ``b[7:0]``.

    Raises:
        UsageError: another length than the header says, or another first code or checksum.

    >>> signals = (Signal("MLII", 200.0, 1024, -1, 65535), Signal("V1", 200.0, 1024, 2, 2))
    >>> samples_212(bytes([0xFF, 0x0F, 0x02]), Header("x", 360.0, 1, signals)).tolist()
    [[-1, 2]]
    """
    import numpy as np

    if len(content) != 3 * header.samples:
        raise UsageError(
            f"{where} has {len(content):,} bytes: expected 3 x {header.samples:,}, as its header says"
        )
    low, middle, high = np.frombuffer(content, np.uint8).reshape(-1, 3).T.astype(np.int16)
    codes = np.stack([low | (middle & 0x0F) << 8, high | (middle & 0xF0) << 4], axis=1)
    codes -= (codes & 0x800) << 1
    for column, signal in zip(codes.T, header.signals, strict=True):
        found = int(column.sum(dtype=np.int64)) % 65_536
        if int(column[0]) != signal.first or found != signal.checksum:
            raise UsageError(
                f"{where}: lead {_brief(signal.lead)} does not match its header: expected first code "
                f"{signal.first} and checksum {signal.checksum}; got {int(column[0])} and {found}"
            )
    return codes


def parse_annotations(content: bytes, where: str = "annotations") -> tuple[Array, Array]:
    """Times in samples and codes of MIT annotations, int64 (n,) each, see :data:`SYMBOLS`.

    Each 16-bit little-endian word holds a code (upper 6 bits) and the time since the annotation before
    (lower 10); codes 59 to 63 lengthen that time (SKIP, a 32-bit number, its high word first) or carry
    what is not read here (number, subtype, channel, text); 0 ends the file.

    Raises:
        UsageError: no end, a text beyond the end, or times that go back.

    >>> times, codes = parse_annotations(bytes([0x12, 0x70, 0x3B, 0x04, 0x00, 0x00]))
    >>> times.tolist(), codes.tolist()
    ([18, 77], [28, 1])
    """
    import numpy as np

    words = np.frombuffer(content[: len(content) // 2 * 2], "<u2").tolist()
    time, place = 0, 0
    found: list[tuple[int, int]] = []
    while place < len(words) and words[place]:
        code, step = words[place] >> 10, words[place] & 0x3FF
        place += 1
        if code == _SKIP:
            if place + 2 > len(words):
                place = len(words)
                break
            step = words[place] << 16 | words[place + 1]
            time += step - (1 << 32 if step >> 31 else 0)
            place += 2
        elif code == _AUX:
            place += (step + 1) // 2
        elif code not in (_NUM, _SUB, _CHN):
            time += step
            found.append((time, code))
    if place >= len(words):
        raise UsageError(f"{where} ends in the middle: expected an end mark after the last annotation")
    times, codes = np.array(found, np.int64).reshape(-1, 2).T
    if len(times) and (times[0] < 0 or (np.diff(times) < 0).any()):
        raise UsageError(f"{where} goes back in time: expected annotations in order")
    return times, codes


def _brief(value: object, length: int = 80) -> str:
    """At most ``length`` characters of what a stranger wrote, quoted."""
    text = " ".join(str(value).split())
    return repr(text if len(text) <= length else f"{text[: length - 3]}...")
