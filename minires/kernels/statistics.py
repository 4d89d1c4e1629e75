"""Mean and variance of each channel, from blocks of pixels.

A block's mean and its sum of squared distances from that mean are taken while the block is still
in the cache, so that a convolution can hand them to the batch norm behind it for nothing. Blocks
are then combined by the formula of Chan, Golub and LeVeque (1983, Eq. 2.1): with block means m_i,
sums of squares s_i and sizes n_i, ``mean = sum(n_i m_i) / n`` and ``s = sum(s_i) + sum(n_i (m_i -
mean)²)``. Squares are never taken of values far from 0, so that a large mean costs no digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import device_function
from .simd import fma, lanes_of, load, spread, store, zeros


@device_function
def block_statistics(y, at, pixels, c, inverse, moments, to):  # type: ignore[no-untyped-def]
    """moments[to : to + c] = the mean of each channel over the block of ``pixels`` pixels at
    y[at]; moments[to + c : to + 2c] = the sum of squared distances. ``inverse[0]`` = 1 / pixels.
    """
    width = lanes_of(y)
    for first in range(0, c - width + 1, width):
        total = zeros(y)
        for i in range(at + first, at + first + pixels * c, c):
            total = total + load(y, i)
        mean = total * spread(inverse, 0)
        squares = zeros(y)
        for i in range(at + first, at + first + pixels * c, c):
            distance = load(y, i) - mean
            squares = fma(distance, distance, squares)
        store(moments, to + first, mean)
        store(moments, to + c + first, squares)
    for channel in range(c - c % width, c):
        sum_ = 0 * inverse[0]
        for i in range(at + channel, at + channel + pixels * c, c):
            sum_ += y[i]
        center = sum_ * inverse[0]
        sum_ = 0 * inverse[0]
        for i in range(at + channel, at + channel + pixels * c, c):
            sum_ += (y[i] - center) * (y[i] - center)
        moments[to + channel] = center
        moments[to + c + channel] = sum_


def combine(moments: Any, sizes: Any, mean: Any, var: Any) -> None:
    """Fill mean and the biased variance (c,) from moments (blocks, 2, c) and the blocks' sizes."""
    sizes = np.asarray(sizes, np.float64)[:, None]
    means, squares = moments[:, 0].astype(np.float64), moments[:, 1].astype(np.float64)
    count = sizes.sum()
    center = (sizes * means).sum(axis=0) / count
    mean[...] = center
    var[...] = (squares.sum(axis=0) + (sizes * (means - center) ** 2).sum(axis=0)) / count
