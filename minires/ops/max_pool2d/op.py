"""Max pooling in two dimensions.

y[n, c, i, j] is the largest x under the window at (i * s_h - p_h, j * s_w - p_w), taps d pixels
apart, outside the image minus infinity. The gradient goes to the one entry that was chosen; of
equal ones it is the first in row-major order, on every device. A NaN is chosen over any number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...arguments import flag, pair
from ...autograd import Context, Function, call, switch
from ...device import array_module, kernels
from ...errors import ArgumentError, ShapeError, message
from ...kernels.operand import as_operand
from ...memory import allocate
from ...tensor import Tensor
from ..checks import Pair, images, memoised, nhwc, real, takes_one_image
from ..layout import channels_last


@dataclass(frozen=True, eq=False)  # looked up by identity, which is quick
class MaxPool2dGeometry:
    """Every size of one pooling, computed and validated once."""

    n: int
    c: int
    h_in: int
    w_in: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    h_out: int
    w_out: int

    @classmethod
    def from_shapes(
        cls,
        x: tuple[int, ...],
        kernel: int | Pair,
        stride: int | Pair | None,
        padding: int | Pair,
        dilation: int | Pair,
        ceil_mode: bool,
    ) -> MaxPool2dGeometry:
        """Sizes from the input's shape and the options.

        Raises:
            ShapeError: no output pixel, or a window that lies outside the image.
            ArgumentError: an option out of range.
        """
        images("max_pool2d", x)
        ceil_mode = flag("max_pool2d", "ceil_mode", ceil_mode)
        kernel = pair("max_pool2d", "kernel_size", kernel, 1)
        stride = kernel if stride is None else pair("max_pool2d", "stride", stride, 1)
        padding = pair("max_pool2d", "padding", padding, 0)
        dilation = pair("max_pool2d", "dilation", dilation, 1)
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
        if any(2 * p > r for p, r in zip(padding, reach)):
            raise ArgumentError(
                message(
                    "max_pool2d", "padding at most half the kernel", padding, f"kernel {kernel}"
                )
            )
        out = [
            pooled_size(n, r, s, p, ceil_mode) for n, r, s, p in zip(x[2:], reach, stride, padding)
        ]
        context = f"x {x}, kernel {kernel}, stride {stride}, padding {padding}"
        for size, k, s, p, d, count in zip(x[2:], kernel, stride, padding, dilation, out):
            if count < 1:
                raise ShapeError(
                    message(
                        "max_pool2d", "a window no larger than the padded image", x[2:], context
                    )
                )
            taps = np.arange(count)[:, None] * s - p + np.arange(k) * d
            if not ((taps >= 0) & (taps < size)).any(axis=1).all():
                raise ShapeError(
                    message("max_pool2d", "windows that meet the image", f"size {size}", context)
                )
        n, c, h, w = x
        return cls(n, c, h, w, kernel, stride, padding, dilation, *out)


def pooled_size(size: int, reach: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Output positions along one dimension; with ``ceil_mode`` also those whose window hangs
    over the far edge, as long as it starts inside the image or the near padding."""
    span = size + 2 * padding - reach
    count = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count


_geometry = memoised(MaxPool2dGeometry.from_shapes, shapes=1, most=256)


class MaxPool2d(Function):
    """x → y. Keeps where each maximum stood, as h * w_in + w."""

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, x: Any, geometry: MaxPool2dGeometry) -> Any:
        return pooled(ctx, nhwc(x), geometry)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return MaxPool2dInput.apply(channels_last(gy), ctx.constants[0], ctx.geometry), None


def pooled(ctx: Context, x: Any, geometry: MaxPool2dGeometry) -> Any:
    """y of :class:`MaxPool2d`, from x as its kernel reads it: a buffer, or an operand over one."""
    g = ctx.geometry = geometry
    array = as_operand(x).x
    y = allocate((g.n, g.h_out, g.w_out, g.c), array.dtype, array)
    index = allocate(y.shape, np.int32, array)
    kernels("max_pool2d", array).max_pool2d_fwd(x, y, index, g)
    ctx.save_constants(index)
    switch("max_pool2d", lambda: index)
    return y.transpose(0, 3, 1, 2)


class MaxPool2dAndIndices(Function):
    """x → y of :class:`MaxPool2d`, and where each maximum stood."""

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, x: Any, geometry: MaxPool2dGeometry) -> Any:
        y = pooled(ctx, nhwc(x), geometry)
        return y, call(_as_indices, ctx.constants[0])

    @staticmethod
    def backward(ctx: Context, gy: Tensor, _: Any) -> Any:
        return MaxPool2d.backward(ctx, gy)


def _as_indices(index: Any) -> Any:
    return index.transpose(0, 3, 1, 2).astype(np.int64)


class MaxPooled(NamedTuple):
    """The result of max pooling with ``return_indices``."""

    values: Tensor
    indices: Tensor


class MaxPool2dInput(Function):
    """gy → gx with the choice fixed, hence linear; its adjoint takes at the same places."""

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, gy: Any, index: Any, geometry: MaxPool2dGeometry) -> Any:
        g = ctx.geometry = geometry
        ctx.save_constants(index)
        gx = allocate((g.n, g.h_in, g.w_in, g.c), gy.dtype, gy)
        kernels("max_pool2d", gy).max_pool2d_bwd_x(nhwc(gy), index, gx, g)
        return gx.transpose(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Context, ggx: Tensor) -> Any:
        return MaxPool2dTake.apply(channels_last(ggx), ctx.constants[0], ctx.geometry), None, None


class MaxPool2dTake(Function):
    """x → x at the chosen places."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, index: Any, geometry: MaxPool2dGeometry) -> Any:
        g = ctx.geometry = geometry
        ctx.save_constants(index)
        pixels = nhwc(x).reshape(g.n, g.h_in * g.w_in, g.c)
        places = index.reshape(g.n, g.h_out * g.w_out, g.c)
        taken = array_module(x).take_along_axis(pixels, places, 1)
        return taken.reshape(index.shape).transpose(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        gx = MaxPool2dInput.apply(channels_last(gy), ctx.constants[0], ctx.geometry)
        return gx, None, None


@takes_one_image
def max_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value under each window::

        y[n, c, i, j] = max over u, v of x[n, c, i * s_h + u * d_h - p_h, j * s_w + v * d_w - p_w]

    with stride s, dilation d and padding p. Of equal values the first, row by row, gets the
    gradient. Goodfellow, Bengio, Courville, Deep Learning (2016), section 9.3.

    Args:
        x: (n, c, h, w), or one image without n; so is the result then.
        kernel_size: the window, (k_h, k_w).
        stride: pixels between windows; None means ``kernel_size``.
        padding: pixels of minus infinity around the image, at most half the window.
        dilation: pixels between two taps of the window.
        ceil_mode: also use windows that hang over the far edges.
        return_indices: also return where each maximum stood, as h * w_in + w.

    Returns:
        (n, c, h_out, w_out); with ``return_indices`` a pair of this and the int64 indices of the
        same shape.

    Raises:
        ShapeError, ArgumentError: sizes or options that do not fit.

    >>> import minires as mr
    >>> mr.max_pool2d(mr.arange(4, dtype="float32").reshape(1, 1, 2, 2), 2).item()
    3.0
    """
    real("max_pool2d", x)
    geometry = _geometry(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    if flag("max_pool2d", "return_indices", return_indices):
        return MaxPooled(*MaxPool2dAndIndices.apply(channels_last(x), geometry))
    return MaxPool2d.apply(channels_last(x), geometry)
