"""Servers that want to be waited for without end, to fill memory, or to write on a terminal."""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from minires.data import DATASETS, get
from minires.data.dataset import RemoteFile
from minires.errors import ArgumentError, DataError

NAME, BODY = "train-images-idx3-ubyte.gz", np.random.default_rng(0).bytes(20_000)
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 20000\r\n\r\n"


class Raw:
    """A server that sends what a function yields, byte by byte if that is slow."""

    def __init__(self) -> None:
        self.stop, self.listener = Event(), socket.create_server(("127.0.0.1", 0))
        self.answers: dict[str, Callable[[str], Iterator[bytes]]] = {}
        self.asked: list[str] = []
        self.thread = Thread(target=self.accept)
        self.thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/{name}/"

    def accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed at the end
            while not self.stop.is_set():
                connection, _ = self.listener.accept()
                Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client went away
            path = connection.recv(10_000).split(b" ")[1].decode()
            self.asked.append(path)
            for piece in self.answers[path.split("/")[1]](path):
                connection.sendall(piece)

    def drip(self, content: bytes) -> Iterator[bytes]:
        """A byte every fiftieth of a second: never silent."""
        for byte in content:
            yield bytes([byte])
            if self.stop.wait(0.02):
                return

    def close(self) -> None:
        self.stop.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Raw]:
    monkeypatch.setenv("NO_PROXY", "*")
    remote = (RemoteFile(NAME, len(BODY), hashlib.sha256(BODY).hexdigest()),)
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], train=remote, test=()))
    server = Raw()
    server.answers["good"] = lambda path: iter([OK + LENGTH + BODY])
    yield server
    server.close()


def refused(raw: Raw, root: Path, answer: Callable[[str], Iterator[bytes]], **times: float) -> str:
    """What a mirror is said to be, after which a good one is asked."""
    raw.answers["bad"] = answer
    times = {"timeout": 0.3, **times}
    with pytest.raises(DataError) as caught:
        get("mnist", root, raw.url("bad"), progress=False, **times)
    folder = get("mnist", root, [raw.url("bad"), raw.url("good")], progress=False, **times)
    assert (folder / NAME).read_bytes() == BODY
    return str(caught.value).split(f"/{NAME}: ", 1)[1].splitlines()[0]


def seconds(begin: float) -> float:
    return time.monotonic() - begin


def test_a_body_that_drips(raw, tmp_path: Path):
    def answer(path: str) -> Iterator[bytes]:
        yield OK + LENGTH
        yield from raw.drip(BODY)

    begin = time.monotonic()
    reason = refused(raw, tmp_path, answer)
    assert reason.startswith("only ")
    assert " bytes in 0.3" in reason
    assert seconds(begin) < 8


@pytest.mark.parametrize("begin", ["status", "header", "continue", "chunk"])
def test_what_stands_before_the_body_drips(raw, tmp_path: Path, begin: str):
    def answer(path: str) -> Iterator[bytes]:
        if begin == "continue":  # "go on", a hundred times per second
            for _ in range(10_000):
                yield b"HTTP/1.1 100 Continue\r\n\r\n"
                if raw.stop.wait(0.01):
                    return
        if begin == "header":
            yield OK
        if begin == "chunk":
            yield OK + b"Transfer-Encoding: chunked\r\n\r\n"
            yield from raw.drip(b"0" * 10_000)
        yield from raw.drip(b"HTTP/1.1 " + b"2" * 10_000)

    start = time.monotonic()
    if begin == "chunk":  # within the body: the limit of all of it
        raw.answers["bad"] = answer
        with pytest.raises(
            DataError, match=r"not done when 1\.5 seconds were over\nTry .*max_time=, "
        ):
            get("mnist", tmp_path, raw.url("bad"), progress=False, timeout=0.3, max_time=1.5)
    else:
        assert refused(raw, tmp_path, answer) == "no whole answer in 0.9 seconds"
    assert seconds(start) < 8


