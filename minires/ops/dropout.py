"""Dropout: in training, zero each entry with probability p and scale the rest by 1 / (1 - p).

Neighbouring pixels of a feature map say much the same, so zeroing some hides little:
:func:`dropout2d` zeroes whole maps instead (Tompson et al., 2015, arXiv:1411.4280).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import random
from ..autograd import computed
from ..device import array_module
from ..errors import ArgumentError, message
from ..tensor import Tensor
from .checks import images, real
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
    return _masked("dropout", x, x.shape, p, training, generator)


def dropout2d(
    x: Tensor,
    p: float = 0.5,
    *,
    training: bool = True,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Zero whole channels of single images at random; ``x`` itself in evaluation.

    Args:
        x: (n, c, h, w).
        p: the probability of a channel of an image to be zeroed, in 0..1.
        training: False returns ``x``.
        generator: where the mask is drawn from; the global generator by default.

    Raises:
        ArgumentError: p out of range.
        ShapeError: x is not (n, c, h, w).
    """
    images("dropout2d", real("dropout2d", x).shape)
    return _masked("dropout2d", x, (*x.shape[:2], 1, 1), p, training, generator)


def _masked(
    name: str,
    x: Tensor,
    shape: tuple[int, ...],
    p: float,
    training: bool,
    generator: np.random.Generator | None,
) -> Tensor:
    """x times a mask of this shape."""
    real(name, x)
    if not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ArgumentError(message(name, "p in 0..1", repr(p)))
    if not training or p == 0:
        return x
    source = random.generator() if generator is None else generator
    mask = computed(_mask, source, shape, p, x.dtype)
    return mul(x, Tensor(array_module(x._array).asarray(mask)))


def _mask(source: np.random.Generator, shape: tuple[int, ...], p: float, dtype: Any) -> Any:
    kept = source.random(shape, dtype=np.float32) >= p
    mask = kept.astype(dtype) * (0 if p == 1 else 1 / (1 - p))
    return mask.astype(dtype, copy=False)
