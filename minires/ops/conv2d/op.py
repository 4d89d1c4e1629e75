"""Convolution in two dimensions.

The definition, for groups = 1 (a correlation, as everywhere in deep learning)::

    y[n, o, i, j] = b[o] + sum over c, u, v of
                    w[o, c, u, v] * x[n, c, i * s_h + u * d_h - p_h, j * s_w + v * d_w - p_w]

with stride s, dilation d and padding p, over the pixels inside x: outside of its borders x is zero
and adds nothing, even to an infinite w. y is linear in x, w and b, so its gradients are sums of the
same products in another order::

    gx[n, c, h, k] = sum over o, u, v of  w[o, c, u, v] * gy[n, o, i, j]   where x[h, k] was used
    gw[o, c, u, v] = sum over n, i, j of  gy[n, o, i, j] * x[n, c, i * s_h + u * d_h - p_h, ...]
    gb[o]          = sum over n, i, j of  gy[n, o, i, j]

The three maps (x, w) → y, (gy, w) → gx and (gy, x) → gw are each linear in both arguments, and
the derivatives of each are the other two: Conv2d, Conv2dInput and Conv2dWeight form a closed
family, differentiable as often as one likes. With groups, channels fall into equal, independent
parts. Shapes: x (n, c_in, h_in, w_in), w (c_out, c_in / groups, k_h, k_w), b (c_out,),
y (n, c_out, h_out, w_out); Goodfellow, Bengio, Courville, Deep Learning (2016), chapter 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arguments import integer, pair
from ...autograd import Context, Function, is_precise
from ...device import kernels
from ...errors import ArgumentError, ShapeError, message, quoted
from ...kernels.packed import PackedWeights
from ...memory import allocate
from ...tensor import Tensor
from ..checks import Pair, check_same, memoised, nhwc, real, takes_one_image
from ..layout import channels_last
from ..pad import pad
from ..reduce import sum


@dataclass(frozen=True, eq=False)  # looked up by identity, which is quick
class Conv2dGeometry:
    """Every size of one convolution, computed and validated once."""

    n: int
    c_in: int
    h_in: int
    w_in: int
    c_out: int
    k_h: int
    k_w: int
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    h_out: int
    w_out: int
    precise: bool = False  # whether it was recorded under precise()

    @classmethod
    def from_shapes(
        cls,
        x: tuple[int, ...],
        w: tuple[int, ...],
        stride: int | Pair,
        padding: int | Pair,
        dilation: int | Pair,
        groups: int,
        precise: bool = False,
    ) -> Conv2dGeometry:
        """Sizes from shapes and options.

        Raises:
            ShapeError: shapes that do not fit together, or an output without pixels.
            ArgumentError: an option out of range.
        """
        stride = pair("conv2d", "stride", stride, 1)
        padding = pair("conv2d", "padding", padding, 0)
        dilation = pair("conv2d", "dilation", dilation, 1)
        context = f"x {x}, w {w}, stride {stride}, padding {padding}, dilation {dilation}"
        if len(x) != 4 or len(w) != 4:
            raise ShapeError(
                message("conv2d", "x (n, c, h, w) and w (c_out, c_in, k_h, k_w)", f"{x} and {w}")
            )
        groups = integer("conv2d", "groups", groups, 1)
        if x[1] != w[1] * groups:
            fix = f"Pass an input with {w[1] * groups} channels"
            if x[3] == w[1] * groups:
                fix = f"x looks like (n, h, w, c) with {x[3]} channels: use x.permute(0, 3, 1, 2)"
            raise ShapeError(
                message(
                    "conv2d",
                    "x.shape[1] == w.shape[1] * groups",
                    f"{x[1]} and {w[1] * groups}",
                    f"{context}, groups {groups}",
                    fix + ".",
                )
            )
        if w[0] % groups:
            raise ShapeError(
                message("conv2d", "w.shape[0] divisible by groups", f"{w[0]} and {groups}")
            )
        if min(w) < 1:
            raise ShapeError(message("conv2d", "a weight without empty dimensions", w))
        out = [
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(x[2:], w[2:], stride, padding, dilation)
        ]
        if min(out) < 1:
            raise ShapeError(
                message(
                    "conv2d",
                    "a kernel no larger than the padded input",
                    f"kernel {w[2:]} on input {x[2:]}",
                    context,
                    "Use a larger image, more padding or a smaller kernel.",
                )
            )
        sizes: Any = (*x, w[0], *w[2:], stride, padding, dilation, groups, *out, precise)
        return cls(*sizes)

    @property
    def direct(self) -> bool:
        """Whether the convolution is to be computed as the sum that defines it."""
        return self.precise or is_precise()

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the forward pass."""
        taps = self.k_h * self.k_w * self.c_in // self.groups
        return self.n * self.h_out * self.w_out * self.c_out * taps


_geometry = memoised(Conv2dGeometry.from_shapes, shapes=2)


def conv2d_geometry(*sizes: Any) -> Conv2dGeometry:
    """:meth:`Conv2dGeometry.from_shapes`, memoised; it notes whether :func:`precise` holds."""
    geometry: Conv2dGeometry = _geometry(*sizes, is_precise())
    return geometry


