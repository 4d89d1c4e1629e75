"""Dropout: in training, zero each entry with probability p and scale the rest by 1 / (1 - p).

Neighbouring pixels of a feature map say much the same, so zeroing some hides little:
:func:`dropout2d` zeroes whole maps instead (Tompson et al., 2015, arXiv:1411.4280).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import flag, number
from ..autograd import call
from ..device import Device, move
from ..memory import allocate
from ..random import Generator, draws_on
from ..tensor import Tensor
from .checks import images, real, takes_one_image
from .elementwise import mul
from .random import source


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
        generator: where the mask is drawn from; the global generator by default. A generator of
            minires draws where x is; NumPy's draw on the host, and what a GPU gets is copied.

    Raises:
        ArgumentError: p out of range.
    """
    return _masked("dropout", x, real("dropout", x).shape, p, training, generator)


@takes_one_image
def dropout2d(
    x: Tensor,
    p: float = 0.5,
    *,
    training: bool = True,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Zero whole channels of single images at random; ``x`` itself in evaluation.

    Args:
        x: (n, c, h, w), or one image without n.
        p: the probability of a channel of an image to be zeroed, in 0..1.
        training: False returns ``x``.
        generator: where the mask is drawn from; the global generator by default. A generator of
            minires draws where x is; NumPy's draw on the host, and what a GPU gets is copied.

    Raises:
        ArgumentError: p out of range.
        ShapeError: x is neither.
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
    p = number(name, "p", p, least=0, most=1)
    if not flag(name, "training", training) or p == 0:
        return x
    draws = source(name, generator)
    if x.device.type == "cuda" and isinstance(draws, Generator):
        return mul(x, Tensor(_mask_on_gpu(draws, shape, p, x.dtype, x.device)))
    return mul(x, Tensor(call(_mask, draws, shape, p, x.dtype, x.device)))


def _mask_on_gpu(
    draws: Generator, shape: tuple[int, ...], p: float, dtype: Any, device: Device
) -> Any:
    """A mask that is drawn where it is needed, by kernels."""
    from ..kernels.cuda.draws import draw_mask

    mask = allocate(shape, dtype, device)
    draw_mask(draws_on(draws, device), p, 0 if p == 1 else 1 / (1 - p), mask)
    return mask


def _mask(
    draws: np.random.Generator, shape: tuple[int, ...], p: float, dtype: Any, device: Device
) -> Any:
    kept = draws.random(shape, dtype=np.float32) >= p
    mask = kept.astype(dtype) * (0 if p == 1 else 1 / (1 - p))
    return move(mask.astype(dtype, copy=False), device)
