"""Prologues on the CPU: how a kernel reads an :class:`~minires.kernels.operand.Operand`.

Kernels copy their input into a small workspace anyway, block by block; on that way they apply the
operand's prologue. A kernel gets an operand as four arguments, ``Operand.arguments``: the array
``x``, the second array ``y`` of gradients, the rows ``k`` of numbers per channel, and the kind::

    k  (5, c)    mean  | m0  m1  ...           x  (pixels, c)   | c0  c1  ...   one pixel
                 scale | a0  a1  ...                            | c0  c1  ...   the next
                 shift | b0  b1  ...                              ...
                 share | s0  s1  ...
                 slope | t0  t1  ...           entry (i, c) of x meets entry c of each row of k

All of these are flat in a kernel: row SCALE of ``k`` begins at ``k[SCALE * c]``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..operand import (
    GATED,
    GRADIENT,
    MEAN,
    NORMALISED,
    PASSED,
    PLAIN,
    RECTIFIED,
    SCALE,
    SHARE,
    SHIFT,
    SLOPE,
    Operand,
)
from .compiler import device_function
from .cpu import lanes
from .kernel import kernel
from .simd import fma, lanes_of, load, relu, store, where_open, zeros

RUN = 1 << 9  # entries that are read at a time


@device_function
def normalise(v, mean, scale, shift):
    """(v - mean) * scale + shift: the same instructions, and so the same bits, wherever it is
    needed, for a gradient must meet the zeros that its ReLU made."""
    return fma(v - mean, scale, shift)


@device_function
def read(x, y, k, kind, c, at, pixels, out, to):
    """out[to : to + pixels * c] = the operand's values at x[at : at + pixels * c].

    ``k`` are the mean, scale, shift, share and slope rows, flat; ``c`` is the number of channels.
    """
    read_apart(x, y, k, kind, c, at, c, pixels, out, to)


@device_function
def read_apart(x, y, k, kind, c, at, pitch, pixels, out, to):
    """As :func:`read`, for pixels that lie ``pitch`` entries apart in x, side by side in ``out``.

    Some pixels at a time, a *run* of about RUN entries, and of a run one vector of channels after
    another: memory is fastest when read from end to end, and the five numbers of a channel are best
    kept in registers for a while.
    """
    if kind == PLAIN and pitch == c:
        _copy(x, at, pixels * c, out, to)  # one long row: nothing to compute, nothing between
        return
    run = max(RUN // max(c, 1), 1)
    for first in range(0, pixels, run):
        begin, end = at + first * pitch, to + first * c
        _read_run(x, y, k, kind, c, begin, pitch, min(run, pixels - first), out, end)


@device_function
def _copy(x, at, size, out, to):
    """out[to : to + size] = x[at : at + size]"""
    width = lanes_of(x)
    for i in range(0, size - width + 1, width):
        store(out, to + i, load(x, at + i))
    for i in range(size - size % width, size):
        out[to + i] = x[at + i]


@device_function
def _read_run(x, y, k, kind, c, at, pitch, pixels, out, to):
    """The values of some pixels: formulas of :mod:`minires.kernels.operand`, a loop for each.

    The kind is asked for outside of the loops over pixels, so that these are as short as they can
    be: one load (two, with y), the formula, one store.
    """
    width = lanes_of(x)
    if kind == PLAIN:
        for i in range(pixels):
            _copy(x, at + i * pitch, c, out, to + i * c)
        return
    # whole vectors of channels: each goes down all pixels of the run
    for first in range(0, c - width + 1, width):
        mean, scale = load(k, MEAN * c + first), load(k, SCALE * c + first)
        shift = load(k, SHIFT * c + first)
        share, slope = load(k, SHARE * c + first), load(k, SLOPE * c + first)
        begin, end = at + first, to + first
        if kind == RECTIFIED:
            for i in range(pixels):
                v = normalise(load(x, begin + i * pitch), mean, scale, shift)
                store(out, end + i * c, relu(v))
        elif kind == NORMALISED:
            for i in range(pixels):
                v = normalise(load(x, begin + i * pitch), mean, scale, shift)
                store(out, end + i * c, v)
        elif kind == GRADIENT:  # x is gy of a batch norm, y was its input
            for i in range(pixels):
                distance = load(y, begin + i * pitch) - mean
                g = load(x, begin + i * pitch)
                store(out, end + i * c, scale * (g - share - distance * slope))
        elif kind == PASSED:  # as GATED, but mean and variance were constants
            for i in range(pixels):
                z = normalise(load(y, begin + i * pitch), mean, scale, shift)
                store(out, end + i * c, scale * where_open(load(x, begin + i * pitch), z))
        else:  # GATED: a ReLU came behind the batch norm; where its input z <= 0, gy counts as 0
            for i in range(pixels):
                distance = load(y, begin + i * pitch) - mean
                g = where_open(load(x, begin + i * pitch), fma(distance, scale, shift))
                store(out, end + i * c, scale * (g - share - distance * slope))
    # the channels behind the last whole vector, one by one: the same formulas on numbers
    for channel in range(c - c % width, c):
        mean, scale = k[MEAN * c + channel], k[SCALE * c + channel]
        shift = k[SHIFT * c + channel]
        share, slope = k[SHARE * c + channel], k[SLOPE * c + channel]
        for i in range(pixels):
            value = x[at + channel + i * pitch]
            if kind == NORMALISED:
                value = normalise(value, mean, scale, shift)
            elif kind == RECTIFIED:
                value = relu(normalise(value, mean, scale, shift))
            elif kind == PASSED:
                z = normalise(y[at + channel + i * pitch], mean, scale, shift)
                value = scale * where_open(value, z)
            else:
                distance = y[at + channel + i * pitch] - mean
                if kind == GATED:  # else GRADIENT
                    value = where_open(value, fma(distance, scale, shift))
                value = scale * (value - share - distance * slope)
            out[to + channel + i * c] = value


@device_function
def clear(x, at, size):
    """x[at : at + size] = 0"""
    width = lanes_of(x)
    for i in range(at, at + size - width + 1, width):
        store(x, i, zeros(x))
    for i in range(at + size - size % width, at + size):
        x[i] = 0


@device_function
def fill(x, y, k, kind, c, height, width, image, top, rows, left, columns, out, to):
    """out[to + ...] (rows, columns, c) = the operand's window of image ``image`` that begins at row
    ``top`` and column ``left``, with zeros wherever it sticks out of the image::

        left = -1, columns = 6, width = 4:    0 | x0  x1  x2  x3 | 0
                                                first            last
    """
    first, last = max(left, 0), min(left + columns, width)  # columns of the image that it sees
    for row in range(rows):
        at = to + row * columns * c
        h = top + row
        if h < 0 or h >= height or first >= last:  # none of this row
            clear(out, at, columns * c)
            continue
        clear(out, at, (first - left) * c)
        begin = ((image * height + h) * width + first) * c
        read(x, y, k, kind, c, begin, last - first, out, at + (first - left) * c)
        clear(out, at + (last - left) * c, (left + columns - last) * c)


@kernel
def _write(task, x, y, k, kind, c, pixels, block, run, out):
    """out (pixels, c) = the operand's values; a task writes ``block`` pixels, ``run`` at a time."""
    end = min((task + 1) * block, pixels)
    for pixel in range(task * block, end, run):
        read(x, y, k, kind, c, pixel * c, min(run, end - pixel), out, pixel * c)


