"""Buffers: memory that is used again.

An array of a megabyte that NumPy allocates is fresh from the operating system: its pages are
mapped, one by one, when they are first written, which takes longer than computing what is written.
A training step asks for the same sizes over and over, so :func:`empty` keeps the memory of arrays
that nobody holds any more and gives it to the next one of a similar size. It is an array like any
other. Its memory is free again when the last view of it is gone, which nobody has to be told: each
view refers to the block of memory, and Python counts the references.

Blocks begin at different offsets from a page, because arrays that begin at the same one fight for
the same cache lines. What is held, idle or not, stays near the most that was ever in use at once.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

SMALLEST = 1 << 11  # bytes; NumPy is good at smaller arrays
SPARE = 1 << 26  # bytes that may be held beyond the most that was in use at once, and an eighth
PAGE, LINE = 4096, 64

_lock = threading.RLock()  # a garbage collection may come at any line, and end up in here again
_blocks: dict[int, list[Any]] = {}  # all there are, in use or idle, by size
_most = 0  # bytes in use at once, whenever that was looked at
_turn = 0
_alone = 0  # references to an object that only a list refers to, as seen below


def _idle(blocks: list[Any]) -> Iterator[Any]:
    """Those that no array refers to. Each is referred to here before it is looked at: so nobody
    else can find it idle too."""
    for block in blocks:
        if sys.getrefcount(block) == _alone:
            yield block


while next(_idle([object()]), None) is None:  # versions of Python differ
    _alone += 1


@functools.lru_cache(maxsize=4096)
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
    return np.ndarray(shape, dtype, _take(size_class(nbytes)))


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


def _take(size: int) -> Any:
    """An idle block of this size, or a new one."""
    with _lock:
        blocks = _blocks.setdefault(size, [])
        for block in _idle(blocks):
            return block
        _shrink(size)
        block = _new(size)
        blocks.append(block)
        return block


def _new(size: int) -> Any:
    """A block of fresh memory, at the next offset from a page."""
    global _turn
    _turn = (_turn + 5) % 13
    try:
        raw: Any = np.empty(size + 2 * PAGE, np.uint8)
    except MemoryError as error:
        used = _used()
        _free_idle()
        raise MemoryError(
            f"expected room for an array of {size / 2**30:.2f} GiB, got none; minires is using "
            f"{used / 2**30:.2f} GiB. Use a smaller batch or smaller images."
        ) from error
    start = -raw.__array_interface__["data"][0] % PAGE + _turn * 5 * LINE
    # not an array: an array on an array would be a view of it, and is to be one in its own right
    return (ctypes.c_char * size).from_buffer(raw[start : start + size])


def _held() -> int:
    return sum(size * len(blocks) for size, blocks in _blocks.items())


def _used() -> int:
    return _held() - sum(size * len([*_idle(blocks)]) for size, blocks in _blocks.items())


def _shrink(size: int) -> None:
    """Make room for ``size`` bytes by freeing idle memory, the largest first, where too much is
    held."""
    global _most
    _most = max(_most, _used() + size)
    excess = _held() + size - (_most * 9 // 8 + SPARE)
    for large in sorted(_blocks, reverse=True):
        for block in [*_idle(_blocks[large])]:
            if excess > 0:
                _blocks[large].remove(block)
                excess -= large


def _free_idle() -> None:
    _scratch.clear()
    for blocks in _blocks.values():
        for block in [*_idle(blocks)]:
            blocks.remove(block)


def release() -> None:
    """Give all idle memory back to the operating system."""
    with _lock:
        _free_idle()


def in_use() -> int:
    """Bytes of buffers that arrays are using."""
    with _lock:
        return _used()
