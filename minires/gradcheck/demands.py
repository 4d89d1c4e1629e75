"""What a check demands of a function and its inputs, each with the message that says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import arguments
from ..device import array_module, beside
from ..errors import ArgumentError, DTypeError, GraphError, NaNError, message
from ..tensor import Tensor


def as_list(inputs: Any) -> list[Any]:
    """The inputs as a list: one tensor, or a sequence of them.

    Raises:
        DTypeError: neither.
    """
    if isinstance(inputs, Tensor):
        return [inputs]
    if not isinstance(inputs, list | tuple):
        got = type(inputs).__name__
        raise DTypeError(message("check", "a tensor, or a list of tensors, as inputs", got))
    return list(inputs)


def seed_of(op: str, seed: Any) -> int:
    """The seed of a generator as a plain integer."""
    return arguments.integer(op, "seed", seed, 0, 2**64 - 1)


@contextlib.contextmanager
def explained(single: bool) -> Iterator[None]:
    """Say where the other precision comes from when float32 inputs, which are checked in float64,
    meet float32 in the function. ``single``: whether there are such inputs."""
    try:
        yield
    except DTypeError as error:
        if not single or "expected one dtype" not in str(error):
            raise
        raise DTypeError(
            f"{error} (float32 inputs are checked in float64, and f reaches a float32 tensor by "
            "itself. Pass that as an input, too, or make it float64 with .double().)"
        ) from error


def check_inputs(labels: Sequence[str], xs: Sequence[Any]) -> None:
    """Refuse inputs that cannot be checked.

    Raises:
        DTypeError, GraphError, NaNError, ArgumentError: as :func:`minires.gradcheck.check` says.
    """
    if not xs:
        raise ArgumentError("check: expected at least one input, got none.")
    for label, x in zip(labels, xs):
        if not isinstance(x, Tensor):
            raise DTypeError(
                message("check", f"{label} to be a tensor", type(x).__name__,
                        fix="Use minires.tensor(x, requires_grad=True).")
            )  # fmt: skip
        _dtype(label, x)
        if not x.is_leaf or not x.requires_grad:
            state = "the result of an operation" if not x.is_leaf else "one that does not"
            raise GraphError(
                f"check: expected {label} to be a leaf that requires grad, got {state}. "
                "Use x.detach().requires_grad_()."
            )
        with beside((x,)):
            finite = bool(array_module(x._array).isfinite(x._array).all())
        if not finite:
            raise NaNError(
                f"check: expected finite numbers in {label}, got NaN or infinity, next to which "
                "nothing can be compared. Check at another point."
            )
        _demand_own_memory(label, x)
    for i, x in enumerate(xs):
        for j in range(i):
            if xs[j] is x:
                raise ArgumentError(
                    f"check: expected different tensors, got the same one as {labels[j]} and "
                    f"{labels[i]}. Pass a clone of it, or use it twice inside f."
                )


def check_varied(label: str, x: Tensor) -> None:
    """Refuse a tensor whose entries cannot be varied one by one."""
    _dtype(label, x)
    _demand_own_memory(label, x)


def _demand_own_memory(label: str, x: Tensor) -> None:
    if overlaps(x._array):
        raise ArgumentError(
            f"check: expected {label} with memory for each entry, got shape {x.shape} with "
            f"strides {x._array.strides}, where entries share it (broadcast_to, expand): one "
            "cannot be changed without the others. Use x.clone(), and expand inside f."
        )


def _dtype(label: str, x: Tensor) -> None:
    if x.dtype.kind in "iub":
        raise DTypeError(
            message("check", f"{label} to be a floating-point tensor", str(x.dtype),
                    fix="Integers have no derivative: convert with .double(), or give labels to f "
                        "through a closure.")
        )  # fmt: skip
    if x.dtype not in (np.float32, np.float64):
        raise DTypeError(
            message("check", f"{label} to be float64 or float32", str(x.dtype),
                    fix="Check the real function: use x.real in NumPy.")
        )  # fmt: skip


def overlaps(array: Any) -> bool:
    """Whether two entries of an array lie at one address."""
    sizes = [(abs(s), n) for s, n in zip(array.strides, array.shape) if n > 1]
    if array.size < 2:
        return False
    reach = 0
    for stride, n in sorted(sizes):  # entries of distinct addresses: each stride clears the last
        if stride <= reach:
            break
        reach += stride * (n - 1)
    else:
        return False
    addresses = np.zeros(1, np.int64)
    for stride, n in sizes:
        addresses = (addresses[:, None] + stride * np.arange(n)).reshape(-1)
    return np.unique(addresses).size < addresses.size


def check_result(function: str, y: Any, again: Any = None, *, own: bool = True) -> None:
    """Refuse a result that cannot be checked; ``again`` is that of a second call.

    Unless the function runs in its ``own`` precision, it has been given float64.

    Raises:
        DTypeError, NaNError, ArgumentError: as :func:`minires.gradcheck.check` says.
    """
    if not isinstance(y, Tensor):
        raise DTypeError(
            message("check", f"{function} to return one tensor", type(y).__name__,
                    fix="Of several results, check one at a time, or minires.concatenate them.")
        )  # fmt: skip
    if y.dtype != np.float64 and not (own and y.dtype == np.float32):
        raise DTypeError(
            message("check", f"{function} to return float64", str(y.dtype),
                    fix="Only results of float64 can be compared: a cast on the way loses digits.")
        )  # fmt: skip
    with beside((y,)):
        finite = bool(array_module(y._array).isfinite(y._array).all())
        alike = again is None or again.shape == y.shape
        if again is not None and alike:
            alike = bool((again._array == y._array).all())
    if not finite:
        raise NaNError(
            f"check: expected finite results of {function}, got NaN or infinity at this point. "
            "Run it under minires.detect_anomaly() to see where they arise."
        )
    if not alike:
        raise ArgumentError(
            f"check: expected two calls of {function} with the same inputs to agree, got "
            "different results: dropout or an unseeded random generator is active. Call .eval(), "
            "seed it inside f, or use check_module, which repeats its draws."
        )
