"""The rectifier, the reference. All arrays are flat; of complex ones the real part chooses."""

from __future__ import annotations

from typing import Any

import numpy as np


def relu_fwd(x: Any, y: Any) -> None:
    """Fill y = max(x, 0); NaN stays NaN."""
    y[...] = np.where(x.real <= 0, 0, x)  # written so that NaN stays NaN


def relu_bwd_x(gy: Any, y: Any, gx: Any) -> None:
    """Fill gx = 0 where y <= 0, else gy: NaN lets it through."""
    gx[...] = np.where(y.real <= 0, 0, gy)
