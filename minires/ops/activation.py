"""Smooth and leaky relatives of the rectifier, which is :mod:`minires.ops.relu`."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ..autograd import Function
from ..device import array_module
from ..errors import ArgumentError, message, unknown
from ..tensor import Tensor, tensor_method
from .checks import real
from .elementwise import exp, sigmoid, tanh, where

# erf by Taylor's series at the nearest point of a grid of this step. With |d| <= STEP / 2 the
# first term left out is below 1e-18; beyond LAST erf is 1 in float64.
STEP, LAST, TERMS = 1 / 16, 6.0, 10


@functools.cache
def _series() -> Any:
    """The Taylor coefficients of erf at each point of the grid, (TERMS, points).

    erf' = g with g(x) = 2 / sqrt(pi) * exp(-x²), and the derivatives of g follow from
    g' = -2 x g by Leibniz's rule: g^(k+1) = -2 x g^(k) - 2 k g^(k-1).
    """
    x = np.arange(-round(LAST / STEP), round(LAST / STEP) + 1) * STEP
    terms = [np.array([math.erf(point) for point in x])]
    before, now = np.zeros_like(x), 2 / math.sqrt(math.pi) * np.exp(-x * x)
    for k in range(1, TERMS):
        terms.append(now / math.factorial(k))
        before, now = now, -2 * x * now - 2 * (k - 1) * before
    return np.stack(terms)


class Erf(Function):
    """The error function, 2 / sqrt(pi) times the integral of exp(-t²) from 0 to x."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save(x)
        xp = array_module(x)
        series = xp.asarray(_series().astype(x.real.dtype))
        near = abs(x.real) <= LAST  # what is not is 1, -1 or NaN
        inside = xp.where(near, x, 0)
        at = xp.rint(inside.real * (1 / STEP)).astype(np.int32)
        d = inside - at.astype(x.real.dtype) * STEP
        at = at + round(LAST / STEP)
        y = series[-1][at]
        for term in series[-2::-1]:
            y = y * d + term[at]
        return xp.where(near, y, xp.sign(x.real))

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy * exp(-(x * x)) * (2 / math.sqrt(math.pi))


class Softplus(Function):
    """log(1 + exp(x)), computed as max(x, 0) + log(1 + exp(-|x|)); its derivative is sigmoid."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save(x)
        xp = array_module(x)
        positive = x.real > 0
        return xp.where(positive, x, 0) + xp.log1p(xp.exp(xp.where(positive, -x, x)))

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy * sigmoid(x)


@tensor_method("erf")
def erf(x: Tensor) -> Tensor:
    """The error function, to the last digits of x's dtype."""
    return Erf.apply(real("erf", x))


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), without overflow: what losses of logits are made of."""
    return Softplus.apply(real("softplus", x))


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """``x`` where positive, else ``negative_slope * x`` (Maas, Hannun & Ng, 2013).

    At 0 the derivative is ``negative_slope``.

    Raises:
        ArgumentError: ``negative_slope`` is not a number.
    """
    real("leaky_relu", x)
    if not isinstance(negative_slope, int | float):
        raise ArgumentError(message("leaky_relu", "negative_slope a number", repr(negative_slope)))
    return where(x > 0, x, x * negative_slope)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """``x`` times the probability that a standard normal draw lies below ``x``.

    Hendrycks & Gimpel, 2016, arXiv:1606.08415: ``x * (1 + erf(x / sqrt(2))) / 2``, or with
    ``approximate="tanh"`` ``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x³))) / 2``.

    Raises:
        ArgumentError: another ``approximate``.
    """
    real("gelu", x)
    if approximate == "none":
        return x * (erf(x * math.sqrt(0.5)) + 1) * 0.5
    if approximate == "tanh":
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        return x * (tanh(inner) + 1) * 0.5
    raise unknown("approximate", approximate, ["none", "tanh"])


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)`` (section 2 of arXiv:1606.08415)."""
    return real("silu", x) * sigmoid(x)
