"""The update rules of optimisers: parameters, changed in place by their gradients.

A rule updates all parameters of a network in one call, because most of them are small: a call for
each would cost more than its work. Besides arrays a parameter has a row of coefficients, which are
computed once for all its entries.

SGD with momentum, of a parameter p with the gradient g and the velocity v::

    g = g + weight_decay * p
    v = momentum * v + keep * g          keep = 1 - dampening; the first velocity is v = g
    p = p - lr * v                       Nesterov: p = p - lr * (g + momentum * v)

Sutskever et al., "On the importance of initialization and momentum in deep learning" (ICML 2013),
equations 1 to 4, here with lr outside of the velocity, as in PyTorch.

Adam, in step t, with running moments m and v of the gradient::

    p = shrink * p                       shrink = 1 - lr * weight_decay if decoupled, else 1
    g = g + penalty * p                  penalty = 0 if decoupled, else weight_decay
    m = m + rate_1 * (g - m)             rate_1 = 1 - beta_1
    v = beta_2 * v + rate_2 * g²         rate_2 = 1 - beta_2
    top = v                              amsgrad: top = max(top, v)
    p = p - step * m / (sqrt(top) / root + eps)

with the moments' corrections in step = lr / (1 - beta_1^t) and root = sqrt(1 - beta_2^t). Kingma &
Ba, "Adam" (ICLR 2015), algorithm 1; amsgrad: Reddi, Kale & Kumar (ICLR 2018), algorithm 2;
decoupled: Loshchilov & Hutter, "Decoupled weight decay regularization" (ICLR 2019), algorithm 2.

RMSprop, with running means v of the squared gradient and m of the gradient, and the momentum b::

    g = sign * g + weight_decay * p      sign = -1 to go uphill, else 1
    v = alpha * v + rate * g²            rate = 1 - alpha
    m = m + rate * (g - m)               centered; else m = 0
    u = g / (sqrt(max(v - m², 0)) + eps)
    b = momentum * b + u
    p = p - lr * b                       without momentum: p = p - lr * u

Tieleman & Hinton, lecture 6e of "Neural Networks for Machine Learning" (2012); centered: Graves
(arXiv:1308.0850), equations 38 to 41.

Nothing here is differentiable, and arguments are not checked: :mod:`minires.optim` does that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...autograd import call
from ...device import kernels

# The places of a parameter's coefficients in its row. NESTEROV, AMSGRAD and CENTERED are 0 or 1,
# and so is BEGINS: whether the velocity is the first one; its array has zeros then, and KEEP is 1.
LR, WEIGHT_DECAY, MOMENTUM, KEEP, NESTEROV, BEGINS = range(6)
STEP, SHRINK, PENALTY, RATE_1, BETA_2, RATE_2, ROOT, EPS, AMSGRAD = range(9)
# those of RMSprop; LR and WEIGHT_DECAY stand where SGD has them
ALPHA, RATE, RMS_EPS, RMS_MOMENTUM, CENTERED, SIGN = range(2, 8)

Rows = Callable[[], Sequence[Sequence[float]]]  # a function: rates are read at every step


def sgd(params: Sequence[Any], grads: Sequence[Any], velocities: Sequence[Any], rows: Rows) -> None:
    """One step of SGD for all parameters.

    Args:
        params: arrays of any shapes and strides on one device, changed in place.
        grads: for each parameter an array of its shape and dtype.
        velocities: such arrays too, changed in place; None where the momentum is 0.
        rows: returns the coefficients of each parameter: (LR, WEIGHT_DECAY, MOMENTUM, KEEP,
            NESTEROV, BEGINS).

    Raises:
        KernelMissing: there is no kernel on this device.
    """
    coefficients = call(_coefficients, rows)
    kernels("update", params[0]).update_sgd(params, grads, velocities, coefficients)


def adam(
    params: Sequence[Any],
    grads: Sequence[Any],
    first_moments: Sequence[Any],
    second_moments: Sequence[Any],
    tops: Sequence[Any],
    rows: Rows,
) -> None:
    """One step of Adam for all parameters.

    Args:
        params: arrays of any shapes and strides on one device, changed in place.
        grads: for each parameter an array of its shape and dtype.
        first_moments, second_moments: such arrays too, changed in place.
        tops: the largest second moments so far, changed in place; None without amsgrad.
        rows: returns the coefficients of each parameter: (STEP, SHRINK, PENALTY, RATE_1, BETA_2,
            RATE_2, ROOT, EPS, AMSGRAD).

    Raises:
        KernelMissing: there is no kernel on this device.
    """
    coefficients = call(_coefficients, rows)
    moments = first_moments, second_moments, tops
    kernels("update", params[0]).update_adam(params, grads, *moments, coefficients)


def rmsprop(
    params: Sequence[Any],
    grads: Sequence[Any],
    squares: Sequence[Any],
    means: Sequence[Any],
    buffers: Sequence[Any],
    rows: Rows,
) -> None:
    """One step of RMSprop for all parameters.

    Args:
        params: arrays of any shapes and strides on one device, changed in place.
        grads: for each parameter an array of its shape and dtype.
        squares: such arrays too, the means of the squared gradients, changed in place.
        means: the means of the gradients; None where CENTERED is 0.
        buffers: the momenta; None where RMS_MOMENTUM is 0.
        rows: returns the coefficients of each parameter: (LR, WEIGHT_DECAY, ALPHA, RATE, RMS_EPS,
            RMS_MOMENTUM, CENTERED, SIGN).

    Raises:
        KernelMissing: there is no kernel on this device.
    """
    coefficients = call(_coefficients, rows)
    kept = squares, means, buffers
    kernels("update", params[0]).update_rmsprop(params, grads, *kept, coefficients)


def zero(arrays: Sequence[Any]) -> None:
    """Fill arrays of any shapes and strides on one device with zeros.

    Raises:
        KernelMissing: there is no kernel on this device.
    """
    kernels("update", arrays[0]).update_zero(arrays)


def _coefficients(rows: Rows) -> Any:
    """The coefficients of all parameters, (parameters, columns), in float64, which holds them as
    they are, and in the memory of the CPU."""
    return np.array(rows(), np.float64)
