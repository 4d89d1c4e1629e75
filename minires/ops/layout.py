"""Memory order: the same values, laid out as a kernel or a user wants them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Context, Function
from ..errors import ArgumentError, DTypeError, ShapeError, message, quoted
from ..memory import allocate
from ..tensor import Tensor, from_numpy, given, tensor_method

FEW = 4  # channels that the CPU moves one by one: faster than a few numbers after another


class Contiguous(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        return x.copy(order="C")

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return gy


class ChannelsLast(Function):
    """x → x in the memory order (n, h, w, c), as kernels read it."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        n, c, h, w = x.shape
        y = allocate((n, h, w, c), x.dtype, x)
        if c <= FEW and isinstance(x, np.ndarray):
            for channel in range(c):
                y[..., channel] = x[:, channel]
        else:
            y[...] = x.transpose(0, 2, 3, 1)
        return y.transpose(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return gy


# Memory formats by PyTorch's names; that of (n, h, w, c) is the function channels_last itself.
contiguous_format, preserve_format = "contiguous_format", "preserve_format"


@tensor_method("contiguous")
def contiguous(x: Tensor, memory_format: Any = contiguous_format) -> Tensor:
    """The same values in row-major memory, or in another memory format (see :func:`laid_out`);
    this tensor itself if it is so already."""
    if memory_format is not contiguous_format:
        return laid_out("contiguous", x, memory_format)
    if x._array.flags.c_contiguous:
        return x
    return Contiguous.apply(x)


def check_format(op: str, memory_format: Any) -> Any:
    """A memory format, if it is one.

    Raises:
        ArgumentError: it is none.
    """
    known = memory_format is None or memory_format is channels_last
    if isinstance(memory_format, str):
        known = memory_format in (preserve_format, contiguous_format, "channels_last")
    if not known:
        names = "a memory format: channels_last, contiguous_format or preserve_format"
        raise ArgumentError(message(op, names, quoted(memory_format)))
    return memory_format


def laid_out(op: str, x: Tensor, memory_format: Any) -> Tensor:
    """x in a memory format: ``channels_last``, ``contiguous_format``, or as it is for
    ``preserve_format`` and None. Operations that work in another format convert by themselves.

    Raises:
        ArgumentError: another format.
        ShapeError: channels last, of what has not four dimensions.
    """
    if memory_format is None or check_format(op, memory_format) == preserve_format:
        return x
    return contiguous(x) if memory_format == contiguous_format else channels_last(x)


def channels_last(x: Tensor) -> Tensor:
    """``x``, (n, c, h, w), with memory in the order (n, h, w, c); itself if it is so already."""
    lazy = given("channels_last", x)._lazy
    if lazy is not None and lazy.channels_last:
        return x
    if len(x.shape) != 4:
        raise ShapeError(message("channels_last", "x of shape (n, c, h, w)", x.shape))
    if x._array.transpose(0, 2, 3, 1).flags.c_contiguous:
        return x
    return ChannelsLast.apply(x)


def from_nhwc(images: Any) -> Tensor:
    """Images ``(n, h, w, c)``, as Keras and most image files have them, as ``(n, c, h, w)``.

    The values stay where they are: the result is a view of the same memory, in the order in which
    kernels work. Of a tensor it is a view that gradients flow through.

    Args:
        images: a NumPy array (see :func:`~minires.from_numpy`) or a tensor, of four dimensions.

    Raises:
        ShapeError: not four dimensions.
        DTypeError: neither an array nor a tensor, or of a dtype that minires does not take.

    >>> import minires as mr
    >>> mr.from_nhwc(mr.zeros(8, 32, 48, 3)).shape
    (8, 3, 32, 48)
    """
    if not isinstance(images, Tensor | np.ndarray):
        given = type(images).__name__
        raise DTypeError(message("from_nhwc", "an array or a tensor (n, h, w, c)", given))
    if len(images.shape) != 4:
        fix = "Add the batch: images[None]." if len(images.shape) == 3 else ""
        expected = "images of shape (n, h, w, c)"
        raise ShapeError(message("from_nhwc", expected, tuple(images.shape), fix=fix))
    x = images if isinstance(images, Tensor) else from_numpy(images)
    return x.permute(0, 3, 1, 2)
