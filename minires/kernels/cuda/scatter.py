"""Sums and writes at positions that may come several times, in a fixed order (``scatter.cu``)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ShapeError, message
from ...memory import allocate, workspace
from .kernel import Kernel
from .source import c_type

_SOURCE = Path(__file__).with_suffix(".cu")
THREADS, CHUNK = 256, 1024  # as in the source
MOST = 1 << 30  # positions, and entries of what they are in: numbers of 32 bits, with a sign
_keys, _sort_chunks, _sort_pairs, _last = (
    Kernel(_SOURCE, f"scatter_{name}", THREADS)
    for name in ("keys", "sort_chunks", "sort_pairs", "last")
)


@functools.cache
def _add(dtype: Any) -> Kernel:
    return Kernel(_SOURCE, f"scatter_add<{c_type(dtype)}>", THREADS)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module launches."""
    yield from (_keys, _sort_chunks, _sort_pairs, _last)
    yield from (_add(np.dtype(np.float32)), _add(np.dtype(np.float64)))


def _sorted(positions: Any, size: int) -> Any:
    """Keys of the positions (count,), int64 and below ``size``, in their order."""
    if max(positions.size, size) > MOST:
        expected = f"at most {MOST:,} entries to write at indices"
        raise ShapeError(message("index", expected, f"{max(positions.size, size):,}"))
    count = max(CHUNK, 1 << (positions.size - 1).bit_length())
    keys = workspace(count, np.int64, positions)[:count]
    _keys(count // THREADS, positions, keys, np.int32(positions.size))
    _sort_chunks(count // CHUNK, keys, np.int32(2), np.int32(CHUNK))
    run = 2 * CHUNK
    while run <= count:
        apart = run // 2
        while apart >= CHUNK:
            _sort_pairs(count // 2 // THREADS, keys, np.int32(run), np.int32(apart))
            apart //= 2
        _sort_chunks(count // CHUNK, keys, np.int32(run), np.int32(run))
        run *= 2
    return keys


def add(positions: Any, x: Any, rows: int) -> Any:
    """Zeros (rows, width), with the rows of x (count, width) added at ``positions`` (count,).

    Raises:
        ShapeError: more entries than indices of 32 bits can tell.
    """
    count, width = x.shape
    y = allocate((rows, width), x.dtype, x)
    y.fill(0)
    if x.size:
        keys = _sorted(positions, rows)
        blocks = -(-x.size // THREADS)
        _add(x.dtype)(blocks, keys, x, y, np.int32(count), np.int32(width))
    return y


def last(positions: Any, size: int) -> Any:
    """Of each place (size,) the number of the last of the ``positions`` that is there, int64; -1
    where there is none.

    Raises:
        ShapeError: more entries than indices of 32 bits can tell.
    """
    found = allocate((size,), np.dtype(np.int64), positions)
    found.fill(-1)
    if positions.size:
        keys = _sorted(positions, size)
        _last(-(-positions.size // THREADS), keys, found, np.int32(positions.size))
    return found
