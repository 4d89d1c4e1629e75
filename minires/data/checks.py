"""Checks of data sets, and of indices into them, that modules of :mod:`minires.data` share."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minires import arguments
from minires.errors import ArgumentError, BoundsError, DTypeError, message, quoted
from minires.tensor import Tensor


def length(op: str, dataset: Any) -> int:
    """How many samples a data set has.

    Raises:
        ArgumentError: no data set, or one whose length cannot be found out.
    """
    if not (
        hasattr(dataset, "__len__")
        and hasattr(dataset, "__getitem__")
        and not isinstance(dataset, type | Mapping | Set | str | bytes | bytearray)
    ):
        expected = "a data set with __len__ and __getitem__"
        raise ArgumentError(message(op, expected, type(dataset).__name__))
    try:
        return len(dataset)
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise ArgumentError(message(op, "a data set whose len() is a number", got)) from error


def places(op: str, index: Any, n: int) -> int | NDArray[np.int64]:
    """Where ``index`` points to in a data set of ``n`` samples: one place, or many, (k,).

    An integer is one place; a slice, or a list, an array or a tensor of integers, is many.
    Negative integers count from the end.

    Raises:
        DTypeError: another kind of thing, bools and masks among them.
        BoundsError: a place that there is not.
    """
    one = arguments.as_integer(index)
    if one is not None:
        _within(op, one, one, n)
        return one % n
    if isinstance(index, slice):
        return np.arange(*arguments.span(op, index).indices(n), dtype=np.int64)
    if isinstance(index, list | range):
        whole = [entry for entry in map(arguments.as_integer, index) if entry is not None]
        if len(whole) < len(index):
            raise _no_index(op, index)
        _within(op, min(whole, default=0), max(whole, default=0), n if whole else 1)
        many = np.array(whole, np.int64)
    else:
        many = index.detach().numpy() if isinstance(index, Tensor) else index
        if not isinstance(many, np.ndarray) or many.ndim != 1 or many.dtype.kind not in "iu":
            raise _no_index(op, index)
        if many.size:
            _within(op, int(many.min()), int(many.max()), n)
    return many.astype(np.int64) % max(n, 1)


def many_places(op: str, indices: Any, n: int) -> NDArray[np.int64]:
    """:func:`places`, and always many."""
    where = places(op, indices, n)
    if isinstance(where, int):
        raise DTypeError(message(op, "many indices, as a list or an array", quoted(indices)))
    return where


def _within(op: str, lowest: int, highest: int, n: int) -> None:
    if not -n <= lowest <= highest < n:
        got = quoted(lowest if lowest < -n else highest)
        raise BoundsError(message(op, f"an index into {n} samples", got))


def _no_index(op: str, index: Any) -> DTypeError:
    fix = ""
    if str(getattr(index, "dtype", "")) == "bool":
        fix = "Turn a mask into indices: numpy.flatnonzero(mask)."
    expected = "an integer, a slice, or a list or an array of integers, as index"
    return DTypeError(message(op, expected, quoted(index), fix=fix))
