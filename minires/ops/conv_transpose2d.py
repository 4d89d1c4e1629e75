"""Transposed convolution: what a convolution does to the gradient of its input, as a forward pass.

With stride s, dilation d and padding p every pixel of the input adds its multiple of the kernel to
the output, s pixels apart::

    y[n, o, i * s_h + u * d_h - p_h, j * s_w + v * d_w - p_w] += x[n, c, i, j] * w[c, o, u, v]

where that lies inside the output. It is :class:`~minires.ops.conv2d.op.Conv2dInput`, the adjoint
of the convolution from y's shape to x's with the same weight, so kernels and derivatives are those
of convolution. Zeiler et al., "Deconvolutional networks" (2010); Dumoulin & Visin,
arXiv:1603.07285, chapter 4.
"""

from __future__ import annotations

from ..arguments import integer, pair
from ..errors import ArgumentError, ShapeError, message
from ..tensor import Tensor
from .checks import Pair, check_same, real, takes_one_image
from .conv2d.op import Conv2dInput, conv2d_geometry
from .layout import channels_last
from .pad import pad

NAME = "conv_transpose2d"


@takes_one_image
def conv_transpose2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
) -> Tensor:
    """Convolve ``x`` transposed with ``w``: each pixel adds its multiple of the kernel.

    For groups = 1, stride s, dilation d and padding p, where it lies inside the output::

        y[n, o, i * s_h + u * d_h - p_h, j * s_w + v * d_w - p_w] += x[n, c, i, j] * w[c, o, u, v]

    This is what a convolution does to the gradient of its input. Dumoulin and Visin, 2016,
    arXiv:1603.07285, chapter 4.

    Args:
        x: input, (n, c_in, h_in, w_in), or one image without n; so is the result then.
        w: weight, (c_in, c_out / groups, k_h, k_w): that of the convolution from y to x.
        b: bias, (c_out,), or None.
        stride: pixels of the output between two pixels of the input.
        padding: rows and columns cut from each side of the output.
        output_padding: rows and columns more at the bottom and right, less than ``stride`` or
            ``dilation``; tells apart the sizes that a strided convolution maps to one.
        groups: independent parts that the channels are split into.
        dilation: pixels between two taps of the kernel.

    Returns:
        (n, c_out, h_out, w_out), with
        h_out = (h_in - 1) stride - 2 padding + dilation (k_h - 1) + output_padding + 1.

    Raises:
        ShapeError, ArgumentError: sizes or options that do not fit.
        DTypeError, DeviceError: tensors of different dtypes or devices.

    >>> import minires as mr
    >>> mr.conv_transpose2d(mr.ones(1, 4, 4, 3), mr.ones(4, 2, 2, 2), stride=2).shape
    (1, 2, 8, 6)
    """
    real(NAME, x)
    check_same(NAME, x, w, *([] if b is None else [b]))
    s, p = pair(NAME, "stride", stride, 1), pair(NAME, "padding", padding, 0)
    d, more = pair(NAME, "dilation", dilation, 1), pair(NAME, "output_padding", output_padding, 0)
    groups = integer(NAME, "groups", groups, 1)
    _check(x, w, b, groups)
    if any(m >= max(a, c) for m, a, c in zip(more, s, d)):
        expected = "output_padding below stride or dilation"
        context = f"stride {s}, dilation {d}"
        raise ArgumentError(message(NAME, expected, more, context))
    # Rows that the stride does not reach would make the convolution back one row larger than x:
    # such rows and columns are cut from, or added to, the whole output.
    cut = any(m >= a for m, a in zip(more, s))
    inner, extra = ((0, 0), (0, 0)) if cut else (p, more)
    size = [
        (n - 1) * a - 2 * q + c * (k - 1) + m + 1
        for n, k, a, q, c, m in zip(x.shape[2:], w.shape[2:], s, inner, d, extra)
    ]
    left = [n - 2 * q + m for n, q, m in zip(size, p, more)] if cut else size
    if min(left) < 1 or min(x.shape[2:]) < 1:
        context = f"x {x.shape}, w {w.shape}, stride {s}, padding {p}, dilation {d}"
        fix = "Use less padding."
        raise ShapeError(message(NAME, "an output of at least one pixel", left, context, fix))
    back = (x.shape[0], w.shape[1] * groups, *size)
    geometry = conv2d_geometry(back, w.shape, s, inner, d, groups)
    y = Conv2dInput.apply(channels_last(x), w, geometry)
    if cut:
        (top, low), (left_, right) = ((-q, m - q) for q, m in zip(p, more))
        y = pad(y, (left_, right, top, low))
    return y if b is None else y + b.reshape(1, -1, 1, 1)


def _check(x: Tensor, w: Tensor, b: Tensor | None, groups: int) -> None:
    if x.ndim != 4 or w.ndim != 4:
        expected = "x (n, c, h, w) and w (c_in, c_out / groups, k_h, k_w)"
        raise ShapeError(message(NAME, expected, f"{x.shape} and {w.shape}"))
    if x.shape[1] != w.shape[0] or w.shape[0] % groups:
        expected = "x.shape[1] == w.shape[0], divisible by groups"
        got = f"{x.shape[1]} and {w.shape[0]}"
        context = f"x {x.shape}, w {w.shape}, groups {groups}"
        fix = ""
        if x.shape[3] == w.shape[0]:
            fix = f"x looks like (n, h, w, c) with {w.shape[0]} channels: use minires.from_nhwc(x)."
        raise ShapeError(message(NAME, expected, got, context, fix))
    if min(w.shape) < 1:
        raise ShapeError(message(NAME, "a weight without empty dimensions", w.shape))
    if b is not None and b.shape != (w.shape[1] * groups,):
        raise ShapeError(message(NAME, f"b of shape {(w.shape[1] * groups,)}", b.shape))
