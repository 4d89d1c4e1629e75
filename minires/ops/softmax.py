"""Softmax, its logarithm, and the logarithm of its normaliser.

All of them subtract the maximum first. Softmax does not change by it, exponentials cannot overflow
after it, and it is exact: no digit of the differences is lost beside a large maximum, as would be
in ``x - logsumexp(x)``. What is small beside 1 is kept apart from the 1 by ``log1p`` and ``expm1``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Context, Function
from ..device import array_module
from ..errors import ArgumentError, message
from ..tensor import Tensor, tensor_method
from . import sums
from .checks import real
from .elementwise import expm1, weigh
from .reduce import Dims, _kept, _nonempty, dims, numpy_names


def _largest(x: Any, axes: tuple[int, ...], of_nothing: float) -> Any:
    """The maximum over ``axes``, which stay with size 1; ``of_nothing`` where there is no entry.
    (CuPy's has no ``initial``.)"""
    if x.size:
        return x.max(axis=axes, keepdims=True)
    shape = [1 if axis in axes else n for axis, n in enumerate(x.shape)]
    return array_module(x).full(shape, of_nothing, x.dtype)


def _peak(x: Any, axes: tuple[int, ...], finite: bool = False) -> Any:
    """The maximum; of complex x that of the real part. Any number would do: it cancels out."""
    xp = array_module(x)
    peak = _largest(x.real, axes, -np.inf)
    return xp.where(xp.isfinite(peak), peak, 0).astype(peak.dtype) if finite else peak


def _log_sum(shifted: Any, axes: tuple[int, ...]) -> Any:
    """log(sum(exp(shifted))) of numbers whose maximum is 0.

    The entries at 0 are counted, and what the others add is a sum of its own: beside a single 0
    it is the whole result, log(1 + rest), and can be as small as it likes.
    """
    xp = array_module(shifted)
    top = shifted.real == 0
    count = xp.maximum(top.sum(axis=axes, keepdims=True), 1).astype(shifted.real.dtype)
    rest = sums.total(xp.exp(shifted) - top, axes, True)
    rest = xp.where(top.any(axis=axes, keepdims=True), rest, rest - 1)  # nothing was at 0
    return xp.log(count) + xp.log1p(rest / count)


def log_softmax_of(x: Any, axes: tuple[int, ...]) -> Any:
    """The logarithm of softmax of an array."""
    shifted = x - _peak(x, axes)
    return shifted - _log_sum(shifted, axes)


class LogSoftmax(Function):
    """y = x - log(sum(exp(x))); gx = gy - exp(y) * sum(gy).

    With p = exp(y) this is gx = gy (1 - p) - p (sum(gy) - gy), in which 1 - p = -expm1(y) has all
    its digits where p is almost 1.
    """

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, axes: tuple[int, ...]) -> Any:
        ctx.axes = axes
        y = log_softmax_of(x, axes)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (y,) = ctx.saved
        others = gy.sum(ctx.axes, keepdim=True) - gy
        return -(weigh(gy, expm1(y)) + weigh(y.exp(), others)), None


class Softmax(Function):
    """y = exp(x) / sum(exp(x)); :class:`SoftmaxInput` is its gradient.

    A row whose maximum is infinite has no softmax, and is NaN. With ``finite`` such a maximum is
    not subtracted, and only the infinite entries are NaN: the others have the limit 0.
    """

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, axes: tuple[int, ...], finite: bool) -> Any:
        ctx.axes = axes
        y = array_module(x).exp(x - _peak(x, axes, finite))
        y /= sums.total(y, axes, True)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return SoftmaxInput.apply(gy, ctx.saved[0], ctx.axes), None, None


