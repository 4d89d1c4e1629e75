"""Which numbers a dtype has: what NumPy would wrap around, or make up, is refused instead."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any

import numpy as np

from .errors import DTypeError, message, quoted


@functools.cache
def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the largest integer of a dtype; of one that is none, those of int64."""
    found = np.iinfo(dtype if dtype.kind in "iu" else np.int64)
    return int(found.min), int(found.max)


def check_range(op: str, numbers: Any, dtype: np.dtype[Any]) -> None:
    """Refuse numbers that are no numbers of a dtype: NumPy would wrap integers around, make some
    integer of a NaN, and leave out imaginary parts. Floats may lose their fraction.

    Raises:
        DTypeError: names the first of them.
    """
    array = np.asarray(numbers)
    kind, inside = array.dtype.kind, np.ones(array.shape, bool)
    least, most = limits(dtype)
    if kind == "c":
        inside[...] = dtype.kind in "bc"
    elif dtype.kind in "iu" and kind == "f":  # most + 1 is a power of 2, which a float holds
        inside = (np.trunc(array) >= least) & (array < float(most + 1))
    elif dtype.kind in "iu" and kind in "iu":
        inside = (array >= least) & (array <= most)
    if not np.all(inside):
        wrong = array[~inside].flat[0].item()
        bounds = f", {least} to {most}" if dtype.kind in "iu" else ""
        raise DTypeError(message(op, f"numbers that {dtype} has{bounds}", quoted(wrong)))


def has(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a dtype has this number, but for its fraction or last digits: integers of a range,
    floats up to a largest one and the infinities."""
    if dtype.kind in "iu":
        least, most = limits(dtype)
        return (isinstance(value, int) or math.isfinite(value)) and least <= int(value) <= most
    largest = np.finfo(dtype if dtype.kind in "fc" else np.float64).max
    return abs(value) <= float(largest) or (isinstance(value, float) and not math.isfinite(value))


def without_huge(data: Any, array: Any, dtype: Any) -> Any:
    """``array``, which NumPy made of ``data``, if there are no integers beyond 64 bits in it. NumPy
    makes them uint64 or objects, or floats where smaller ones stand beside them. Where ``dtype`` is
    a floating-point one they are the nearest floats.

    Raises:
        DTypeError: there are some, and floats were not asked for.
    """
    if array.dtype == np.float64 and dtype is None:
        found = (np.abs(array) >= 2.0**63).any() and _integers(np.array(data, object))
    elif array.dtype == np.uint64:
        found = (array >= 2**63).any()
    else:
        found = array.dtype == object and array.size > 0 and _integers(array)
    if not found:
        return array
    if dtype is not None and dtype.kind == "f":
        with contextlib.suppress(OverflowError):
            return array.astype(np.float64)
    largest = max(np.array(data, object).flat, key=abs)
    fix = "Pass dtype='float64' for the nearest float." if abs(largest) < 2**1023 else ""
    raise DTypeError(message("tensor", "integers of 64 bits", quoted(int(largest)), fix=fix))


def _integers(objects: Any) -> bool:
    return all(isinstance(entry, int | np.integer) for entry in objects.flat)
