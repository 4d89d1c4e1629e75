"""Average pooling on the CPU, in parallel over images."""

from __future__ import annotations

from typing import Any

from numba import prange

from ...kernels.jit import kernel
from .op import AvgPool2dGeometry


@kernel
def _fwd(x, y, h_low, h_high, w_low, w_high, scale):  # type: ignore[no-untyped-def]
    n, h_out, w_out, channels = y.shape
    for image in prange(n):
        for i in range(h_out):
            for j in range(w_out):
                total = y[image, i, j]
                total[:] = 0
                for h in range(h_low[i], h_high[i]):
                    for w in range(w_low[j], w_high[j]):
                        for c in range(channels):
                            total[c] += x[image, h, w, c]
                for c in range(channels):
                    total[c] *= scale[i, j]


@kernel
def _bwd_x(gy, gx, h_low, h_high, w_low, w_high, scale):  # type: ignore[no-untyped-def]
    n, h_out, w_out, channels = gy.shape
    for image in prange(n):
        gx[image] = 0
        for i in range(h_out):
            for j in range(w_out):
                for h in range(h_low[i], h_high[i]):
                    for w in range(w_low[j], w_high[j]):
                        for c in range(channels):
                            gx[image, h, w, c] += gy[image, i, j, c] * scale[i, j]


def _windows(g: AvgPool2dGeometry, dtype: Any) -> tuple[Any, ...]:
    return g.h_low, g.h_high, g.w_low, g.w_high, g.scale.astype(dtype)


def avg_pool2d_fwd(x: Any, y: Any, g: AvgPool2dGeometry) -> None:
    """Fill y (n, h_out, w_out, c)."""
    _fwd(x, y, *_windows(g, y.dtype))


def avg_pool2d_bwd_x(gy: Any, gx: Any, g: AvgPool2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c)."""
    _bwd_x(gy, gx, *_windows(g, gx.dtype))
