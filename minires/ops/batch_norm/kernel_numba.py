"""Batch normalisation on the CPU.

Sums over the batch are taken in a fixed number of parts, in float64, and the parts are added in
order: the result does not depend on the number of threads. The mean is subtracted before
squaring, which costs a second pass but no digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...kernels.jit import kernel

PARTS = 16


@kernel
def _sums(x, sums):  # type: ignore[no-untyped-def]
    """sums[part] = the part's sum of x, per channel."""
    parts = sums.shape[0]
    for part in prange(parts):
        total = sums[part]
        for row in range(part * x.shape[0] // parts, (part + 1) * x.shape[0] // parts):
            for c in range(x.shape[1]):
                total[c] += x[row, c]


@kernel
def _squares(x, mean, sums):  # type: ignore[no-untyped-def]
    """sums[part] = the part's sum of (x - mean)², per channel."""
    parts = sums.shape[0]
    for part in prange(parts):
        total = sums[part]
        for row in range(part * x.shape[0] // parts, (part + 1) * x.shape[0] // parts):
            for c in range(x.shape[1]):
                distance = x[row, c] - mean[c]
                total[c] += distance * distance


@kernel
def _fwd(x, scale, shift, mean, y):  # type: ignore[no-untyped-def]
    for row in prange(x.shape[0]):
        for c in range(x.shape[1]):
            y[row, c] = (x[row, c] - mean[c]) * scale[c] + shift[c]


@kernel
def _bwd_sums(gy, x, mean, inv_std, sums):  # type: ignore[no-untyped-def]
    """sums[part] = the part's sums of gy * x_hat and of gy, per channel."""
    parts = sums.shape[0]
    for part in prange(parts):
        sum_w, sum_b = sums[part, 0], sums[part, 1]
        for row in range(part * x.shape[0] // parts, (part + 1) * x.shape[0] // parts):
            for c in range(x.shape[1]):
                sum_w[c] += gy[row, c] * (x[row, c] - mean[c]) * inv_std[c]
                sum_b[c] += gy[row, c]


@kernel
def _bwd_x(gy, x, mean, scale, gy_mean, slope, gx):  # type: ignore[no-untyped-def]
    for row in prange(x.shape[0]):
        for c in range(x.shape[1]):
            gx[row, c] = scale[c] * (gy[row, c] - gy_mean[c] - (x[row, c] - mean[c]) * slope[c])


def batch_norm_statistics(x: Any, mean: Any, var: Any) -> None:
    """Fill mean and the biased variance."""
    sums = np.zeros((2, PARTS, x.shape[1]))
    _sums(x, sums[0])
    mean[...] = sums[0].sum(axis=0) / x.shape[0]
    _squares(x, mean, sums[1])
    var[...] = sums[1].sum(axis=0) / x.shape[0]


def batch_norm_fwd(x: Any, w: Any, b: Any, mean: Any, inv_std: Any, y: Any) -> None:
    """Fill y = w * (x - mean) * inv_std + b."""
    _fwd(x, w * inv_std, b, mean, y)


def batch_norm_bwd_affine(gy: Any, x: Any, mean: Any, inv_std: Any, gw: Any, gb: Any) -> None:
    """Fill gw = sum(gy * x_hat) and gb = sum(gy)."""
    sums = np.zeros((PARTS, 2, x.shape[1]))
    _bwd_sums(gy, x, mean, inv_std, sums)
    gw[...], gb[...] = sums.sum(axis=0)


def batch_norm_bwd_x(
    gy: Any, x: Any, w: Any, mean: Any, inv_std: Any, gw: Any, gb: Any, batch: bool, gx: Any
) -> None:
    """Fill gx; without ``batch`` the statistics do not depend on x."""
    m = x.shape[0]
    share = gb / m if batch else np.zeros_like(gb)
    slope = gw / m * inv_std if batch else np.zeros_like(gw)
    _bwd_x(gy, x, mean, w * inv_std, share, slope, gx)
