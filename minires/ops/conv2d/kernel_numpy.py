"""Convolution, the reference: one matrix product per kernel tap, and nothing clever.

All activations are buffers (n, h, w, c), or operands (:mod:`minires.kernels.operand`) over such;
weights keep their shape (c_out, c_in / groups, k_h, k_w).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...kernels.epilogue import NOTHING, Epilogue
from ...kernels.operand import as_operand
from ...kernels.packed import as_packed
from .. import sums
from .op import Conv2dGeometry


def conv2d_way(g: Conv2dGeometry, dtype: Any) -> str:
    """How a convolution of this geometry is computed: here in one way, "reference"."""
    return "reference"


def _taps(g: Conv2dGeometry) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """Each kernel tap (u, v), with the pixels of y that meet an x under it, and these x: rows and
    columns of each. Padding is left out: its zeros add nothing, not even where the other factor is
    infinite."""
    for u in range(g.k_h):
        for v in range(g.k_w):
            i, h = _inside(g.h_in, g.h_out, u * g.dilation[0] - g.padding[0], g.stride[0])
            j, k = _inside(g.w_in, g.w_out, v * g.dilation[1] - g.padding[1], g.stride[1])
            yield u, v, (i, j), (h, k)


def _inside(size: int, outputs: int, at: int, stride: int) -> tuple[slice, slice]:
    """The i below ``outputs`` with 0 <= h < ``size``, where h = i * stride + at; and these h."""
    first = max(-(at // stride), 0)
    end = max(min((size - 1 - at) // stride + 1, outputs), first)
    h = first * stride + at
    return slice(first, end), slice(h, h + (end - first) * stride, stride)


def _groups(g: Conv2dGeometry) -> Iterator[tuple[slice, slice]]:
    """Each group's input channels and output channels."""
    i, o = g.c_in // g.groups, g.c_out // g.groups
    for k in range(g.groups):
        yield slice(k * i, (k + 1) * i), slice(k * o, (k + 1) * o)


def conv2d_fwd(x: Any, w: Any, y: Any, g: Conv2dGeometry, epilogue: Epilogue = NOTHING) -> None:
    """Fill y (n, h_out, w_out, c_out) with the epilogue of conv(x, w) + b.

    Args:
        x: array (n, h_in, w_in, c_in), or an Operand.
        w: (c_out, c_in / groups, k_h, k_w), any strides; or PackedWeights, which have a bias.
        epilogue: its residual is an array like y.
    """
    kept = as_packed(w)
    w, b = kept.array, kept.bias
    y[...] = 0 if b is None else b
    x = as_operand(x).values()
    for u, v, out, inside in _taps(g):
        for i, o in _groups(g):
            y[:, *out, o] += x[:, *inside, i] @ w[o, :, u, v].T
    epilogue.apply(y)
    if epilogue.statistics is not None:
        mean, var = epilogue.statistics
        mean[...], var[...] = sums.mean_and_variance(y, (0, 1, 2))


def conv2d_bwd_input(gy: Any, w: Any, gx: Any, g: Conv2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c_in) with the gradient by w, which may be PackedWeights."""
    gy, w = as_operand(gy).values(), as_packed(w).array
    gx[...] = 0
    for u, v, out, inside in _taps(g):
        for i, o in _groups(g):
            gx[:, *inside, i] += gy[:, *out, o] @ w[o, :, u, v]


def conv2d_bwd_weight(gy: Any, x: Any, gw: Any, g: Conv2dGeometry) -> None:
    """Fill gw (c_out, c_in / groups, k_h, k_w)."""
    gy, x = as_operand(gy).values(), as_operand(x).values()
    for u, v, out, inside in _taps(g):
        for i, o in _groups(g):
            gw[o, :, u, v] = np.tensordot(
                gy[:, *out, o], x[:, *inside, i], axes=((0, 1, 2), (0, 1, 2))
            )
