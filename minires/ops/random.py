"""Tensors of random draws, all from :mod:`minires.random`'s generator unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import random
from ..arguments import as_integer, integer
from ..creation import shape_of
from ..device import CPU, Device
from ..errors import ArgumentError, DTypeError, message, quoted
from ..ranges import check_range
from ..tensor import Tensor, as_dtype, given, make


def source(op: str, generator: np.random.Generator | None) -> np.random.Generator:
    """``generator``, or the global one for None.

    Raises:
        ArgumentError: neither.
    """
    if generator is None:
        return random.generator()
    if not isinstance(generator, np.random.Generator):
        fix = "Use minires.Generator()."
        raise ArgumentError(message(op, "a generator or None", quoted(generator), fix=fix))
    return generator


def _float(name: str, dtype: Any) -> np.dtype[Any]:
    result = as_dtype(dtype)
    if result.kind != "f":
        raise DTypeError(message(name, "float32 or float64", str(result)))
    return result


def randn(
    *shape: Any,
    size: Any = None,
    dtype: Any = np.float32,
    requires_grad: bool = False,
    device: str | Device = CPU,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Draws from the standard normal distribution, by ``generator`` or the global one.

    They are made on the host and moved to ``device``: the same numbers on every device, so that a
    network begins with the same weights everywhere.
    """
    kind = _float("randn", dtype)
    draws = source("randn", generator).standard_normal(shape_of(shape, kind, size), kind)
    return make(draws, requires_grad, device)


def rand(
    *shape: Any,
    size: Any = None,
    dtype: Any = np.float32,
    requires_grad: bool = False,
    device: str | Device = CPU,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Draws from the uniform distribution on [0, 1), by ``generator`` or the global one; made on
    the host, as those of :func:`randn`."""
    kind = _float("rand", dtype)
    draws = source("rand", generator).random(shape_of(shape, kind, size), kind)
    return make(draws, requires_grad, device)


def randint(
    low: int,
    high: Any,
    shape: Sequence[int] | None = None,
    generator: np.random.Generator | None = None,
    dtype: Any = np.int64,
    requires_grad: bool = False,
    device: str | Device = CPU,
) -> Tensor:
    """Integers drawn uniformly from ``low`` to ``high - 1``; ``randint(high, shape)`` from 0 on.
    They are made on the host, as those of :func:`randn`.

    Raises:
        ArgumentError: bounds that are no integers, or leave nothing to draw.
        DTypeError: bounds that ``dtype`` does not have.
    """
    if shape is None:
        low, high, shape = 0, low, high
    least = integer("randint", "low", low, -(2**63), 2**63 - 1)
    most = integer("randint", "high", high, -(2**63), 2**63 - 1)
    if most <= least:
        raise ArgumentError(message("randint", "low < high", f"{least} and {most}"))
    size, kind = shape_of([shape], np.int64), as_dtype(dtype)
    check_range("randint", [least, most - 1], kind)
    draws = source("randint", generator).integers(least, most, size)
    return make(np.asarray(draws).astype(kind, copy=False), requires_grad, device)


def randperm(
    n: int,
    generator: np.random.Generator | None = None,
    dtype: Any = np.int64,
    requires_grad: bool = False,
    device: str | Device = CPU,
) -> Tensor:
    """A random order of 0 ... n - 1, made on the host.

    Raises:
        ArgumentError: ``n`` is no integer >= 0.
        DTypeError: a ``dtype`` that does not have all of these numbers.
    """
    count = as_integer(n)
    if count is None or count < 0:
        raise ArgumentError(message("randperm", "an integer n >= 0", quoted(n)))
    (count,) = shape_of([count], np.int64)
    kind = as_dtype(dtype)
    check_range("randperm", [0, max(count - 1, 0)], kind)
    order = source("randperm", generator).permutation(count)
    return make(order.astype(kind, copy=False), requires_grad, device)


def _like(draw: Any, other: Tensor, dtype: Any, requires_grad: bool, device: Any) -> Tensor:
    return draw(
        given(f"{draw.__name__}_like", other).shape,
        dtype=other.dtype if dtype is None else dtype,
        requires_grad=requires_grad,
        device=other.device if device is None else device,
    )


def randn_like(
    other: Tensor,
    dtype: Any = None,
    requires_grad: bool = False,
    device: str | Device | None = None,
) -> Tensor:
    """:func:`randn` with the shape and (unless given) dtype and device of ``other``."""
    return _like(randn, other, dtype, requires_grad, device)


def rand_like(
    other: Tensor,
    dtype: Any = None,
    requires_grad: bool = False,
    device: str | Device | None = None,
) -> Tensor:
    """:func:`rand` with the shape and (unless given) dtype and device of ``other``."""
    return _like(rand, other, dtype, requires_grad, device)
