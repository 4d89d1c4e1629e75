"""Memory for results, on the device of an array that is given."""

from __future__ import annotations

from typing import Any

from .device import Gpus, backend_of, beside


def allocate(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """An array without values, on the device of ``like`` (an array, or a device).

    Memory that was used before is used again: fresh memory takes longer to get than to fill.

    Raises:
        MemoryError: too little memory; says how much was asked for.
    """
    if Gpus.several:
        with beside((like,)):
            return backend_of(like).allocate(shape, dtype)
    return backend_of(like).allocate(shape, dtype)


def workspace(size: int, dtype: Any, like: Any) -> Any:
    """A flat array of at least ``size`` entries on the device of ``like``, for one kernel to use
    until it returns."""
    if Gpus.several:
        with beside((like,)):
            return backend_of(like).workspace(size, dtype)
    return backend_of(like).workspace(size, dtype)
