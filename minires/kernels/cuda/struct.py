"""Structs that kernels take by value: NumPy records with the fields that C++ declares."""

from __future__ import annotations

from typing import Any

import numpy as np

DIVISOR = np.dtype([("value", "i4"), ("multiplier", "u4"), ("shift", "i4")])


def divisor(value: int) -> tuple[int, int, int]:
    """The fields of a ``Divisor`` (common.cuh) for 1 <= ``value`` < 2^31: n // value is then the
    upper half of n * multiplier, shifted (Granlund and Montgomery, "Division by invariant integers
    using multiplication", 1994)."""
    length = (value - 1).bit_length()
    multiplier = -(-(1 << (31 + length)) // value) & 0xFFFFFFFF
    return value, multiplier, max(length - 1, 0)


def record(layout: np.dtype[Any], **fields: Any) -> np.ndarray[Any, Any]:
    """A struct with these fields, all of them; CuPy passes its bytes."""
    result = np.zeros(1, layout)
    for name in layout.names or ():
        result[name] = fields.pop(name)
    if fields:
        raise KeyError(f"no fields of the struct: {', '.join(fields)}")
    return result
