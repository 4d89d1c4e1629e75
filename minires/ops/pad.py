"""Padding: images (or anything else) made wider, with a value or with what they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..arguments import as_integer, check_memory, choice
from ..autograd import Context, Function, Variable
from ..creation import sizes_of
from ..errors import ArgumentError, DTypeError, ShapeError, message
from ..tensor import Tensor
from .checks import full_laid_out, given, operand
from .index import GetItem
from .shape import concatenate, expand, numbers_in

MODES = ("constant", "reflect", "replicate", "circular")
Widths = tuple[tuple[int, int], ...]  # (before, after) of each dimension


class Pad(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, widths: Widths, value: float) -> Any:
        shape = tuple(n + before + after for n, (before, after) in zip(x.shape, widths))
        ctx.inside = tuple(slice(b, b + n) for n, (b, _) in zip(x.shape, widths))
        y = full_laid_out(x, shape, value)
        y[ctx.inside] = x
        return y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return GetItem.apply(gy, ctx.inside), None, None


def pad(x: Tensor, padding: Sequence[int], value: float = 0, mode: str = "constant") -> Tensor:
    """Widen with ``value``, or with what ``x`` holds.

    Args:
        x: any shape.
        padding: (before, after) of the last dimension, then of the one before it, and so on, as in
            PyTorch. Negative widths cut.
        value: what there is outside, with ``mode="constant"``.
        mode: ``"constant"``; ``"reflect"``: ``x`` as in a mirror at its first and last entry;
            ``"replicate"``: the nearest entry; ``"circular"``: ``x`` from its other end on.

    Raises:
        ShapeError: widths that are no pairs, or that leave no size; wider than what there is to
            reflect or repeat.
        ArgumentError: another mode, or a ``value`` with one that takes none.

    >>> import minires as mr
    >>> mr.pad(mr.ones(1, 2), (1, 0)).tolist()
    [[0.0, 1.0, 1.0]]
    >>> mr.pad(mr.tensor([1, 2, 3]), (2, 1), mode="reflect").tolist()
    [3, 2, 1, 2, 3, 2]
    """
    widths = _widths(given("pad", x), padding)
    mode = choice("mode", mode, MODES)
    if isinstance(value, float) and value.is_integer() and x.dtype.kind in "iub":
        value = int(value)
    value = operand("pad", value, x)
    if isinstance(value, Variable):
        raise DTypeError(message("pad", "value a number", "a tensor", fix="Use value.item()."))
    if mode != "constant" and value:
        raise ArgumentError(message("pad", f"no value with mode {mode!r}", value))
    more = tuple((max(a, 0), max(b, 0)) for a, b in widths)
    less = tuple((max(-a, 0), max(-b, 0)) for a, b in widths)
    if mode == "constant":
        return Pad.apply(_cut(x, less), more, value)
    if mode == "circular":  # around what is left
        return _all_widened(_cut(x, less), more, mode)
    return _cut(_all_widened(x, more, mode), less)


def _widths(x: Tensor, padding: Any) -> Widths:
    """The widths of each dimension of x, checked."""
    if as_integer(padding) is None:
        padding = numbers_in("pad", "pairs of widths", padding)
    flat = sizes_of("pad", [padding], -(2**31))
    if len(flat) % 2 or len(flat) // 2 > x.ndim:
        raise ShapeError(
            message("pad", f"pairs of widths for at most {x.ndim} dims", flat, f"x {x.shape}")
        )
    pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)][::-1]
    widths = ((0, 0),) * (x.ndim - len(pairs)) + tuple(pairs)
    if any(n + min(a, 0) + min(b, 0) < 0 for n, (a, b) in zip(x.shape, widths)):
        raise ShapeError(message("pad", "to leave sizes >= 0", flat, f"x {x.shape}"))
    after = math.prod(n + a + b for n, (a, b) in zip(x.shape, widths))
    check_memory("pad", after * x.itemsize, f"widths {flat}")
    return widths


def _cut(x: Tensor, less: Widths) -> Tensor:
    """x without so many entries before and after, in each dimension."""
    if not any(a or b for a, b in less):
        return x
    return GetItem.apply(x, tuple(slice(a, n - b) for n, (a, b) in zip(x.shape, less)))


def _all_widened(x: Tensor, more: Widths, mode: str) -> Tensor:
    for axis, (before, after) in enumerate(more):
        if before or after:
            x = _widened(x, axis, before, after, mode)
    return x


def _widened(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """x with entries of its own before and after it, along one dimension."""
    n = x.shape[axis]
    most = {"reflect": n - 1, "circular": n, "replicate": before + after if n else 0}[mode]
    if max(before, after) > most:
        expected = f"widths of at most {max(most, 0)} with mode {mode!r}"
        raise ShapeError(message("pad", expected, (before, after), f"dim {axis} of {x.shape}"))
    if mode == "replicate":
        parts = [_repeated(x, axis, 0, before), x, _repeated(x, axis, n - 1, after)]
    elif mode == "circular":
        parts = [_part(x, axis, slice(n - before, n)), x, _part(x, axis, slice(after))]
    else:  # backwards, without the entry at the mirror
        last = n - 2 - after
        right = slice(n - 2, None if last < 0 else last, -1) if after else slice(0)
        parts = [_part(x, axis, slice(before, 0, -1)), x, _part(x, axis, right)]
    return concatenate([part for part in parts if part.shape[axis]], axis)


def _part(x: Tensor, axis: int, part: slice) -> Tensor:
    return GetItem.apply(x, (slice(None),) * axis + (part,))


def _repeated(x: Tensor, axis: int, place: int, times: int) -> Tensor:
    """The entries at one place of a dimension, so many times."""
    one = _part(x, axis, slice(place, place + 1))
    return expand(one, *one.shape[:axis], times, *one.shape[axis + 1 :])
