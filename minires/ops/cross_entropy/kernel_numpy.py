"""Cross entropy, the reference. x (n, c), labels int64 (n,), losses and g (n,).

The number subtracted from x before the exponential cancels out, in derivatives too: of complex x
it is taken from the real part. What has no weight has no part in the result: 0 times an infinity
is 0 here.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def _log_softmax(x: Any) -> Any:
    """log(softmax(x)) (n, c). The maxima of a row are counted and the rest is summed apart: beside
    a single maximum the logarithm of the sum is log(1 + rest), however small the rest is."""
    shifted = x - x.real.max(axis=1, keepdims=True)
    top = shifted.real == 0
    count = np.maximum(top.sum(axis=1, keepdims=True), 1).astype(x.real.dtype)
    rest = (np.exp(shifted) - top).sum(axis=1, keepdims=True)
    return shifted - np.log(count) - np.log1p(rest / count)


def _times(a: Any, b: Any) -> Any:
    """a * b, and 0 where a is 0."""
    return np.where(a == 0, 0, a * b)


def cross_entropy_fwd(x: Any, labels: Any, smoothing: float, ignore: int, losses: Any) -> None:
    """Fill losses = -sum(q * log(softmax(x))), 0 in the rows to ignore."""
    used = np.flatnonzero(labels != ignore)
    q = np.full((len(used), x.shape[1]), smoothing / x.shape[1], x.dtype)
    q[np.arange(len(used)), labels[used]] += 1 - smoothing
    losses[...] = 0
    losses[used] = -_times(q, _log_softmax(x[used])).sum(axis=1)


def cross_entropy_bwd_x(
    g: Any, x: Any, labels: Any, smoothing: float, ignore: int, gx: Any
) -> None:
    """Fill gx = (softmax(x) - q) * g, 0 in the rows to ignore."""
    used, uniform = np.flatnonzero(labels != ignore), smoothing / x.shape[1]
    logarithms = _log_softmax(x[used])
    at = np.arange(len(used)), labels[used]
    difference = np.exp(logarithms) - uniform
    # p - 1 of the label, which would lose its digits where p is almost 1
    difference[at] = np.expm1(logarithms[at]) + (smoothing - uniform)
    gx[...] = 0
    gx[used] = _times(difference, g[used, None])
