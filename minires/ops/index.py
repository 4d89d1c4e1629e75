"""Indexing: ``x[index]``, read and written."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from ..arguments import as_integer
from ..autograd import (
    Context,
    Function,
    Variable,
    call,
    check,
    check_inplace,
    check_target,
    copied,
    host_read,
    written,
)
from ..device import array_module, move
from ..errors import BoundsError, DTypeError, ShapeError, message, quoted
from ..tensor import Tensor, tensor_method
from .checks import check_same, full_laid_out, operand
from .elementwise import sum_to
from .scatter import add_at, check_bounds, has_numbers, last_at, set_at


class GetItem(Function):
    view = True
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, index: Any) -> Any:
        ctx.shape = x.shape
        if _is_basic(index):
            if not isinstance(index, tuple):
                index = (index,)
            if not builtins.any(part is Ellipsis for part in index):
                index = (*index, Ellipsis)  # one entry is then a view too, and no NumPy scalar
            ctx.save_constants(index)
        elif ctx.needs_grad[0]:
            ctx.save_constants(_own(index))
        return x[index]

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return ScatterAdd.apply(gy, ctx.constants[0], ctx.shape), None


class ScatterAdd(Function):
    """Zeros of a shape, with x added at an index; the adjoint of GetItem."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, index: Any, shape: tuple[int, ...]) -> Any:
        ctx.save_constants(index)
        xp = array_module(x)
        y = full_laid_out(x, shape) if x.ndim == len(shape) else xp.zeros(shape, x.dtype)
        if _is_basic(index):
            y[index] = x
            return y
        return add_at(y, index, x)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return GetItem.apply(gy, ctx.constants[0]), None, None


class SetItem(Function):
    """(x, values) → x after ``values`` were written at an index, in place."""

    # not complex_safe: there is no forward, and real memory cannot take what a complex step writes

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        index, shape = ctx.index, ctx.shape
        xp = array_module(gy._array)
        gx = gvalues = None
        if ctx.needs_grad[0]:
            gx = gy * Tensor(call(_zero_at, xp.ones(gy.shape, gy.dtype), index))
        if ctx.needs_grad[1]:
            gvalues = GetItem.apply(gy, index)
            if not _is_basic(index):  # of several values for one entry, the last one stays
                stays = call(_stays, gy._array, index)
                gvalues = gvalues * Tensor(stays)
            gvalues = _fit_back(gvalues, shape)
        return gx, gvalues


def _zero_at(array: Any, index: Any) -> Any:
    array = array.copy()
    array[index] = 0
    return array


def _stays(gy: Any, index: Any) -> Any:
    """1 for each value that is the last one that the index puts into its place, else 0."""
    last = last_at(index, gy.shape, gy)[index]
    numbers = array_module(gy).arange(last.size).reshape(last.shape)
    return (last == numbers).astype(gy.dtype)


