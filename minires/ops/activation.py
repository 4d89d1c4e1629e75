"""Sigmoids, and smooth and leaky relatives of the rectifier, which is :mod:`minires.ops.relu`."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ..arguments import choice, number
from ..autograd import Context, Function
from ..device import Device, array_module, device_of, move
from ..errors import ArgumentError, message
from ..tensor import Tensor, tensor_method
from .checks import analytic, real
from .elementwise import exp, where

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


@functools.cache
def _series_on(device: Device, dtype: Any) -> Any:
    """The same on a device, where it stays: a CUDA graph copies nothing from the host."""
    return move(_series().astype(dtype), device)


class Erf(Function):
    """The error function, 2 / sqrt(pi) times the integral of exp(-t²) from 0 to x."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        ctx.save(x)
        xp = array_module(x)
        series = _series_on(device_of(x), x.real.dtype)
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
    def backward(ctx: Context, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy * exp(-(x * x)) * (2 / math.sqrt(math.pi))


class Tanh(Function):
    """1 - y² is 4 times the slope of sigmoid at 2x, and there it keeps its digits as y nears 1."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        ctx.save(x)
        return array_module(x).tanh(x)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy * (SigmoidSlope.apply(x * 2) * 4)


def magnitude(x: Any) -> Any:
    """abs(x) of an array; of complex numbers x or -x, as the sign of the real part says."""
    return abs(x) if x.dtype.kind == "f" else array_module(x).where(x.real < 0, -x, x)


def logistic(x: Any) -> Any:
    """1 / (1 + exp(-x)), for negative x as exp(x) / (1 + exp(x)): nothing overflows or cancels."""
    xp = array_module(x)
    e = xp.exp(-magnitude(x))
    return xp.maximum(e, x.real >= 0) / (1 + e)  # e or 1, which is the larger for x >= 0


class Sigmoid(Function):
    """1 / (1 + exp(-x))."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        ctx.save(x)
        return logistic(x)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy * SigmoidSlope.apply(x)


class SigmoidSlope(Function):
    """y (1 - y) of y = sigmoid(x). It is even in x, and so exp(-x) / (1 + exp(-x))² of abs(x):
    1 - y would have lost its digits where y is almost 1."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        e = array_module(x).exp(-magnitude(x))
        y = e / ((1 + e) * (1 + e))
        ctx.save(x, y)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        x, y = ctx.saved
        return -(gy * y * tanh(x * 0.5))


# The upper tail of the normal distribution is P(x) = exp(-x²/2) * h(x), where h (Mills' ratio) is
# smooth. With u = (x - CENTRE) / (x + CENTRE), which runs from -1 to 1, a polynomial in u gives
# h(x) * (x + CENTRE); of this many terms the rest is below the last digit.
CENTRE, TAIL_TERMS = 4.0, {"float32": 13, "float64": 23}
FAR = 40.0  # exp(-FAR²/2) is 0 in float64


def _mills(x: Any) -> Any:
    """h of an array of x >= 0: by the error function near 0, beyond by Laplace's continued
    fraction, 1 / (x + 1 / (x + 2 / (x + 3 / ...)))."""
    near = [math.erfc(v / math.sqrt(2)) * math.exp(v * v / 2) / 2 for v in np.minimum(x, 1.5)]
    far, fraction = np.maximum(x, 1.5), np.zeros_like(x)
    for k in range(400, 0, -1):
        fraction = k / (far + fraction)
    return np.where(x < 1.5, near, 1 / (far + fraction) / math.sqrt(2 * math.pi))


@functools.cache
def _tail(terms: int) -> Any:
    """The coefficients of the polynomial in u, the highest first: Chebyshev interpolation."""
    n = 64
    odd = 2 * np.arange(n) + 1  # u is the cosine of these multiples of pi / 2n
    cosines = np.cos(np.arange(4 * n) * (np.pi / (2 * n)))
    x = CENTRE / np.tan(odd * (np.pi / (4 * n))) ** 2
    values = _mills(x) * (x + CENTRE)
    series = [2 / n * math.fsum(values * cosines[k * odd % (4 * n)]) for k in range(terms)]
    series[0] /= 2
    return np.polynomial.chebyshev.cheb2poly(series)[::-1]


def _near(x: Any) -> Any:
    """x within ±FAR, so that its square does not overflow."""
    xp = array_module(x)
    near = xp.clip(x.real, -FAR, FAR)
    return near if x.dtype.kind == "f" else xp.where(near == x.real, x, near)


def _bell(x: Any) -> Any:
    """exp(-x²/2) to the last digits: x = n/16 + d, and the square of the first part is exact."""
    xp, x = array_module(x), _near(x)
    coarse = xp.rint(x.real * 16) / 16
    return xp.exp(-coarse * coarse / 2) * xp.exp((coarse - x) * (coarse + x) / 2)


class NormalDensity(Function):
    """phi(x) = exp(-x²/2) / sqrt(2 pi)."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        y = _bell(x) / math.sqrt(2 * math.pi)
        ctx.save(x, y)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        x, y = ctx.saved
        return -(gy * y * x)


def normal_probability(x: Any) -> Any:
    """Phi(x), the probability that a normal draw lies below x, to the last digits of both tails.

    (1 + erf(x / sqrt(2))) / 2 is the same, but for negative x a difference of almost equal numbers.
    """
    size = _near(magnitude(x))
    u = (size - CENTRE) / (size + CENTRE)
    first, *others = _tail(TAIL_TERMS[x.real.dtype.name]).astype(x.real.dtype)
    h = first
    for term in others:
        h = h * u + term
    tail = _bell(size) * h / (size + CENTRE)
    return magnitude((x.real >= 0) - tail)  # tail or 1 - tail


class NormalProbability(Function):
    """Phi(x); its slope is the density."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        ctx.save(x)
        return normal_probability(x)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy * NormalDensity.apply(x)


class SiLU(Function):
    """y = x sigmoid(x). The slope is summed before it meets gy, which may be infinite."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        ctx.save(x)
        return x * logistic(x)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy * (sigmoid(x) + x * SigmoidSlope.apply(x))


class GELU(Function):
    """y = x Phi(x) with Phi the normal distribution function, whose slope is the density."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        ctx.save(x)
        return x * normal_probability(x)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy * (NormalProbability.apply(x) + x * NormalDensity.apply(x))


class Softplus(Function):
    """log(1 + exp(x)), computed as max(x, 0) + log(1 + exp(-|x|)); its derivative is sigmoid."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        ctx.save(x)
        xp = array_module(x)
        positive = x.real > 0
        return xp.where(positive, x, 0) + xp.log1p(xp.exp(xp.where(positive, -x, x)))

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        (x,) = ctx.saved
        return gy * sigmoid(x)


@tensor_method("tanh")
def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return Tanh.apply(analytic("tanh", x))


@tensor_method("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), to the last digits on both sides."""
    return Sigmoid.apply(analytic("sigmoid", x))


@tensor_method("erf")
def erf(x: Tensor) -> Tensor:
    """The error function, to the last digits of x's dtype."""
    return Erf.apply(real("erf", x))


def softplus(x: Tensor, beta: float = 1, threshold: float = math.inf) -> Tensor:
    """log(1 + exp(beta * x)) / beta, without overflow: what losses of logits are made of.

    Args:
        x: any shape.
        beta: how sharp the bend at 0 is; not 0.
        threshold: where ``beta * x`` is above it, the result is ``x`` itself. There is none by
            default: for large ``x`` the two are equal anyway (PyTorch's default is 20).

    Raises:
        ArgumentError: options that are no numbers, or a ``beta`` of 0.
    """
    real("softplus", x)
    beta = number("softplus", "beta", beta)
    threshold = number("softplus", "threshold", threshold, finite=False)
    if beta == 1 and threshold == math.inf:
        return Softplus.apply(x)
    if not beta:
        raise ArgumentError(message("softplus", "beta other than 0", beta))
    above = x * beta > threshold
    return where(above, x, Softplus.apply(where(above, 0, x) * beta) / beta)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """``x`` where positive, else ``negative_slope * x`` (Maas, Hannun & Ng, 2013).

    At 0 the derivative is ``negative_slope``.

    Raises:
        ArgumentError: ``negative_slope`` is not a number.
    """
    real("leaky_relu", x)
    slope = number("leaky_relu", "negative_slope", negative_slope)
    return where(x > 0, x, x * slope)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """``x`` times the probability that a standard normal draw lies below ``x``.

    Hendrycks & Gimpel, 2016, arXiv:1606.08415: ``x * (1 + erf(x / sqrt(2))) / 2``, or with
    ``approximate="tanh"`` ``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x³))) / 2``. Both are
    computed in a form that keeps all digits for negative ``x``, where those sums cancel.

    Raises:
        ArgumentError: another ``approximate``.
    """
    real("gelu", x)
    if choice("approximate", approximate, ("none", "tanh")) == "none":
        return GELU.apply(x)
    # (1 + tanh(t)) / 2 is sigmoid(2 t), with all digits where tanh is almost -1; beyond 100 it is
    # constant, and a cube could overflow
    inner = x.clip(-100, 100)
    inner = (inner + inner * inner * inner * 0.044715) * math.sqrt(8 / math.pi)
    return x * sigmoid(inner)


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)`` (section 2 of arXiv:1606.08415)."""
    return SiLU.apply(analytic("silu", x))
