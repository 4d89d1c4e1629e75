"""Checks of operands and options, and memory layouts, which operations share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..arguments import as_integer, as_number, choice
from ..autograd import Variable, in_complex_step
from ..device import array_module
from ..errors import DeviceError, DTypeError, ShapeError, message, quoted
from ..tensor import Tensor, given

Pair = tuple[int, int]
F = TypeVar("F", bound=Callable[..., Any])


def _key(option: Any) -> Any:
    """An option that a check has passed, as Python's own tuples and integers."""
    if isinstance(option, list | tuple):
        return tuple([_key(entry) for entry in option])
    whole = as_integer(option)
    return option if whole is None else whole


def memoised(make: Callable[..., Any], shapes: int, most: int = 4096) -> Callable[..., Any]:
    """``make``, a function of so many shapes and then options, with one result for equal arguments:
    the same few come again and again, and kernels look up their plan of a geometry by its
    identity."""

    @functools.lru_cache(maxsize=most)
    def known(args: tuple[Any, ...], types: tuple[type, ...]) -> Any:
        return make(*args)

    def types(args: tuple[Any, ...]) -> tuple[type, ...]:  # 2.0 and True equal sizes and are none
        return tuple([type(e) for a in args for e in (a if type(a) is tuple else (a,))])

    def get(*args: Any) -> Any:
        try:
            return known(args, types(args[shapes:]))  # the sizes in shapes are integers
        except TypeError:  # an option that cannot be a key: a list, or a mistake, which make names
            make(*args)
            args = tuple([_key(option) for option in args])
            return known(args, types(args[shapes:]))

    return get


def images(op: str, shape: tuple[int, ...]) -> None:
    """Require (n, c, h, w); one image is a batch of one by now (:func:`takes_one_image`)."""
    if len(shape) != 4:
        raise ShapeError(message(op, "x of shape (n, c, h, w) or (c, h, w)", shape))


