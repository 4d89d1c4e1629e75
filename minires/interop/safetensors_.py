"""safetensors files of arrays: written in one step, with a checksum, and read whole or not at all.

The format is a JSON header (names, dtypes, shapes, and metadata of text) in front of the bytes of
the tensors, so a file holds no code. It has no checksum of its own: files from here carry one over
tensors and metadata, as metadata, and it is verified when they are read.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from minires.errors import CheckpointError, message, quoted
from minires.files import as_path, open_to_read, write_atomic
from minires.interop.dtypes import HALVES, decode, itemsize

CHECKSUM = "minires_crc32"  # its key in the metadata

_NAMES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32)},
    "BF16": "bfloat16",
    "BOOL": "bool",
    "C64": "complex64",
}
DTYPES = frozenset(_NAMES.values()) - {*HALVES, "complex64"}  # what every version can write


class Contents(NamedTuple):
    """What :func:`read_safetensors` found."""

    arrays: dict[str, np.ndarray[Any, Any]]
    metadata: dict[str, str]
    widened: list[str]  # dtypes of tensors that became float32
    verified: bool  # there was a checksum, and it is right


def write_safetensors(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    metadata: Mapping[str, str],
) -> None:
    """Write arrays, of any strides and a dtype in :data:`DTYPES`, and metadata; atomically.

    Raises:
        CheckpointError: the folder cannot be written; a file that was there is as it was.
    """
    # ascontiguousarray would make a scalar (1,)
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = {**metadata, CHECKSUM: f"{_checksum(plain, metadata):08x}"}
    write_atomic(path, safetensors.numpy.save(plain, text))


def read_safetensors(path: str | os.PathLike[str], op: str) -> Contents:
    """Read a file of any program; float16 and bfloat16 become float32.

    Raises:
        CheckpointError: there is no such file, it is damaged, or of a dtype minires does not have;
            the text begins with ``op``.
    """
    file = as_path(op, path)
    with open_to_read(file, op) as opened:
        raw = opened.read()
    try:
        found = dict(safetensors.deserialize(raw))
        # deserialize has checked the header; it drops the metadata and the order of names
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        fix = "Restore the file from a copy, or write it anew."
        got = f"a truncated or damaged file of {len(raw):,} bytes ({error})"
        if raw[:4] == b"PK\x03\x04":
            got = "a zip archive"
            fix = "If PyTorch wrote it, name it .pth and load that."
        raise CheckpointError(message(op, f"a safetensors file at {file}", got, fix=fix)) from error
    del raw
    metadata = header.pop("__metadata__", None) or {}  # null in some files
    arrays, widened = {}, set()
    for name in header:
        entry = found[name]
        dtype = _NAMES.get(entry["dtype"], "")
        if itemsize(dtype) is None:
            raise CheckpointError(
                message(
                    op,
                    "tensors of floats, integers or bool",
                    f"{entry['dtype']} in {name}",
                    f"file {file}",
                    "Convert it with the program that wrote it.",
                )
            )
        if dtype in HALVES:
            widened.add(dtype)
        try:
            arrays[name] = decode(entry["data"], dtype).reshape(entry["shape"])
        except (
            ValueError,
            OverflowError,
        ) as error:  # more than NumPy has
            expected = "tensors of at most 64 dimensions, and of sizes that fit memory"
            got = f"shape {quoted(tuple(entry['shape']))} in {quoted(name)}"
            raise CheckpointError(message(op, expected, got, f"file {file}")) from error
    checksum = metadata.pop(CHECKSUM, None)
    if checksum is not None and checksum != f"{_checksum(arrays, metadata):08x}":
        raise damaged(file, op)
    return Contents(arrays, metadata, sorted(widened), checksum is not None)


def damaged(path: str | os.PathLike[str], op: str) -> CheckpointError:
    """The error for a file whose checksum is wrong, or missing where there must be one."""
    return CheckpointError(
        message(
            op,
            f"a whole file at {path}",
            "a damaged one: its checksum does not match its contents",
            fix="Restore the file from a copy, or write it anew. (A program that changes tensors "
            "on purpose should not copy the metadata of minires.)",
        )
    )


def _checksum(arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str]) -> int:
    """CRC-32 of everything in a file that has a meaning, in a fixed order."""
    total = zlib.crc32(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(arrays):
        array = arrays[name]
        total = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), total)
        total = zlib.crc32(array.data, total)
    return total
