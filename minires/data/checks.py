"""Argument checks that several modules of :mod:`minires.data` share."""

from __future__ import annotations

import operator

from minires.errors import ArgumentError, message


def whole_number(op: str, name: str, value: object, low: int, high: int | None = None) -> int:
    """``value`` as an ``int`` in ``low..high`` (``high`` None: no upper limit).

    Raises:
        ArgumentError: for anything else, ``True`` and ``2.0`` included.
    """
    limits = f"{name} >= {low}" if high is None else f"{name} in {low}..{high}"
    expected = f"a whole number {limits}"
    if isinstance(value, bool):
        raise ArgumentError(message(op, expected, value))
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(message(op, expected, f"{value!r} ({type(value).__name__})")) from None
    if number < low or (high is not None and number > high):
        raise ArgumentError(message(op, expected, number))
    return number
