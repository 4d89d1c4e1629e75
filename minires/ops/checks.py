"""Checks and conversions that several hand-written operations share."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError, message

Pair = tuple[int, int]


def pair(op: str, name: str, value: Any, least: int) -> Pair:
    """An option given as one integer or as (height, width).

    Raises:
        ArgumentError: neither, or below ``least``.
    """
    entries = (value, value) if isinstance(value, int | np.integer) else value
    if (
        isinstance(value, bool)
        or not isinstance(entries, tuple | list)
        or len(entries) != 2
        or not all(isinstance(e, int | np.integer) and e >= least for e in entries)
    ):
        raise ArgumentError(
            message(op, f"{name} an integer >= {least} or a pair of them", repr(value))
        )
    return int(entries[0]), int(entries[1])


def images(op: str, shape: tuple[int, ...]) -> None:
    """Require (n, c, h, w)."""
    if len(shape) != 4:
        raise ShapeError(message(op, "x of shape (n, c, h, w)", shape))


def nhwc(array: Any) -> Any:
    """The (n, h, w, c) buffer behind a logical (n, c, h, w) array in channels-last memory."""
    return array.transpose(0, 2, 3, 1)


def _order(array: Any) -> list[int]:
    """The dimensions of an array from the slowest to the fastest in memory."""
    return sorted(range(array.ndim), key=lambda i: (-array.strides[i], i))


def dense(array: Any) -> Any:
    """The array itself if its entries fill one block of memory in some order of dimensions
    (row-major, channels-last, transposed), else a row-major copy."""
    if array.flags.c_contiguous or array.transpose(_order(array)).flags.c_contiguous:
        return array
    return array.copy(order="C")


def flat(array: Any) -> Any:
    """All entries of a dense array as one dimension, in memory order, without copying."""
    return array.transpose(_order(array)).reshape(-1)


def as_laid_out(array: Any, like: Any) -> Any:
    """``array`` in the memory order of the dense array ``like``."""
    if array.strides == like.strides:
        return array
    order = _order(like)
    target = array.transpose(order).copy(order="C")
    back = [order.index(i) for i in range(len(order))]
    return target.transpose(back)
