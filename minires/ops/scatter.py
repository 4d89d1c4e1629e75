"""Writes at index arrays, which may name an entry any number of times: sums, and who comes last.

NumPy writes one value after the other. CuPy writes all at once, so that of several values for one
entry any may stay, and a sum of floats has other last bits in each run. On a GPU the places are
therefore sorted (:mod:`minires.kernels.cuda.scatter`), and values come in their order there too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..device import array_module


def add_at(y: Any, index: Any, x: Any) -> Any:
    """Zeros y, of x's dtype, with x added at the index; as :mod:`minires.ops.sums` adds."""
    xp = array_module(x)
    if isinstance(x, np.ndarray):
        wide = np.result_type(x, np.float64)
        y = y.astype(wide, copy=False)
        np.add.at(y, index, x.astype(wide, copy=False))
        return y.astype(x.dtype, copy=False)
    if not has_numbers(index):  # a mask names every entry once
        y[index] = x
        return y
    from ..kernels.cuda import scatter

    if x.dtype.kind == "c":
        return add_at(y.real, index, x.real) + 1j * add_at(y.imag, index, x.imag)
    positions, width = _places(index, y.shape, xp)
    x = xp.ascontiguousarray(x).reshape(positions.size, width)
    return scatter.add(positions, x, y.size // max(width, 1)).reshape(y.shape)


def last_at(index: Any, shape: tuple[int, ...], like: Any) -> Any:
    """For each entry of an array of this shape, the number of the last value that an assignment at
    the index puts there; -1 where it puts none."""
    xp = array_module(like)
    if isinstance(like, np.ndarray):
        last = np.full(shape, -1)
        named = last[index]
        last[index] = np.arange(named.size).reshape(named.shape)
        return last
    from ..kernels.cuda import scatter

    return scatter.last(_flat(index, shape, xp), math.prod(shape)).reshape(shape)


def set_at(array: Any, index: Any, value: Any) -> None:
    """``array[index] = value``: of several values for one entry the last one stays."""
    if isinstance(array, np.ndarray) or not getattr(value, "ndim", 0) or not has_numbers(index):
        array[index] = value
        return
    xp = array_module(array)
    shape = array[index].shape
    while value.ndim > len(shape) and value.shape[0] == 1:  # as assignments do
        value = value[0]
    values = xp.broadcast_to(value, shape).reshape(-1)
    last = last_at(index, array.shape, array)
    if values.size:
        array[...] = xp.where(last < 0, array, values[xp.maximum(last, 0)])


def has_numbers(index: Any) -> bool:
    """Whether there is an array of integers in an index, which can name an entry twice."""
    return any(map(_is_numbers, index if isinstance(index, tuple) else (index,)))


def _is_numbers(part: Any) -> bool:
    return getattr(part, "ndim", 0) > 0 and part.dtype.kind in "iu"


def _flat(index: Any, shape: tuple[int, ...], xp: Any) -> Any:
    """The places, in the array as one row, of what an index names, in its order."""
    return xp.ascontiguousarray(xp.arange(math.prod(shape)).reshape(shape)[index].reshape(-1))


def _places(index: Any, shape: tuple[int, ...], xp: Any) -> tuple[Any, int]:
    """(positions, width): the rows of so many entries that an index names, in its order. An array
    of integers alone names whole rows; otherwise a row is one entry."""
    alone = index[0] if isinstance(index, tuple) and len(index) == 1 else index
    if not _is_numbers(alone):
        return _flat(index, shape, xp), 1
    rows = alone.reshape(-1).astype(np.int64)
    return xp.where(rows < 0, rows + shape[0], rows), math.prod(shape[1:])


def check_bounds(array: Any, index: Any) -> None:
    """Index arrays stay within their dimensions. (NumPy sees to that itself; CuPy takes an index
    beyond the end as one from the beginning.)

    Raises:
        IndexError: in NumPy's words.
    """
    parts = index if isinstance(index, tuple) else (index,)
    rest = array.ndim - sum(map(_dimensions, parts))  # what an ellipsis stands for
    axis = 0
    for part in parts:
        if _is_numbers(part) and axis < array.ndim:
            size, numbers = array.shape[axis], part.reshape(-1).astype(np.int64)
            wrong = (numbers < -size) | (numbers >= size)
            if wrong.any():
                first = numbers[wrong.argmax()].item()
                text = f"index {first} is out of bounds for axis {axis} with size {size}"
                raise IndexError(text)
        axis += rest if part is Ellipsis else _dimensions(part)


def _dimensions(part: Any) -> int:
    """How many dimensions of an array a part of an index is about."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    mask = getattr(part, "dtype", None) == np.bool_
    return part.ndim if mask else 1
