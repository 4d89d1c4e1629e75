"""Choosing entries, and measuring their size."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..autograd import switch
from ..device import array_module
from ..errors import ArgumentError, message
from ..tensor import Tensor, tensor_method
from .checks import ordered, real
from .elementwise import abs_, where
from .reduce import Dims, TakeAlong, amax, amin, dims, numpy_names, sum


class TopK(NamedTuple):
    """What :func:`topk` gives: the values, and where along ``dim`` they stand."""

    values: Tensor
    indices: Tensor


@tensor_method("topk")
@numpy_names
def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> TopK:
    """The ``k`` largest (or smallest) entries along ``dim``, and their indices.

    Equal entries come in the order in which they stand; NaN counts as the largest. The result is
    always in order, best first: ``sorted`` is there for PyTorch code, and changes nothing.

    Args:
        x: any shape of at least one dimension.
        k: how many, in 0..x.shape[dim].
        dim: where to look.
        largest: False gives the smallest, in ascending order.

    Returns:
        ``(values, indices)``, both of x's shape with ``k`` entries along ``dim``; indices int64.

    Raises:
        ArgumentError: ``k`` out of range.
        ShapeError: a dimension that ``x`` does not have.

    >>> import minires as mr
    >>> mr.topk(mr.tensor([3.0, 9.0, 5.0]), 2).indices.tolist()
    [1, 2]
    """
    (axis,) = dims("topk", x, dim)
    if not isinstance(k, int | np.integer) or not 0 <= k <= x.shape[axis]:
        size = f"x {x.shape}, dim {dim}"
        raise ArgumentError(message("topk", f"k in 0..{x.shape[axis]}", repr(k), size))
    array, xp = ordered(x._array), array_module(x._array)
    if largest:  # sorted from the end, so that of equal entries the first comes first
        order = xp.flip(xp.argsort(xp.flip(array, axis), axis=axis, kind="stable"), axis)
        order = x.shape[axis] - 1 - order
    else:
        order = xp.argsort(array, axis=axis, kind="stable")
    index = order[(slice(None),) * axis + (slice(int(k)),)]
    if array.dtype.kind == "f":
        switch("topk", lambda: index)
    return TopK(TakeAlong.apply(x, index, axis), Tensor(index))


@tensor_method("norm")
@numpy_names
def norm(x: Tensor, p: float | str = 2, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The p-norm over ``dim`` (all dimensions by default): ``sum(|x| ** p) ** (1 / p)``.

    ``p=2`` (also called ``"fro"``) is the Euclidean length, ``inf`` the largest and ``-inf`` the
    smallest absolute value. At 0, where a norm has a kink, the gradient is taken as 0.

    Raises:
        ArgumentError: ``p`` is none of these.
        DTypeError: not a floating-point tensor.
    """
    real("norm", x)
    p = 2 if p == "fro" else p
    if not isinstance(p, int | float) or isinstance(p, bool) or not (p >= 1 or p == -math.inf):
        raise ArgumentError(message("norm", 'p >= 1, inf, -inf or "fro"', repr(p)))
    if math.isinf(p):
        return (amax if p > 0 else amin)(abs_(x), dim, keepdim)
    if p == 1:
        return sum(abs_(x), dim, keepdim)
    powers: Any = x * x if p == 2 else abs_(x) ** p
    total = sum(powers, dim, keepdim)
    zero = total == 0
    return where(zero, 0, where(zero, 1, total) ** (1 / p))
