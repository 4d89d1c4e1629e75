"""Max pooling, the reference: one comparison of whole images per tap.

Activations are buffers (n, h, w, c), of which x may be an Operand; of complex values the real parts
are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.operand import as_operand
from .op import MaxPool2dGeometry


def max_pool2d_fwd(x: Any, y: Any, index: Any, g: MaxPool2dGeometry) -> None:
    """Fill y (n, h_out, w_out, c) and index, the places h * w_in + w of the maxima."""
    x = as_operand(x).values()
    index[...] = -1
    i, j = np.arange(g.h_out), np.arange(g.w_out)
    for u in range(g.kernel[0]):
        for v in range(g.kernel[1]):
            h = i * g.stride[0] - g.padding[0] + u * g.dilation[0]
            w = j * g.stride[1] - g.padding[1] + v * g.dilation[1]
            inside_h, inside_w = (h >= 0) & (h < g.h_in), (w >= 0) & (w < g.w_in)
            target = np.ix_(np.arange(g.n), i[inside_h], j[inside_w])
            place = (h[inside_h][:, None] * g.w_in + w[inside_w])[None, :, :, None]
            value = x[np.ix_(np.arange(g.n), h[inside_h], w[inside_w])]
            best, chosen = y[target], index[target]
            better = (chosen < 0) | (value.real > best.real) | np.isnan(value)
            y[target] = np.where(better, value, best)
            index[target] = np.where(better, place, chosen)


def max_pool2d_bwd_x(gy: Any, index: Any, gx: Any, g: MaxPool2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c): each gy added at its place."""
    gx[...] = 0
    n, c = np.arange(g.n)[:, None, None, None], np.arange(g.c)
    np.add.at(gx, (n, index // g.w_in, index % g.w_in, c), gy)
