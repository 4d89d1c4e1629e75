"""Average pooling on the CPU, in parallel over rows of pixels, a vector of channels at a time."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...kernels.numba.compiler import device_function
from ...kernels.numba.kernel import kernel
from ...kernels.numba.prologue import clear
from ...kernels.numba.simd import fma, lanes_of, load, spread, store
from ...kernels.numba.statistics import finite
from ...kernels.numba.wide import narrow, spread_wide, wide, wide_zeros
from .op import AvgPool2dGeometry


@device_function
def _quotient(total, inverse, minus_count, zero):
    """total / count, rounded as that: what the product with 1 / count leaves over is added."""
    y = total * inverse
    return fma(finite(fma(y, minus_count, total), zero), inverse, y)


@kernel
def _fwd(task, x, rows, columns, inverse, minus_count, h_in, w_in, h_out, w_out, c, y):
    """``rows`` and ``columns`` say of each output row or column where its window lies."""
    width, vectors = lanes_of(x), c - c % lanes_of(x)
    image, i = task // h_out, task % h_out
    for j in range(w_out):
        to = (task * w_out + j) * c
        for k in range(0, vectors, width):
            total = wide_zeros(x)
            for h in range(rows[2 * i], rows[2 * i + 1]):
                for w in range(columns[2 * j], columns[2 * j + 1]):
                    total = total + wide(load(x, ((image * h_in + h) * w_in + w) * c + k))
            by = spread_wide(inverse, i * w_out + j, total)
            less = spread_wide(minus_count, i * w_out + j, total)
            store(y, to + k, narrow(_quotient(total, by, less, wide_zeros(x)), x))
        for k in range(vectors, c):
            number = np.float64(0)
            for h in range(rows[2 * i], rows[2 * i + 1]):
                for w in range(columns[2 * j], columns[2 * j + 1]):
                    number += x[((image * h_in + h) * w_in + w) * c + k]
            by, less = inverse[i * w_out + j], minus_count[i * w_out + j]
            y[to + k] = _quotient(number, by, less, 0.0)


@kernel
def _bwd_x(task, gy, rows, columns, scale, h_in, w_in, h_out, w_out, c, gx):
    """``rows`` and ``columns`` say of each row or column of the image which windows hold it."""
    width, vectors = lanes_of(gx), c - c % lanes_of(gx)
    image, h = task // h_in, task % h_in
    clear(gx, task * w_in * c, w_in * c)
    for w in range(w_in):
        to = (task * w_in + w) * c
        for i in range(rows[2 * h], rows[2 * h + 1]):
            for j in range(columns[2 * w], columns[2 * w + 1]):
                at = ((image * h_out + i) * w_out + j) * c
                factor = spread(scale, i * w_out + j)
                for k in range(0, vectors, width):
                    store(gx, to + k, fma(load(gy, at + k), factor, load(gx, to + k)))
                for k in range(vectors, c):
                    gx[to + k] = fma(gy[at + k], scale[i * w_out + j], gx[to + k])


@functools.lru_cache(maxsize=256)
def _tables(g: AvgPool2dGeometry) -> tuple[Any, Any, Any, Any]:
    """Of each output row and column, where its window lies; 1 / count and -count of its pixels."""
    rows = np.stack([g.h_low, g.h_high], axis=1)
    columns = np.stack([g.w_low, g.w_high], axis=1)
    return rows, columns, np.ascontiguousarray(g.scale), -g.count


@functools.lru_cache(maxsize=256)
def _tables_back(g: AvgPool2dGeometry, dtype: Any) -> tuple[Any, Any, Any]:
    """Of each row and column of the image, which windows hold it; and what to divide by."""
    return *g.holders, g.scale.astype(dtype)


def avg_pool2d_fwd(x: Any, y: Any, g: AvgPool2dGeometry) -> None:
    """Fill y (n, h_out, w_out, c)."""
    h_out, w_out = g.scale.shape
    sizes = (g.h_in, g.w_in, h_out, w_out, g.c)
    _fwd(g.n * h_out, x, *_tables(g), *sizes, y)


def avg_pool2d_bwd_x(gy: Any, gx: Any, g: AvgPool2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c)."""
    h_out, w_out = g.scale.shape
    sizes = (g.h_in, g.w_in, h_out, w_out, g.c)
    _bwd_x(g.n * g.h_in, gy, *_tables_back(g, gy.dtype), *sizes, gx)
