"""Initialisers: each fills a tensor, or the array of one, in place and returns it.

He et al. 2015, "Delving Deep into Rectifiers" (arXiv:1502.01852), keep the variance of signals
constant through layers ``y = w x`` with rectifiers: Eq. 10, ``fan_in * var(w) = gain²`` for the
forward signal; Eq. 14, ``fan_out * var(w) = gain²`` for the gradient; gain² = 2 for ReLU.
Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks"
(Eq. 12 and 16), average the two fans for layers without rectifiers ("Xavier").

All draws come from :func:`minires.random.generator` in double precision and are then rounded, so
one seed means the same network in float32 and float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minires import arguments, random
from minires.device import assign, check_writeable, is_array
from minires.errors import ArgumentError, DTypeError, ShapeError, message
from minires.tensor import Tensor

_GAINS = {
    "linear": 1.0,
    "conv2d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "leaky_relu": math.sqrt(2.0),
}


def calculate_gain(nonlinearity: str, param: float = 0.0) -> float:
    """The factor that makes up for what ``nonlinearity`` takes from the standard deviation.

    ``param`` is the negative slope of ``leaky_relu`` (gain ``sqrt(2 / (1 + param²))``, Eq. 15 of
    arXiv:1502.01852) and has no meaning for the others.
    """
    gain = _GAINS[arguments.choice("nonlinearity", nonlinearity, _GAINS)]
    slope = float(arguments.number("calculate_gain", "param", param))
    return gain / math.sqrt(1.0 + slope * slope) if nonlinearity == "leaky_relu" else gain


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight ``(out, in)`` or ``(c_out, c_in / groups, k_h, k_w)``.

    Raises:
        ShapeError: fewer than two dimensions, or no entries, where the fans are not defined.
    """
    if len(_shape("init", tensor)) < 2:
        raise ShapeError(
            message(
                "init",
                "a weight of at least 2 dimensions, to have a fan-in and a fan-out",
                f"shape {tensor.shape}",
                fix="Fill biases with zeros_ or uniform_.",
            )
        )
    if 0 in tensor.shape:
        raise ShapeError(message("init", "a weight with entries", f"shape {tensor.shape}"))
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def _fan(tensor: Tensor, mode: str) -> int:
    fan_out = arguments.choice("mode", mode, ("fan_in", "fan_out")) == "fan_out"
    return fans(tensor)[fan_out]


def _shape(op: str, tensor: Any) -> tuple[int, ...]:
    """The shape of what is to be filled; refuses a bias that a layer does not have."""
    if not isinstance(tensor, Tensor) and not is_array(tensor):
        fix = "A layer with bias=False has no bias to fill." if tensor is None else ""
        raise ArgumentError(message(op, "a tensor to fill", type(tensor).__name__, fix=fix))
    if tensor.dtype.kind not in "biufc":
        raise DTypeError(message(op, "a tensor of numbers to fill", tensor.dtype))
    return tensor.shape


def _floats(op: str, tensor: Any) -> tuple[int, ...]:
    """The shape of what is to be filled with draws; refuses integers, which would cut them."""
    shape = _shape(op, tensor)
    if tensor.dtype.kind not in "fc":
        raise DTypeError(message(op, "a tensor of floats to fill", tensor.dtype))
    return shape


def _fill(tensor: Tensor, values: Any) -> Tensor:
    # Written into the array: nothing is recorded, and leaves that require grad may be filled.
    try:
        with np.errstate(over="raise"):
            cast = np.asarray(values).astype(tensor.dtype)
    except FloatingPointError as error:
        expected = f"values that {tensor.dtype} holds"
        raise ArgumentError(message("init", expected, "larger ones")) from error
    place = "init", "this tensor"
    if not isinstance(tensor, Tensor):  # the .data of a tensor, as in older PyTorch code
        check_writeable(*place, tensor, "Fill a copy.")
        assign(tensor, cast)
        return tensor
    assign(tensor._to_write(*place, "Fill x.clone()."), cast)
    tensor.bump_version()
    return tensor


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with draws from N(mean, std²)."""
    mean = arguments.number("normal_", "mean", mean)
    std = arguments.number("normal_", "std", std, least=0)
    return _fill(tensor, random.generator().normal(mean, std, _floats("normal_", tensor)))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """Fill with draws from N(mean, std²), those outside of [a, b] drawn again.

    Raises:
        ArgumentError: ``std`` not positive, or an interval that holds less than 1 % of the draws.
    """
    mean = arguments.number("trunc_normal_", "mean", mean)
    std = arguments.number("trunc_normal_", "std", std, above=0)
    a, b = (arguments.number("trunc_normal_", name, end) for name, end in (("a", a), ("b", b)))
    below, above = (math.erf((end - mean) / (std * math.sqrt(2.0))) for end in (a, b))
    if not above - below >= 0.02:
        expected = f"an interval [a, b] with 1 % of N({mean:g}, {std:g}²) or more"
        raise ArgumentError(message("trunc_normal_", expected, f"[{a}, {b}]"))
    draw = random.generator()
    values = np.asarray(draw.normal(mean, std, _floats("trunc_normal_", tensor)))
    while (outside := (values < a) | (values > b)).any():
        values[outside] = draw.normal(mean, std, int(outside.sum()))
    return _fill(tensor, values)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with draws from U[a, b)."""
    a = arguments.number("uniform_", "a", a)
    arguments.number("uniform_", "b - a", arguments.number("uniform_", "b", b) - a, least=0)
    return _fill(tensor, random.generator().uniform(a, b, _floats("uniform_", tensor)))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    _shape("constant_", tensor)
    val = arguments.number("constant_", "val", val, finite=False)
    if tensor.dtype.kind not in "fc":
        with np.errstate(invalid="ignore"):
            held = float(val) == np.asarray(float(val)).astype(tensor.dtype)
        if not held:
            got = f"{val} for {tensor.dtype}"
            raise DTypeError(message("constant_", "a value that the tensor's dtype holds", got))
    return _fill(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(tensor, 1.0)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """He initialisation, N(0, gain² / fan); ``a`` is the negative slope of ``leaky_relu``.

    ``mode="fan_in"`` is Eq. 10 and ``"fan_out"`` Eq. 14 of arXiv:1502.01852.
    """
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """He initialisation, uniform with variance gain² / fan: bounds ``± gain * sqrt(3 / fan)``."""
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / _fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Glorot initialisation, N(0, gain² * 2 / (fan_in + fan_out))."""
    gain = arguments.number("xavier_normal_", "gain", gain, least=0)
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Glorot initialisation, uniform: bounds ``± gain * sqrt(6 / (fan_in + fan_out))``."""
    gain = arguments.number("xavier_uniform_", "gain", gain, least=0)
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)
