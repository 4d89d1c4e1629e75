"""The rectifier on the CPU: one pass over memory, in parallel."""

from __future__ import annotations

from typing import Any

from numba import prange

from ...kernels.jit import kernel


@kernel
def _fwd(x, y):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        y[i] = 0 if x[i] <= 0 else x[i]  # written so that NaN stays NaN


@kernel
def _bwd_x(gy, y, gx):  # type: ignore[no-untyped-def]
    for i in prange(gy.size):
        gx[i] = gy[i] if y[i] > 0 else 0


def relu_fwd(x: Any, y: Any) -> None:
    """Fill y = max(x, 0); NaN stays NaN."""
    _fwd(x, y)


def relu_bwd_x(gy: Any, y: Any, gx: Any) -> None:
    """Fill gx = gy where y > 0, else 0."""
    _bwd_x(gy, y, gx)
