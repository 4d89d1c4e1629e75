"""Range checks of the numbers that optimisers and schedules are given."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from minires.errors import ArgumentError, message


def real(
    op: str,
    name: str,
    value: Any,
    *,
    low: float = 0.0,
    high: float = math.inf,
    above: bool = False,
    below: bool = False,
    fix: str = "",
) -> float:
    """``value`` as a Python float, if it is a finite number in [low, high].

    A Python float matters: a NumPy float64 scalar would promote float32 arrays.

    Args:
        op, name: who asks, and the argument's name, for the error's text.
        above, below: the interval is open at ``low`` or at ``high``.

    Raises:
        ArgumentError: for anything else, NaN, infinities and booleans included.
    """
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        number = float(value)
        fits_low = number > low if above else number >= low
        fits_high = number < high if below else number <= high
        if fits_low and fits_high:
            return number
    rule = f"{name} {'>' if above else '>='} {low:g}"
    if math.isfinite(high):
        rule = f"{low:g} {'<' if above else '<='} {name} {'<' if below else '<='} {high:g}"
    raise ArgumentError(message(op, f"a finite number {rule}", repr(value), fix=fix))


def whole(op: str, name: str, value: Any, *, low: int = 0) -> int:
    """``value`` as a Python int, if it is a whole number of at least ``low``.

    Raises:
        ArgumentError: for anything else, floats and booleans included.
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low:
        return int(value)
    raise ArgumentError(message(op, f"a whole number {name} >= {low}", repr(value)))
