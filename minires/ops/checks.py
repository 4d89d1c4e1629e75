"""What operations share: checks of operands and options, memory layouts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import Variable, in_complex_step
from ..device import array_module, device_of
from ..errors import ArgumentError, DeviceError, DTypeError, ShapeError, message, unknown
from ..tensor import Tensor

Pair = tuple[int, int]
NUMBERS = (int, float, np.integer, np.floating)
MOST = 2**31 - 1  # as much as any size that fits memory has in one direction


def pair(op: str, name: str, value: Any, least: int) -> Pair:
    """An option given as one integer or as (height, width).

    Raises:
        ArgumentError: neither, or below ``least``.
    """
    entries = (value, value) if isinstance(value, int | np.integer) else value
    if (
        not isinstance(entries, tuple | list)
        or len(entries) != 2
        or not all(
            isinstance(e, int | np.integer) and not isinstance(e, bool) and e >= least
            for e in entries
        )
    ):
        raise ArgumentError(
            message(op, f"{name} an integer >= {least} or a pair of them", repr(value))
        )
    if max(entries) > MOST:
        raise ArgumentError(message(op, f"{name} of at most {MOST}", repr(value)))
    return int(entries[0]), int(entries[1])


def remembered(make: Callable[..., Any], most: int = 4096) -> Callable[..., Any]:
    """``make``, a function of shapes and options, computed once for each: the same few come again
    and again, and what kernels make of a geometry is looked up by its identity."""

    @functools.lru_cache(maxsize=most)
    def known(args: tuple[Any, ...], types: tuple[type, ...]) -> Any:
        return make(*args)

    def types(args: tuple[Any, ...]) -> tuple[type, ...]:  # 2.0 and True equal sizes and are none
        return tuple([type(e) for a in args for e in (a if type(a) is tuple else (a,))])

    def get(*args: Any) -> Any:
        try:
            return known(args, types(args))
        except TypeError:  # an option that cannot be a key: a list, or a mistake, which make names
            make(*args)
            args = tuple([tuple(a) if isinstance(a, list) else a for a in args])
            return known(args, types(args))

    return get


def images(op: str, shape: tuple[int, ...]) -> None:
    """Require (n, c, h, w)."""
    if len(shape) != 4:
        raise ShapeError(message(op, "x of shape (n, c, h, w)", shape))


def nhwc(array: Any) -> Any:
    """The (n, h, w, c) buffer behind a logical (n, c, h, w) array in channels-last memory."""
    return array.transpose(0, 2, 3, 1)


def _order(array: Any) -> list[int]:
    """The dimensions of an array from the slowest to the fastest in memory."""
    return sorted(range(array.ndim), key=lambda i: (-array.strides[i], i))


def dense(array: Any) -> Any:
    """The array itself if its entries fill one block of memory in some order of dimensions
    (row-major, channels-last, transposed), else a row-major copy."""
    if array.flags.c_contiguous or array.transpose(_order(array)).flags.c_contiguous:
        return array
    return array.copy(order="C")


def flat(array: Any) -> Any:
    """All entries of a dense array as one dimension, in memory order, without copying."""
    return array.transpose(_order(array)).reshape(-1)


def as_laid_out(array: Any, like: Any) -> Any:
    """``array`` in the memory order of the dense array ``like``."""
    if array.strides == like.strides:
        return array
    order = _order(like)
    target = array.transpose(order).copy(order="C")
    back = [order.index(i) for i in range(len(order))]
    return target.transpose(back)


def full_laid_out(like: Any, shape: tuple[int, ...], value: float = 0) -> Any:
    """An array of another shape, in the memory order and dtype of the array ``like``."""
    order = _order(like)
    y = array_module(like).full([shape[i] for i in order], value, like.dtype)
    return y.transpose([order.index(i) for i in range(like.ndim)])


def operand(name: str, value: Any, like: Variable) -> Any:
    """``value`` as an operand beside the tensor ``like``: a tensor, or a plain Python number."""
    if isinstance(value, Variable):
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        return Tensor(value)
    if isinstance(value, np.ndarray | np.generic):
        value = value.item()
    if isinstance(value, bool | int | float | complex):
        dtype = like.dtype
        if isinstance(value, float) and dtype.kind not in "fc":
            raise DTypeError(
                f"{name}: a {dtype} tensor and the float {value!r} do not mix. "
                "Convert the tensor with .float()."
            )
        fits = dtype.kind not in "iu" or np.iinfo(dtype).min <= value.real <= np.iinfo(dtype).max
        if not fits:
            raise DTypeError(
                f"{name}: a {dtype} tensor and the number {value!r} do not mix. "
                "Convert the tensor first, as in x.long() or x.float()."
            )
        return value
    raise DTypeError(message(name, "a tensor, an array or a number", type(value).__name__))


def check_same(name: str, *tensors: Variable) -> None:
    """All on one device and of one dtype, or an error that says how to make them so."""
    first = tensors[0]
    dtype, on_gpu = first.dtype, _on_gpu(first)
    for other in tensors[1:]:
        if not isinstance(other, Variable):
            given(name, other)
        if other.dtype is dtype and _on_gpu(other) is on_gpu:
            continue
        if _on_gpu(other) != _on_gpu(first):
            one, two = (device_of(v._array) for v in (first, other))
            raise DeviceError(
                f"{name}: expected tensors on one device, got {one} and {two}. "
                f"Move one, as in x.to('{one}')."
            )
        if other.dtype != first.dtype and not in_complex_step():
            raise DTypeError(
                f"{name}: expected one dtype, got {first.dtype} {first.shape} and "
                f"{other.dtype} {other.shape}. Cast one, as in x.astype('{first.dtype}')."
            )


def _on_gpu(x: Variable) -> bool:
    return x._pending is None and not isinstance(x._array, np.ndarray)


def check_reduction(reduction: str) -> None:
    """Refuse a name of no reduction, with the nearest that is one."""
    if reduction not in ("mean", "sum", "none"):
        raise unknown("reduction", reduction, ["mean", "sum", "none"])


def binary_operands(name: str, x: Any, y: Any) -> tuple[Any, Any]:
    """Both operands checked: one dtype, one device, shapes that broadcast."""
    if not (isinstance(x, Variable) and isinstance(y, Variable)):
        like = x if isinstance(x, Variable) else y
        x, y = operand(name, x, given(name, like)), operand(name, y, like)
    if isinstance(x, Variable) and isinstance(y, Variable):
        check_same(name, x, y)
        a, b = x.shape, y.shape
        if a != b:
            for m, n in zip(reversed(a), reversed(b)):
                if m != n and m != 1 and n != 1:
                    raise ShapeError(message(name, "shapes that broadcast", f"{a} and {b}"))
    return x, y


def ordered(value: Any) -> Any:
    """What a comparison looks at in an array or a number: in a complex step the real part, for
    the imaginary part carries a derivative and must not choose."""
    return value.real if in_complex_step() else value


def given(name: str, x: Any) -> Tensor:
    """``x``, if it is a tensor; an error with advice if not."""
    if not isinstance(x, Variable):
        raise DTypeError(message(name, "a tensor", type(x).__name__, fix="Use minires.tensor(x)."))
    return x  # type: ignore[return-value]


def real(name: str, x: Any) -> Tensor:
    """``x``, if it is a floating-point tensor; an error with advice if not."""
    given(name, x)
    if x.dtype.kind not in "fc":
        raise DTypeError(
            message(name, "a floating-point tensor", str(x.dtype), fix="Use x.float().")
        )
    return x  # type: ignore[no-any-return]
