"""Tensors of a given shape: one value everywhere, ranges, the identity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arguments import as_integer, check_memory, integer, number
from .device import CPU, Device, array_module, beside
from .errors import ArgumentError, DTypeError, ShapeError, message, quoted
from .ranges import check_range, has
from .tensor import Tensor, as_dtype, given, make

DIMS = 64  # as many as NumPy has
MOST = 2**56  # entries: NumPy counts bytes in 63 bits


def sizes_of(op: str, args: Sequence[Any], least: int = 0) -> tuple[int, ...]:
    """The sizes given as ``f(2, 3)`` or ``f((2, 3))``, as ints from ``least`` on.

    Raises:
        ShapeError: not integers, below ``least``, or more dimensions than an array can have.
    """
    if len(args) == 1 and _is_sequence(args[0]):
        args = args[0]
    sizes = [size for size in map(as_integer, args) if size is not None]
    if len(sizes) < len(args):
        raise ShapeError(message(op, "integers", quoted(tuple(args[: DIMS + 1]))))
    if len(sizes) > DIMS:
        raise ShapeError(message(op, f"at most {DIMS} dimensions", len(sizes)))
    if any(size < least for size in sizes):
        raise ShapeError(message(op, f"sizes >= {least}", quoted(tuple(sizes))))
    return tuple(sizes)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def shape_of(args: Sequence[Any], dtype: Any = np.float32, size: Any = None) -> tuple[int, ...]:
    """The shape of a new array of this dtype, if there is memory for one; ``size`` is it by name.

    Raises:
        ArgumentError: sizes by position and by name.
        ShapeError: not sizes.
        OutOfMemory: more than this machine has.
    """
    if size is not None and len(args):
        raise ArgumentError(message("shape", "sizes by position or size=", "both"))
    shape = sizes_of("shape", args if size is None else [size])
    apart = math.prod(max(size, 1) for size in shape)  # NumPy counts these, too, in 63 bits
    entries = apart if apart > MOST else math.prod(shape)
    check_memory("shape", entries * np.dtype(dtype).itemsize, f"shape {quoted(shape)}")
    return shape


def _value(op: str, value: Any, dtype: np.dtype[Any], name: str = "fill_value") -> Any:
    """A number to fill an array of this dtype with; ``name`` is the argument's.

    Raises:
        ArgumentError: not a number.
        DTypeError: one that the dtype does not have.
    """
    if isinstance(value, Tensor):
        value = value.item()
    if isinstance(value, bool | np.bool_):
        return bool(value)
    real = number(op, name, value, finite=False)
    if not has(dtype, real):
        raise DTypeError(message(op, f"{name} a number that {dtype} has", quoted(real)))
    return real


def full(
    shape: Sequence[int] | int,
    fill_value: float,
    dtype: Any = np.float32,
    requires_grad: bool = False,
    device: str | Device = CPU,
) -> Tensor:
    """A tensor of this shape with the same value everywhere.

    Raises:
        DTypeError: a value that the dtype does not have, as 300 in uint8 or 1e40 in float32.
        ShapeError, OutOfMemory: no shape, or a larger one than there is memory for.
    """
    kind = as_dtype(dtype)
    value = _value("full", fill_value, kind)
    return make(np.full(shape_of([shape], kind), value, kind), requires_grad, device)


def zeros(
    *shape: Any,
    size: Any = None,
    dtype: Any = np.float32,
    requires_grad: bool = False,
    device: str | Device = CPU,
) -> Tensor:
    """Zeros: ``zeros(2, 3)`` or ``zeros((2, 3))``."""
    kind = as_dtype(dtype)
    return make(np.zeros(shape_of(shape, kind, size), kind), requires_grad, device)


def ones(
    *shape: Any,
    size: Any = None,
    dtype: Any = np.float32,
    requires_grad: bool = False,
    device: str | Device = CPU,
) -> Tensor:
    """Ones: ``ones(2, 3)`` or ``ones((2, 3))``."""
    kind = as_dtype(dtype)
    return make(np.ones(shape_of(shape, kind, size), kind), requires_grad, device)


def empty(
    *shape: Any,
    size: Any = None,
    dtype: Any = np.float32,
    requires_grad: bool = False,
    device: str | Device = CPU,
) -> Tensor:
    """Memory that has not been written yet: its values are arbitrary."""
    kind = as_dtype(dtype)
    return make(np.empty(shape_of(shape, kind, size), kind), requires_grad, device)


def arange(
    start: float,
    end: float | None = None,
    step: float = 1,
    dtype: Any = None,
    requires_grad: bool = False,
    device: str | Device = CPU,
) -> Tensor:
    """``start, start + step, ...`` below ``end``; with one argument, from 0 up to it.

    Raises:
        ArgumentError: not numbers, a step of 0, or one that leads away from ``end``.
        DTypeError: bools or complex numbers; a number that the dtype does not have; a fraction
            where the dtype is of integers.
        OutOfMemory: more numbers than this machine has memory for.
    """
    if end is None:
        start, end = 0, start
    first = number("arange", "start", start, least=-(2.0**63), below=2.0**63)
    last = number("arange", "end", end, least=-(2.0**63), below=2.0**63)
    stride = number("arange", "step", step, least=-(2.0**63), below=2.0**63)
    if stride == 0:
        raise ArgumentError(message("arange", "step other than 0", step))
    if (last - first) * math.copysign(1, stride) < 0:
        expected, got = "a step that leads from start to end", f"{stride} from {first} to {last}"
        raise ArgumentError(message("arange", expected, got))
    whole = all(isinstance(value, int) for value in (first, last, stride))
    kind = as_dtype(dtype if dtype is not None else np.int64 if whole else np.float32)
    if kind.kind in "bc":
        raise DTypeError(message("arange", "a dtype of real numbers", str(kind)))
    if kind.kind in "iu" and any(value != int(value) for value in (first, last, stride)):
        expected, got = f"integers for start, end and step of {kind}", f"{first}, {last}, {stride}"
        raise DTypeError(message("arange", expected, got))
    check_memory("arange", int(min(8 * (last - first) / stride, 1e30)), "as many numbers")
    values = np.arange(first, last, stride)
    check_range("arange", values[[0, -1]] if values.size else values, kind)
    return make(values.astype(kind, copy=False), requires_grad, device)


def linspace(
    start: float | Tensor,
    end: float | Tensor,
    steps: int,
    dtype: Any = np.float32,
    requires_grad: bool = False,
    device: str | Device = CPU,
) -> Tensor:
    """``steps`` numbers at equal distances from ``start`` to ``end``, both included.

    The ends may be tensors of one number; no gradient flows to them.

    Raises:
        ArgumentError: not numbers, or ``steps`` no integer >= 0.
        DTypeError: bools; ends that the dtype does not have.
    """
    first, last = (
        number("linspace", name, value.item() if isinstance(value, Tensor) else value)
        for name, value in (("start", start), ("end", end))
    )
    (count,) = shape_of([integer("linspace", "steps", steps, 0)], np.float64)
    kind = as_dtype(dtype)
    if kind.kind == "b":
        raise DTypeError(message("linspace", "a dtype of numbers", str(kind)))
    first, last = _value("linspace", first, kind, "start"), _value("linspace", last, kind, "end")
    if kind.kind in "iu":
        values = _whole_linspace(int(first), int(last), count)
    else:
        scale = 1 if math.isfinite(last - first) else 2  # their distance may be beyond all floats
        values = scale * np.linspace(first / scale, last / scale, count)
    return make(values.astype(kind), requires_grad, device)


def _whole_linspace(first: int, last: int, count: int) -> Any:
    """From one integer to another, for an integer dtype, which drops the fractions: the second half
    is counted from its end, as in PyTorch."""
    step, i = (last - first) / max(count - 1, 1), np.arange(count)
    return np.where(i < -(-count // 2), first + step * i, last - step * (count - 1 - i))


def eye(
    n: int,
    m: int | None = None,
    dtype: Any = np.float32,
    requires_grad: bool = False,
    device: str | Device = CPU,
) -> Tensor:
    """The identity matrix, (n, m)."""
    kind = as_dtype(dtype)
    values = np.eye(*shape_of([n, n if m is None else m], kind), dtype=kind)
    return make(values, requires_grad, device)


def _like(op: str, other: Tensor, dtype: Any, requires_grad: bool, device: Any) -> Tensor:
    given(op, other)
    xp = array_module(other._array)
    with beside((other,)):
        array = getattr(xp, op)(other._array, dtype=None if dtype is None else as_dtype(dtype))
    return make(array, requires_grad, other.device if device is None else device)


def zeros_like(
    other: Tensor,
    dtype: Any = None,
    requires_grad: bool = False,
    device: str | Device | None = None,
) -> Tensor:
    """Zeros with the shape, layout and (unless given) dtype and device of ``other``."""
    return _like("zeros_like", other, dtype, requires_grad, device)


def ones_like(
    other: Tensor,
    dtype: Any = None,
    requires_grad: bool = False,
    device: str | Device | None = None,
) -> Tensor:
    """Ones with the shape, layout and (unless given) dtype and device of ``other``."""
    return _like("ones_like", other, dtype, requires_grad, device)


def empty_like(
    other: Tensor,
    dtype: Any = None,
    requires_grad: bool = False,
    device: str | Device | None = None,
) -> Tensor:
    """Unwritten memory with the shape, layout and (unless given) dtype and device of ``other``."""
    return _like("empty_like", other, dtype, requires_grad, device)


def full_like(
    other: Tensor,
    fill_value: float,
    dtype: Any = None,
    requires_grad: bool = False,
    device: str | Device | None = None,
) -> Tensor:
    """One value everywhere, with the shape, layout and (unless given) dtype and device of
    ``other``."""
    result = _like("empty_like", given("full_like", other), dtype, requires_grad, device)
    value = _value("full_like", fill_value, result.dtype)
    with beside((result,)):
        result._array.fill(value)
    return result
