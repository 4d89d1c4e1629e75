"""Large arrays: the few array expressions for which one thread of NumPy would be too slow.

Each function returns None where NumPy does as well: for small arrays, for layouts that are no block
of memory, on the references and on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..device import backend_name
from .checks import _order, flat

LARGE = 1 << 18  # entries; below, waking the other threads costs more than they gain


def _is_large(x: Any) -> bool:
    return (
        isinstance(x, np.ndarray)
        and x.size >= LARGE
        and x.dtype in (np.float32, np.float64)
        and backend_name(x) == "numba"
    )


def arithmetic(sign: str, x: Any, y: Any) -> Any:
    """x + y, x - y or x * y of two arrays of one layout, or of an array and a number; or None."""
    if not _is_large(x):
        return None
    number = isinstance(y, int | float)
    if not number and (
        not isinstance(y, np.ndarray)
        or (y.shape, y.dtype, y.strides) != (x.shape, x.dtype, x.strides)
    ):
        return None
    order = _order(x)
    if not x.transpose(order).flags.c_contiguous:
        return None
    from ..kernels.numba import arithmetic

    kind = {"+": arithmetic.ADD, "-": arithmetic.SUB, "*": arithmetic.MUL}[sign]
    out = arithmetic.arithmetic(kind, flat(x), y if number else flat(y))
    return out.reshape([x.shape[i] for i in order]).transpose(np.argsort(order))
