"""Fetching against a local server that truncates, lies, oversends, fails and resumes: whole or absent."""

from __future__ import annotations

import errno
import hashlib
import http.server
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neurosim.data import catalogue, fetch
from neurosim.data.row import DataSet, RemoteFile
from neurosim.errors import RunError, UsageError

CONTENT = os.urandom(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
LIMIT = len(CONTENT)


class Handler(http.server.BaseHTTPRequestHandler):
    """Each path misbehaves in its own way; every request is noted with its Range."""

    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.server.asked.append((self.path, span))
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        getattr(self, self.path.strip("/"))(start)
        self.close_connection = True

    def answer(self, code: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        if length is None or length >= 0:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def part(self, start: int, body: bytes, length: int | None = None) -> None:
        self.answer(206, body, length, Content_Range=f"bytes {start}-{LIMIT - 1}/{LIMIT}")

    def good(self, start: int) -> None:
        if start >= LIMIT:
            self.answer(416, b"", Content_Range=f"bytes */{LIMIT}")
        elif start:
            self.part(start, CONTENT[start:])
        else:
            self.answer(200, CONTENT)

    def no_resume(self, start: int) -> None:
        self.answer(200, CONTENT)

    def lengthless(self, start: int) -> None:
        self.answer(200, CONTENT, -1)

    def truncated(self, start: int) -> None:
        """Promises the rest and sends 100,000 bytes of it."""
        body = CONTENT[start : start + 100_000]
        if start:
            self.part(start, body, LIMIT - start)
        else:
            self.answer(200, body, LIMIT)

    def truncated_lengthless(self, start: int) -> None:
        self.answer(200, CONTENT[:1000], -1)

    def truncated_chunked(self, start: int) -> None:
        self.answer(200, b"3e8\r\n" + CONTENT[:500], -1, Transfer_Encoding="chunked")

    def wrong(self, start: int) -> None:
        self.answer(200, b"x" * LIMIT)

    def wrong_rest(self, start: int) -> None:
        """Another file of the same length, which does resume."""
        if start:
            self.part(start, b"x" * (LIMIT - start))
        else:
            self.answer(200, b"x" * LIMIT)

    def shifted(self, start: int) -> None:
        """Answers another range than was asked for, and the whole file when asked for all."""
        if start:
            self.part(start - 1, CONTENT[start - 1 :])
        else:
            self.answer(200, CONTENT)

    def part_unasked(self, start: int) -> None:
        self.part(0, CONTENT)

    def oversize(self, start: int) -> None:
        self.answer(200, b"", LIMIT + 1)

    def oversize_lengthless(self, start: int) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(CONTENT)
                self.server.sent += LIMIT
        except OSError:
            pass  # hung up on, as it should be

    def missing(self, start: int) -> None:
        self.answer(404, b"<html>no</html>")

    def broken(self, start: int) -> None:
        self.answer(503, b"")

    def no_content(self, start: int) -> None:
        self.send_response(204)
        self.end_headers()

    def garbage(self, start: int) -> None:
        self.wfile.write(b"what?\r\n\r\n")

    def hang_up(self, start: int) -> None:
        pass

    def silent(self, start: int) -> None:
        self.server.over.wait(20)

    def stalls(self, start: int) -> None:
        self.answer(200, CONTENT[:1000], LIMIT)
        self.server.over.wait(20)

    def redirect(self, start: int) -> None:
        self.answer(302, b"", Location="/good")

    def redirect_to_file(self, start: int) -> None:
        self.answer(302, b"", Location="file:///etc/passwd")

    def redirect_loop(self, start: int) -> None:
        self.answer(302, b"", Location="/redirect_loop")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.over = threading.Event()

    def handle_error(self, *_: Any) -> None:
        pass  # clients that hang up are the point

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def part(tmp_path: Path) -> Path:
    return tmp_path / "file.gz.part"


# ---- right answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["good", "no_resume", "lengthless", "redirect"])
def test_a_file_arrives_whole(server: Server, tmp_path: Path, path: str) -> None:
    told: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "folder" / "file.gz"
    done = fetch.download(server.url(path), target, SHA, LIMIT, lambda *now: told.append(now))
    assert done == target
    assert target.read_bytes() == CONTENT
    assert files(tmp_path) == ["file.gz"]
    assert told[-1] == (LIMIT, None if path == "lengthless" else LIMIT)
    assert [bytes_ for bytes_, _ in told] == sorted({bytes_ for bytes_, _ in told})


def test_a_right_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.gz"
    target.write_bytes(CONTENT)
    fetch.download(server.url("broken"), target, SHA, LIMIT)
    assert server.asked == []


def test_a_wrong_target_is_replaced_only_when_the_right_one_is_whole(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.gz"
    target.write_bytes(b"old")
    with pytest.raises(RunError):
        fetch.download(server.url("truncated"), target, SHA, LIMIT)
    assert target.read_bytes() == b"old"
    fetch.download(server.url("good"), target, SHA, LIMIT)
    assert target.read_bytes() == CONTENT
    assert files(tmp_path) == ["file.gz"]


# ---- resuming -----------------------------------------------------------------------------------------


def test_a_truncated_file_is_resumed_where_it_ended(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.gz"
    for done in (100_000, 200_000):
        with pytest.raises(RunError, match=rf"ended after {done:,} of 300,000 bytes: run it again to resume"):
            fetch.download(server.url("truncated"), target, SHA, LIMIT)
        assert files(tmp_path) == ["file.gz.part"]
        assert part(tmp_path).read_bytes() == CONTENT[:done]
    fetch.download(server.url("truncated"), target, SHA, LIMIT)
    assert target.read_bytes() == CONTENT
    assert [span for _, span in server.asked] == [None, "bytes=100000-", "bytes=200000-"]
    assert files(tmp_path) == ["file.gz"]


def test_a_server_that_cannot_resume_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    part(tmp_path).write_bytes(CONTENT[:1234])
    fetch.download(server.url("no_resume"), tmp_path / "file.gz", SHA, LIMIT)
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_whole_part_needs_no_request(server: Server, tmp_path: Path) -> None:
    part(tmp_path).write_bytes(CONTENT)
    fetch.download(server.url("broken"), tmp_path / "file.gz", SHA, LIMIT)
    assert files(tmp_path) == ["file.gz"]
    assert server.asked == []


@pytest.mark.parametrize("old", [b"y" * 1000, b"y" * (LIMIT - 1), b"y" * LIMIT, b"y" * (LIMIT + 5)])
def test_a_part_of_something_else_is_thrown_away(server: Server, tmp_path: Path, old: bytes) -> None:
    part(tmp_path).write_bytes(old)
    fetch.download(server.url("good"), tmp_path / "file.gz", SHA, LIMIT)
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert files(tmp_path) == ["file.gz"]


def test_a_part_beyond_the_end_is_started_again(server: Server, tmp_path: Path) -> None:
    part(tmp_path).write_bytes(b"y" * (LIMIT + 5))
    fetch.download(server.url("good"), tmp_path / "file.gz", SHA, LIMIT + 100)  # answers 416
    assert [span for _, span in server.asked] == [f"bytes={LIMIT + 5}-", None]
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_another_range_than_was_asked_for_is_not_believed(server: Server, tmp_path: Path) -> None:
    part(tmp_path).write_bytes(CONTENT[:1000])
    fetch.download(server.url("shifted"), tmp_path / "file.gz", SHA, LIMIT)
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_a_failure_to_connect_keeps_what_came_before(server: Server, tmp_path: Path) -> None:
    part(tmp_path).write_bytes(CONTENT[:1000])
    for path in ("missing", "broken", "hang_up"):
        with pytest.raises(RunError):
            fetch.download(server.url(path), tmp_path / "file.gz", SHA, LIMIT)
        assert part(tmp_path).read_bytes() == CONTENT[:1000]
    fetch.download(server.url("good"), tmp_path / "file.gz", SHA, LIMIT)
    assert server.asked[-1] == ("/good", "bytes=1000-")


def test_ctrl_c_keeps_what_came(server: Server, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done > 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.download(server.url("good"), tmp_path / "file.gz", SHA, LIMIT, interrupt)
    kept = part(tmp_path).read_bytes()
    assert len(kept) > 50_000
    assert CONTENT.startswith(kept)
    fetch.download(server.url("good"), tmp_path / "file.gz", SHA, LIMIT)
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


# ---- wrong answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "sentence", "left"),
    [
        ("wrong", r"gave another file: expected SHA-256 \w{64}; got \w{64}", 0),
        ("wrong_rest", r"gave another file", 0),
        ("truncated_lengthless", r"gave another file", 0),
        ("truncated_chunked", r"broke off after \d+ bytes", 500),
        ("oversize", r"offers 300,001 bytes: expected at most 300,000", 0),
        ("oversize_lengthless", r"sent more than 300,000 bytes", 0),
        ("missing", r"answered 404 Not Found", 0),
        ("broken", r"answered 503 Service Unavailable", 0),
        ("no_content", r"answered 204 No Content: expected 200 OK", 0),
        ("part_unasked", r"answered 206 Partial Content: expected 200 OK", 0),
        ("garbage", r"cannot reach http\S+/garbage \(", 0),
        ("hang_up", r"cannot reach http\S+/hang_up \(Remote end closed", 0),
        ("silent", r"cannot reach http\S+/silent \(timed out", 0),
        ("stalls", r"broke off after 1,000 bytes \(timed out", 1000),
        ("redirect_to_file", r"answered 302 .*not allowed", 0),
        ("redirect_loop", r"answered 302", 0),
    ],
)
@pytest.mark.parametrize("before", [0, 777])
def test_wrong_answers(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    sentence: str,
    left: int,
    before: int,
) -> None:
    if path in ("silent", "stalls"):
        monkeypatch.setattr(fetch, "TIMEOUT_S", 0.25)
    if before:
        part(tmp_path).write_bytes(CONTENT[:before])
    with pytest.raises(RunError, match=sentence) as caught:
        fetch.download(server.url(path), tmp_path / "file.gz", SHA, LIMIT)
    assert "\n" not in str(caught.value)
    assert server.url(path) in str(caught.value)
    assert not (tmp_path / "file.gz").exists()
    kept = part(tmp_path).read_bytes() if part(tmp_path).exists() else b""
    assert CONTENT.startswith(kept)  # only what can be resumed
    assert len(kept) in ({left} if left else {0, before})
    assert part(tmp_path).exists() == bool(kept)
    assert server.sent < 100 * LIMIT


def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as bound:  # bound but not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/good"
        with pytest.raises(RunError, match=r"cannot reach http://127.0.0.1:\d+/good \(.*refused"):
            fetch.download(url, tmp_path / "file.gz", SHA, LIMIT)
    assert files(tmp_path) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "good", ""])
def test_other_addresses(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match=f"expected an http or https address; got {url!r}"):
        fetch.download(url, tmp_path / "file.gz", SHA, LIMIT)


def test_an_address_that_makes_no_sense(tmp_path: Path) -> None:
    for url in ("http://", "http://127.0.0.1:x/", "http://127.0.0.1/a b"):
        with pytest.raises(RunError, match="cannot reach"):
            fetch.download(url, tmp_path / "file.gz", SHA, LIMIT)


# ---- this machine -------------------------------------------------------------------------------------


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_write", full)
    with pytest.raises(RunError, match=r"cannot write .*file.gz: No space left on device"):
        fetch.download(server.url("good"), tmp_path / "file.gz", SHA, LIMIT)
    assert files(tmp_path) == []


def test_folders_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*file/file.gz"):
        fetch.download(server.url("good"), tmp_path / "file" / "file.gz", SHA, LIMIT)
    (tmp_path / "file.gz").mkdir()
    with pytest.raises(RunError, match=r"cannot write .*file.gz: Is a directory"):
        fetch.download(server.url("good"), tmp_path / "file.gz", SHA, LIMIT)
    assert files(tmp_path) == ["file"]


def test_two_at_once_do_not_mix(server: Server, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(done: int, total: int | None) -> None:
        if not refused:
            with pytest.raises(RunError, match=r"another process is fetching .*part") as caught:
                fetch.download(server.url("good"), tmp_path / "file.gz", SHA, LIMIT)
            refused.append(str(caught.value))

    fetch.download(server.url("good"), tmp_path / "file.gz", SHA, LIMIT, second)
    assert refused
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


# ---- get ----------------------------------------------------------------------------------------------

Register = Callable[..., None]


@pytest.fixture
def register(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """A data set ``tiny`` of one file, at the given paths of the server; and a machine without data."""
    monkeypatch.delenv("NEUROSIM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(*paths: str) -> None:
        urls = tuple(server.url(path) for path in paths)
        file = RemoteFile("tiny.bin", LIMIT, SHA, urls)
        row = DataSet("tiny", "-", "-", "-", (file,), ("tiny", ""), lambda folder: pytest.fail("read"))
        monkeypatch.setitem(catalogue.DATASETS, "tiny", row)

    return make


def test_get_puts_files_where_load_looks(register: Register, server: Server, tmp_path: Path) -> None:
    register("good")
    told: list[Any] = []
    folder = fetch.get("tiny", tmp_path / "data", lambda *now: told.append(now))
    assert folder == tmp_path / "data" / "tiny"
    assert (folder / "tiny.bin").read_bytes() == CONTENT
    assert told[-1] == ("tiny.bin", LIMIT, LIMIT)
    assert fetch.get("tiny", tmp_path / "data") == folder
    assert len(server.asked) == 1


def test_get_without_a_folder(
    register: Register, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("good")
    assert fetch.get("tiny") == tmp_path / "cache" / "neurosim" / "data" / "tiny"
    monkeypatch.setenv("NEUROSIM_DATA", str(tmp_path / "variable"))
    assert fetch.get("tiny") == tmp_path / "cache" / "neurosim" / "data" / "tiny"  # is already here
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    assert fetch.get("tiny") == tmp_path / "variable" / "tiny"
    assert len(server.asked) == 2


def test_get_replaces_a_damaged_file(register: Register, tmp_path: Path) -> None:
    register("good")
    (tmp_path / "data" / "tiny").mkdir(parents=True)
    (tmp_path / "data" / "tiny" / "tiny.bin").write_bytes(CONTENT[:-1])
    folder = fetch.get("tiny", tmp_path / "data")
    assert folder is not None
    assert (folder / "tiny.bin").read_bytes() == CONTENT


def test_get_tries_the_next_publisher_and_resumes_there(
    register: Register, server: Server, tmp_path: Path
) -> None:
    register("missing", "truncated", "wrong_rest", "good")
    fetch.get("tiny", tmp_path)
    assert files(tmp_path) == ["tiny.bin"]
    assert server.asked == [
        ("/missing", None),
        ("/truncated", None),
        ("/wrong_rest", "bytes=100000-"),
        ("/wrong_rest", None),
        ("/good", None),
    ]


def test_get_says_what_each_publisher_answered(register: Register, tmp_path: Path) -> None:
    register("missing", "broken")
    with pytest.raises(RunError, match=r"cannot fetch tiny.bin of tiny: .*404 Not Found; .*503 Service"):
        fetch.get("tiny", tmp_path)
    assert files(tmp_path) == []


def test_get_of_unknown_and_embedded_sets() -> None:
    with pytest.raises(UsageError, match=r"unknown data set 'digit': did you mean 'digits'"):
        fetch.get("digit")
    assert fetch.get("digits") is None
