"""Operations that combine the entries along dimensions into one."""

from __future__ import annotations

import builtins
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..arguments import as_integer, flag, number
from ..autograd import Context, Function, Variable, call, switch
from ..device import array_module, as_array
from ..errors import ArgumentError, DTypeError, ShapeError, message, quoted
from ..tensor import Tensor, tensor_method
from . import sums
from .checks import analytic, comparable, given, ordered, real
from .elementwise import Expand, Sqrt, maximum, minimum, only, where

Dims = int | tuple[int, ...] | list[int] | None
F = TypeVar("F", bound=Callable[..., Any])


def numpy_names(function: F) -> F:
    """Let a function of ``dim`` and ``keepdim`` take NumPy's ``axis`` and ``keepdims`` as well,
    and a NumPy array (the ``.data`` of a tensor, for instance) in place of a tensor.

    ``np.sum(tensor)`` calls the method, with ``out`` and ``dtype`` of None, and ``np.var`` with a
    ``ddof``, which is ``correction`` here.

    Raises:
        ArgumentError: an argument under both of its names; an ``out`` that is one, or a ``dtype``
            where the function has none.
    """

    parameters = list(inspect.signature(function).parameters)[1:]
    place = parameters.index("keepdim") if "keepdim" in parameters else None
    refused = ("out",) if "dtype" in parameters else ("out", "dtype")

    @functools.wraps(function)
    def call(x: Any, *args: Any, **options: Any) -> Any:
        if isinstance(x, np.ndarray):
            x = Tensor(x)
        given(function.__name__, x)
        for theirs in refused:
            if options.pop(theirs, None) is not None:
                fix = "Convert with .astype(dtype)." if theirs == "dtype" else ""
                expected = f"no {theirs}, as a result is always a new tensor of its own dtype"
                raise ArgumentError(message(function.__name__, expected, "one", fix=fix))
        for theirs, ours in (("axis", "dim"), ("keepdims", "keepdim"), ("ddof", "correction")):
            if theirs in options:
                if ours in options:
                    raise ArgumentError(
                        f"{function.__name__}: expected {ours} or {theirs}, got both"
                    )
                options[ours] = options.pop(theirs)
        if place is not None and len(args) > place:
            keep = flag(function.__name__, "keepdim", args[place])
            args = (*args[:place], keep, *args[place + 1 :])
        elif "keepdim" in options:
            options["keepdim"] = flag(function.__name__, "keepdim", options["keepdim"])
        return function(x, *args, **options)

    return call  # type: ignore[return-value]


def dims(name: str, x: Tensor, dim: Dims) -> tuple[int, ...]:
    """``dim`` as a sorted tuple of dimensions >= 0; None means all of them.

    A scalar may be asked for dimension 0 or -1, as in PyTorch: there is nothing along it, and the
    tuple is empty.

    Raises:
        ShapeError: a dimension that ``x`` does not have, or one named twice.
        ArgumentError: not integers.
    """
    many = len(given(name, x).shape)
    if dim is None:
        return tuple(range(many))
    result = []
    for entry in dim if isinstance(dim, tuple | list) else (dim,):
        whole = None if isinstance(entry, Tensor) else as_integer(entry)
        if whole is None:
            got = "a tensor" if isinstance(entry, Tensor) else quoted(dim)
            raise ArgumentError(message(name, "dim an integer or a tuple of them", got))
        most = many or 1
        if not -most <= whole < most:
            allowed = f"dim in {-most}..{most - 1}"
            raise ShapeError(message(name, allowed, whole, f"shape {x.shape}"))
        result.append(whole % most)
    if len(set(result)) != len(result):
        raise ShapeError(message(name, "each dim once", quoted(dim), f"shape {x.shape}"))
    return tuple(sorted(result)) if many else ()


def dimension(name: str, x: Tensor, dim: int) -> int:
    """``dim`` as one dimension >= 0 of what is no scalar.

    Raises:
        ShapeError: a scalar, or a dimension that ``x`` does not have.
        ArgumentError: no integer.
    """
    if not given(name, x).shape:
        raise ShapeError(message(name, "at least one dimension", f"shape {x.shape}"))
    if dim is None or isinstance(dim, tuple | list):
        raise ArgumentError(message(name, "one dim, an integer", quoted(dim)))
    return dims(name, x, dim)[0]


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _nonempty(name: str, x: Tensor, axes: tuple[int, ...]) -> None:
    if builtins.any(x.shape[axis] == 0 for axis in axes):
        raise ShapeError(message(name, "at least one entry to choose from", f"shape {x.shape}"))


