"""Resizing of images and sequences, by the nearest entry or by weighted means of two.

Both are done one axis after the other; for ``linear`` each entry is a weighted sum of two::

    nearest   y[i] = x[floor(i * scale)]
    linear    y[i] = (1 - t) * x[k] + t * x[k + 1]     k + t = (i + 1/2) * scale - 1/2, at least 0
              with align_corners: k + t = i * (size - 1) / (new_size - 1)

where scale = size / new_size, or 1 / scale_factor if that was given. Which entry is the nearest can
hang on the last bit of i * scale: as in PyTorch it has the precision of ``x`` and is then rounded
to float32, and images whose size stays or doubles take the entries that one expects.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..arguments import as_integer, as_number, choice, flag
from ..autograd import Context, Function
from ..device import Device, array_module, device_of, move
from ..errors import ArgumentError, ShapeError, message, quoted
from ..tensor import Tensor
from .checks import real
from .layout import channels_last
from .shape import permute

_SPATIAL = {"nearest": (1, 2), "linear": (1,), "bilinear": (2,)}  # mode -> numbers of axes
_MOST = 2**31 - 1
_FEW = 8  # entries that are added in their own precision


def interpolate(
    x: Tensor,
    size: int | tuple[int, ...] | None = None,
    scale_factor: float | tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> Tensor:
    """Resize images or sequences.

    Args:
        x: (n, c, l) for ``nearest`` and ``linear``, (n, c, h, w) for ``nearest`` and ``bilinear``.
        size: the new (h, w) or (l,), or one integer for all; or
        scale_factor: a number, or one per axis; new sizes are floor(size * scale_factor).
        mode: ``"nearest"``, ``"linear"`` or ``"bilinear"``.
        align_corners: only of the linear modes. True: the first and the last entries of input and
            output lie on each other; else their outer edges do.
        recompute_scale_factor: True: positions are computed by the new sizes, whatever
            ``scale_factor`` was.

    Returns:
        (n, c, new l) or (n, c, new h, new w). Gradients add up where an entry was taken several
        times.

    Raises:
        ShapeError: another number of dimensions than the mode takes; an image without pixels.
        ArgumentError: both or none of ``size`` and ``scale_factor``, options out of range or of
            another mode.
        DTypeError: no floating-point tensor.

    >>> import minires as mr
    >>> x = mr.tensor([[[1.0, 2.0]]])
    >>> mr.interpolate(x, 4).tolist(), mr.interpolate(x, 4, mode="linear").tolist()
    ([[[1.0, 1.0, 2.0, 2.0]]], [[[1.0, 1.25, 1.75, 2.0]]])
    """
    op = "interpolate"
    real(op, x)
    mode = choice("mode", mode, _SPATIAL)
    axes = len(x.shape) - 2
    if axes not in _SPATIAL[mode]:
        shapes = {1: "(n, c, l)", 2: "(n, c, h, w)"}
        expected = " or ".join(shapes[k] for k in _SPATIAL[mode])
        fix = {1: 'Use mode="linear".', 2: 'Use mode="bilinear".'}.get(axes, "")
        raise ShapeError(message(op, f'x of shape {expected} for mode="{mode}"', x.shape, fix=fix))
    if 0 in x.shape[2:]:
        raise ShapeError(message(op, "an image with pixels", x.shape))
    if align_corners is not None:
        align_corners = flag(op, "align_corners", align_corners)
        if mode == "nearest":
            expected = "align_corners only for linear and bilinear"
            raise ArgumentError(message(op, expected, f'mode="nearest" with {align_corners}'))
    sizes, factors = _new_sizes(op, x.shape[2:], size, scale_factor, recompute_scale_factor)
    if axes == 2:
        x = permute(channels_last(x), 0, 2, 3, 1)
    for axis, (new, factor) in enumerate(zip(sizes, factors), 1 if axes == 2 else 2):
        rule = Rule(x.shape[axis], new, factor, mode != "nearest", bool(align_corners), axes == 2)
        x = Resample.apply(x, axis, rule, False)
    return permute(x, 0, 3, 1, 2) if axes == 2 else x


def _new_sizes(
    op: str, old: tuple[int, ...], size: Any, factor: Any, recompute: Any
) -> tuple[tuple[int, ...], list[float | None]]:
    """The new size of each axis, and the factor that positions are computed by, if one is."""
    if (size is None) == (factor is None):
        got = "none" if size is None else "both"
        raise ArgumentError(message(op, "either size or scale_factor", got))
    if recompute is not None:
        recompute = flag(op, "recompute_scale_factor", recompute)
        if recompute and size is not None:
            expected = "recompute_scale_factor only with scale_factor"
            raise ArgumentError(message(op, expected, "size"))
    given = factor if size is None else size
    each = tuple(given) if isinstance(given, tuple | list) else (given,) * len(old)
    if len(each) != len(old):
        name = "scale_factor" if size is None else "size"
        expected = f"{name} a number, or one for each of {len(old)} axes"
        raise ArgumentError(message(op, expected, quoted(given)))
    if size is not None:
        whole = [n for n in map(as_integer, each) if n is not None and 1 <= n <= _MOST]
        if len(whole) != len(old):
            raise ArgumentError(message(op, "size of integers >= 1", quoted(size)))
        return tuple(whole), [None] * len(old)
    factors = [f for f in map(as_number, each) if f is not None and 0 < f < math.inf]
    if len(factors) != len(old):
        raise ArgumentError(message(op, "scale_factor of finite numbers > 0", quoted(factor)))
    products = [n * f for n, f in zip(old, factors)]
    if not all(1 <= product <= _MOST for product in products):
        expected = f"a scale_factor that leaves each of {old} at least 1, at most {_MOST}"
        raise ArgumentError(message(op, expected, quoted(factor)))
    sizes = tuple(math.floor(product) for product in products)
    return sizes, [None] * len(old) if recompute else [float(f) for f in factors]


class Resample(Function):
    """Along one axis, each entry of the result is a weighted sum of few of x::

        y[i] = sum over j of weights[j, i] * x[places[j, i]]

    The adjoint has the same form with another table, so that no two writes meet in it.
    """

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, axis: int, rule: Rule, adjoint: bool) -> Any:
        ctx.axis, ctx.rule, ctx.adjoint = axis, rule, adjoint
        xp, last = array_module(x), x.ndim - 1 - axis
        places, weights, used = _table_on(rule, adjoint, x.real.dtype, device_of(x))
        # a sum of many entries keeps its last digits in float64
        total: Any = (
            0 if len(places) <= _FEW else np.zeros((), np.result_type(x.dtype, np.float64))[()]
        )
        for place, weight, mask in zip(places, weights, used):
            part = x.take(place, axis) * weight.reshape(-1, *[1] * last)
            if mask is not None:  # 0 times infinity is not 0
                part = xp.where(mask.reshape(-1, *[1] * last), part, x.dtype.type(0))
            total = total + part
        return total.astype(x.dtype, copy=False)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return Resample.apply(gy, ctx.axis, ctx.rule, not ctx.adjoint), None, None, None


class Rule(NamedTuple):
    """How one axis is resized."""

    old: int
    new: int
    factor: float | None  # the scale factor, if positions are computed by it
    linear: bool
    align_corners: bool
    of_images: bool


Table = tuple[Any, Any, Any]  # places (m, n), weights (m, n), and for each row None or a mask (n,)


@functools.lru_cache(maxsize=256)
def _table(rule: Rule, adjoint: bool, dtype: Any) -> Table:
    if adjoint:
        return _transposed(rule, *_table(rule, False, dtype)[:2])
    kind, old, new = dtype.type, rule.old, rule.new
    scale = kind(old) / kind(new) if rule.factor is None else kind(1 / rule.factor)
    i = np.arange(new, dtype=dtype)
    if not rule.linear or new == old:
        at = np.floor((i * scale).astype(np.float32))
        if new == old or new == 2 * old:
            # whatever the factor was; but not, in PyTorch, the nearest entries of sequences
            at = np.arange(new) // (new // old) if rule.linear or rule.of_images else at
        places = np.minimum(at.astype(np.int64), old - 1)[None]
        return places, np.ones((1, new), dtype), (None,)
    if rule.align_corners:
        at = i * (kind(old - 1) / kind(new - 1) if new > 1 else kind(0))
    else:
        at = np.maximum((i + kind(0.5)) * scale - kind(0.5), kind(0))
    low = np.minimum(at.astype(np.int64), old - 1)
    share = np.clip(at - low.astype(dtype), kind(0), kind(1))
    places = np.stack([low, np.minimum(low + 1, old - 1)])
    return places, np.stack([kind(1) - share, share]), (None, None)


def _transposed(rule: Rule, places: Any, weights: Any) -> Table:
    """The table of the adjoint: for each entry of x, the entries of y that it went to."""
    goes_to = np.broadcast_to(np.arange(rule.new), places.shape).ravel()
    order = np.argsort(places.ravel(), kind="stable")
    entry = places.ravel()[order]
    counts = np.bincount(entry, minlength=rule.old)
    row = np.arange(len(entry)) - np.repeat(np.cumsum(counts) - counts, counts)
    back = np.zeros((counts.max(), rule.old), np.int64)
    factors = np.zeros(back.shape, weights.dtype)
    back[row, entry], factors[row, entry] = goes_to[order], weights.ravel()[order]
    used = np.arange(len(back))[:, None] < counts
    return back, factors, tuple(None if mask.all() else mask for mask in used)


@functools.lru_cache(maxsize=256)
def _table_on(rule: Rule, adjoint: bool, dtype: Any, device: Device) -> Table:
    """The same on a device, where it stays: a CUDA graph copies nothing from the host."""
    places, weights, used = _table(rule, adjoint, dtype)
    masks = tuple(None if mask is None else move(mask, device) for mask in used)
    return move(places, device), move(weights, device), masks
