"""Fetching published files: resumed, capped, checked by hash, whole or absent.

>>> from neurosim.data import fetch
>>> fetch.get("digits") is None  # comes with scikit-learn: nothing to fetch
True
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from neurosim import storage
from neurosim.data import places
from neurosim.data.catalogue import info
from neurosim.data.row import DataSet, RemoteFile
from neurosim.errors import RunError, UsageError

TIMEOUT_S = 30.0
_CHUNK = 1 << 16

Progress = Callable[[int, "int | None"], None]


class _Resumable(RunError):
    """No answer, or one that stopped early: what has come so far is kept, to be resumed."""


class _Stale(Exception):
    """A resumed file cannot be completed: start again from nothing."""


def get(
    name: str,
    folder: str | Path | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Path | None:
    """Fetch a data set from its publisher, unless a whole copy is already here.

    Args:
        name: one of ``neurosim.data.names()``.
        folder: data folder to put it in (as ``<folder>/<name>/``); by default ``NEUROSIM_DATA``, else
            the user's cache.
        progress: called as ``progress(file name, bytes so far, total bytes or None)``.

    Returns:
        The folder that holds the files, or ``None`` for a data set that needs none.

    Raises:
        UsageError: unknown name.
        RunError: no publisher gave the right file; the sentence says what each answered.
    """
    row = info(name)
    if row.embedded:
        return None
    here = places.find(row, folder)
    if here is not None and all(_matches(here / file.name, file.sha256) for file in row.files):
        return here
    target = places.roots(folder)[0] / row.folders[0]
    for file in row.files:
        _get_file(row, file, target / file.name, progress)
    return target


def _get_file(
    row: DataSet, file: RemoteFile, target: Path, progress: Callable[[str, int, int | None], None] | None
) -> None:
    """Try each address in turn; raise one sentence that holds every reason."""
    if not file.urls:
        raise RunError(
            f"cannot fetch {file.name} of {row.name}: no publisher serves this file; "
            f"put it into {target.parent} (SHA-256 {file.sha256}). It was made from {row.source}"
        )
    reasons = []
    for url in file.urls:
        try:
            download(
                url,
                target,
                file.sha256,
                file.size,
                None if progress is None else lambda done, total: progress(file.name, done, total),
            )
            return
        except RunError as error:
            reasons.append(str(error))
    raise RunError(f"cannot fetch {file.name} of {row.name}: {'; '.join(reasons)}")


def download(
    url: str, target: str | Path, sha256: str, max_bytes: int, progress: Progress | None = None
) -> Path:
    """Fetch ``url`` to ``target``, which appears only whole and with the right SHA-256.

    The bytes gather in ``<target>.part``.  It is kept when the connection fails or ends early (and on
    Ctrl-C), and the next call asks for the rest by ``Range``; every other failure removes it.  A target
    that is already right is left alone and nothing is asked.

    Args:
        url: an http or https address.
        target: the file to write; its folder is made.
        sha256: of the whole file, in hexadecimal.
        max_bytes: more than this is refused, before it is read where the answer says its length.
        progress: called as ``progress(bytes so far, total bytes or None)`` after each block.

    Raises:
        UsageError: another kind of address.
        RunError: HTTP error, no connection, too long, too short, another content, a disk that is
            full or read-only, or another process fetching the same file.
    """
    target = Path(target)
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"expected an http or https address; got {url!r}")
    if _matches(target, sha256):
        return target
    with _part_file(target) as file:
        try:
            _fill(url, file, sha256, max_bytes, progress)
        except _Stale:
            file.truncate(0)
            _fill(url, file, sha256, max_bytes, progress)
    return target


@contextlib.contextmanager
def _part_file(target: Path) -> Iterator[FileIO]:
    """Yield the open, locked part file; rename it to ``target`` on success, drop or keep it on failure."""
    part = target.with_name(target.name + ".part")
    keep = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileIO(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+") as file:
            _lock(file, part)
            try:
                yield file
                os.fsync(file.fileno())
                part.replace(target)
                keep = True
            except (_Resumable, KeyboardInterrupt):
                keep = os.fstat(file.fileno()).st_size > 0
                raise
            finally:
                if not keep:
                    part.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror or error}") from error


def _lock(file: FileIO, part: Path) -> None:
    """Hold the part file alone, until it is closed; a system without ``flock`` goes unlocked."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.fstat(file.fileno()).st_ino == part.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        mine = False
    if not mine:  # held, or just finished and renamed, by another process
        raise RunError(f"another process is fetching {part}: wait for it to end")


def _fill(url: str, file: FileIO, sha256: str, max_bytes: int, progress: Progress | None) -> None:
    """Complete the part file and check it; ``_Stale`` if what was there before is of no use."""
    done, digest = _so_far(file)
    if digest.hexdigest() == sha256:
        return
    if done and done >= max_bytes:
        raise _Stale
    resumed = done
    with _answer(url, done) as response:
        if done and response.status == 200:  # the whole file again: this server does not resume
            file.truncate(0)
            file.seek(0)
            done, resumed, digest = 0, 0, hashlib.sha256()
        total = _total_bytes(url, response, done)
        if total is not None and total > max_bytes:
            raise RunError(f"{url} offers {total:,} bytes: expected at most {max_bytes:,}")
        for block in _blocks(url, response, done, total):
            done += len(block)
            if done > max_bytes:
                raise RunError(f"{url} sent more than {max_bytes:,} bytes")
            _write(file, block)
            digest.update(block)
            if progress is not None:
                progress(done, total)
    if digest.hexdigest() != sha256:
        if resumed:
            raise _Stale
        raise RunError(f"{url} gave another file: expected SHA-256 {sha256}; got {digest.hexdigest()}")


def _so_far(file: FileIO) -> tuple[int, hashlib._Hash]:
    """Bytes and running SHA-256 of the part file, which is left at its end."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(_CHUNK):
        digest.update(block)
    return file.tell(), digest


def _answer(url: str, offset: int) -> http.client.HTTPResponse:
    """Open ``url`` from byte ``offset`` on."""
    headers = {"User-Agent": "neurosim"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and offset:
            raise _Stale from error
        raise _Resumable(f"{url} answered {error.code} {_reason(error)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Resumable(f"cannot reach {url} ({_reason(error)})") from error
    return response


def _total_bytes(url: str, response: http.client.HTTPResponse, offset: int) -> int | None:
    """Length of the whole file as the answer tells it, if it does."""
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return int(length) if re.fullmatch(r"\d{1,18}", length) else None
    span = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", response.headers.get("Content-Range", ""))
    if response.status == 206 and offset and span and int(span[1]) == offset:
        return int(span[2])
    if offset:
        raise _Stale
    raise RunError(f"{url} answered {response.status} {response.reason}: expected 200 OK")


def _blocks(url: str, response: http.client.HTTPResponse, done: int, total: int | None) -> Iterator[bytes]:
    """The bytes of the answer; one that ends early is ``_Resumable``."""
    while True:
        try:
            block = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Resumable(f"{url} broke off after {done:,} bytes ({_reason(error)})") from error
        if not block:
            break
        done += len(block)
        yield block
    if total is not None and done < total:
        raise _Resumable(f"{url} ended after {done:,} of {total:,} bytes: run it again to resume")


def _write(file: FileIO, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:200] or type(error).__name__


def _matches(path: Path, sha256: str) -> bool:
    """Whether ``path`` is a readable file with this SHA-256."""
    try:
        return path.is_file() and storage.sha256_file(path) == sha256
    except OSError:
        return False
