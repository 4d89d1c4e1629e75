"""Arithmetic of large arrays, where one thread of NumPy would be what a step waits for."""

from __future__ import annotations

from typing import Any

import numpy as np

from .allocator import allocate
from .kernel import kernel
from .simd import lanes_of, load, spread, store

BLOCK = 1 << 14  # entries of a task
ADD, SUB, MUL = range(3)


@kernel
def _arithmetic(task, kind, x, y, repeated, size, block, out):
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


def arithmetic(kind: int, x: Any, y: Any) -> Any:
    """x + y, x - y or x * y for ADD, SUB or MUL; y is an array like x, or a number."""
    number = not isinstance(y, np.ndarray)
    out = allocate(x.shape, x.dtype)
    other = np.array([y], x.dtype) if number else y
    _arithmetic(-(-x.size // BLOCK), kind, x, other, int(number), x.size, BLOCK, out)
    return out
