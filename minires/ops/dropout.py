"""Dropout: in training, zero each entry with probability p and scale the rest by 1 / (1 - p)."""

from __future__ import annotations

import numpy as np

from .. import random
from ..device import array_module
from ..errors import ArgumentError, message
from ..tensor import Tensor
from .checks import real
from .elementwise import mul


def dropout(
    x: Tensor,
    p: float = 0.5,
    *,
    training: bool = True,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Zero entries at random (Srivastava et al., 2014); ``x`` itself in evaluation.

    Args:
        x: any shape.
        p: the probability of an entry to be zeroed, in 0..1.
        training: False returns ``x``.
        generator: where the mask is drawn from; the global generator by default.

    Raises:
        ArgumentError: p out of range.
    """
    real("dropout", x)
    if not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ArgumentError(message("dropout", "p in 0..1", repr(p)))
    if not training or p == 0:
        return x
    source = random.generator() if generator is None else generator
    kept = source.random(x.shape, dtype=np.float32) >= p
    mask = kept.astype(x.dtype) * (0 if p == 1 else 1 / (1 - p))
    return mul(x, Tensor(array_module(x._array).asarray(mask.astype(x.dtype, copy=False))))