def test_a_handshake_that_drips(raw, tmp_path: Path):
    """The server's part of TLS: a record of 16,384 bytes, one after the other."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(10_000)
            for piece in raw.drip(b"\x16\x03\x03\x40\x00" + b"\x02\x00\x3f\xfc" + bytes(10_000)):
                connection.sendall(piece)

    raw.serve = serve
    begin = time.monotonic()
    url = raw.url("x").replace("http:", "https:")
    with pytest.raises(DataError, match=r"no (whole answer in|byte for) 0\.\d seconds"):
        get("mnist", tmp_path, url, progress=False, timeout=0.3)
    assert seconds(begin) < 8


def test_all_mirrors_together_have_a_limit(raw, tmp_path: Path):
    def answer(path: str) -> Iterator[bytes]:
        """Fast enough not to be given up: 5,000 bytes per second."""
        yield OK + LENGTH
        for k in range(0, len(BODY), 100):
            yield BODY[k : k + 100]
            if raw.stop.wait(0.02):
                return

    raw.answers["slow"] = answer
    begin = time.monotonic()
    with pytest.raises(DataError) as caught:
        get("mnist", tmp_path, [raw.url("slow")] * 9, progress=False, timeout=5, max_time=0.7)
    assert seconds(begin) < 5
    text = str(caught.value)
    assert "got none from 1 mirrors:" in text  # the others are not asked any more
    assert "not done when 0.7 seconds were over" in text
    assert "(what came is kept)" in text
    assert text.endswith("To wait for more than 0.7 seconds, say so: max_time=, --max-time")
    kept = (tmp_path / "mnist" / f"{NAME}.part").read_bytes()
    assert len(kept) > 500
    assert BODY.startswith(kept)
    with pytest.raises(ArgumentError, match="max_time a finite number > 0"):
        get("mnist", tmp_path, max_time=0)


def test_control_characters_are_shown_as_escapes(raw, tmp_path: Path):
    evil = b"\x1b[2J\x1b]0;owned\x07\x9b31m\x08\x7f"
    cases = [
        (b"HTTP/1.1 404 " + evil + b"\r\n\r\n", "HTTP 404 "),
        (b"HTTP/1.1 " + evil + b"\r\n\r\n", "BadStatusLine: "),
        (evil + b"\r\n\r\n", "BadStatusLine: "),
        (b"HTTP/1.1 302 x\r\nLocation: nfs:" + evil + b"\r\n\r\n", "HTTP 302 x - Redirection to "),
    ]
    for answer, words in cases:
        root = tmp_path / str(len(raw.asked))
        reason = refused(raw, root, lambda path, answer=answer: iter([answer]))
        assert reason.startswith(words)
        assert reason.isprintable()
        assert "\\x1b]0;owned\\x07\\x9b31m\\x08\\x7f" in reason
    long = refused(
        raw, tmp_path, lambda path: iter([b"HTTP/1.1 404 " + b"x" * 60_000 + b"\r\n\r\n"])
    )
    assert len(long) <= 200


def test_redirections_without_end(raw, tmp_path: Path):
    def answer(path: str) -> Iterator[bytes]:
        """Every answer leads to another place, and has a body that never ends."""
        place = f"Location: {path}x\r\n\r\n".encode()
        yield b"HTTP/1.1 302 Found\r\n" + place
        while not raw.stop.is_set():
            yield bytes(1 << 16)

    tracemalloc.start()
    reason = refused(raw, tmp_path, answer)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "redirect error that would lead to an infinite loop" in reason
    assert len([path for path in raw.asked if path.startswith("/bad/")]) == 22
    assert peak < 20e6


@pytest.mark.parametrize("place", [b"ftp://127.0.0.1/x", b"file:///etc/passwd", b"data:,x"])
def test_redirections_lead_to_http_alone(raw, tmp_path: Path, place: bytes):
    answer = b"HTTP/1.1 302 Found\r\nLocation: " + place + b"\r\n\r\n"
    reason = refused(raw, tmp_path, lambda path: iter([answer]))
    assert "unknown url type: ftp" in reason or "is not allowed" in reason


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (b"19999", "a file of 19999 bytes, expected 20000"),
        (b"1" * 4000, "a file of 1111"),
        (b"-5", "broke off after 7 of 20000 bytes"),
        (b"many", "broke off after 7 of 20000 bytes"),
        (b"20000", "IncompleteRead"),
    ],
)
def test_lengths_that_are_lies(raw, tmp_path: Path, length: bytes, words: str):
    answer = OK + b"Content-Length: " + length + b"\r\n\r\n" + BODY[:7]
    reason = refused(raw, tmp_path, lambda path: iter([answer]))
    assert words in reason or "broke off after 7 of 20000 bytes" in reason
    assert len(reason) <= 200


def test_more_than_was_said_is_not_read(raw, tmp_path: Path):
    def answer(path: str) -> Iterator[bytes]:
        yield OK + b"\r\n" + BODY
        while not raw.stop.is_set():
            yield bytes(1 << 16)

    raw.answers["endless"] = answer
    folder = get("mnist", tmp_path, raw.url("endless"), progress=False, timeout=5)
    assert (folder / NAME).read_bytes() == BODY


@pytest.mark.parametrize("kind", ["member", "header"])
def test_an_archive_that_unpacks_to_much_more(raw, tmp_path: Path, monkeypatch, kind: str):
    """The right name and checksum of the archive do not help."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-bin/other")
        info.size = 100 << 20
        if kind == "header":
            info.type = tarfile.XHDTYPE
        with Path("/dev/zero").open("rb") as zeros:
            tar.addfile(info, zeros)
    body = buffer.getvalue()
    assert len(body) < 2 << 20
    archive = RemoteFile("cifar-10-binary.tar.gz", len(body), hashlib.sha256(body).hexdigest())
    source = DATASETS["cifar10"]
    small = tuple(replace(file, size=3073) for file in source.train)
    changed = replace(source, archive=archive, train=small, test=())
    monkeypatch.setitem(DATASETS, "cifar10", changed)
    (tmp_path / archive.name).write_bytes(body)
    tracemalloc.start()
    with pytest.raises(DataError, match="an archive of at most 1063941 bytes when it is unpacked"):
        get("cifar10", tmp_path, raw.url("good"), progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_the_mirrors_of_the_data_sets_are_https():
    assert all(mirror.startswith("https://") for s in DATASETS.values() for mirror in s.mirrors)
