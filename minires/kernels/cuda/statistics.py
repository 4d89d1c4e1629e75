"""Mean and variance of each channel on a GPU, from blocks of rows: see statistics.cu."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import workspace
from .kernel import Kernel
from .packs import COLUMNS, MOST_BLOCKS, TALL, THREADS, cut, pack_of, split
from .source import c_type

_SOURCE = Path(__file__).with_name("statistics.cu")
RUN = 128  # blocks that are put together first, where there are many
_FLOATS = (np.dtype("float32"), np.dtype("float64"))


@functools.cache
def _block_moments(dtype: Any, pack: int) -> Kernel:
    return Kernel(_SOURCE, f"block_moments<{c_type(dtype)}, {pack}>", THREADS)


@functools.cache
def _combine_moments(dtype: Any, result: Any) -> Kernel:
    return Kernel(_SOURCE, f"combine_moments<{c_type(dtype)}, {c_type(result)}>", TALL)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module may ask for."""
    for dtype in _FLOATS:
        yield from (_block_moments(dtype, pack) for pack in (1, 16 // dtype.itemsize))
        yield from (_combine_moments(dtype, result) for result in _FLOATS)


def combine_moments(moments: Any, size: int, m: int, mean: Any, var: Any) -> None:
    """Fill mean and the biased variance (c,) over m rows from the moments of blocks of rows.

    Args:
        moments: (blocks, 2, c): of each block the mean, and the sum of squared distances from it.
        size: rows of each block but the last, which has the rest of the m.
    """
    blocks, _, c = moments.shape
    columns = -(-c // COLUMNS)
    while blocks > 8 * RUN:  # a block of threads for all of them would be busy for long
        groups = -(-blocks // RUN)
        fewer = workspace(groups * 2 * c, np.dtype("float64")).reshape(groups, 2, c)
        _combine(moments, RUN, size, m, (columns, groups), fewer, fewer.reshape(-1)[c:], 2 * c, 0)
        moments, blocks, size = fewer, groups, RUN * size
    _combine(moments, blocks, size, m, (columns, 1), mean, var, 0, 1)


def _combine(
    moments: Any,
    run: int,
    size: int,
    m: int,
    grid: tuple[int, int],
    mean: Any,
    squares: Any,
    pitch: int,
    divide: int,
) -> None:
    blocks, _, c = moments.shape
    last = m - (blocks - 1) * size
    numbers = [np.int32(n) for n in (blocks, run, size, last, c, pitch, divide)]
    _combine_moments(moments.dtype, mean.dtype)(grid, moments, *numbers, mean, squares)


def mean_and_variance(x: Any, mean: Any, var: Any) -> None:
    """Fill the mean and the biased variance (c,) of the columns of x (m, c)."""
    m, c = x.shape
    pack = pack_of(c, x)
    strip = cut(m, c, pack, MOST_BLOCKS).strip
    moments = workspace(-(-m // strip) * 2 * c, x.dtype).reshape(-1, 2, c)
    done = 0
    for (part,) in split(strip, x):
        way = cut(len(part), c, pack, MOST_BLOCKS, strip)
        _block_moments(x.dtype, pack)(way.grid, part, way.rows, moments[done:])
        done += way.grid[0]
    combine_moments(moments, strip, m, mean, var)
