"""Batch normalisation, the reference. Activations are (m, c) rows; everything else is (c,)."""

from __future__ import annotations

from typing import Any

import numpy as np


def batch_norm_statistics(x: Any, mean: Any, var: Any) -> None:
    """Fill mean and the biased variance."""
    mean[...] = x.mean(axis=0)
    var[...] = np.square(x - mean).mean(axis=0)  # the square, not |.|²: holds for complex steps


def batch_norm_fwd(x: Any, w: Any, b: Any, mean: Any, inv_std: Any, y: Any) -> None:
    """Fill y = w * (x - mean) * inv_std + b."""
    y[...] = w * ((x - mean) * inv_std) + b


def batch_norm_bwd_affine(gy: Any, x: Any, mean: Any, inv_std: Any, gw: Any, gb: Any) -> None:
    """Fill gw = sum(gy * x_hat) and gb = sum(gy)."""
    gw[...] = (gy * ((x - mean) * inv_std)).sum(axis=0)
    gb[...] = gy.sum(axis=0)


def batch_norm_bwd_x(
    gy: Any, x: Any, w: Any, mean: Any, inv_std: Any, gw: Any, gb: Any, batch: bool, gx: Any
) -> None:
    """Fill gx; without ``batch`` the statistics do not depend on x."""
    if batch:
        m = x.shape[0]
        x_hat = (x - mean) * inv_std
        gx[...] = w * inv_std * (gy - gb / m - x_hat * gw / m)
    else:
        gx[...] = w * inv_std * gy