class SoftmaxInput(Function):
    """(gy, y) → gx = y * (gy - sum(y * gy)): the Jacobian diag(y) - y yᵀ, which is symmetric.

    A number added to all of gy cancels out. It is chosen so that gy is 0 at the largest y: what
    remains there of a y of almost 1 is then small by itself, and no difference of large numbers.
    """

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, gy: Any, y: Any, axes: tuple[int, ...]) -> Any:
        ctx.axes = axes
        ctx.save(gy, y)
        xp = array_module(y)
        top = y.real == _largest(y.real, axes, 0)
        count = xp.maximum(top.sum(axis=axes, keepdims=True), 1).astype(y.real.dtype)
        there = sums.total(xp.where(top, gy, 0), axes, True) / count
        gy = gy - xp.where(xp.isfinite(there), there, 0)
        out = y == 0  # of no weight, whatever its gradient is
        mean = sums.total(xp.where(out, 0, y * gy), axes, True)
        return xp.where(out, 0, y * (gy - mean))

    @staticmethod
    def backward(ctx: Context, ggx: Tensor) -> Any:
        gy, y = ctx.saved
        gg = SoftmaxInput.apply(ggx, y, ctx.axes) if ctx.needs_grad[0] else None
        gz = None
        if ctx.needs_grad[1]:
            mean = (y * gy).sum(ctx.axes, keepdim=True)
            gz = ggx * (gy - mean) - gy * (y * ggx).sum(ctx.axes, keepdim=True)
        return gg, gz, None


class LogSumExp(Function):
    """log(sum(exp(x))) = m + log(sum(exp(x - m))) with m the maximum; its gradient is softmax."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
        ctx.axes = axes
        ctx.save(x)
        peak = _peak(x, axes, finite=True)
        y = _log_sum(x - peak, axes) + peak
        return y if keepdim else y.squeeze(axis=axes)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (x,) = ctx.saved
        gy = gy.reshape(_kept(x.shape, ctx.axes))
        return weigh(gy, Softmax.apply(x, ctx.axes, True)), None, None


@tensor_method("logsumexp")
@numpy_names
def logsumexp(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """``log(sum(exp(x)))`` over ``dim`` (all dimensions by default), without overflow.

    Raises:
        DTypeError: not a floating-point tensor.
        ShapeError: a dimension that ``x`` does not have, or one without entries.
    """
    real("logsumexp", x)
    axes = dims("logsumexp", x, dim)
    _nonempty("logsumexp", x, axes)
    return LogSumExp.apply(x, axes, keepdim)


def _along(name: str, x: Tensor, dim: Any) -> tuple[int, ...]:
    """``dim`` as axes. None is refused: PyTorch's functions guess a dimension then."""
    if dim is None:
        raise ArgumentError(message(name, "dim an integer", "None", fix="Classes are dim 1."))
    return dims(name, x, dim)


@tensor_method("softmax")
@numpy_names
def softmax(x: Tensor, dim: int = -1, *, dtype: Any = None) -> Tensor:
    """``exp(x)`` over its sum along ``dim``: probabilities in proportion to ``exp(x)``.

    A row that holds NaN or +inf, or nothing but -inf, is NaN. With a ``dtype`` x is converted
    first.

    Raises:
        DTypeError: not a floating-point tensor.
        ArgumentError: no ``dim``.
        ShapeError: a dimension that ``x`` does not have.
    """
    x = real("softmax", x if dtype is None else x.astype(dtype))
    return Softmax.apply(x, _along("softmax", x, dim), False)


@tensor_method("log_softmax")
@numpy_names
def log_softmax(x: Tensor, dim: int = -1, *, dtype: Any = None) -> Tensor:
    """The logarithm of :func:`softmax`, ``x - log(sum(exp(x)))`` along ``dim``, without overflow.

    The maximum is subtracted first, so that no digit of the differences is lost beside it. With a
    ``dtype`` x is converted before that.

    Raises:
        DTypeError: not a floating-point tensor.
        ArgumentError: no ``dim``.
        ShapeError: a dimension that ``x`` does not have.
    """
    x = real("log_softmax", x if dtype is None else x.astype(dtype))
    return LogSoftmax.apply(x, _along("log_softmax", x, dim))
