"""Average pooling in two dimensions, with given windows or adaptive ones.

y[n, c, i, j] = scale[i, j] * sum of x[n, c, h, w] over h_low[i] <= h < h_high[i] and
w_low[j] <= w < w_high[j]. Ordinary, adaptive and global pooling differ only in these bounds and
in the divisor 1 / scale. The map is linear: gx[h, w] is the sum of scale[i, j] * gy[i, j] over
the windows that hold (h, w), and the derivative of that is the pooling again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arguments import MOST, as_integer, flag, pair
from ...autograd import Context, Function
from ...device import kernels
from ...errors import ArgumentError, ShapeError, message, quoted
from ...memory import allocate
from ...tensor import Tensor
from ..checks import Pair, images, memoised, nhwc, real, takes_one_image
from ..layout import channels_last
from ..max_pool2d.op import pooled_size


@dataclass(frozen=True, eq=False)  # looked up by identity, which is quick
class AvgPool2dGeometry:
    """The windows of one pooling: rows and columns from ``low`` up to ``high``, and 1 / divisor."""

    n: int
    c: int
    h_in: int
    w_in: int
    h_low: Any  # (h_out,)
    h_high: Any  # (h_out,)
    w_low: Any  # (w_out,)
    w_high: Any  # (w_out,)
    scale: Any  # (h_out, w_out)

    @property
    def count(self) -> Any:
        """The divisors themselves, (h_out, w_out)."""
        return np.rint(1 / self.scale)

    @property
    def holders(self) -> tuple[Any, Any]:
        """Of each row of x (h_in, 2), and of each column (w_in, 2), the first window that holds it,
        and the end of the last; bounds ascend from window to window."""
        found = []
        for low, high, size in (
            (self.h_low, self.h_high, self.h_in),
            (self.w_low, self.w_high, self.w_in),
        ):
            places = np.arange(size)
            bounds = [np.searchsorted(b, places, side="right") for b in (high, low)]
            found.append(np.stack(bounds, axis=1))
        return found[0], found[1]

    @classmethod
    def from_windows(
        cls,
        x: tuple[int, ...],
        kernel: int | Pair,
        stride: int | Pair | None,
        padding: int | Pair,
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None = None,
    ) -> AvgPool2dGeometry:
        """Windows of one size at regular steps.

        Raises:
            ShapeError: no output pixel.
            ArgumentError: an option out of range.
        """
        images("avg_pool2d", x)
        ceil_mode = flag("avg_pool2d", "ceil_mode", ceil_mode)
        count_include_pad = flag("avg_pool2d", "count_include_pad", count_include_pad)
        kernel = pair("avg_pool2d", "kernel_size", kernel, 1)
        stride = kernel if stride is None else pair("avg_pool2d", "stride", stride, 1)
        padding = pair("avg_pool2d", "padding", padding, 0)
        if any(2 * p > k for p, k in zip(padding, kernel)):
            raise ArgumentError(
                message(
                    "avg_pool2d", "padding at most half the kernel", padding, f"kernel {kernel}"
                )
            )
        bounds: list[Any] = []
        counts: list[Any] = []
        for size, k, s, p in zip(x[2:], kernel, stride, padding):
            out = pooled_size(size, k, s, p, ceil_mode)
            if out < 1 or size < 1:
                raise ShapeError(
                    message(
                        "avg_pool2d",
                        "a window no larger than the padded image",
                        x[2:],
                        f"x {x}, kernel {kernel}, stride {stride}, padding {padding}",
                    )
                )
            start = np.arange(out) * s - p
            # the padding counts as part of the image, what hangs over it does not
            counted = np.minimum(start + k, size + p) - start
            low, high = np.maximum(start, 0), np.minimum(start + k, size)
            bounds += [low, high]
            counts.append(counted if count_include_pad else high - low)
        divisors = np.outer(*counts)
        if divisor_override is not None:
            divisors[...] = divisor("avg_pool2d", divisor_override)
        n, c, h, w = x
        return cls(n, c, h, w, bounds[0], bounds[1], bounds[2], bounds[3], 1.0 / divisors)

    @classmethod
    def adaptive(cls, x: tuple[int, ...], output_size: Any) -> AvgPool2dGeometry:
        """Windows that divide the image into a given number of rows and columns.

        Window i reaches from floor(i * size / out) up to ceil((i + 1) * size / out).

        Raises:
            ShapeError: an image without pixels.
            ArgumentError: an output size below 1.
        """
        images("adaptive_avg_pool2d", x)
        if isinstance(output_size, tuple | list) and len(output_size) == 2:
            output_size = tuple(
                size if out is None else out for out, size in zip(output_size, x[2:])
            )
        outs = pair("adaptive_avg_pool2d", "output_size", output_size, 1)
        if min(x[2:]) < 1:
            raise ShapeError(message("adaptive_avg_pool2d", "an image with pixels", x))
        bounds: list[Any] = []
        for size, out in zip(x[2:], outs):
            i = np.arange(out)
            bounds += [i * size // out, -(-(i + 1) * size // out)]
        counts = np.outer(bounds[1] - bounds[0], bounds[3] - bounds[2])
        n, c, h, w = x
        return cls(n, c, h, w, bounds[0], bounds[1], bounds[2], bounds[3], 1.0 / counts)


def divisor(op: str, value: Any) -> int:
    """``divisor_override`` as an int other than 0."""
    whole = as_integer(value)
    if not whole or abs(whole) > MOST:
        expected = "divisor_override an integer other than 0"
        raise ArgumentError(message(op, expected, quoted(value)))
    return whole


_windows = memoised(AvgPool2dGeometry.from_windows, shapes=1, most=256)
_adaptive = memoised(AvgPool2dGeometry.adaptive, shapes=1, most=256)


class AvgPool2d(Function):
    """x → y."""

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, x: Any, geometry: AvgPool2dGeometry) -> Any:
        g = ctx.geometry = geometry
        y = allocate((g.n, *g.scale.shape, g.c), x.dtype, x)
        kernels("avg_pool2d", x).avg_pool2d_fwd(nhwc(x), y, g)
        return y.transpose(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return AvgPool2dInput.apply(channels_last(gy), ctx.geometry), None


class AvgPool2dInput(Function):
    """gy → gx, the adjoint of x → y."""

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, gy: Any, geometry: AvgPool2dGeometry) -> Any:
        g = ctx.geometry = geometry
        gx = allocate((g.n, g.h_in, g.w_in, g.c), gy.dtype, gy)
        kernels("avg_pool2d", gy).avg_pool2d_bwd_x(nhwc(gy), gx, g)
        return gx.transpose(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Context, ggx: Tensor) -> Any:
        return AvgPool2d.apply(channels_last(ggx), ctx.geometry), None


@takes_one_image
def avg_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window::

        y[n, c, i, j] = sum over u, v of x[n, c, i * s_h + u - p_h, j * s_w + v - p_w] / pixels

    with stride s and padding p; ``pixels`` is how many lie under the window (see
    ``count_include_pad``). LeCun et al., 1998, "Gradient-based learning applied to document
    recognition", section II.

    Args:
        x: (n, c, h, w), or one image without n; so is the result then.
        kernel_size: the window, (k_h, k_w).
        stride: pixels between windows; None means ``kernel_size``.
        padding: zeros around the image, at most half the window.
        ceil_mode: also use windows that hang over the far edges.
        count_include_pad: divide by the window's size with its padding, not by the pixels alone.
        divisor_override: divide by this number, whatever the window's size; not 0.

    Returns:
        (n, c, h_out, w_out).

    Raises:
        ShapeError, ArgumentError: sizes or options that do not fit.
    """
    real("avg_pool2d", x)
    options = (stride, padding, ceil_mode, count_include_pad, divisor_override)
    geometry = _windows(x.shape, kernel_size, *options)
    return AvgPool2d.apply(channels_last(x), geometry)


@takes_one_image
def adaptive_avg_pool2d(x: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """Means over as many windows as ``output_size`` asks for; 1 is global average pooling.

    Args:
        x: (n, c, h, w), or one image without n; so is the result then.
        output_size: (h_out, w_out), or one integer for both; None keeps a size.

    Returns:
        (n, c, h_out, w_out).

    >>> import minires as mr
    >>> mr.adaptive_avg_pool2d(mr.ones(2, 3, 7, 5), 1).shape
    (2, 3, 1, 1)
    """
    real("adaptive_avg_pool2d", x)
    geometry = _adaptive(x.shape, output_size)
    return AvgPool2d.apply(channels_last(x), geometry)
