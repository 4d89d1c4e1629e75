"""The file formats: right values from good files, one clear message from each kind of bad file."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from minires.data import readers
from minires.data.readers import check_labels, read_cifar10, read_digits, read_idx
from minires.errors import DataError

FIX = "Get it with: minires data get mnist"


def test_digits_have_the_published_sizes_and_values():
    images, labels = read_digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == labels.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 16)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # The first record of UCI's optdigits.tes.
    assert images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert labels[:5].tolist() == [0, 1, 2, 3, 4]
    assert readers._DIGITS.stat().st_size < 100_000


def test_parity_digits_equal_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = read_digits()
    theirs = datasets.load_digits()
    np.testing.assert_array_equal(images, theirs.images)
    np.testing.assert_array_equal(labels, theirs.target)


def test_a_damaged_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = readers._DIGITS.read_bytes()
    damaged = tmp_path / "digits.npz"
    monkeypatch.setattr(readers, "_DIGITS", damaged)
    with pytest.raises(DataError, match=r"digits\.npz.*FileNotFoundError.*Install minires again"):
        read_digits()
    for content in (b"", whole[: len(whole) // 2], whole[:5000] + b"\0" * 200 + whole[5200:]):
        damaged.write_bytes(content)
        with pytest.raises(DataError, match="Install minires again"):
            read_digits()


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 4, 2), (0, 28, 28)])
def test_idx_round_trip(tmp_path: Path, idx, shape: tuple[int, ...], gzipped: bool):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    # The name says the opposite of the content: content decides.
    path = tmp_path / ("plain" if gzipped else "zipped.gz")
    path.write_bytes(gzip.compress(idx(array)) if gzipped else idx(array))
    np.testing.assert_array_equal(read_idx(path, len(shape), FIX), array)


def test_idx_by_hand(tmp_path: Path):
    path = tmp_path / "labels"
    path.write_bytes(bytes.fromhex("00000801 00000003 070209"))
    assert read_idx(path, 1, FIX).tolist() == [7, 2, 9]


GOOD = bytes.fromhex("00000801 00000003 070209")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected magic number 0x00000801 (IDX, uint8, 1-d), got an empty file"),
        (b"\x00\x00", "got 0x0000."),
        (GOOD[:6], "expected a header of 8 bytes, got a file of 6 bytes"),
        (GOOD[:-1], "expected 11 bytes for shape (3,), got 10 bytes"),
        (GOOD + b"!", "expected 11 bytes for shape (3,), got more"),
        (gzip.compress(GOOD + b"!"), "expected 11 bytes for shape (3,), got more"),
        (gzip.compress(GOOD) + gzip.compress(b"!"), "expected 11 bytes for shape (3,), got more"),
        (gzip.compress(GOOD) + b"tail", "expected a sound gzip file, got corrupted data"),
        (b"\x00\x00\x0d\x01" + GOOD[4:], "got 0x00000d01"),
        (b"\x00\x00\x08\x03" + GOOD[4:], "expected magic number 0x00000801"),
        (b"<html>", "got 0x3c68746d"),
        (
            gzip.compress(GOOD, mtime=0)[:-10],
            "expected a complete gzip file, got one that ends early",
        ),
        (
            gzip.compress(GOOD, mtime=0)[:5],
            "expected a complete gzip file, got one that ends early",
        ),
        (
            gzip.compress(GOOD, mtime=0)[:-8] + b"\1" * 8,
            "expected a sound gzip file, got corrupted data",
        ),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 40, "expected a sound gzip file, got corrupted data"),
    ],
)
def test_bad_idx_files(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path, 1, FIX)
    text = str(caught.value)
    assert text.startswith(f"{path}: expected ")
    assert words in text
    assert text.endswith(FIX)


def test_idx_sizes_that_overflow_64_bits(tmp_path: Path):
    path = tmp_path / "images"
    path.write_bytes(bytes.fromhex("00000803") + b"\xff" * 12)
    words = r"expected at most 268,435,456 values, got shape \(4294967295, 4294967295, 4294967295\)"
    with pytest.raises(DataError, match=words):
        read_idx(path, 3, FIX)


def test_unreadable_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"expected a readable file, got Is a directory.*get mnist"):
        read_idx(tmp_path, 1, FIX)


def test_cifar_planes_become_channels_last(tmp_path: Path):
    records = np.random.default_rng(2).integers(0, 256, (3, 3073), dtype=np.uint8)
    path = tmp_path / "test_batch.bin"
    path.write_bytes(records.tobytes())
    images, labels = read_cifar10(path, 3, FIX)
    assert images.shape == (3, 32, 32, 3)
    assert images.flags.c_contiguous
    assert labels.tolist() == records[:, 0].tolist()
    # Pixel (row 4, column 9) of image 1: one byte of each plane.
    planes = [records[1, 1 + 1024 * c + 32 * 4 + 9] for c in range(3)]
    assert images[1, 4, 9].tolist() == planes


@pytest.mark.parametrize("size", [0, 3073, 3 * 3073 - 1, 4 * 3073])
def test_cifar_files_of_another_size(tmp_path: Path, size: int):
    path = tmp_path / "test_batch.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(DataError) as caught:
        read_cifar10(path, 3, FIX)
    expected = f"{path}: expected 9219 bytes (3 records of 3073), got {size} bytes. {FIX}"
    assert str(caught.value) == expected


def test_labels_out_of_range_name_the_first():
    labels = np.array([3, 9, 10, 255], np.uint8)
    check_labels(Path("f"), labels[:2], 10, FIX)
    with pytest.raises(DataError) as caught:
        check_labels(Path("f"), labels, 10, FIX)
    assert str(caught.value) == (
        f"f: expected labels in 0..9, got 10 at index 2 (2 of 4 labels are out of range). {FIX}"
    )


def test_real_files_have_the_published_md5(real_data: Path):
    path = real_data / "mnist" / "t10k-labels-idx1-ubyte.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    assert hashlib.md5(path.read_bytes()).hexdigest() == "ec29112dd5afa0611ce80d1b7f02629c"
    assert read_idx(path, 1, FIX)[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