class Sum(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
        ctx.shape, ctx.axes = x.shape, axes
        return sums.total(x, axes, keepdim)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return _spread(gy, ctx.shape, ctx.axes), None, None


class Mean(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
        ctx.shape, ctx.axes = x.shape, axes
        return sums.mean(x, axes, keepdim)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        count = math.prod([ctx.shape[axis] for axis in ctx.axes])
        return _spread(gy / count, ctx.shape, ctx.axes), None, None


def _spread(gy: Tensor, shape: tuple[int, ...], axes: tuple[int, ...]) -> Tensor:
    """The gradient of a sum over ``axes``, for each entry that was summed."""
    if gy.shape:  # a scalar fits any shape as it is
        gy = gy.reshape(_kept(shape, axes))
    return Expand.apply(gy, shape)


class StandardDeviation(Sqrt):
    """The root of a variance. Where all entries are equal it has a kink, like the length of a
    vector at 0, and the gradient is taken as 0."""

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (y,) = ctx.saved
        flat = y == 0
        return where(flat, 0, gy / where(flat, 1, y * 2))


class Extreme(Function):
    """The largest (or smallest) values; equal ones share the gradient evenly."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, axes: tuple[int, ...], keepdim: bool, name: str) -> Any:
        y = peak = getattr(x.real, name)(axis=axes, keepdims=True)
        ctx.axes = axes

        def chosen() -> Any:  # a NaN is the maximum of what has one
            return (x.real == peak) | ((x != x) & (peak != peak))

        switch(f"a{name}", chosen)
        if ctx.needs_grad[0] or x.dtype.kind == "c":
            mask = chosen()
            count = mask.sum(axis=axes, keepdims=True)  # of integers: as large as it is
            share = mask / count.astype(peak.dtype)
            ctx.save_constants(share, mask)
            if x.dtype.kind == "c":
                y = sums.total(array_module(x).where(mask, x, 0) * share, axes, True)
        return y if keepdim else y.squeeze(axis=axes)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        share, mask = ctx.constants
        share = Tensor(share.astype(gy.dtype, copy=False))
        gx = gy.reshape(_kept(share.shape, ctx.axes)) * share
        return only(gx, mask), None, None, None


class TakeAlong(Function):
    """x[..., index, ...] along one axis; the adjoint of PutAlong."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, index: Any, axis: int) -> Any:
        ctx.shape, ctx.axis = x.shape, axis
        ctx.save_constants(index)
        return array_module(x).take_along_axis(x, index, axis)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return PutAlong.apply(gy, ctx.constants[0], ctx.axis, ctx.shape), None, None


class PutAlong(Function):
    """Zeros of a shape, with x at ``index`` along one axis (one index per line)."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, index: Any, axis: int, shape: tuple[int, ...]) -> Any:
        ctx.axis = axis
        ctx.save_constants(index)
        xp = array_module(x)
        y = xp.zeros(shape, x.dtype)
        xp.put_along_axis(y, index, x, axis)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return TakeAlong.apply(gy, ctx.constants[0], ctx.axis), None, None, None


class Extremum(NamedTuple):
    """The result of ``x.max(dim)``: values, and their positions along ``dim``."""

    values: Tensor
    indices: Tensor


@tensor_method("sum")
@numpy_names
def sum(x: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum over ``dim`` (all dimensions by default); bools and integers are counted as int64.
    With a ``dtype`` x is converted first, and the result has this dtype."""
    if dtype is not None:
        x = x.astype(dtype)
    axes = dims("sum", x, dim)
    if x.dtype.kind not in "fc":
        total = Tensor(call(_count, x._array, axes, keepdim))
        return total if dtype is None else total.astype(dtype)
    return Sum.apply(x, axes, keepdim)


def _count(array: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    return as_array(array.sum(axis=axes, keepdims=keepdim, dtype=np.int64))


@tensor_method("mean")
@numpy_names
def mean(x: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean over ``dim`` (all dimensions by default), of x converted to ``dtype`` if one is
    given.

    Raises:
        DTypeError: not a floating-point tensor.
        ShapeError: there is nothing to average.
    """
    x = analytic("mean", x if dtype is None else x.astype(dtype))
    axes = dims("mean", x, dim)
    _nonempty("mean", x, axes)
    return Mean.apply(x, axes, keepdim)


@tensor_method("var")
@numpy_names
def var(
    x: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The variance over ``dim``: squared distances from the mean, over ``n - correction``.

    Args:
        x: any shape.
        dim: the dimensions, all of them by default. As in PyTorch, ``var(False)`` is
            ``var(unbiased=False)``.
        unbiased: PyTorch's older name: True is ``correction=1``, False ``correction=0``.
        keepdim: whether the dimensions stay, with size 1.
        correction: 1 by default; 0 for the variance of a whole population.

    Raises:
        ArgumentError: both ``unbiased`` and ``correction``, or one of another kind.
        ShapeError: fewer than ``correction + 1`` entries.
    """
    real("var", x)
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None:
        unbiased = flag("var", "unbiased", unbiased)
        if correction is not None:
            raise ArgumentError("var: expected unbiased or correction, got both")
    if correction is None:
        correction = 0 if unbiased is False else 1
    correction = number("var", "correction", correction)
    axes = dims("var", x, dim)
    count = int(np.prod([x.shape[axis] for axis in axes]))
    if count <= correction:
        raise ShapeError(
            message(
                "var",
                f"more than {correction} entries",
                count,
                f"shape {x.shape}, dim {dim}",
                "Use correction=0 for the population variance.",
            )
        )
    distance = x - mean(x, axes, keepdim=True)
    return sum(distance * distance, axes, keepdim) / (count - correction)


@tensor_method("std")
@numpy_names
def std(
    x: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The square root of :func:`var`, which explains the arguments.

    Where all entries are equal, it is 0, and so is the gradient.
    """
    return StandardDeviation.apply(var(x, dim, unbiased, keepdim, correction=correction))


@tensor_method("amax")
@numpy_names
def amax(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The largest values over ``dim``; equal ones share the gradient evenly.

    NaN is larger than any number; entries that are NaN share the gradient.
    """
    comparable("amax", x)
    axes = dims("amax", x, dim)
    _nonempty("amax", x, axes)
    return Extreme.apply(x, axes, keepdim, "max")


@tensor_method("amin")
@numpy_names
def amin(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The smallest values over ``dim``; equal ones share the gradient evenly.

    NaN is smaller than any number; entries that are NaN share the gradient.
    """
    comparable("amin", x)
    axes = dims("amin", x, dim)
    _nonempty("amin", x, axes)
    return Extreme.apply(x, axes, keepdim, "min")


def _extremum(name: str, x: Tensor, dim: Any, keepdim: bool, other: Any) -> Any:
    if isinstance(dim, Variable) and other is None:
        dim, other = None, dim
    if other is not None:
        if dim is not None:
            raise ArgumentError(f"{name}: expected dim or another tensor, got both")
        return (maximum if name == "max" else minimum)(x, given(name, other))
    if dim is None:
        return (amax if name == "max" else amin)(x)
    axis = _one(name, x, dim)
    index = _arg(name, x, axis, True)
    if axis is None:
        return Extremum((amax if name == "max" else amin)(x), Tensor(index))
    values = TakeAlong.apply(x, index, axis)
    if not keepdim:
        shape = tuple(n for i, n in enumerate(x.shape) if i != axis)
        return Extremum(values.reshape(shape), Tensor(index.reshape(shape)))
    return Extremum(values, Tensor(index))


def _one(name: str, x: Tensor, dim: Any) -> int | None:
    """``dim`` as one dimension >= 0; None for that of a scalar."""
    if as_integer(dim) is None:
        raise ArgumentError(message(name, "one dim, an integer", quoted(dim)))
    found = dims(name, x, dim)
    return found[0] if found else None


def _arg(name: str, x: Tensor, axis: int | None, keepdim: bool) -> Any:
    comparable(f"arg{name}", x)
    _nonempty(name, x, tuple(range(x.ndim)) if axis is None else (axis,))
    array = ordered(x._array)
    function = getattr(array_module(array), f"arg{name}")
    found = call(functools.partial(function, axis=axis, keepdims=keepdim), array)
    if array.dtype.kind == "f":
        switch(f"arg{name}", lambda: found)
    return as_array(found)


@tensor_method("max")
@numpy_names
def max(x: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """The largest entry; with ``dim``, ``(values, indices)`` along it; with another tensor, by
    itself or as ``other``, what :func:`maximum` gives.

    With ``dim`` the gradient goes to the entry at the index, the first of equal ones (or of NaN,
    which counts as the largest); without, equal ones share it, as in :func:`amax`.
    """
    return _extremum("max", x, dim, keepdim, other)


@tensor_method("min")
@numpy_names
def min(x: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """The smallest entry; with ``dim``, ``(values, indices)`` along it; with another tensor, by
    itself or as ``other``, what :func:`minimum` gives.

    With ``dim`` the gradient goes to the entry at the index, the first of equal ones (or of NaN,
    which counts as the smallest); without, equal ones share it, as in :func:`amin`.
    """
    return _extremum("min", x, dim, keepdim, other)


@tensor_method("argmax")
@numpy_names
def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the largest entry stands (the first, if several do), as int64."""
    axis = None if dim is None else _one("argmax", x, dim)
    return Tensor(_arg("max", x, axis, keepdim))


@tensor_method("argmin")
@numpy_names
def argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the smallest entry stands (the first, if several do), as int64."""
    axis = None if dim is None else _one("argmin", x, dim)
    return Tensor(_arg("min", x, axis, keepdim))


def _truth(name: str) -> Any:
    def reduce(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
        array = ordered(x._array)
        if array.dtype.kind == "c":
            raise DTypeError(message(name, "a real tensor", str(x.dtype)))
        axes = dims(name, x, dim)
        function = getattr(array_module(array), name)
        found = call(functools.partial(function, axis=axes, keepdims=keepdim), array)
        return Tensor(as_array(found))

    reduce.__name__ = name
    reduce.__doc__ = f"Whether {name} entries over ``dim`` are not zero."
    return reduce


any = tensor_method("any")(numpy_names(_truth("any")))
all = tensor_method("all")(numpy_names(_truth("all")))
