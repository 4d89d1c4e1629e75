"""The rectifier on the CPU: one pass over memory, in parallel."""

from __future__ import annotations

from typing import Any

from ...kernels.numba.kernel import kernel
from ...kernels.numba.simd import lanes_of, load, relu, store, where_open

BLOCK = 1 << 14  # entries of a task


@kernel
def _fwd(task, x, size, block, y):
    width, end = lanes_of(x), min((task + 1) * block, size)
    whole = end - end % width
    for i in range(task * block, whole, width):
        store(y, i, relu(load(x, i)))
    for i in range(whole, end):
        y[i] = relu(x[i])


@kernel
def _bwd_x(task, gy, y, size, block, gx):
    width, end = lanes_of(y), min((task + 1) * block, size)
    whole = end - end % width
    for i in range(task * block, whole, width):
        store(gx, i, where_open(load(gy, i), load(y, i)))
    for i in range(whole, end):
        gx[i] = where_open(gy[i], y[i])


def relu_fwd(x: Any, y: Any) -> None:
    """Fill y = max(x, 0); NaN stays NaN."""
    _fwd(-(-x.size // BLOCK), x, x.size, BLOCK, y)


def relu_bwd_x(gy: Any, y: Any, gx: Any) -> None:
    """Fill gx = 0 where y <= 0, else gy."""
    _bwd_x(-(-y.size // BLOCK), gy, y, y.size, BLOCK, gx)
