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
import weakref
from collections import deque
from typing import Any

import numpy as np

SMALLEST = 1 << 11  # bytes; NumPy is good at smaller arrays
SPARE = 1 << 26  # bytes that may be held beyond the most that was in use at once, and an eighth
PAGE, LINE = 4096, 64

_lock = threading.Lock()
_lent: dict[int, _Loan] = {}  # by id
# What came back. An array may die at any moment, in a garbage collection inside this very module
# too: what happens then must take no lock. And it must not be Python code, in which an interrupt
# from the keyboard would be lost.
_returned: deque[_Loan] = deque()
_idle: dict[int, list[np.ndarray[Any, Any]]] = {}  # by size
_held = _used = _most = 0  # bytes: of all memory, of that which arrays use, of that at its most
_turn = 0


@functools.cache
def _block(size: int) -> Any:
    """The type of objects that lend ``size`` bytes of memory to arrays."""

    class Block(ctypes.c_char * size):  # type: ignore[misc]
        """A subclass, because weak references to it are wanted."""

    return Block


class _Loan(weakref.ref[Any]):
    """Refers to a block, and knows its memory: when the last array is gone, and the block with it,
    this is among what came back."""

    __slots__ = ("memory",)
    memory: np.ndarray[Any, Any]


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
    loan = _Loan(block, _returned.append)
    loan.memory = memory
    _lent[id(loan)] = loan
    return np.ndarray(shape, dtype, block)


_scratch: dict[Any, np.ndarray[Any, Any]] = {}


def scratch(size: int, dtype: Any) -> np.ndarray[Any, Any]:
    """At least ``size`` entries for one kernel to work in, and nobody else: one runs at a time.

    They begin with a line of the cache, as blocks do: a vector that reaches over two lines takes
    twice as long to read or write, and NumPy's own arrays mostly begin 16 bytes behind a line."""
    memory = _scratch.get(dtype)
    if memory is None or memory.size < size:
        raw = np.empty(size + LINE, dtype)
        start = -raw.__array_interface__["data"][0] % LINE // raw.itemsize
        memory = _scratch[dtype] = raw[start : start + size]
    return memory


def _take(size: int) -> np.ndarray[Any, Any]:
    global _turn, _held, _used, _most
    with _lock:
        _collect()
        idle = _idle.get(size)
        if idle:
            _used += size
            if _used > _most:
                _most = _used
            return idle.pop()
        _shrink(size)
        _turn = (_turn + 5) % 13
        turn = _turn
    try:
        raw = np.empty(size + 2 * PAGE, np.uint8)
    except MemoryError as error:
        release()
        raise MemoryError(
            f"expected room for an array of {size / 2**30:.2f} GiB, got none; minires is using "
            f"{_used / 2**30:.2f} GiB. Use a smaller batch or smaller images."
        ) from error
    start = -raw.__array_interface__["data"][0] % PAGE + turn * 5 * LINE
    with _lock:
        _held += size
        _used += size
        _most = max(_most, _used)
    return raw[start : start + size]


def _collect() -> None:
    """Put what came back among the idle memory."""
    global _used
    while _returned:
        loan = _returned.popleft()
        _lent.pop(id(loan), None)  # an interrupt may have come before it was there
        memory = loan.memory
        size = memory.size
        _used -= size
        if size in _idle:
            _idle[size].append(memory)
        else:
            _idle[size] = [memory]


def _shrink(size: int) -> None:
    """Make room for ``size`` bytes by freeing idle memory, the largest first, where too much is
    held."""
    global _held
    limit = max(_most, _used + size) * 9 // 8 + SPARE
    while _held > _used and _held + size > limit:
        largest = max(key for key, blocks in _idle.items() if blocks)
        _held -= _idle[largest].pop().size


def release() -> None:
    """Give all idle memory back to the operating system."""
    global _held
    _scratch.clear()
    with _lock:
        _collect()
        _idle.clear()
        _held = _used


def in_use() -> int:
    """Bytes of buffers that arrays are using."""
    with _lock:
        _collect()
        return _used
