"""Cross entropy, the reference. x (n, c), labels int64 (n,), losses and g (n,).

The number subtracted from x before the exponential cancels out, in derivatives too: of complex x
it is taken from the real part.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def _target(x: Any, labels: Any, smoothing: float, ignore: int) -> Any:
    """q (n, c); the rows to ignore are zero."""
    q = np.full(x.shape, smoothing / x.shape[1], x.dtype)
    used = labels != ignore
    q[np.flatnonzero(used), labels[used]] += 1 - smoothing
    q[~used] = 0
    return q


def cross_entropy_fwd(x: Any, labels: Any, smoothing: float, ignore: int, losses: Any) -> None:
    """Fill losses = -sum(q * log(softmax(x)))."""
    shifted = x - x.real.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    q = _target(x, labels, smoothing, ignore)
    # a class that is ruled out has logarithm -inf, which counts for nothing where q is 0
    losses[...] = -np.multiply(q, logarithms, where=q != 0, out=np.zeros_like(q)).sum(axis=1)


def cross_entropy_bwd_x(
    g: Any, x: Any, labels: Any, smoothing: float, ignore: int, gx: Any
) -> None:
    """Fill gx = (softmax(x) - q) * g, 0 in the rows to ignore."""
    p = np.exp(x - x.real.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[labels == ignore] = 0
    gx[...] = (p - _target(x, labels, smoothing, ignore)) * g[:, None]
