"""Whole Jacobians, by backward and by numbers, for those who want to look at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import arguments
from ..errors import ArgumentError, DTypeError, message, quoted
from ..tensor import Tensor
from .analytic import Backward
from .demands import as_list, check_varied
from .numeric import COMPLEX, Ladder, known_reference
from .point import Array, Guard, Point, host


def analytic_jacobian(
    f: Callable[..., Tensor],
    inputs: Sequence[Any] | Tensor,
    wrt: Tensor,
    *,
    guard: Guard | None = None,
) -> Array:
    """∂f(*inputs) / ∂wrt by backward: (output size, wrt size), row-major on both sides.

    Args:
        f: takes the inputs, returns one tensor.
        wrt: one of the inputs, or another leaf that ``f`` depends on, such as a weight.
        guard: makes a context that puts back what an evaluation changes (running statistics).
    """
    with _point(f, inputs, wrt, guard) as point:
        (jacobian,) = Backward(point).jacobians([True])
        assert jacobian is not None
        return jacobian


def numeric_jacobian(
    f: Callable[..., Tensor],
    inputs: Sequence[Any] | Tensor,
    wrt: Tensor,
    reference: str | None = None,
    *,
    guard: Guard | None = None,
) -> Array:
    """∂f(*inputs) / ∂wrt without any derivative: by the complex step where that is possible.

    Takes the arguments of :func:`analytic_jacobian`; entries at a kink are NaN.

    Raises:
        ArgumentError: ``reference`` is unknown, or "complex step" and impossible here.
    """
    known_reference(reference)
    with _point(f, inputs, wrt, guard) as point:
        y = host(point.forward()._array)
        ladder = Ladder(point, y, reference, np.random.default_rng(0))
        if reference == COMPLEX and not ladder.complex:
            raise ArgumentError(f"numeric_jacobian: no complex step here: {ladder.reason}.")
        slopes = [slope.value for slope in ladder.columns(0)]
        return np.stack(slopes, axis=1) if slopes else np.zeros((y.size, 0))


def _point(f: Callable[..., Tensor], inputs: Any, wrt: Tensor, guard: Any) -> Point:
    if not isinstance(wrt, Tensor):
        raise DTypeError(message("jacobian", "wrt to be a tensor", type(wrt).__name__))
    check_varied("wrt", wrt)
    xs = as_list(inputs)
    arguments.takes("jacobian", "f", f, len(xs))
    if guard is not None:
        arguments.takes("jacobian", "guard", guard, 0)
        if not hasattr(type(made := guard()), "__enter__"):
            raise ArgumentError(message("jacobian", "guard() to make a context", quoted(made)))
    return Point(f, xs, [wrt], **({} if guard is None else {"guard": guard}))
