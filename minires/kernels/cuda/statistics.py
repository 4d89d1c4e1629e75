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


def combine_moments(moments: Any, mean: Any, var: Any) -> None:
    """Fill mean and the biased variance (c,) over all rows from the moments of blocks of rows.

    Args:
        moments: (blocks, 2 c + 1): of each block the means, the sums of squared distances from
            them, and how many rows it has.
    """
    blocks, row = moments.shape
    c = row // 2
    columns = -(-c // COLUMNS)
    while blocks > 8 * RUN:  # a block of threads for all of them would be busy for long
        groups = -(-blocks // RUN)
        fewer = workspace(groups * row, np.dtype("float64"))
        _combine(moments, RUN, (columns, groups), row, fewer, fewer[c:], fewer[2 * c :])
        moments, blocks = fewer.reshape(groups, row), groups
    _combine(moments, blocks, (columns, 1), 0, mean, var, None)


def _combine(
    moments: Any, run: int, grid: tuple[int, int], pitch: int, mean: Any, squares: Any, rows: Any
) -> None:
    blocks, row = moments.shape
    numbers = [np.int32(n) for n in (blocks, run, row // 2, pitch)]
    kernel = _combine_moments(moments.dtype, mean.dtype)
    kernel(grid, moments, *numbers, mean, squares, rows)


def mean_and_variance(x: Any, mean: Any, var: Any) -> None:
    """Fill the mean and the biased variance (c,) of the columns of x (m, c)."""
    m, c = x.shape
    pack = pack_of(c, x)
    strip = cut(m, c, pack, MOST_BLOCKS).strip
    moments = workspace(-(-m // strip) * (2 * c + 1), x.dtype).reshape(-1, 2 * c + 1)
    done = 0
    for (part,) in split(strip, x):
        way = cut(len(part), c, pack, MOST_BLOCKS, strip)
        _block_moments(x.dtype, pack)(way.grid, part, way.rows, moments[done:])
        done += way.grid[0]
    combine_moments(moments, mean, var)
