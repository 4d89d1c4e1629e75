"""Mean and variance of each channel, from blocks of pixels.

A block's mean and its sum of squared distances from that mean are taken while the block is still
in the cache, so that a convolution can hand them to the batch norm behind it for nothing. Blocks
are then combined by the formula of Chan, Golub and LeVeque (1983, Eq. 2.1): with block means m_i,
sums of squares s_i and sizes n_i, ``mean = sum(n_i m_i) / n`` and ``s = sum(s_i) + sum(n_i (m_i -
mean)²)``. Nothing is added up that is far from 0: a block's mean is that of the distances from its
first pixel, and squares are of distances from the mean. So a large mean costs no digits, and where
all values are equal the mean is this value and the variance is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiler import device_function
from .kernel import kernel
from .simd import difference, fma, lanes_of, load, part, spread, store, where_above, zeros

GROUP = 64  # channels whose blocks' moments a task combines


@device_function
def finite(v, zero):
    """v, with zeros in place of infinities and NaN."""
    return where_above(v - v, zero, zero, v)


@device_function
def block_statistics(y, at, pixels, c, inverse, moments, to):
    """moments[to : to + c] = the mean of each channel over the block of ``pixels`` pixels at
    y[at]; moments[to + c : to + 2c] = the sum of squared distances. ``inverse[0]`` = 1 / pixels.
    """
    width = lanes_of(y)
    for first in range(0, c - width + 1, width):
        # Four sums at a time: an addition takes as long as four that do not wait for each other.
        begin, end = at + first, at + first + pixels * c
        most = begin + pixels // 4 * 4 * c
        near = finite(load(y, begin), zeros(y))
        t0, t1, t2, t3 = zeros(y), zeros(y), zeros(y), zeros(y)
        for i in range(begin, most, 4 * c):
            t0, t1 = t0 + difference(load(y, i), near), t1 + difference(load(y, i + c), near)
            t2 = t2 + difference(load(y, i + 2 * c), near)
            t3 = t3 + difference(load(y, i + 3 * c), near)
        for i in range(most, end, c):
            t0 = t0 + difference(load(y, i), near)
        mean = near + ((t0 + t1) + (t2 + t3)) * spread(inverse, 0)
        t0, t1, t2, t3 = zeros(y), zeros(y), zeros(y), zeros(y)
        rest0, rest1 = zeros(y), zeros(y)  # distances from the mean: 0, had it not been rounded
        for i in range(begin, most, 4 * c):
            d0, d1 = difference(load(y, i), mean), difference(load(y, i + c), mean)
            d2, d3 = difference(load(y, i + 2 * c), mean), difference(load(y, i + 3 * c), mean)
            t0, t1, t2, t3 = fma(d0, d0, t0), fma(d1, d1, t1), fma(d2, d2, t2), fma(d3, d3, t3)
            rest0, rest1 = rest0 + (d0 + d1), rest1 + (d2 + d3)
        for i in range(most, end, c):
            d0 = difference(load(y, i), mean)
            t0, rest0 = fma(d0, d0, t0), rest0 + d0
        rest = finite(rest0 + rest1, zeros(y))
        nearer = rest * spread(inverse, 0)
        store(moments, to + first, mean + nearer)
        store(moments, to + c + first, ((t0 + t1) + (t2 + t3)) - rest * nearer)
    for channel in range(c - c % width, c):
        origin, total = finite(np.float64(y[at + channel]), 0.0), 0.0
        for i in range(at + channel, at + channel + pixels * c, c):
            total += difference(np.float64(y[i]), origin)
        center, total = origin + total / pixels, 0.0
        for i in range(at + channel, at + channel + pixels * c, c):
            total += (y[i] - center) * (y[i] - center)
        moments[to + channel] = center
        moments[to + c + channel] = total


@kernel
def _combine(task, moments, sizes, blocks, together, c, group, work, mean, var):
    """A task does ``group`` channels, in float64 ``work`` (3, c)."""
    first, last = task * group, min((task + 1) * group, c)
    center, squares, near = part(work, 0), part(work, c), part(work, 2 * c)
    count = 0
    for j in range(first, last):
        center[j] = squares[j] = 0
        near[j] = finite(np.float64(moments[j]), 0.0)
    for block in range(blocks):
        count += sizes[block] * together
        for at in range(2 * block * together * c, (2 * block + 1) * together * c, c):
            for j in range(first, last):
                center[j] += sizes[block] * difference(np.float64(moments[at + j]), near[j])
    for j in range(first, last):
        center[j] = near[j] + center[j] / count
    for block in range(blocks):
        for at in range(2 * block * together * c, (2 * block + 1) * together * c, c):
            for j in range(first, last):
                away = moments[at + j] - center[j]
                squares[j] += moments[at + together * c + j] + sizes[block] * away * away
    for j in range(first, last):
        mean[j], var[j] = center[j], squares[j] / count


def combine(moments: Any, sizes: Any, mean: Any, var: Any) -> None:
    """Fill mean and the biased variance (c,) from the blocks' moments and sizes.

    ``moments`` are (blocks, 2, c); or (blocks, 2, together * c), if so many pixels were taken as
    one. ``sizes`` (blocks,) are integers: the pixels of a block, or how many times so many.
    """
    c, blocks = mean.size, len(sizes)
    together = moments.size // (2 * blocks * c)
    work = np.empty(3 * c)
    _combine(-(-c // GROUP), moments, sizes, blocks, together, c, GROUP, work, mean, var)
