"""Large arrays: the few array expressions for which one thread of NumPy would be too slow.

Each function returns None where the array module does as well: for small arrays, for layouts that
are no block of memory, and on the references.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..device import backend_name
from .checks import _order, flat

_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
LARGE = 1 << 18  # entries; below, waking the other threads costs more than they gain


def _is_large(x: Any) -> bool:
    return (
        isinstance(x, np.ndarray)
        and x.size >= LARGE
        and x.dtype in (np.float32, np.float64)
        and backend_name(x) == "numba"
    )


def _on_gpu(x: Any) -> bool:
    """Whether x is CuPy's and in another order than C's: sums of CuPy's are always in that one, so
    that activations would no longer be channels-last."""
    if type(x) is np.ndarray or not hasattr(x, "__cuda_array_interface__"):
        return False
    return not x.flags.c_contiguous


def arithmetic(sign: str, x: Any, y: Any) -> Any:
    """x + y, x - y or x * y of two arrays of one layout, or of an array and a number; or None."""
    if not (on_gpu := _on_gpu(x)) and not _is_large(x):
        return None
    number = isinstance(y, int | float)
    if not number and (
        not isinstance(y, type(x)) or (y.shape, y.dtype, y.strides) != (x.shape, x.dtype, x.strides)
    ):
        return None
    order = _order(x)
    if not x.transpose(order).flags.c_contiguous:
        return None
    if on_gpu:
        result = _SIGNS[sign](x.transpose(order), y if number else y.transpose(order))
        return result.transpose(np.argsort(order).tolist())
    from ..kernels.numba import arithmetic

    kind = {"+": arithmetic.ADD, "-": arithmetic.SUB, "*": arithmetic.MUL}[sign]
    out = arithmetic.arithmetic(kind, flat(x), y if number else flat(y))
    return out.reshape([x.shape[i] for i in order]).transpose(np.argsort(order))
