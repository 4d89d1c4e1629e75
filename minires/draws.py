"""Tensors of random draws, all from :mod:`minires.random`'s generator unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import random
from .device import CPU, Device
from .errors import ArgumentError, DTypeError, message
from .tensor import Tensor, _make, _shape, as_dtype


def _generator(generator: np.random.Generator | None) -> np.random.Generator:
    return random.generator() if generator is None else generator


def _float(name: str, dtype: Any) -> np.dtype[Any]:
    result = as_dtype(dtype)
    if result.kind != "f":
        raise DTypeError(message(name, "float32 or float64", str(result)))
    return result


def randn(
    *shape: Any,
    dtype: Any = np.float32,
    requires_grad: bool = False,
    device: str | Device = CPU,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Draws from the standard normal distribution, by ``generator`` or the global one."""
    draws = _generator(generator).standard_normal(_shape(shape), _float("randn", dtype))  # type: ignore[arg-type]
    return _make(draws, requires_grad, device)


def rand(
    *shape: Any,
    dtype: Any = np.float32,
    requires_grad: bool = False,
    device: str | Device = CPU,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Draws from the uniform distribution on [0, 1), by ``generator`` or the global one."""
    draws = _generator(generator).random(_shape(shape), _float("rand", dtype))  # type: ignore[arg-type]
    return _make(draws, requires_grad, device)


def randint(
    low: int,
    high: Any,
    shape: Sequence[int] | None = None,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Integers drawn uniformly from ``low`` to ``high - 1``; ``randint(high, shape)`` from 0 on."""
    if shape is None:
        low, high, shape = 0, low, high
    if high <= low:
        raise ArgumentError(message("randint", "low < high", f"{low} and {high}"))
    return _make(_generator(generator).integers(low, high, _shape([shape])), False)


def randperm(n: int, generator: np.random.Generator | None = None) -> Tensor:
    """A random order of 0 ... n - 1.

    Raises:
        ArgumentError: ``n`` is no integer >= 0.
    """
    if not isinstance(n, int | np.integer) or n < 0:
        raise ArgumentError(message("randperm", "an integer n >= 0", repr(n)))
    return _make(_generator(generator).permutation(n), False)


def randn_like(other: Tensor) -> Tensor:
    """Standard normal draws with the shape, dtype and device of ``other``."""
    return randn(*other.shape, dtype=other.dtype, device=other.device)
