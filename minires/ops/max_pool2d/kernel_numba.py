"""Max pooling on the CPU, in parallel over images and output rows (backward: over images)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...kernels.jit import kernel
from .op import MaxPool2dGeometry


@kernel
def _fwd(x, y, index, window, stride, padding, dilation):  # type: ignore[no-untyped-def]
    h_in, w_in = x.shape[1], x.shape[2]
    n, h_out, w_out, channels = y.shape
    for task in prange(n * h_out):
        image, i = divmod(np.int64(task), h_out)  # a prange counts in uint64
        for j in range(w_out):
            best, place = y[image, i, j], index[image, i, j]
            place[:] = -1
            for u in range(window[0]):
                h = i * stride[0] - padding[0] + u * dilation[0]
                for v in range(window[1]):
                    w = j * stride[1] - padding[1] + v * dilation[1]
                    if 0 <= h < h_in and 0 <= w < w_in:
                        for c in range(channels):
                            value = x[image, h, w, c]
                            if place[c] < 0 or value > best[c] or value != value:
                                best[c] = value
                                place[c] = h * w_in + w


@kernel
def _bwd_x(gy, index, gx):  # type: ignore[no-untyped-def]
    n, h_out, w_out, channels = gy.shape
    w_in = gx.shape[2]
    for image in prange(n):
        gx[image] = 0
        for i in range(h_out):
            for j in range(w_out):
                for c in range(channels):
                    place = index[image, i, j, c]
                    gx[image, place // w_in, place % w_in, c] += gy[image, i, j, c]


def max_pool2d_fwd(x: Any, y: Any, index: Any, g: MaxPool2dGeometry) -> None:
    """Fill y (n, h_out, w_out, c) and index, the places h * w_in + w of the maxima."""
    _fwd(x, y, index, g.kernel, g.stride, g.padding, g.dilation)


def max_pool2d_bwd_x(gy: Any, index: Any, gx: Any, g: MaxPool2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c): each gy added at its place."""
    _bwd_x(gy, index, gx)
