"""Small data sets of our own in the published formats, so that no test needs a download."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from minires.data import DATASETS
from minires.data.dataset import RemoteFile


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.fixture
def idx() -> Callable[[np.ndarray], bytes]:
    """An array of uint8 as the bytes of an IDX file."""
    return idx_bytes


@pytest.fixture
def mnist_root(tmp_path: Path) -> Path:
    """A root folder with a small MNIST: 7 training images (gzipped), 3 test images (plain)."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for stem, n in (("train", 7), ("t10k", 3)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        for name, array in (
            (f"{stem}-images-idx3-ubyte", images),
            (f"{stem}-labels-idx1-ubyte", labels),
        ):
            if stem == "train":
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
            else:
                (folder / name).write_bytes(idx_bytes(array))
    return tmp_path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that MINIRES_DATA names."""
    root = os.environ.get("MINIRES_DATA")
    if not root:
        pytest.skip("MINIRES_DATA is not set: no real data to test with")
    return Path(root)


@pytest.fixture
def small_cifar(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Make CIFAR-10 a data set of 4 images per file; gives the content of each file."""
    rng = np.random.default_rng(1)
    source = DATASETS["cifar10"]
    content = {}
    for file in source.files:
        records = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        content[file.name] = records.tobytes()

    def small(files: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
        return tuple(
            RemoteFile(f.name, 4 * 3073, hashlib.sha256(content[f.name]).hexdigest()) for f in files
        )

    patched = replace(source, train=small(source.train), test=small(source.test))
    monkeypatch.setitem(DATASETS, "cifar10", patched)
    return content


class Server:
    """A local HTTP server that misbehaves by the first folder of the address.

    ``content`` maps file names to bytes; ``requests`` lists (folder, file, Range header).
    """

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.release = Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: Any) -> None:
                """Nothing on standard error."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{behaviour}/"

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        _, behaviour, name = request.path.split("/")
        asked = request.headers.get("Range")
        self.requests.append((behaviour, name, asked))
        if behaviour.isdigit():
            request.send_error(int(behaviour))
            return
        if behaviour in ("redirect", "loop"):
            request.send_response(302)
            request.send_header("Location", f"/{'loop' if behaviour == 'loop' else 'good'}/{name}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if behaviour == "silent":
            self.release.wait(20)
            return
        body = self.content[name]
        if behaviour == "corrupt":
            body = bytes(len(body))
        if behaviour == "page":
            body = b"<html>log in to the network first</html>"
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if behaviour in ("norange", "page"):
            start = 0
        request.send_response(206 if start else 200)
        if start:
            shown = start - 1 if behaviour == "shifted" else start
            request.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        if behaviour == "endless":  # no length, and more bytes than the file has
            request.end_headers()
            request.wfile.write(body + b"more")
            return
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        half = (len(body) - start + 1) // 2
        if behaviour == "breaks":
            request.wfile.write(body[start : start + half])
        elif behaviour == "hangs":
            request.wfile.write(body[start : start + half])
            request.wfile.flush()
            self.release.wait(20)
        else:
            request.wfile.write(body[start:])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    running = Server()
    yield running
    running.close()