class Conv2d(Function):
    """(x, w, b) → y."""

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, x: Any, w: Any, b: Any, geometry: Conv2dGeometry) -> Any:
        ctx.geometry = geometry
        ctx.save(x if ctx.needs_grad[1] else None, w if ctx.needs_grad[0] else None)
        g = geometry
        y = allocate((g.n, g.h_out, g.w_out, g.c_out), x.dtype, x)
        kernels("conv2d", x).conv2d_fwd(nhwc(x), PackedWeights(w, b), y, g)
        return y.transpose(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        x, w = ctx.saved
        geometry, needs = ctx.geometry, ctx.needs_grad
        gy = channels_last(gy)
        return (
            Conv2dInput.apply(gy, w, geometry) if needs[0] else None,
            Conv2dWeight.apply(gy, x, geometry) if needs[1] else None,
            sum(gy, (0, 2, 3)) if needs[2] else None,
            None,
        )


class Conv2dInput(Function):
    """(gy, w) → gx, the adjoint of x → y."""

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, gy: Any, w: Any, geometry: Conv2dGeometry) -> Any:
        ctx.geometry = geometry
        ctx.save(gy if ctx.needs_grad[1] else None, w if ctx.needs_grad[0] else None)
        g = geometry
        gx = allocate((g.n, g.h_in, g.w_in, g.c_in), gy.dtype, gy)
        kernels("conv2d", gy).conv2d_bwd_input(nhwc(gy), w, gx, g)
        return gx.transpose(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Context, ggx: Tensor) -> Any:
        gy, w = ctx.saved
        ggx = channels_last(ggx)
        return (
            Conv2d.apply(ggx, w, None, ctx.geometry) if ctx.needs_grad[0] else None,
            Conv2dWeight.apply(gy, ggx, ctx.geometry) if ctx.needs_grad[1] else None,
            None,
        )


class Conv2dWeight(Function):
    """(gy, x) → gw, the adjoint of w → y."""

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, gy: Any, x: Any, geometry: Conv2dGeometry) -> Any:
        ctx.geometry = geometry
        ctx.save(gy if ctx.needs_grad[1] else None, x if ctx.needs_grad[0] else None)
        g = geometry
        gw = allocate((g.c_out, g.c_in // g.groups, g.k_h, g.k_w), gy.dtype, gy)
        kernels("conv2d", gy).conv2d_bwd_weight(nhwc(gy), nhwc(x), gw, g)
        return gw

    @staticmethod
    def backward(ctx: Context, ggw: Tensor) -> Any:
        gy, x = ctx.saved
        return (
            Conv2d.apply(x, ggw, None, ctx.geometry) if ctx.needs_grad[0] else None,
            Conv2dInput.apply(gy, ggw, ctx.geometry) if ctx.needs_grad[1] else None,
            None,
        )


@takes_one_image
def conv2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve ``x`` with ``w``: the weighted sum of a window around each pixel.

    For groups = 1, stride s, dilation d and padding p (zeros outside of ``x``)::

        y[n, o, i, j] = b[o] + sum over c, u, v of
                        w[o, c, u, v] * x[n, c, i * s_h + u * d_h - p_h, j * s_w + v * d_w - p_w]

    With groups, channels fall into equal, independent parts. Goodfellow, Bengio, Courville, Deep
    Learning (2016), chapter 9, Eq. 9.6: a correlation, as everywhere in deep learning.

    Args:
        x: input, (n, c_in, h_in, w_in), or one image without n; so is the result then.
        w: weight, (c_out, c_in / groups, k_h, k_w).
        b: bias, (c_out,), or None.
        stride: pixels between two positions of the kernel.
        padding: zeros around the input, on each side. ``"valid"`` is none; ``"same"`` (stride 1)
            keeps height and width, and where the total is odd, ``x`` itself is padded with one row
            or column more at the bottom or right, as in PyTorch.
        dilation: pixels between two taps of the kernel.
        groups: independent parts that the channels are split into.

    Returns:
        (n, c_out, h_out, w_out), with
        h_out = floor((h_in + 2 padding - dilation (k_h - 1) - 1) / stride) + 1.

    Raises:
        ShapeError, ArgumentError: sizes or options that do not fit.
        DTypeError, DeviceError: tensors of different dtypes or devices.

    >>> import minires as mr
    >>> mr.conv2d(mr.ones(1, 3, 8, 6), mr.ones(4, 3, 3, 3), padding=1, stride=2).shape
    (1, 4, 4, 3)
    """
    real("conv2d", x)
    check_same("conv2d", x, w, *(() if b is None else (b,)))
    if isinstance(padding, str):
        x, padding = _padded(x, w, stride, padding, dilation)
    geometry = conv2d_geometry(x.shape, w.shape, stride, padding, dilation, groups)
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(message("conv2d", f"b of shape {w.shape[:1]}", b.shape))
    return Conv2d.apply(channels_last(x), w, b, geometry)


def _padded(
    x: Tensor, w: Tensor, stride: int | Pair, padding: str, dilation: int | Pair
) -> tuple[Tensor, Pair]:
    """x, and its padding as numbers."""
    if padding not in ("same", "valid"):
        raise ArgumentError(message("conv2d", 'padding a size, "same" or "valid"', quoted(padding)))
    if padding == "valid" or x.ndim != 4 or w.ndim != 4:
        return x, (0, 0)
    if pair("conv2d", "stride", stride, 1) != (1, 1):
        raise ArgumentError(message("conv2d", 'stride 1 with padding="same"', f"stride {stride}"))
    d_h, d_w = pair("conv2d", "dilation", dilation, 1)
    down, across = d_h * (w.shape[2] - 1), d_w * (w.shape[3] - 1)
    if down % 2 or across % 2:
        x = pad(x, (0, across % 2, 0, down % 2))
    return x, (down // 2, across // 2)
