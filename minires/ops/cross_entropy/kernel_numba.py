"""Cross entropy on the CPU, in parallel over blocks of rows.

A row of logits is brought into a workspace of whole vectors, filled up with -inf, whose
exponential is 0. The exponential is computed there, a vector at a time: x = n log 2 + r with n
whole and abs(r) <= log(2) / 2, and exp(x) = 2^n (1 + r + r²/2! + ...), with terms down to the
last bit.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ...kernels.numba.allocator import allocate
from ...kernels.numba.compiler import device_function
from ...kernels.numba.cpu import lanes
from ...kernels.numba.kernel import kernel
from ...kernels.numba.simd import (
    fma,
    lanes_of,
    load,
    nearest,
    power_of_two,
    spread,
    store,
    where_above,
    zeros,
)

BLOCK = 1 << 14  # logits of a task
LOG2_E, LOG2_HIGH, LOG2_LOW, SMALLEST, BELOW, SERIES = range(6)  # places among the numbers of exp


@functools.cache
def _numbers(dtype: Any) -> Any:
    """1 / log 2; -log 2 in two parts, the first with so few digits that n times it is exact; where
    the exponential is taken as 0; the number before 0; and 1 / k!, the highest k first."""
    single = np.dtype(dtype) == np.float32
    high = 0.693359375 if single else 0.6931471803691238  # 9 bits; 32 bits
    low = -2.121944400546905827679e-4 if single else 1.9082149292705877e-10
    terms = [1 / math.factorial(k) for k in range(7 if single else 13, -1, -1)]
    smallest = math.log(np.finfo(dtype).tiny)
    below = -np.finfo(dtype).tiny
    return np.array([1 / math.log(2), -high, -low, smallest, below, *terms], dtype)


@device_function
def _exp(x, e, terms):
    """exp(x) of a vector of numbers up to 0, with ``terms`` terms of the series; NaN stays NaN."""
    x = where_above(x, spread(e, SMALLEST), x, spread(e, SMALLEST))  # no infinities from here on
    n = nearest(x * spread(e, LOG2_E))
    # multiply-adds, because the compiler would put the two parts together again
    r = fma(n, spread(e, LOG2_LOW), fma(n, spread(e, LOG2_HIGH), x))
    series = spread(e, SERIES)
    for k in range(1, terms):
        series = fma(series, r, spread(e, SERIES + k))
    result = series * power_of_two(n)
    return where_above(x, spread(e, SMALLEST), result, zeros(e))


@device_function
def _softmax(x, at, classes, e, terms, row, to, padded):
    """Fill a row of the workspace from the logits x at ``at``: behind ``to`` come x - max(x), its
    exponentials, how many of these are 1, and the sum of what the others add: beside a single 1
    it can be as small as it likes.

    The differences are vectors and kept, because the compiler may rearrange sums of plain numbers,
    and beside a large max(x) that would cost digits.
    """
    width = lanes_of(x)
    for i in range(classes):
        row[to + i] = x[at + i]
    for i in range(classes, padded):
        row[to + i] = -np.inf
    most = load(row, to)
    for i in range(width, padded, width):
        v = load(row, to + i)
        most = where_above(v, most, v, most)
    end = to + 2 * padded
    store(row, end, most)
    for i in range(1, width):
        row[end] = where_above(row[end + i], row[end], row[end + i], row[end])
    shift, count, rest = spread(row, end), zeros(row), zeros(row)
    below, one, zero = spread(e, BELOW), spread(e, SERIES + terms - 1), zeros(row)
    for i in range(0, padded, width):
        v = load(row, to + i) - shift
        store(row, to + i, v)
        p = _exp(v, e, terms)
        store(row, to + padded + i, p)
        count = count + where_above(v, below, one, zero)
        rest = rest + where_above(v, below, v, p)  # which is 0 at the top, or NaN
    store(row, end, count)
    store(row, end + width, rest)
    for i in range(1, width):
        row[end] += row[end + i]
        row[end + width] += row[end + width + i]
    row[end + 1] = row[end + width]


@kernel
def _fwd(
    task, x, labels, smoothing, ignore, n, classes, block, e, terms, workspace, padded, losses
):
    row = task * (2 * padded + 2 * lanes_of(x))
    for i in range(task * block, min((task + 1) * block, n)):
        if labels[i] == ignore:
            losses[i] = 0
            continue
        _softmax(x, i * classes, classes, e, terms, workspace, row, padded)
        count, rest = workspace[row + 2 * padded], workspace[row + 2 * padded + 1]
        logarithm = np.log(count) + np.log1p(rest / count)
        loss = 0 * logarithm
        # 0 * inf would make a NaN of a class that is ruled out
        if smoothing[0] < 1:
            loss = (1 - smoothing[0]) * (logarithm - workspace[row + labels[i]])
        if smoothing[0] > 0:
            away = 0 * logarithm
            for k in range(classes):
                away += workspace[row + k]
            loss += smoothing[0] * (logarithm - away / classes)
        losses[i] = loss


@kernel
def _bwd_x(
    task, g, x, labels, smoothing, ignore, n, classes, block, e, terms, workspace, padded, gx
):
    row = task * (2 * padded + 2 * lanes_of(x))
    for i in range(task * block, min((task + 1) * block, n)):
        at, label = i * classes, labels[i]
        if label == ignore:
            for k in range(classes):
                gx[at + k] = 0
            continue
        _softmax(x, at, classes, e, terms, workspace, row, padded)
        count, rest = workspace[row + 2 * padded], workspace[row + 2 * padded + 1]
        total, uniform = count + rest, smoothing[0] / classes
        # p - 1 of the label; minus all others where it is the maximum, and p could be almost 1
        away = workspace[row + padded + label] / total - 1
        if workspace[row + label] == 0 and count == 1:
            away = -(rest / (1 + rest))
        for k in range(classes):  # what is 0 stays 0, beside an infinite gradient too
            difference = workspace[row + padded + k] / total - uniform
            gx[at + k] = difference * g[i] if difference != 0 else difference
        difference = away + (smoothing[0] - uniform)
        gx[at + label] = difference * g[i] if difference != 0 else difference


def _arguments(x: Any, labels: Any, smoothing: float, ignore: int) -> tuple[int, tuple[Any, ...]]:
    """The number of tasks, and what both kernels take besides their arrays."""
    n, classes = x.shape
    block = max(1, BLOCK // classes)
    tasks, width = -(-n // block), lanes(x.dtype)
    padded = -(-classes // width) * width
    workspace = allocate((tasks, 2 * padded + 2 * width), x.dtype)
    e, share = _numbers(x.dtype), np.array([smoothing], x.dtype)
    sizes = n, classes, block
    return tasks, (labels, share, ignore, *sizes, e, e.size - SERIES, workspace, padded)


def cross_entropy_fwd(x: Any, labels: Any, smoothing: float, ignore: int, losses: Any) -> None:
    """Fill losses = -sum(q * log(softmax(x)))."""
    tasks, arguments = _arguments(x, labels, smoothing, ignore)
    _fwd(tasks, x, *arguments, losses)


def cross_entropy_bwd_x(
    g: Any, x: Any, labels: Any, smoothing: float, ignore: int, gx: Any
) -> None:
    """Fill gx = (softmax(x) - q) * g, 0 in the rows to ignore."""
    tasks, arguments = _arguments(x, labels, smoothing, ignore)
    _bwd_x(tasks, g, x, *arguments, gx)
