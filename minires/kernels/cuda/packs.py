"""How a kernel's threads share out an array: packs of 16 bytes, and blocks of rows.

All of it follows from sizes, never from the device: so a sum is added up in the same order on every
GPU, and has the same bits. In the kernels the counterpart is ``rows.cuh``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ...errors import ShapeError, message
from .struct import record

THREADS = 256  # of a block
LANES = 32  # packs of a row that a block reads at most
IN_FLIGHT = 4  # packs that a thread asks for before it uses the first: memory is far away
MOST_BLOCKS = 1024  # of which each leaves a sum in memory: others add these up
MANY = 8192  # blocks that leave nothing: enough for any GPU
COLUMNS = 8  # channels of a block that puts sums of blocks together (reduce.cuh)
TALL = 1024  # threads of such a block
# Entries that one launch may reach. An index is an int; what a thread adds to it behind the last
# entry, before it is told to stop, still fits.
MOST = 1 << 30
ROWS = np.dtype([(name, "i4") for name in ("m", "c", "shift", "strip")])


def pack_of(row: int, *arrays: Any) -> int:
    """How many entries a thread reads at a time: as many as 16 bytes hold, if rows of ``row``
    entries and all arrays begin at multiples of 16 bytes; else one. None is no array."""
    most = 16 // int(arrays[0].dtype.itemsize)
    if row % most:
        return 1
    for array in arrays:
        if array is not None and array.data.ptr % 16:  # a view into the middle of another array
            return 1
    return most


class Cut(NamedTuple):
    """How rows (m, c) are shared out among blocks.

    Attributes:
        grid: (strips, slabs): blocks along the rows, and along the channels of a row.
        rows: the struct ``Rows`` of rows.cuh.
        strip: rows of a block; the last one may have fewer.
    """

    grid: tuple[int, int]
    rows: Any
    strip: int


@functools.lru_cache(maxsize=1024)
def cut(m: int, c: int, pack: int, most: int, strip: int = 0) -> Cut:
    """Share out rows (m, c) among about ``most`` blocks at most, or in strips of a given size.

    A block is 256 threads, as many side by side as a row has packs, but a power of two, and 32 at
    most; so a warp reads whole rows, or 512 bytes of one. A block of threads goes down its strip of
    rows, each thread IN_FLIGHT rows at a time::

        c = 64, packs of 4: 16 threads side by side, 16 rows at a time    thread 0  1 ... 15
                                                                                16 17 ... 31
    """
    packs = c // pack
    shift = min(LANES.bit_length() - 1, max(packs - 1, 0).bit_length())
    slabs = -(-packs // LANES)
    step = (THREADS >> shift) * IN_FLIGHT
    strip = strip or step * max(1, -(-m * slabs // (step * most)))
    return Cut((-(-m // strip), slabs), record(ROWS, m=m, c=c, shift=shift, strip=strip), strip)


def split(multiple: int, *arrays: Any) -> Iterator[tuple[Any, ...]]:
    """The arrays, all of as many rows, in parts that one launch can reach; each part but the last
    has a multiple of ``multiple`` rows. None, for an array that is not there, stays None."""
    m = len(arrays[0])
    row = max(arrays[0].size // max(m, 1), 1)
    rows = max(MOST // (row * multiple), 1) * multiple
    if m <= rows:  # nearly always
        yield arrays
        return
    for begin in range(0, m, rows):
        yield tuple([None if a is None else a[begin : begin + rows] for a in arrays])


def split_images(op: str, *arrays: Any) -> Iterator[tuple[Any, ...]]:
    """The arrays (n, ...) of one n, of which a kernel reads and writes whole images, in parts of
    images that one launch can reach.

    Raises:
        ShapeError: a single image is too large.
    """
    largest = max(arrays, key=lambda array: array.size)
    n = len(largest)
    image = largest.size // max(n, 1)
    if image > MOST:
        context = f"shape {largest.shape}, channels last"
        raise ShapeError(message(op, f"images of at most {MOST} entries on a GPU", image, context))
    images = MOST // max(image, 1)
    if n <= images:  # nearly always
        yield arrays
        return
    for begin in range(0, n, images):
        yield tuple([array[begin : begin + images] for array in arrays])