def _fit_back(gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo what assignment does to fit values: broadcasting, and dropping leading ones."""
    while len(shape) > gradient.ndim:
        gradient = gradient.reshape((1, *gradient.shape))
    return sum_to(gradient, shape)


_LAST = 2**63 - 1  # NumPy takes larger ones for negative ones, or fails


def _clean(index: Any, x: Tensor) -> Any:
    """An index for x with its tensors turned into arrays, on x's device."""
    if isinstance(index, tuple):
        return tuple(_clean(part, x) for part in index)
    if isinstance(index, Variable):
        if index._array.dtype.kind not in "iub":
            raise DTypeError(message("index", "an integer or bool tensor", str(index._array.dtype)))
        return _beside(index._array, x)
    if index is None or index is Ellipsis or isinstance(index, bool):
        return index
    if isinstance(index, slice):
        return slice(*(_end(part) for part in (index.start, index.stop, index.step)))
    if isinstance(index, list | range):
        index = _listed(index)
    if isinstance(index, np.ndarray | np.generic) or hasattr(index, "__cuda_array_interface__"):
        if index.dtype.kind not in "iub":
            raise DTypeError(message("index", "integers, slices or bools", str(index.dtype)))
        if index.dtype == np.uint64 and index.size and index.max() > _LAST:
            raise BoundsError(message("index", "what fits an int64", index.max().item()))
        return _beside(index, x) if index.ndim else index
    whole = as_integer(index)
    if whole is None:
        raise DTypeError(message("index", "integers, slices or bools", quoted(index)))
    if not -_LAST - 1 <= whole <= _LAST:
        raise BoundsError(message("index", "what fits an int64", quoted(whole)))
    return whole


def _beside(index: Any, x: Tensor) -> Any:
    """An index array on x's device."""
    return index if type(index) is type(x._array) else move(index, x.device)


def _end(part: Any) -> int | None:
    """One of the numbers of a slice."""
    whole = None if part is None else as_integer(part)
    if whole is None and part is not None:
        raise DTypeError(message("index", "integers or None in a slice", quoted(part)))
    return whole


def _listed(index: Any) -> Any:
    """A list of integers, bools or tensors of one as an array."""
    try:
        return np.asarray(index, dtype=None if len(index) else np.int64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DTypeError(message("index", "integers or bools in a list", str(error))) from error


def _is_basic(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return builtins.all(
        p is None
        or p is Ellipsis
        or isinstance(p, slice)
        or (isinstance(p, int | np.integer) and not isinstance(p, bool))
        for p in parts
    )


def _own(index: Any) -> Any:
    """An index whose arrays the user cannot write into before the backward pass."""
    if isinstance(index, tuple):
        return tuple(_own(part) for part in index)
    return copied(index) if hasattr(index, "copy") else index


def _integers_first(index: Any) -> tuple[Any, Any] | None:
    """An index that mixes integers with index arrays, as two: all but the arrays, then the arrays.

    NumPy takes an integer for an index array, and where a slice stands between two of those their
    dimension moves to the front. As in PyTorch, an integer only takes its dimension away.
    """
    if not isinstance(index, tuple):
        return None
    arrays = [(hasattr(part, "ndim") and part.ndim > 0) or isinstance(part, list) for part in index]
    if True not in arrays or not builtins.any(
        isinstance(part, int | np.integer) and not isinstance(part, bool) for part in index
    ):
        return None
    first: list[Any] = []
    then: list[Any] = []
    for part, is_array in zip(index, arrays):
        if is_array:
            mask = getattr(part, "dtype", None) == np.bool_
            first += [slice(None)] * (part.ndim if mask else 1)
            then.append(part)
        else:
            first.append(part)
            if part is Ellipsis:
                then.append(part)
            elif part is None or isinstance(part, slice):
                then.append(slice(None))
    return tuple(first), tuple(then)


@tensor_method("__getitem__")
def getitem(x: Tensor, index: Any) -> Tensor:
    """``x[index]`` with PyTorch's meaning: integers and slices are views, index arrays and masks
    copy.

    Raises:
        ShapeError: an index out of range, or more indices than dimensions. (Index arrays on a GPU
            are not looked at where a captured function is replayed: what is beyond the end is then
            taken from the beginning.)
        DTypeError: an index that is neither integer nor bool.
    """
    index = _clean(index, x)
    for part in index if isinstance(index, tuple) else (index,):
        if getattr(part, "dtype", None) == np.bool_:
            host_read("a mask, which decides how many entries there are,")
    steps = _integers_first(index)
    if steps is not None:
        return getitem(getitem(x, steps[0]), steps[1])
    try:
        _check_bounds(x, index)
        return GetItem.apply(x, index)
    except IndexError as error:
        raise BoundsError(f"index: {error} (shape {x.shape})") from error


@tensor_method("__setitem__")
def setitem(x: Tensor, index: Any, value: Any) -> None:
    """``x[index] = value``, in place, with gradients for what stays and for ``value``."""
    index = _clean(index, x)
    steps = _integers_first(index)
    if steps is not None:
        setitem(getitem(x, steps[0]), steps[1], value)
        return
    value = operand("assignment", value, x)
    record = check_inplace(x, value)
    check_target(x)
    array = x._array
    if isinstance(value, Variable):
        check_same("assignment", x, value)
        if value._array.dtype.kind == "c" and array.dtype.kind != "c":
            raise DTypeError(  # only in a complex step, where dtypes may mix
                f"assignment: a complex step cannot go through a write into {array.dtype} memory."
            )
    try:
        _check_bounds(x, index)
        call(set_at, array, index, value._array if isinstance(value, Variable) else value)
    except IndexError as error:
        raise BoundsError(f"index: {error} (shape {x.shape})") from error
    except ValueError as error:
        raise ShapeError(
            message(
                "assignment",
                f"values that fit x[index] of shape {array[index].shape}",
                getattr(value, "shape", value),
            )
        ) from error
    if not record:
        written(x, None)
        return
    written(x, _assigned(x, value, index))


def _check_bounds(x: Tensor, index: Any) -> None:
    """Raise an IndexError where the array module would not."""
    if x.device.type == "cuda" and has_numbers(index):
        check(check_bounds, x._array, index)


def _assigned(x: Tensor, value: Any, index: Any) -> Tensor:
    """A stand-in for ``x`` after the write, whose history is SetItem(x before it, value)."""
    needs = (x.requires_grad, isinstance(value, Variable) and value.requires_grad)
    ctx = Context(needs)
    ctx.index, ctx.shape = _own(index), getattr(value, "shape", ())
    output = Tensor._wrap(x._array)
    SetItem.record(ctx, (x, value), output)
    return output
