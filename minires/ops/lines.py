"""Convolution and pooling in one dimension: those in two, of images one pixel high.

``x (n, c, l)`` is looked at as ``(n, c, 1, l)``, which copies nothing, and a window of k values as
one of (1, k) pixels. So kernels, gradients and rounding are those of :mod:`.conv2d`,
:mod:`.max_pool2d` and :mod:`.avg_pool2d`, and what they raise names them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arguments import single
from ..errors import ShapeError, message
from ..tensor import Tensor, given
from .avg_pool2d import adaptive_avg_pool2d, avg_pool2d
from .conv2d import conv2d
from .max_pool2d import max_pool2d
from .shape import reshape

Line = int | tuple[int]


def conv1d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: Line = 1,
    padding: Line | str = 0,
    dilation: Line = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve sequences. For groups = 1, stride s, dilation d and padding p (zeros outside)::

        y[n, o, i] = b[o] + sum over c, u of w[o, c, u] * x[n, c, i * s + u * d - p]

    Args:
        x: (n, c_in, l), or one sequence (c_in, l).
        w: weight, (c_out, c_in / groups, k).
        b: bias, (c_out,), or None.
        stride, padding, dilation, groups: see :func:`minires.ops.conv2d`.

    Returns:
        (n, c_out, l_out) or (c_out, l_out), with
        l_out = floor((l + 2 padding - dilation (k - 1) - 1) / stride) + 1.

    Raises:
        ShapeError, ArgumentError: sizes or options that do not fit.
        DTypeError, DeviceError: tensors of different dtypes or devices.

    >>> import minires as mr
    >>> mr.conv1d(mr.ones(1, 3, 8), mr.ones(4, 3, 3), padding=1, stride=2).shape
    (1, 4, 4)
    """
    if len(given("conv1d", w).shape) != 3:
        raise ShapeError(message("conv1d", "w of shape (c_out, c_in / groups, k)", w.shape))
    pad = padding if isinstance(padding, str) else _wide("conv1d", "padding", padding, 0)
    return _in_rows(
        "conv1d",
        x,
        lambda rows: conv2d(
            rows,
            _row(w),
            b,
            stride=_wide("conv1d", "stride", stride, 1),
            padding=pad,
            dilation=_wide("conv1d", "dilation", dilation, 1),
            groups=groups,
        ),
    )


def max_pool1d(
    x: Tensor,
    kernel_size: Line,
    stride: Line | None = None,
    padding: Line = 0,
    dilation: Line = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest of each ``kernel_size`` values; see :func:`minires.ops.max_pool2d`.

    Args:
        x: (n, c, l) or (c, l).
        kernel_size: values in a window.
        stride: values between windows; None means ``kernel_size``.
        padding: minus infinities on both sides, at most half the window.
        dilation: values between two of a window.
        ceil_mode: also use windows that hang over the end.
        return_indices: also return where each maximum stood.

    Returns:
        (n, c, l_out) or (c, l_out); with ``return_indices`` a pair of this and the int64 indices.

    Raises:
        ShapeError, ArgumentError: sizes or options that do not fit.
    """
    op = "max_pool1d"
    kernel = _wide(op, "kernel_size", kernel_size, 1)
    steps = kernel if stride is None else _wide(op, "stride", stride, 1)
    pad, gaps = _wide(op, "padding", padding, 0), _wide(op, "dilation", dilation, 1)
    options: dict[str, Any] = {"padding": pad, "dilation": gaps, "ceil_mode": ceil_mode}
    options["return_indices"] = return_indices
    return _in_rows(op, x, lambda rows: max_pool2d(rows, kernel, stride=steps, **options))


def avg_pool1d(
    x: Tensor,
    kernel_size: Line,
    stride: Line | None = None,
    padding: Line = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each ``kernel_size`` values; see :func:`minires.ops.avg_pool2d`.

    Args:
        x: (n, c, l) or (c, l).
        kernel_size: values in a window.
        stride: values between windows; None means ``kernel_size``.
        padding: zeros on both sides, at most half the window.
        ceil_mode: also use windows that hang over the end.
        count_include_pad: whether zeros of the padding count.

    Returns:
        (n, c, l_out) or (c, l_out).

    Raises:
        ShapeError, ArgumentError: sizes or options that do not fit.
    """
    op = "avg_pool1d"
    kernel = _wide(op, "kernel_size", kernel_size, 1)
    steps = kernel if stride is None else _wide(op, "stride", stride, 1)
    options: dict[str, Any] = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    pad = _wide(op, "padding", padding, 0)
    return _in_rows(
        op, x, lambda rows: avg_pool2d(rows, kernel, stride=steps, padding=pad, **options)
    )


def adaptive_avg_pool1d(x: Tensor, output_size: Line) -> Tensor:
    """The means of windows that divide ``x (n, c, l)`` or ``(c, l)`` into ``output_size`` parts.

    Raises:
        ShapeError, ArgumentError: sizes that do not fit.
    """
    op = "adaptive_avg_pool1d"
    size = _wide(op, "output_size", output_size, 1)
    return _in_rows(op, x, lambda rows: adaptive_avg_pool2d(rows, size))


def _wide(op: str, name: str, value: Any, least: int) -> tuple[int, int]:
    """A size of one direction as one of rows of one pixel: windows of one row, no padding of it."""
    return least, single(op, name, value, least)[0]


def _row(x: Tensor) -> Tensor:
    """(..., l) as (..., 1, l)."""
    return reshape(x, *x.shape[:-1], 1, x.shape[-1])


def _in_rows(op: str, x: Tensor, function: Callable[[Tensor], Any]) -> Any:
    """``function`` of the sequences ``x`` as images one pixel high, its results as sequences."""
    shape = given(op, x).shape
    if len(shape) not in (2, 3):
        raise ShapeError(message(op, "x of shape (n, c, l) or (c, l)", shape))
    y = function(_row(x if len(shape) == 3 else reshape(x, 1, *shape)))

    def as_sequences(images: Tensor) -> Tensor:
        return reshape(images, *images.shape[3 - len(shape) : 2], images.shape[3])

    return as_sequences(y) if isinstance(y, Tensor) else type(y)(*map(as_sequences, y))
