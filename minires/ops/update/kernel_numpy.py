"""The update rules, the reference: array expressions, for one parameter after the other.

``coefficients`` is a float64 array (parameters, columns); :mod:`.op` names the columns. Each row
becomes Python's floats, which do not change the dtype of an expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...device import array_module


def update_sgd(
    params: Sequence[Any], grads: Sequence[Any], velocities: Sequence[Any], coefficients: Any
) -> None:
    """Change parameters and velocities as SGD does."""
    for p, g, v, row in zip(params, grads, velocities, coefficients.tolist()):
        lr, weight_decay, momentum, keep, nesterov, begins = row
        if weight_decay:
            g = g + weight_decay * p
        if momentum:
            if begins:
                v[...] = g
            else:
                v *= momentum
                v += keep * g
            g = g + momentum * v if nesterov else v
        p -= lr * g


def update_adam(
    params: Sequence[Any],
    grads: Sequence[Any],
    first_moments: Sequence[Any],
    second_moments: Sequence[Any],
    tops: Sequence[Any],
    coefficients: Any,
) -> None:
    """Change parameters and moments as Adam does."""
    arrays = params, grads, first_moments, second_moments, tops
    for p, g, m, v, top, row in zip(*arrays, coefficients.tolist()):
        step, shrink, penalty, rate_1, beta_2, rate_2, root, eps, amsgrad = row
        xp = array_module(p)
        if shrink != 1:
            p *= shrink
        if penalty:
            g = g + penalty * p
        m += rate_1 * (g - m)
        v *= beta_2
        v += rate_2 * g * g
        if amsgrad:
            xp.maximum(top, v, out=top)
        else:
            top = v
        scale = xp.sqrt(top)
        scale /= root
        scale += eps
        p -= step * m / scale


def update_rmsprop(
    params: Sequence[Any],
    grads: Sequence[Any],
    squares: Sequence[Any],
    means: Sequence[Any],
    buffers: Sequence[Any],
    coefficients: Any,
) -> None:
    """Change parameters, running means and momenta as RMSprop does."""
    arrays = params, grads, squares, means, buffers
    for p, g, v, m, b, row in zip(*arrays, coefficients.tolist()):
        lr, weight_decay, alpha, rate, eps, momentum, centered, sign = row
        xp = array_module(p)
        g = sign * g
        if weight_decay:
            g = g + weight_decay * p
        v *= alpha
        v += rate * g * g
        variance = v
        if centered:
            m += rate * (g - m)
            variance = xp.maximum(v - m * m, 0)
        u = g / (xp.sqrt(variance) + eps)
        if momentum:
            b *= momentum
            b += u
            u = b
        p -= lr * u


def update_zero(arrays: Sequence[Any]) -> None:
    """Fill the arrays with zeros."""
    for array in arrays:
        array.fill(0)
