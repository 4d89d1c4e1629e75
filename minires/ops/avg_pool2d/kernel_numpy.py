"""Average pooling, the reference: one window of all images at a time.

Activations are buffers (n, h, w, c).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import sums
from .op import AvgPool2dGeometry


def avg_pool2d_fwd(x: Any, y: Any, g: AvgPool2dGeometry) -> None:
    """Fill y (n, h_out, w_out, c)."""
    for i, j in np.ndindex(g.scale.shape):
        window = x[:, g.h_low[i] : g.h_high[i], g.w_low[j] : g.w_high[j]]
        y[:, i, j] = sums.total(window, (1, 2), over=g.count[i, j])


def avg_pool2d_bwd_x(gy: Any, gx: Any, g: AvgPool2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c)."""
    gx[...] = 0
    for i, j in np.ndindex(g.scale.shape):
        window = gx[:, g.h_low[i] : g.h_high[i], g.w_low[j] : g.w_high[j]]
        window += (gy[:, i, j] * g.scale[i, j])[:, None, None]
