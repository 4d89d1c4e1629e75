"""Choosing entries, marking them, and measuring their size."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..arguments import as_integer, as_number, check_memory, flag
from ..autograd import call, check, host_read, switch
from ..device import array_module
from ..errors import ArgumentError, DTypeError, message, quoted
from ..tensor import Tensor, tensor_method
from .checks import comparable, ordered, real
from .elementwise import abs_, where
from .reduce import Dims, TakeAlong, _nonempty, amax, amin, dimension, dims, numpy_names, sum
from .reduce import any as any_


class TopK(NamedTuple):
    """The result of :func:`topk`: values, and their positions along ``dim``."""

    values: Tensor
    indices: Tensor


@tensor_method("topk")
@numpy_names
def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> TopK:
    """The ``k`` largest (or smallest) entries along ``dim``, and their indices.

    Equal entries come in the order in which they stand; NaN counts as the largest. The result is
    always in order, best first: ``sorted`` is there for PyTorch code, and changes nothing.

    Args:
        x: any shape.
        k: how many, in 0..x.shape[dim]; 1 of a scalar.
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
    many, largest = as_integer(k), flag("topk", "largest", largest)
    flag("topk", "sorted", sorted)
    if not x.ndim and dims("topk", x, dim) == ():  # a scalar is the best of itself
        if many != 1:
            raise ArgumentError(message("topk", "k = 1 of a scalar", quoted(k)))
        return TopK(amax(x), Tensor(array_module(x._array).zeros((), np.int64)))
    axis = dimension("topk", x, dim)
    if many is None or not 0 <= many <= x.shape[axis]:
        size = f"x {x.shape}, dim {axis}"
        raise ArgumentError(message("topk", f"k in 0..{x.shape[axis]}", quoted(k), size))
    comparable("topk", x)
    array = ordered(x._array)
    index = call(_first, array, axis, many, largest)
    if array.dtype.kind == "f":
        switch("topk", lambda: index)
    return TopK(TakeAlong.apply(x, index, axis), Tensor(index))


def _first(array: Any, axis: int, k: int, largest: bool) -> Any:
    """Where the k largest or smallest entries stand along an axis, in order."""
    xp = array_module(array)
    if largest:  # sorted from the end, so that of equal entries the first comes first
        order = xp.flip(xp.argsort(xp.flip(array, axis), axis=axis, kind="stable"), axis)
        order = array.shape[axis] - 1 - order
    else:
        order = xp.argsort(array, axis=axis, kind="stable")
    return order[(slice(None),) * axis + (slice(k),)]


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Each label as a row of zeros with a single one, at the label's place.

    Args:
        tensor: labels, integers >= 0 of any shape.
        num_classes: the length of the rows; -1 for one more than the largest label.

    Returns:
        int64, of shape ``(*tensor.shape, num_classes)``; without a gradient. (Labels are not
        looked at where a captured function is replayed on a GPU: one out of range has zeros only.)

    Raises:
        DTypeError: labels that are no integers.
        ArgumentError: a label out of range, or ``num_classes`` neither -1 nor >= 1; -1 with no
            label to tell it from.

    >>> import minires as mr
    >>> one_hot(mr.tensor([2, 0]), 3).tolist()
    [[0, 0, 1], [1, 0, 0]]
    """
    labels = (tensor if isinstance(tensor, Tensor) else Tensor(tensor))._array
    if labels.dtype.kind not in "iu":
        fix = "Convert class numbers with .long()."
        raise DTypeError(message("one_hot", "integer labels", str(labels.dtype), fix=fix))
    many = as_integer(num_classes)
    if many is None or (many < 1 and many != -1):
        raise ArgumentError(message("one_hot", "num_classes >= 1, or -1", quoted(num_classes)))
    if many == -1:
        if not labels.size:
            raise ArgumentError(message("one_hot", "num_classes for no labels at all", -1))
        host_read("the largest label, for num_classes=-1,")
        many = int(labels.max()) + 1
    check_memory("one_hot", 8 * max(labels.size, 1) * many, f"{many} classes")
    check(_check_classes, labels, many)
    return Tensor(call(_rows_of, labels, many))


def _check_classes(labels: Any, num_classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        expected = "labels >= 0" if num_classes < 1 else f"labels in 0..{num_classes - 1}"
        fix = "Labels count from 0." if int(wrong[0]) == num_classes else ""
        raise ArgumentError(message("one_hot", expected, int(wrong[0]), fix=fix))


def _rows_of(labels: Any, num_classes: int) -> Any:
    xp = array_module(labels)
    return (labels[..., None] == xp.arange(num_classes)).astype(np.int64)


@tensor_method("norm")
@numpy_names
def norm(
    x: Tensor,
    p: float | str = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    """The p-norm over ``dim`` (all dimensions by default): ``sum(|x| ** p) ** (1 / p)``.

    ``p=2`` (also called ``"fro"``) is the Euclidean length, ``inf`` the largest and ``-inf`` the
    smallest absolute value, 0 the number of entries that are not 0. Below 0, one entry of 0 makes
    the norm 0. At 0, where a norm has a kink, the gradient is taken as 0. With a ``dtype`` x is
    converted first.

    Raises:
        ArgumentError: ``p`` is none of these.
        DTypeError: not a floating-point tensor.
        ShapeError: ``p`` is negative, and there is no entry.
    """
    x = real("norm", x if dtype is None else x.astype(dtype))
    power = 2 if isinstance(p, str) and p == "fro" else as_number(p)
    if power is None or not (abs(power) < 1e300 or abs(power) == math.inf):
        raise ArgumentError(message("norm", 'p a number, inf, -inf or "fro"', quoted(p)))
    p = power
    if math.isinf(p):
        return (amax if p > 0 else amin)(abs_(x), dim, keepdim)
    if p == 1:
        return sum(abs_(x), dim, keepdim)
    if p < 1:
        return _norm_below_1(x, p, dim, keepdim)
    powers: Any = x * x if p == 2 else abs_(x) ** p
    return _root(sum(powers, dim, keepdim), p)


def _root(total: Tensor, p: float) -> Tensor:
    """``total ** (1 / p)``, and of 0 a gradient of 0."""
    zero = total == 0
    return where(zero, 0, where(zero, 1, total) ** (1 / p))


def _norm_below_1(x: Tensor, p: float, dim: Dims, keepdim: bool) -> Tensor:
    """The p-norm for p < 1, whose slope at 0 is infinite: entries of 0 are kept out of it."""
    zero: Any = x == 0
    if p == 0:
        return sum((~zero).astype(x.dtype), dim, keepdim)
    powers = where(zero, 0, where(zero, 1, abs_(x)) ** p)
    if p > 0:
        return _root(sum(powers, dim, keepdim), p)
    _nonempty("norm", x, dims("norm", x, dim))
    alone = any_(zero, dim, keepdim)  # such a sum has an infinite term, and its root is 0
    return where(alone, 0, where(alone, 1, sum(powers, dim, keepdim)) ** (1 / p))
