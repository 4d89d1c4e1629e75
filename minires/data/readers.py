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

import gzip
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minires.errors import DataError, message

CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes
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

    Args:
        path: the file.
        ndim: number of dimensions expected, 3 for images (n, h, w) and 1 for labels (n,).
        fix: how to get a good copy; ends every error message.

    Returns:
        The values, with the shape that the header states.

    Raises:
        DataError: unreadable, truncated or corrupted gzip data, wrong magic number or byte count.
    """
    content = _decompress(path, _read(path, fix), fix)
    magic = bytes((0, 0, 8, ndim))
    header = 4 + 4 * ndim
    if content[:4] != magic:
        expected = f"magic number 0x{magic.hex()} (IDX, uint8, {ndim}-d)"
        got = f"0x{content[:4].hex()}" if content else "an empty file"
        raise DataError(message(str(path), expected, got, fix=fix))
    if len(content) < header:
        got = f"a file of {len(content)} bytes"
        raise DataError(message(str(path), f"a header of {header} bytes", got, fix=fix))
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=ndim, offset=4))
    # Python integers: a damaged header may state sizes whose product overflows 64 bits.
    expected_bytes = header + math.prod(shape)
    if len(content) != expected_bytes:
        expected = f"{expected_bytes} bytes for shape {shape}"
        raise DataError(message(str(path), expected, f"{len(content)} bytes", fix=fix))
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


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
    content = _read(path, fix)
    if len(content) != records * CIFAR_RECORD:
        expected = f"{records * CIFAR_RECORD} bytes ({records} records of {CIFAR_RECORD})"
        raise DataError(message(str(path), expected, f"{len(content)} bytes", fix=fix))
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


def _read(path: Path, fix: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        got = error.strerror or str(error)
        raise DataError(message(str(path), "a readable file", got, fix=fix)) from error


def _decompress(path: Path, content: bytes, fix: str) -> bytes:
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        expected, got = "a complete gzip file", f"one that ends early, after {len(content)} bytes"
        raise DataError(message(str(path), expected, got, fix=fix)) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        got = f"corrupted data: {error}"
        raise DataError(message(str(path), "a sound gzip file", got, fix=fix)) from error
