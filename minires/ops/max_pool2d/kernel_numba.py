"""Max pooling on the CPU, in parallel over rows of pixels, a vector of channels at a time.

Forward keeps the best value so far and its place in two registers and goes over the window.
Backward turns the question round: which windows hold this pixel, and which of them chose it? So
every entry of gx is written by one task, once.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...kernels.numba.allocator import allocate
from ...kernels.numba.kernel import kernel
from ...kernels.numba.prologue import clear, write
from ...kernels.numba.simd import (
    lanes_of,
    load,
    store,
    store_int32,
    where_above,
    where_equal,
    whole,
)
from ...kernels.operand import Operand
from .op import MaxPool2dGeometry


@kernel
def _fwd(task, x, rows, columns, d_h, d_w, h_in, w_in, h_out, w_out, c, y, index):
    """``rows`` and ``columns`` say of each output row or column where in the image its window
    begins and ends."""
    width, vectors = lanes_of(x), c - c % lanes_of(x)
    image, i = task // h_out, task % h_out
    h_first, h_end = rows[2 * i], rows[2 * i + 1]
    for j in range(w_out):
        w_first, w_end = columns[2 * j], columns[2 * j + 1]
        first = h_first * w_in + w_first
        at, to = image * h_in * w_in * c, (task * w_out + j) * c
        for k in range(0, vectors, width):
            best, place = load(x, at + first * c + k), whole(x, first)
            for h in range(h_first, h_end, d_h):
                for w in range(w_first, w_end, d_w):
                    here = h * w_in + w
                    value = load(x, at + here * c + k)
                    place = where_above(value, best, whole(x, here), place)
                    best = where_above(value, best, value, best)
            store(y, to + k, best)
            store_int32(index, to + k, place)
        for k in range(vectors, c):
            largest, where = x[at + first * c + k], first
            for h in range(h_first, h_end, d_h):
                for w in range(w_first, w_end, d_w):
                    number = x[at + (h * w_in + w) * c + k]
                    if number > largest or number != number:
                        largest, where = number, h * w_in + w
            y[to + k] = largest
            index[to + k] = where


@kernel
def _bwd_x(task, gy, index, rows, columns, h_in, w_in, h_out, w_out, c, gx):
    """``rows`` and ``columns`` say of each row or column of the image which windows may hold it."""
    width, vectors = lanes_of(gx), c - c % lanes_of(gx)
    image, h = task // h_in, task % h_in
    clear(gx, task * w_in * c, w_in * c)
    for w in range(w_in):
        here, to = h * w_in + w, (task * w_in + w) * c
        for i in range(rows[2 * h], rows[2 * h + 1]):
            for j in range(columns[2 * w], columns[2 * w + 1]):
                at = ((image * h_out + i) * w_out + j) * c
                for k in range(0, vectors, width):
                    g = where_equal(load(gy, at + k), index, at + k, here)
                    store(gx, to + k, load(gx, to + k) + g)
                for k in range(vectors, c):
                    if index[at + k] == here:
                        gx[to + k] += gy[at + k]


def _windows(outputs: int, size: int, k: int, s: int, p: int, d: int) -> Any:
    """(outputs, 2): of each window, the first tap inside the image and the end of the last."""
    begin = np.arange(outputs) * s - p
    first = begin + -(-np.maximum(-begin, 0) // d) * d
    return np.stack([first, np.minimum(begin + (k - 1) * d + 1, size)], axis=1)


def _holders(outputs: int, size: int, k: int, s: int, p: int, d: int) -> Any:
    """(size, 2): the first window that reaches each place of the image, and the end of the last."""
    place = np.arange(size) + p
    first = np.maximum(-(-(place - (k - 1) * d) // s), 0)
    return np.stack([first, np.minimum(place // s + 1, outputs)], axis=1)


@functools.lru_cache(maxsize=256)
def _both(tables: Any, g: MaxPool2dGeometry) -> Any:
    """A table of rows and one of columns."""
    sizes = (g.h_out, g.w_out), (g.h_in, g.w_in)
    return [tables(*entry) for entry in zip(*sizes, g.kernel, g.stride, g.padding, g.dilation)]


def max_pool2d_fwd(x: Any, y: Any, index: Any, g: MaxPool2dGeometry) -> None:
    """Fill y (n, h_out, w_out, c) and index, the places h * w_in + w of the maxima. x is an array;
    an Operand is written out first, for a pixel lies in several windows."""
    if isinstance(x, Operand):
        operand, x = x, allocate(x.x.shape, x.x.dtype)
        write(operand, x)
    sizes = (g.h_in, g.w_in, g.h_out, g.w_out, g.c)
    _fwd(g.n * g.h_out, x, *_both(_windows, g), *g.dilation, *sizes, y, index)


def max_pool2d_bwd_x(gy: Any, index: Any, gx: Any, g: MaxPool2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c): each gy added at its place."""
    sizes = (g.h_in, g.w_in, g.h_out, g.w_out, g.c)
    _bwd_x(g.n * g.h_in, gy, index, *_both(_holders, g), *sizes, gx)
