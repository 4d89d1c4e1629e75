"""Convolution, the reference: one matrix product per kernel tap, and nothing clever.

All activations are buffers (n, h, w, c), or sources (:mod:`minires.kernels.source`) over such;
weights keep their shape (c_out, c_in / groups, k_h, k_w).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...kernels.source import as_source
from ...kernels.weights import as_weights
from .op import Conv2dGeometry


def _taps(g: Conv2dGeometry) -> Iterator[tuple[int, int, slice, slice]]:
    """Each kernel tap (u, v), with the rows and columns of the padded input it meets."""
    for u in range(g.k_h):
        for v in range(g.k_w):
            top, left = u * g.dilation[0], v * g.dilation[1]
            yield (
                u,
                v,
                slice(top, top + (g.h_out - 1) * g.stride[0] + 1, g.stride[0]),
                slice(left, left + (g.w_out - 1) * g.stride[1] + 1, g.stride[1]),
            )


def _padded(x: Any, g: Conv2dGeometry) -> Any:
    p_h, p_w = g.padding
    return np.pad(x, ((0, 0), (p_h, p_h), (p_w, p_w), (0, 0)))


def _groups(g: Conv2dGeometry) -> Iterator[tuple[slice, slice]]:
    """Each group's input channels and output channels."""
    i, o = g.c_in // g.groups, g.c_out // g.groups
    for k in range(g.groups):
        yield slice(k * i, (k + 1) * i), slice(k * o, (k + 1) * o)


def conv2d_fwd(
    x: Any,
    w: Any,
    b: Any,
    y: Any,
    g: Conv2dGeometry,
    *,
    residual: Any = None,
    relu: bool = False,
    statistics: Any = None,
) -> None:
    """Fill y (n, h_out, w_out, c_out) with act(conv(x, w) + b + residual).

    ``statistics``: None, or arrays (mean, var), each (c_out,), to be filled with the mean and the
    biased variance of each channel of y.
    """
    kept = as_weights(w, b)
    w, b = kept.array, kept.bias
    y[...] = 0 if b is None else b
    padded = _padded(as_source(x).values(), g)
    for u, v, rows, columns in _taps(g):
        for i, o in _groups(g):
            y[..., o] += padded[:, rows, columns, i] @ w[o, :, u, v].T
    if residual is not None:
        y += residual
    if relu:
        y[y <= 0] = 0  # and NaN stays
    if statistics is not None:
        mean, var = statistics
        mean[...] = y.mean((0, 1, 2), dtype=np.float64)
        var[...] = y.var((0, 1, 2), dtype=np.float64)


def conv2d_bwd_input(gy: Any, w: Any, gx: Any, g: Conv2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c_in)."""
    gy, (p_h, p_w) = as_source(gy).values(), g.padding
    padded = np.zeros((g.n, g.h_in + 2 * p_h, g.w_in + 2 * p_w, g.c_in), gy.dtype)
    for u, v, rows, columns in _taps(g):
        for i, o in _groups(g):
            padded[:, rows, columns, i] += gy[..., o] @ w[o, :, u, v]
    gx[...] = padded[:, p_h : p_h + g.h_in, p_w : p_w + g.w_in]


def conv2d_bwd_weight(gy: Any, x: Any, gw: Any, g: Conv2dGeometry) -> None:
    """Fill gw (c_out, c_in / groups, k_h, k_w)."""
    gy, padded = as_source(gy).values(), _padded(as_source(x).values(), g)
    for u, v, rows, columns in _taps(g):
        for i, o in _groups(g):
            gw[o, :, u, v] = np.tensordot(
                gy[..., o], padded[:, rows, columns, i], axes=((0, 1, 2), (0, 1, 2))
            )
