"""Arithmetic and sums of large arrays, where one thread of NumPy would be what a step waits for.

Sums are taken in blocks that depend on the sizes alone, in vectors within a block and in float64
over the blocks, in order: the same bits come out for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import buffers
from .cpu import lanes
from .jit import kernel
from .simd import lanes_of, load, spread, store
from .source import clear, pixels_together

BLOCK = 1 << 14  # entries of a task
ADD, SUB, MUL = range(3)


@kernel
def _arithmetic(task, kind, x, y, repeated, size, block, out):  # type: ignore[no-untyped-def]
    """out = x + y, x - y or x * y; ``repeated`` says that y is one number."""
    width, end = lanes_of(x), min((task + 1) * block, size)
    whole = end - end % width
    for i in range(task * block, whole, width):
        a, b = load(x, i), spread(y, 0) if repeated else load(y, i)
        store(out, i, a + b if kind == ADD else a - b if kind == SUB else a * b)
    for i in range(whole, end):
        number = y[0] if repeated else y[i]
        if kind == ADD:
            out[i] = x[i] + number
        elif kind == SUB:
            out[i] = x[i] - number
        else:
            out[i] = x[i] * number


@kernel
def _sums(task, x, rows, c, block, sums):  # type: ignore[no-untyped-def]
    """sums[task] = the sum of each column of x (rows, c) over the block's rows."""
    width, whole = lanes_of(x), c - c % lanes_of(x)
    clear(sums, task * c, c)
    for at in range(task * block * c, min((task + 1) * block, rows) * c, c):
        for j in range(0, whole, width):
            store(sums, task * c + j, load(sums, task * c + j) + load(x, at + j))
        for j in range(whole, c):
            sums[task * c + j] += x[at + j]


def arithmetic(kind: int, x: Any, y: Any) -> Any:
    """x + y, x - y or x * y for ADD, SUB or MUL; y is an array like x, or a number."""
    number = not isinstance(y, np.ndarray)
    out = buffers.empty(x.shape, x.dtype)
    other = np.array([y], x.dtype) if number else y
    _arithmetic(-(-x.size // BLOCK), kind, x, other, int(number), x.size, BLOCK, out)
    return out


def sum_rows(x: Any) -> Any:
    """The sum of each column of x (m, c)."""
    m, c = x.shape
    together = pixels_together(m, c, x.dtype)
    rows, columns = m // together, c * together
    block = max(1, BLOCK // max(columns, 1))
    blocks = -(-rows // block)
    sums = buffers.empty((blocks, columns), x.dtype)
    _sums(blocks, x, rows, columns, block, sums)
    total = sums.reshape(blocks * together, c).sum(axis=0, dtype=np.float64)
    return total.astype(x.dtype)


def sum_all(x: Any) -> Any:
    """The sum of all entries, of x's dtype."""
    flat, row = x.reshape(-1), 4 * lanes(x.dtype)
    whole = x.size - x.size % row
    total = sum_rows(flat[:whole].reshape(-1, row)).sum(dtype=np.float64)
    return x.dtype.type(total + flat[whole:].sum(dtype=np.float64))