def takes_one_image(op: F) -> F:
    """Let an operation on images (n, c, h, w) take one image (c, h, w), too: it goes in as a batch
    of one, and each result comes out as one."""

    @functools.wraps(op)
    def apply(x: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(x, Tensor) or len(x.shape) != 3:
            return op(x, *args, **options)
        y = op(x.unsqueeze(0), *args, **options)
        return y.squeeze(0) if isinstance(y, Tensor) else type(y)(*[one.squeeze(0) for one in y])

    return apply  # type: ignore[return-value]


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
    """``value`` as an operand beside the tensor ``like``: a tensor, or a plain Python number.

    Raises:
        DTypeError: neither, or a number that a tensor of like's dtype cannot meet.
    """
    if isinstance(value, Variable):
        return value
    if type(value) is not float and type(value) is not int and _is_array(value):
        return Tensor(value)
    number = plain(name, value)
    kind = like.dtype.kind
    if type(number) is float:
        if kind not in "fc":
            raise DTypeError(
                f"{name}: a {like.dtype} tensor and the float {number!r} do not mix. "
                "Convert the tensor with .float()."
            )
    elif type(number) is int:
        least, most = _range(like.dtype)
        if not least <= number <= most:
            raise DTypeError(
                f"{name}: a {like.dtype} tensor and the number {quoted(number)} do not mix. "
                "Convert the tensor first, as in x.long() or x.float()."
            )
    elif type(number) is complex and kind != "c" and not in_complex_step():
        raise DTypeError(message(name, "real numbers", quoted(number)))
    return number


def _is_array(value: Any) -> bool:
    """Whether a value is an array of one dimension or more."""
    ours = isinstance(value, np.ndarray) or hasattr(value, "__cuda_array_interface__")
    return ours and value.ndim > 0


def plain(name: str, value: Any) -> bool | int | float | complex:
    """A number of Python's or NumPy's, or an array of no dimensions, as Python's.

    Raises:
        DTypeError: something else.
    """
    if type(value) is float or type(value) is int or type(value) is bool:
        return value
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0 and value.dtype.kind in "bc":
        value = value.item()
    if isinstance(value, bool | complex):
        return value
    number = as_number(value)
    if number is None:
        raise DTypeError(message(name, "a tensor, an array or a number", type(value).__name__))
    return number


@functools.cache
def _range(dtype: Any) -> tuple[int, int]:
    """The least and the largest integer that may meet a tensor of this dtype: its own range, or for
    floats the range of double precision."""
    if dtype.kind in "fc":
        return -(2**1023), 2**1023
    limits = np.iinfo(np.int64 if dtype.kind == "b" else dtype)
    return int(limits.min), int(limits.max)


def check_same(name: str, *tensors: Variable) -> None:
    """All on one device and of one dtype, or an error that says how to make them so."""
    first = tensors[0]
    a = first._array if first._lazy is None else first._lazy
    for other in tensors[1:]:
        if not isinstance(other, Variable):
            given(name, other)
        b = other._array if other._lazy is None else other._lazy
        one_device = type(a) is type(b) is np.ndarray or first.device is other.device
        if one_device and a.dtype is b.dtype:
            continue
        if other.device != first.device:
            one, two = first.device, other.device
            raise DeviceError(
                f"{name}: expected tensors on one device, got {one} and {two}. "
                f"Move one, as in x.to('{one}')."
            )
        if other.dtype != first.dtype and not in_complex_step():
            raise DTypeError(
                f"{name}: expected one dtype, got {first.dtype} {first.shape} and "
                f"{other.dtype} {other.shape}. Cast one, as in x.astype('{first.dtype}')."
            )


def check_reduction(reduction: str) -> str:
    """``reduction``, if it is one; else an error with the nearest name that is."""
    return choice("reduction", reduction, ("mean", "sum", "none"))


def binary_operands(name: str, x: Any, y: Any) -> tuple[Any, Any]:
    """Both operands checked: one dtype, one device, shapes that broadcast."""
    if not (isinstance(x, Variable) and isinstance(y, Variable)):
        like = x if isinstance(x, Variable) else y
        x, y = operand(name, x, given(name, like)), operand(name, y, like)
        if not (isinstance(x, Variable) and isinstance(y, Variable)):
            return x, y  # a number meets every shape
    check_same(name, x, y)
    a, b = x.shape, y.shape
    if a != b:
        for m, n in zip(reversed(a), reversed(b)):
            if m != n and m != 1 and n != 1:
                raise ShapeError(message(name, "shapes that broadcast", f"{a} and {b}"))
    return x, y


def ordered(value: Any) -> Any:
    """An array or a number as comparisons see it: in a complex step the real part, for the
    imaginary part carries a derivative and must not choose."""
    return value.real if in_complex_step() else value


def real(name: str, x: Any) -> Tensor:
    """``x``, if it is a floating-point tensor; an error with advice if not."""
    given(name, x)
    if x.dtype.kind != "f" and not (x.dtype.kind == "c" and in_complex_step()):
        fix = "" if x.dtype.kind == "c" else "Use x.float()."
        raise DTypeError(message(name, "a floating-point tensor", str(x.dtype), fix=fix))
    return x


def analytic(name: str, x: Any) -> Tensor:
    """The same for an operation that complex numbers have, too."""
    given(name, x)
    return x if x.dtype.kind == "c" else real(name, x)


def comparable(name: str, *values: Any) -> None:
    """Refuse complex tensors, whose entries have neither an order nor a sign."""
    for x in values:
        if isinstance(x, Variable) and x.dtype.kind == "c" and not in_complex_step():
            raise DTypeError(message(name, "real numbers", str(x.dtype)))


def numbers(name: str, x: Any, fix: str = "") -> Tensor:
    """``x``, if it is a tensor of something other than bools."""
    if not isinstance(x, Variable) or x._array.dtype == np.bool_:
        got = "bools" if isinstance(x, Variable) else type(x).__name__
        raise DTypeError(message(name, "a tensor of numbers", got, fix=fix))
    return x  # type: ignore[return-value]
