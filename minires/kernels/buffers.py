"""Buffers: memory that is used again.

An array of a megabyte that NumPy allocates is fresh from the operating system: its pages are
mapped, one by one, when they are first written, which takes longer than computing what is written.
A training step asks for the same sizes over and over, so :func:`empty` keeps the memory of arrays
that nobody holds any more and gives it to the next one of a similar size. It is an array like any
other; its memory comes back when the last view of it is gone.

Blocks begin at different offsets from a page, because arrays that begin at the same one fight for
the same cache lines. What is held, idle or not, stays near the most that was ever in use at once.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Any

import numpy as np

SMALLEST = 1 << 14  # bytes; NumPy is good at smaller arrays
SPARE = 1 << 26  # bytes that may be held beyond the most that was in use at once, and an eighth
PAGE, LINE = 4096, 64

_lock = threading.Lock()
# Memory that came back. An array may die at any moment, in a garbage collection inside this very
# module too: what it does then must take no lock.
_returned: deque[np.ndarray[Any, Any]] = deque()
_idle: dict[int, list[np.ndarray[Any, Any]]] = {}  # by size
_bytes = {"idle": 0, "used": 0, "most": 0}
_turn = 0


class _Block:
    """Memory that goes back to the idle ones when the array on it is gone."""

    __slots__ = ("__array_interface__", "memory")

    def __init__(self, memory: np.ndarray[Any, Any], shape: tuple[int, ...], dtype: np.dtype[Any]):
        self.memory = memory
        address = memory.__array_interface__["data"][0]
        self.__array_interface__ = {
            "version": 3, "shape": shape, "typestr": dtype.str, "data": (address, False)
        }  # fmt: skip

    def __del__(self) -> None:
        _returned.append(self.memory)


def size_class(nbytes: int) -> int:
    """``nbytes`` rounded up, by at most an eighth, so that similar sizes share their memory."""
    step = 1 << max(nbytes.bit_length() - 4, 11)
    return -(-nbytes // step) * step


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Like :func:`numpy.empty`, in memory that was used before where there is some.

    Raises:
        MemoryError: there is not as much; says how much was asked for.
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < SMALLEST:
        return np.empty(shape, dtype)
    memory = _take(size_class(nbytes))
    return np.asarray(_Block(memory, tuple(shape), dtype))


def _take(size: int) -> np.ndarray[Any, Any]:
    global _turn
    with _lock:
        _collect()
        if _idle.get(size):
            _count(-size, size)
            return _idle[size].pop()
        _shrink(size)
        _turn = (_turn + 5) % 13
        turn = _turn
    try:
        raw = np.empty(size + 2 * PAGE, np.uint8)
    except MemoryError as error:
        release()
        raise MemoryError(
            f"expected room for an array of {size / 2**30:.2f} GiB, got none; minires is using "
            f"{_bytes['used'] / 2**30:.2f} GiB. Use a smaller batch or smaller images."
        ) from error
    start = -raw.__array_interface__["data"][0] % PAGE + turn * 5 * LINE
    with _lock:
        _count(0, size)
    return raw[start : start + size]


def _collect() -> None:
    """Put what came back among the idle memory."""
    while _returned:
        memory = _returned.popleft()
        _idle.setdefault(memory.size, []).append(memory)
        _count(memory.size, -memory.size)


def _count(idle: int, used: int) -> None:
    _bytes["idle"] += idle
    _bytes["used"] += used
    _bytes["most"] = max(_bytes["most"], _bytes["used"])


def _shrink(size: int) -> None:
    """Make room for ``size`` bytes by freeing idle memory, the largest first, where too much is
    held."""
    limit = max(_bytes["most"], _bytes["used"] + size) * 9 // 8 + SPARE
    while _bytes["idle"] and _bytes["used"] + _bytes["idle"] + size > limit:
        largest = max(key for key, blocks in _idle.items() if blocks)
        _bytes["idle"] -= _idle[largest].pop().size


def release() -> None:
    """Give all idle memory back to the operating system."""
    with _lock:
        _collect()
        _idle.clear()
        _bytes["idle"] = 0


def in_use() -> int:
    """Bytes of buffers that arrays are using."""
    with _lock:
        _collect()
        return _bytes["used"]
