"""Readers of the published file formats, from bytes to NumPy arrays, without pickle.

Embedded digits
    ``digits.npz`` beside this file holds the 1,797 handwritten digits (8x8 pixels, values 0..16)
    of scikit-learn's ``load_digits``: the test set of E. Alpaydin and C. Kaynak, *Optical
    Recognition of Handwritten Digits* (1998), UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49, licence CC BY 4.0
    (https://creativecommons.org/licenses/by/4.0/). The only change is the dtype, uint8. It was
    made once, with scikit-learn 1.9.1 and NumPy 2, by this command in the repository's root::

        python -c "import numpy as np; from sklearn.datasets import load_digits; \
d = load_digits(); np.savez_compressed('minires/data/digits.npz', \
images=d.images.astype(np.uint8), labels=d.target.astype(np.uint8))"

IDX (MNIST, Fashion-MNIST)
    Big-endian: two zero bytes, a byte for the dtype (0x08: uint8), a byte for the number of
    dimensions, one uint32 per dimension, then the values in row-major order.

CIFAR-10 binary
    Records of 3,073 bytes: the label, then the red, green and blue planes of 32 x 32 pixels.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from minires.errors import DataError, message

CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes
_MOST_VALUES = 2**28  # five times what the largest of the known files has
_GZIP_MAGIC = b"\x1f\x8b"
_DIGITS = Path(__file__).with_name("digits.npz")


def read_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The embedded digits: images (1797, 8, 8) with values 0..16, and labels (1797,).

    Raises:
        DataError: the file that belongs to the installation is missing or damaged.
    """
    try:
        # Opened here: np.load leaves its own handle open when the archive is damaged.
        with _DIGITS.open("rb") as stream, np.load(stream) as file:
            return file["images"], file["labels"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        got = f"{type(error).__name__}: {error}"
        fix = "Install minires again"
        raise DataError(message("digits", f"the embedded file {_DIGITS}", got, fix=fix)) from error


def read_idx(path: Path, ndim: int, fix: str) -> NDArray[np.uint8]:
    """An IDX file of uint8 values, plain or gzipped (told apart by content, not by name).

    No more is unpacked than the header states, and no more than 2^28 values: a gzipped file could
    become a thousand times as large.

    Args:
        path: the file.
        ndim: number of dimensions expected, 3 for images (n, h, w) and 1 for labels (n,).
        fix: how to get a good copy; ends every error message.

    Returns:
        The values, with the shape that the header states.

    Raises:
        DataError: unreadable, truncated or corrupted gzip data, wrong magic number or byte count,
            or more values than that.
    """
    magic = bytes((0, 0, 8, ndim))
    header = 4 + 4 * ndim
    with _unpacked(path, fix) as stream:
        start = stream.read(header)
        if start[:4] != magic:
            expected = f"magic number 0x{magic.hex()} (IDX, uint8, {ndim}-d)"
            got = f"0x{start[:4].hex()}" if start else "an empty file"
            raise DataError(message(str(path), expected, got, fix=fix))
        if len(start) < header:
            got = f"a file of {len(start)} bytes"
            raise DataError(message(str(path), f"a header of {header} bytes", got, fix=fix))
        shape = tuple(int(size) for size in np.frombuffer(start, ">u4", count=ndim, offset=4))
        # Python integers: a damaged header may state sizes whose product overflows 64 bits.
        values = math.prod(shape)
        if values > _MOST_VALUES:
            expected = f"at most {_MOST_VALUES:,} values"
            raise DataError(message(str(path), expected, f"shape {shape}", fix=fix))
        content = stream.read(values + 1)  # one more: there must be none, and gzip checks its CRC
    if len(content) != values:
        expected = f"{header + values} bytes for shape {shape}"
        got = "more" if len(content) > values else f"{header + len(content)} bytes"
        raise DataError(message(str(path), expected, got, fix=fix))
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_cifar10(path: Path, records: int, fix: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A CIFAR-10 binary file.

    Args:
        path: the file.
        records: number of images expected. The format has no header, so a file cut between two
            records can only be told by its size.
        fix: how to get a good copy; ends every error message.

    Returns:
        images (records, 32, 32, 3), channels last, and labels (records,).

    Raises:
        DataError: the file cannot be read or has another size.
    """
    size = records * CIFAR_RECORD
    with _opened(path, fix) as stream:
        length = os.fstat(stream.fileno()).st_size
        content = stream.read(size) if length == size else b""
    if length != size or len(content) != size:
        expected = f"{size} bytes ({records} records of {CIFAR_RECORD})"
        raise DataError(message(str(path), expected, f"{length} bytes", fix=fix))
    rows = np.frombuffer(content, np.uint8).reshape(records, CIFAR_RECORD)
    planes = rows[:, 1:].reshape(records, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), rows[:, 0].copy()


def check_labels(path: Path, labels: NDArray[np.uint8], classes: int, fix: str) -> None:
    """Raises DataError, with the first offender, unless every label is in ``0..classes-1``."""
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        first = int(wrong[0])
        got = f"{int(labels[first])} at index {first}"
        context = f"{wrong.size} of {labels.size} labels are out of range"
        expected = f"labels in 0..{classes - 1}"
        raise DataError(message(str(path), expected, got, context, fix))


@contextlib.contextmanager
def _opened(path: Path, fix: str) -> Iterator[BinaryIO]:
    """The file, opened; what fails in the block, for the disk or for memory, names it."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe: waits for ever
            raise OSError(errno.EINVAL, "no ordinary file")
        with path.open("rb") as stream:
            yield stream
    except MemoryError as error:
        got = "none left"
        raise DataError(message(str(path), "memory for its values", got, fix=fix)) from error
    except OSError as error:
        got = error.strerror or str(error)
        raise DataError(message(str(path), "a readable file", got, fix=fix)) from error


@contextlib.contextmanager
def _unpacked(path: Path, fix: str) -> Iterator[BinaryIO]:
    """The file as a stream, unpacked while it is read if its content is gzip."""
    with _opened(path, fix) as stream:
        zipped = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        stream.seek(0)
        if not zipped:
            yield stream
            return
        try:
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield cast(BinaryIO, unpacked)
        except EOFError as error:
            size = os.fstat(stream.fileno()).st_size
            expected, got = "a complete gzip file", f"one that ends early, after {size} bytes"
            raise DataError(message(str(path), expected, got, fix=fix)) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            got = f"corrupted data: {error}"
            raise DataError(message(str(path), "a sound gzip file", got, fix=fix)) from error
