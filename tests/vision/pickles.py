"""Pickles as Python 2 and its NumPy wrote them: those of CIFAR."""

from __future__ import annotations

import struct

import numpy as np


def python2(value: object) -> bytes:
    """A value pickled as Python 2 and its NumPy did: names of modules, strings as BINSTRING."""

    def text(value: bytes) -> bytes:
        if len(value) < 256:
            return b"U" + bytes((len(value),)) + value
        return b"T" + struct.pack("<i", len(value)) + value

    if isinstance(value, str):
        return text(value.encode())
    if isinstance(value, int):
        return b"K" + bytes((value,))
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(k) + python2(v) for k, v in value.items()) + b"u"
    assert isinstance(value, np.ndarray)
    shape = b"(" + b"".join(b"M" + struct.pack("<H", n) for n in value.shape) + b"t"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    made = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    )
    return made + b"(K\x01" + shape + dtype + b"\x89" + text(value.tobytes()) + b"tb"


def pickled(value: object) -> bytes:
    return b"\x80\x02" + python2(value) + b"."
