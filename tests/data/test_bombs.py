"""Small files of data sets that would become large ones: refused before they do."""

from __future__ import annotations

import functools
import gzip
import os
import struct
import sys
import zlib
from pathlib import Path

import pytest
from bounded import MIB, Bounded

from minires.data.readers import read_idx
from minires.errors import DataError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")


@pytest.fixture(scope="module")
def bounded():
    with Bounded() as running:
        yield running


MANY = 200 * MIB  # more than a process may take below


@functools.cache
def zipped(start: bytes, zeros: int, tail: bytes = b"") -> bytes:
    """``start`` and so many zeros, gzipped: a kilobyte for each megabyte."""
    squeeze = zlib.compressobj(1, wbits=31)
    parts = [squeeze.compress(start)]
    parts += [squeeze.compress(bytes(MIB)) for _ in range(zeros // MIB)]
    return b"".join([*parts, squeeze.compress(bytes(zeros % MIB)), squeeze.flush(), tail])


def header(*shape: int) -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


BOMBS = {
    "no IDX at all": (lambda: zipped(b"", MANY), "expected magic number 0x00000803"),
    "beyond the header": (
        lambda: zipped(header(3, 4, 2), MANY), "expected 40 bytes for shape (3, 4, 2), got more",
    ),
    "as the header says": (
        lambda: zipped(header(2**20, 32, 32), MANY),
        "expected at most 268,435,456 values, got shape (1048576, 32, 32). FIX",
    ),
    "in a second member": (
        lambda: zipped(header(3, 4, 2), 24) + zipped(b"", MANY),
        "expected 40 bytes for shape (3, 4, 2), got more",
    ),
    "sizes without a product": (
        lambda: zipped(header(2**32 - 1, 2**32 - 1, 2**32 - 1), 24),
        "expected at most 268,435,456 values, got shape (4294967295, 4294967295, 4294967295)",
    ),
    "a name of the archive": (
        lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 2**20,
        "expected a complete gzip file, got one that ends early, after 1048586 bytes",
    ),
    "many empty members": (
        lambda: gzip.compress(b"") * 20_000 + gzip.compress(header(1, 1, 1)),
        "expected 17 bytes for shape (1, 1, 1), got 16 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_gzip_bombs(bounded, tmp_path: Path, name: str):
    make, words = BOMBS[name]
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(make())
    found = bounded.read("images", path, memory=64 * MIB, seconds=10)
    assert found.kind == "DataError"
    assert words in found.text
    assert found.peak < 3 * path.stat().st_size + 8 * MIB
    assert found.seconds < 5


def test_more_memory_than_there_is_is_an_error_of_ours(bounded, tmp_path: Path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(zipped(header(2**18, 32, 32), 2**28))
    found = bounded.read("images", path, memory=64 * MIB, seconds=10)
    assert (found.kind, found.text) == (
        "DataError", f"{path}: expected memory for its values, got none left. FIX",
    )  # fmt: skip


def test_the_largest_that_is_allowed(tmp_path: Path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(zipped(header(2**16, 32, 32), 2**26))
    assert read_idx(path, 3, "FIX").shape == (2**16, 32, 32)


@pytest.mark.parametrize("size", [2**40, 0])
def test_cifar_files_of_another_size_are_not_read(bounded, tmp_path: Path, size: int):
    path = tmp_path / "test_batch.bin"
    with path.open("wb") as file:
        file.truncate(size)  # a hole: it takes no room on the disk
    found = bounded.read("cifar", path, memory=64 * MIB, seconds=10)
    assert found.text == f"{path}: expected 6146 bytes (2 records of 3073), got {size} bytes. FIX"
    assert found.peak < 8 * MIB


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    path = tmp_path / "train-images-idx3-ubyte"
    os.mkfifo(path)
    with pytest.raises(DataError, match="expected a readable file, got no ordinary file"):
        read_idx(path, 3, "FIX")
