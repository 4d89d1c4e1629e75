"""Classes along dimension 1 of anything, as the rows of a matrix: what losses are written for."""

from __future__ import annotations

import math

from ..errors import ShapeError, message
from ..tensor import Tensor
from .shape import permute, reshape


def as_rows(name: str, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Scores (n, c, d1, ...) and their targets as (n * d1 * ..., c), and (c,) as (1, c).

    Args:
        name: of the operation, for errors.
        x: scores of c classes for each of n, d1, ... places; or for one place, (c,).
        target: labels, (n, d1, ...) or () for one place; or floats of x's shape.

    Returns:
        The rows of x; labels (n * d1 * ...,), or the rows of a target of floats; and the shape
        (n, d1, ...) of the places.

    Raises:
        ShapeError: x of no dimension, or a target of another shape.
    """
    if not x.shape:
        raise ShapeError(message(name, "scores of shape (n, c, ...) or (c,)", x.shape))
    places = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    shape = x.shape if target.is_floating_point() else places
    if target.shape != shape:
        kind = "probabilities" if target.is_floating_point() else "labels"
        raise ShapeError(message(name, f"{kind} of shape {shape}", target.shape, f"x {x.shape}"))
    if target.is_floating_point():
        return _rows(x), _rows(target), places
    return _rows(x), reshape(target, math.prod(places)), places


def _rows(x: Tensor) -> Tensor:
    classes = x.shape[min(1, x.ndim - 1)]
    if x.ndim > 1:
        x = permute(x, 0, *range(2, x.ndim), 1)
    return reshape(x, math.prod(x.shape[:-1]), classes)