BLOCK = 1 << 14  # entries that a task writes


def write(operand: Operand, out: Any) -> None:
    """Fill ``out`` (..., c) with the values of an operand, in parallel."""
    x, y, k, kind = operand.arguments
    c = x.shape[-1]
    pixels = x.size // max(c, 1)
    together = pixels_together(pixels, c, x.dtype)
    k, c, pixels = repeated(k, together), c * together, pixels // together
    run = max(1, RUN // max(c, 1))
    block = run * max(1, BLOCK // max(run * c, 1))
    _write(-(-pixels // block), x, y, k, kind, c, pixels, block, run, out)


@kernel
def _repeat(task, k, rows, c, times, out):
    """out (rows, times, c) = k (rows, c)"""
    for row in range(rows):
        for i in range(row * times * c, (row + 1) * times * c, c):
            for j in range(c):
                out[i + j] = k[row * c + j]


def repeated(k: Any, together: int) -> Any:
    """The rows k (5, c) for so many pixels taken as one: (5, together * c)."""
    if together == 1 or not k.size:
        return k
    rows, c = k.shape
    out = np.empty((rows, together * c), k.dtype)
    _repeat(1, k, rows, c, together, out)
    return out


def pixels_together(pixels: int, c: int, dtype: Any) -> int:
    """How many pixels to take as one of several times the channels.

    Four vectors to a pixel keep loops over channels long and leave no channel over; where the
    pixels cannot be taken together so, each is taken by itself.
    """
    vector = lanes(dtype)
    together = vector // math.gcd(vector, max(c, 1))
    while c * together < 4 * vector and pixels % (2 * together) == 0:
        together *= 2
    return together if pixels % together == 0 else 1
