"""Copies of a tensor: in new memory, in another dtype, on another device, into another tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import flag
from ..autograd import (
    Context,
    Function,
    Variable,
    call,
    check_inplace,
    in_complex_step,
    replace,
)
from ..device import Device, array_module, device_of, move
from ..errors import ArgumentError, DTypeError, ShapeError, message, quoted
from ..ranges import has
from ..tensor import Tensor, as_dtype, tensor_method
from .checks import given, operand, ordered
from .elementwise import Expand, clip
from .layout import laid_out


class Clone(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        return x.copy(order="K")

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return gy


class Cast(Function):
    # not complex_safe: rounding to another precision is a staircase, however fine
    @staticmethod
    def forward(ctx: Context, x: Any, dtype: Any) -> Any:
        ctx.dtype = x.dtype
        return x.astype(dtype)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return gy.astype(ctx.dtype), None


@tensor_method("clone")
def clone(x: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy of the values in new memory, in a memory format (x's own, or for instance
    ``channels_last``); gradients flow through it."""
    y = laid_out("clone", given("clone", x), memory_format)
    return Clone.apply(x) if y is x else y


@tensor_method("astype")
def astype(x: Tensor, dtype: Any) -> Tensor:
    """The values in another dtype. Gradients flow between floating-point dtypes.

    Raises:
        DTypeError: ``dtype`` is not one that minires takes.
    """
    dtype = as_dtype(dtype)
    if dtype == given("astype", x).dtype:
        return x
    array = x._array
    if array.dtype.kind in "fc" and dtype.kind in "fc":
        if in_complex_step() and (array.dtype, dtype) == (np.complex128, np.float64):
            return x  # a float64 tensor that carries a derivative
        return Cast.apply(x, dtype)
    return Tensor(call(_as_dtype, ordered(array), dtype))


def _as_dtype(array: Any, dtype: Any) -> Any:
    return array.astype(dtype)


def _cast_to(name: str, dtype: Any) -> Any:
    def cast(x: Tensor, memory_format: Any = None) -> Tensor:
        return laid_out(name, astype(x, dtype), memory_format)

    return cast


for _method, _dtype in (
    ("float", np.float32),
    ("double", np.float64),
    ("long", np.int64),
    ("int", np.int32),
    ("bool", np.bool_),
):
    tensor_method(_method)(_cast_to(_method, _dtype))


@tensor_method("fill_")
def fill_(x: Tensor, value: float) -> Tensor:
    """Set every entry to ``value`` (a number, or a tensor of one), in place.

    Raises:
        DTypeError: a float into an integer tensor, or a number that the dtype does not have.
        ShapeError: a tensor of several.
    """
    value = operand("fill_", value, x)
    if isinstance(value, Variable):
        if value._array.size != 1:
            raise ShapeError(message("fill_", "a number or a tensor of one", value.shape))
        return copy_(x, value.reshape(()))
    if not isinstance(value, complex) and not has(x.dtype, value):
        raise DTypeError(message("fill_", f"a number that {x.dtype} has", quoted(value)))
    replace(x, Tensor(array_module(x._array).full(x.shape, value, x.dtype)))
    return x


@tensor_method("zero_")
def zero_(x: Tensor) -> Tensor:
    """Set every entry to 0, in place."""
    return fill_(x, 0)


@tensor_method("copy_")
def copy_(x: Tensor, source: Any) -> Tensor:
    """Write ``source``'s values into this tensor, in place, moved, broadcast and cast as needed.

    Raises:
        ShapeError: ``source`` does not broadcast to this tensor's shape.
    """
    source = source if isinstance(source, Tensor) else Tensor(source)
    source = to(source, x.device)
    if source.shape != x.shape:
        try:
            np.broadcast_to(np.empty(source.shape, bool), x.shape)
        except ValueError:
            raise ShapeError(
                message("copy_", f"a source that broadcasts to {x.shape}", source.shape)
            ) from None
        source = Expand.apply(source, x.shape)
    replace(x, astype(source, x.dtype).clone())
    return x


@tensor_method("clip_", "clamp_")
def clip_(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """:func:`clip`, in place."""
    check_inplace(x, *[bound for bound in (min, max) if isinstance(bound, Variable)])
    replace(x, clip(x, min, max))
    return x


class Move(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, device: Any) -> Any:
        ctx.device = device_of(x)
        return move(x, device)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return Move.apply(gy, ctx.device), None


@tensor_method("to")
def to(
    x: Tensor,
    *targets: Any,
    device: Any = None,
    dtype: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """This tensor on a device, in a dtype and a memory format; itself if it is so already.

    Args:
        x: any tensor.
        targets: a device (``"cpu"``, ``"cuda"``, a Device), a dtype, one after the other, or a
            tensor whose device and dtype are meant; after it ``non_blocking`` and ``copy``.
        device, dtype: the same by name.
        non_blocking: taken so that PyTorch code runs; a move ends before this returns.
        copy: whether the result has memory of its own in any case.
        memory_format: ``channels_last``, ``contiguous_format``, or ``preserve_format`` for as it
            is. Operations that work in another format convert by themselves.

    Raises:
        ArgumentError: no target.
        DeviceError: the device is not there; says what to install.
    """
    while targets and isinstance(targets[-1], bool):  # by position: non_blocking, copy
        flags = [target for target in targets if isinstance(target, bool)]
        non_blocking, copy = (*flags, copy)[:2]
        targets = targets[: -len(flags)]
    flag("to", "non_blocking", non_blocking)
    place = None if device is None else Device.parse(device)
    wanted = [target for target in (*targets, dtype, place) if target is not None]
    if not wanted and memory_format is None:
        raise ArgumentError(message("to", "a device or a dtype", "none"))
    y = x
    for target in wanted:
        if isinstance(target, Variable):
            y = to(y, target.dtype, target.device)
        elif isinstance(target, Device) or (
            isinstance(target, str) and target.split(":")[0] in ("cpu", "cuda")
        ):
            place = Device.parse(target)
            y = y if y.device == place else Move.apply(y, place)
        else:
            y = astype(y, target)
    y = laid_out("to", y, memory_format)
    return Clone.apply(y) if flag("to", "copy", copy) and y is x else y


@tensor_method("cpu")
def cpu(x: Tensor) -> Tensor:
    """This tensor in main memory."""
    return to(x, "cpu")


@tensor_method("cuda")
def cuda(x: Tensor, device: int | str | Device = "cuda", non_blocking: bool = False) -> Tensor:
    """This tensor on a GPU, given as its number or as a device; ``non_blocking`` as in ``to``.

    Raises:
        DeviceError: there is no GPU; says what to install.
    """
    flag("cuda", "non_blocking", non_blocking)
    return to(x, Device.gpu(device))
