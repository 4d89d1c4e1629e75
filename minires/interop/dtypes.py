"""Numbers in files: little- or big-endian bytes of a named dtype, made an array minires can use."""

from __future__ import annotations

from typing import Any

import numpy as np

# Stored as: for each name the NumPy code of its bytes.
CODES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",  # NumPy has none: the upper half of a float32
    "complex64": "c8",
    "complex128": "c16",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "?",
}
HALVES = ("float16", "bfloat16")  # read as float32, which holds each of their values exactly


def itemsize(name: str) -> int | None:
    """Bytes per entry of a dtype in a file, or None for one that minires does not read."""
    return np.dtype(CODES[name]).itemsize if name in CODES else None


def decode(raw: Any, name: str, byteorder: str = "little") -> np.ndarray[Any, Any]:
    """The entries in ``raw`` (any writable buffer) as a flat array, (n,).

    Shares the buffer's memory unless the entries have to be converted: halves become float32, and
    a foreign byte order becomes this machine's.

    >>> decode(bytearray(b"\\x80\\x3f\\x00\\xc0"), "bfloat16")
    array([ 1., -2.], dtype=float32)
    """
    order = ">" if byteorder == "big" else "<"
    array = np.frombuffer(raw, np.dtype(order + CODES[name]))
    if name == "bfloat16":
        upper = array.astype(np.uint32)
        upper <<= 16  # in place: a large file has large tensors
        return upper.view(np.float32)
    native = np.float32 if name == "float16" else array.dtype.newbyteorder("=")
    return array.astype(native, copy=False)
