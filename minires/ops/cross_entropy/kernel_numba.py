"""Cross entropy on the CPU, in parallel over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...kernels.jit import kernel


@kernel
def _fwd(x, labels, smoothing, ignore, losses):  # type: ignore[no-untyped-def]
    classes = x.shape[1]
    for row in prange(x.shape[0]):
        if labels[row] == ignore:
            losses[row] = 0
            continue
        peak = x[row, 0]
        for k in range(1, classes):
            peak = max(peak, x[row, k])
        total = 0.0
        spread = 0.0
        for k in range(classes):
            total += np.exp(x[row, k] - peak)
            spread += x[row, k] - peak
        logarithm = np.log(total)
        loss = (1 - smoothing) * (logarithm - (x[row, labels[row]] - peak))
        if smoothing > 0:  # 0 * inf would make a NaN of a class that is ruled out
            loss += smoothing * (logarithm - spread / classes)
        losses[row] = loss


@kernel
def _bwd_x(g, x, labels, smoothing, ignore, gx):  # type: ignore[no-untyped-def]
    classes = x.shape[1]
    for row in prange(x.shape[0]):
        if labels[row] == ignore:
            gx[row] = 0
            continue
        peak = x[row, 0]
        for k in range(1, classes):
            peak = max(peak, x[row, k])
        total = 0.0
        for k in range(classes):
            gx[row, k] = np.exp(x[row, k] - peak)
            total += gx[row, k]
        for k in range(classes):
            gx[row, k] = (gx[row, k] / total - smoothing / classes) * g[row]
        gx[row, labels[row]] -= (1 - smoothing) * g[row]


def cross_entropy_fwd(x: Any, labels: Any, smoothing: float, ignore: int, losses: Any) -> None:
    """Fill losses = -sum(q * log(softmax(x)))."""
    _fwd(x, labels, smoothing, ignore, losses)


def cross_entropy_bwd_x(
    g: Any, x: Any, labels: Any, smoothing: float, ignore: int, gx: Any
) -> None:
    """Fill gx = (softmax(x) - q) * g, 0 in the rows to ignore."""
    _bwd_x(g, x, labels, smoothing, ignore, gx)
