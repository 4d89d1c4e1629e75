"""Batch normalisation, the reference. Activations are (m, c) rows; everything else is (c,)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.epilogue import NOTHING, Epilogue
from .. import sums


def batch_norm_statistics(x: Any, mean: Any, var: Any) -> None:
    """Fill mean and the biased variance."""
    mean[...], var[...] = sums.mean_and_variance(x, (0,))


def batch_norm_affine(
    mean: Any,
    var: Any,
    w: Any,
    b: Any,
    eps: float,
    own: Any,
    inv_std: Any,
    coefficients: Any,
    running: Any = None,
) -> None:
    """Fill ``own`` (2, c) = w and b, inv_std = 1 / sqrt(var + eps), and the coefficients (5, c) of
    an Operand: mean, w * inv_std and b, then zeros.

    ``running`` is None, or (running_mean, running_var, momentum, m / (m - 1), count): the first two
    then move towards mean and the unbiased variance, and the count of batches (), int64, or None,
    is raised by one.
    """
    own[0], own[1] = w, b
    inv_std[...] = 1 / np.sqrt(var + np.asarray(eps, mean.dtype))
    coefficients[...] = 0
    coefficients[0], coefficients[1], coefficients[2] = mean, w * inv_std, b
    if running is not None:
        running_mean, running_var, momentum, unbiased, count = running
        running_mean[...] = (1 - momentum) * running_mean + momentum * mean.real
        running_var[...] = (1 - momentum) * running_var + momentum * (var * unbiased).real
        if count is not None:
            count[...] += 1


def batch_norm_fwd(
    x: Any,
    w: Any,
    b: Any,
    mean: Any,
    inv_std: Any,
    y: Any,
    epilogue: Epilogue = NOTHING,
) -> None:
    """Fill y with the epilogue of w * (x - mean) * inv_std + b; its residual is an array (m, c), or
    an Operand over one."""
    y[...] = w * ((x - mean) * inv_std) + b
    epilogue.apply(y)


def batch_norm_bwd_affine(
    gy: Any,
    x: Any,
    mean: Any,
    inv_std: Any,
    gw: Any,
    gb: Any,
    *,
    second: Any = None,
    gate: Any = None,
    coefficients: Any = None,
    masked: Any = None,
    forward: Any = None,
    slopes: Any = None,
) -> None:
    """Fill gw = sum(g * x_hat) and gb = sum(g), where g = gy + ``second``, set to 0 where the ReLU
    behind the batch norm was shut.

    That is where ``gate`` (m, c), the ReLU's output, is at most 0; or, with the ``coefficients``
    (5, c) of an Operand in its place, where x normalised by them is not. ``masked`` receives g.
    ``slopes`` (5, c) is filled with the coefficients of gx, given those of y in ``forward``: their
    mean, scale and shift, share = gb / m and slope = gw / m * inv_std.
    """
    g = gy if second is None else gy + second
    if gate is None and coefficients is not None:
        center, scale, shift = coefficients[:3]
        gate = (x - center) * scale + shift
    if gate is not None:
        g = np.where(gate.real <= 0, 0, g)
    if masked is not None:
        masked[...] = g
    gw[...] = sums.total(g * ((x - mean) * inv_std), (0,))
    gb[...] = sums.total(g, (0,))
    if slopes is not None:
        slopes[:3] = forward[:3]
        slopes[3], slopes[4] = gb / len(x), gw / len(x) * inv_std


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
