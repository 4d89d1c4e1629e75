"""Memory for results, on the device of an array that is given."""

from __future__ import annotations

from typing import Any

from .device import backend_of


def allocate(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """An array to be written, where ``like`` is (an array, or a device).

    It lies in memory that was used before where there is some: fresh memory takes longer to get
    than to fill.

    Raises:
        MemoryError: there is not as much; says how much was asked for.
    """
    return backend_of(like).allocate(shape, dtype)


def workspace(size: int, dtype: Any, like: Any) -> Any:
    """At least ``size`` entries for one kernel to work in, and nobody else, where ``like`` is."""
    return backend_of(like).workspace(size, dtype)
