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

import ctypes
import functools
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


@functools.cache
def _block(size: int) -> Any:
    """The type of objects that lend ``size`` bytes of memory to arrays: when the last array is gone
    and they go with it, the memory goes back to the idle ones."""

    class Block(ctypes.c_char * size):  # type: ignore[misc]
        def __del__(self, back: Any = _returned.append) -> None:  # needed to the very end
            back(self.memory)

    return Block


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
    size = size_class(nbytes)
    memory = _take(size)
    block = _block(size).from_buffer(memory)
    block.memory = memory
    return np.ndarray(shape, dtype, block)


_scratch: dict[Any, np.ndarray[Any, Any]] = {}


def scratch(size: int, dtype: Any) -> np.ndarray[Any, Any]:
    """At least ``size`` entries for one kernel to work in, and nobody else: one runs at a time."""
    memory = _scratch.get(dtype)
    if memory is None or memory.size < size:
        memory = _scratch[dtype] = np.empty(size, dtype)
    return memory


def _take(size: int) -> np.ndarray[Any, Any]:
    global _turn
    with _lock:
        if _returned:
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
    _scratch.clear()
    with _lock:
        _collect()
        _idle.clear()
        _bytes["idle"] = 0


def in_use() -> int:
    """Bytes of buffers that arrays are using."""
    with _lock:
        _collect()
        return _bytes["used"]
