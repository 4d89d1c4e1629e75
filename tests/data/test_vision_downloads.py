"""``download=True`` of minires.vision: from a local server, into torchvision's folders."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data.conftest import idx_bytes
from vision.pickles import pickled

from minires.data import DATASETS
from minires.data.dataset import RemoteFile
from minires.errors import DataError
from minires.vision.datasets import CIFAR10, MNIST


@pytest.fixture
def mnist(server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """A small MNIST on the server; minires' own folder is empty."""
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path / "own"))
    source, rng = DATASETS["mnist"], np.random.default_rng(0)

    def small(files: tuple[RemoteFile, ...], n: int) -> tuple[RemoteFile, ...]:
        made = []
        for file in files:
            shape = (n, 28, 28) if "images" in file.name else (n,)
            body = gzip.compress(idx_bytes(rng.integers(0, 10, shape, np.uint8)))
            server.content[file.name] = body
            made.append(RemoteFile(file.name, len(body), hashlib.sha256(body).hexdigest()))
        return tuple(made)

    mirrors = (server.url("good"),)
    files = {"train": small(source.train, 5), "test": small(source.test, 3)}
    monkeypatch.setitem(DATASETS, "mnist", replace(source, **files, mirrors=mirrors))
    return server.content


def test_digits_come_into_torchvisions_folder(server, mnist, tmp_path: Path):
    train = MNIST(tmp_path, download=True)
    assert len(train) == 5
    raw = tmp_path / "MNIST" / "raw"
    for name, body in mnist.items():
        plain = raw / name.removesuffix(".gz")
        assert plain.read_bytes() == gzip.decompress(body)  # which torchvision looks for
        assert (raw / name).read_bytes() == body
    assert len(server.requests) == 4
    assert len(MNIST(tmp_path, train=False, download=True)) == 3
    assert len(server.requests) == 4  # nothing was missing


def test_only_what_is_missing_comes(server, mnist, tmp_path: Path):
    MNIST(tmp_path, download=True)
    server.requests.clear()
    for name in ("t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte"):
        (tmp_path / "MNIST" / "raw" / name).unlink()
    assert len(MNIST(tmp_path, False, download=True)) == 3
    assert [name for _, name, _ in server.requests] == ["t10k-labels-idx1-ubyte.gz"]


def test_what_minires_has_is_not_downloaded(server, mnist, tmp_path: Path):
    own = tmp_path / "own" / "mnist"
    own.mkdir(parents=True)
    for name, body in mnist.items():
        (own / name).write_bytes(body)
    assert len(MNIST(tmp_path / "new", download=True)) == 5
    assert server.requests == []


def test_a_server_without_the_files(server, mnist, tmp_path: Path, monkeypatch):
    mirrors = (server.url("404"),)
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], mirrors=mirrors))
    with pytest.raises(
        DataError, match=r"MNIST: expected train-images-idx3-ubyte\.gz(.|\n)*HTTP 404"
    ):
        MNIST(tmp_path, download=True)


def test_the_archive_comes_and_goes(server, tmp_path: Path, monkeypatch):
    packed = io.BytesIO()
    rng = np.random.default_rng(0)
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for part in ("_train", "_test", "_meta"):
            digests = {}
            for name in getattr(CIFAR10, part):
                rows = rng.integers(0, 256, (2, 3072), np.uint8)
                content = {"data": rows, "labels": [1, 2], "label_names": ["a", "b", "c"]}
                body = pickled(content)
                digests[name] = hashlib.md5(body).hexdigest()
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
            monkeypatch.setattr(CIFAR10, part, digests)
    body = packed.getvalue()
    server.content["cifar-10-python.tar.gz"] = body
    archive = RemoteFile("cifar-10-python.tar.gz", len(body), hashlib.sha256(body).hexdigest())
    monkeypatch.setattr(CIFAR10, "_archive", archive)
    monkeypatch.setattr(CIFAR10, "_mirrors", (server.url("404"), server.url("good")))
    train = CIFAR10(tmp_path, download=True)
    assert (len(train), train.classes) == (10, ["a", "b", "c"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-batches-py"]
    requests = len(server.requests)
    assert len(CIFAR10(tmp_path, False, download=True)) == 2
    assert len(server.requests) == requests
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"damaged")
    assert len(CIFAR10(tmp_path, download=True)) == 10  # and it is mended
