"""Sums that do not lose digits with length: what every operation that adds many numbers calls.

NumPy adds along a leading dimension one row after another, in the dtype of the rows: in float32 the
mean of a million tenths is off in its third digit, and from 2^24 on adding ones changes nothing.
Here float32 is added in float64 and rounded once. float64 is added in pairs or blocks, so that the
error grows with the logarithm of the length; so are complex numbers, which carry derivatives.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..device import array_module, backend_name

Axes = tuple[int, ...]
KERNEL_FROM = 1 << 14  # entries; fewer are added by NumPy before a kernel is launched


def wide_sum(x: Any, axes: Axes) -> Any:
    """The sum over ``axes`` before it is rounded: of real numbers, in float64."""
    # CuPy adds in blocks, in the same order in every run on a GPU. In float64, sums of float32 are
    # then right to a unit in the last place, however long they are.
    if not isinstance(x, np.ndarray):
        return x.sum(axis=axes, dtype=np.float64 if x.dtype.kind == "f" else None)
    real = x.dtype in (np.float32, np.float64)
    if real and x.size >= KERNEL_FROM and backend_name(x) == "numba":
        from ..kernels.numba import sums

        return sums.add_up(x, axes)
    if x.dtype.kind == "f" and x.dtype.itemsize < 8:
        return x.sum(axis=axes, dtype=np.float64)
    kept = [i for i in range(x.ndim) if i not in axes]
    shape = [x.shape[i] for i in kept]
    rows = x.transpose(*kept, *axes).reshape(*shape, math.prod([x.shape[i] for i in axes]))
    return np.ascontiguousarray(rows).sum(axis=-1)  # side by side, NumPy adds in pairs


def total(x: Any, axes: Axes, keepdims: bool = False, over: float = 1) -> Any:
    """The sum over ``axes``, divided by ``over`` and then rounded to x's dtype.

    Args:
        x: an array of any shape and memory order, of a floating-point or complex dtype.
        axes: the dimensions to sum over, each >= 0.
        keepdims: whether the summed axes stay, with size 1.
        over: what to divide by, as in a mean.
    """
    found = wide_sum(x, axes)
    found = (found if over == 1 else found / over).astype(x.dtype)
    return _kept(found, x.shape, axes) if keepdims else found


def mean(x: Any, axes: Axes, keepdims: bool = False) -> Any:
    """The mean over ``axes``, rounded once; that of equal numbers is just this number.

    The sum of fewer than 2^29 equal float32 is exact in float64. Of float64, and of complex
    numbers, the distances from the first entry are averaged, which are 0 then.
    """
    count = math.prod([x.shape[i] for i in axes])
    if x.dtype.itemsize < 8:
        return total(x, axes, keepdims, over=count)
    xp = array_module(x)
    first = x[tuple([slice(0, 1) if i in axes else slice(None) for i in range(x.ndim)])]
    first = xp.where(xp.isfinite(first), first, 0)
    found = total(x - first, axes, True, over=count) + first
    return found if keepdims else found.squeeze(axes)


def mean_and_variance(x: Any, axes: Axes) -> tuple[Any, Any]:
    """Mean and biased variance over ``axes``, both before they are rounded to x's dtype: the
    references of all statistics."""
    wide = x.astype(np.result_type(x, np.float64), copy=False)
    center = mean(wide, axes, keepdims=True)
    # the square, not |.|²: holds for complex steps
    return center.squeeze(axes), mean(np.square(wide - center), axes)


def _kept(found: Any, shape: tuple[int, ...], axes: Axes) -> Any:
    return found.reshape([1 if i in axes else n for i, n in enumerate(shape)])
