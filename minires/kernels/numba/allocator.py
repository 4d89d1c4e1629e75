"""The caching allocator: memory that is used again.

An array of a megabyte that NumPy allocates is fresh from the operating system: its pages are
mapped, one by one, when they are first written, which takes longer than computing what is written.
A training step asks for the same sizes over and over, so :func:`allocate` keeps the memory of
arrays that nobody holds any more and gives it to the next one of a similar size. It is an array
like any other. Its memory is free again when the last view of it is gone, which nobody has to be
told: each view refers to the block of memory, and Python counts the references.

Blocks begin at different offsets from a page, because arrays that begin at the same one fight for
the same cache lines. What is held, idle or not, stays near the most that was ever in use at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...forks import new_lock_in_children

TINY = 1 << 11  # bytes, below which an array is NumPy's, wherever it begins
SMALLEST = 1 << 14  # bytes, below which memory is not kept: NumPy is good at small arrays
SPARE = 1 << 26  # bytes that may be held beyond the most that was in use at once, and an eighth
LARGER = 2  # how many times as large as asked for a pool's block may be
PAGE, LINE = 4096, 64

_lock = threading.RLock()  # a garbage collection may come at any line, and end up in here again
_blocks: dict[int, list[Any]] = {}  # all there are, in use or idle, by size
_held = 0  # bytes of them
_most = 0  # bytes in use at once, whenever that was counted
_turn = 0
new_lock_in_children(globals(), "_lock")


def _idle(blocks: list[Any], lists: int = 1) -> Iterator[Any]:
    """Blocks whose reference count shows that only our lists hold them.

    Each array in a block refers to the block, each view to its array, and so do exports of them
    (``memoryview``, DLPack). How high the count is when nobody else does is measured, on an object
    that only ``lists`` lists and this function know. The block found is in the hands of this
    function before anyone else can look, which raises its count: two threads never find the same.
    """
    alone = lists - 1
    for block in [object()]:
        alone += sys.getrefcount(block)
    for block in blocks:
        if sys.getrefcount(block) == alone:
            yield block


@functools.lru_cache(maxsize=4096)
def size_class(nbytes: int) -> int:
    """``nbytes`` rounded up, by at most an eighth, so that similar sizes share their memory."""
    step = 1 << max(nbytes.bit_length() - 4, 11)
    return -(-nbytes // step) * step


def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Like :func:`numpy.empty`, in memory that was used before where there is some.

    Raises:
        MemoryError: there is not as much; says how much was asked for.
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < TINY:
        return np.empty(shape, dtype)
    block = _fresh(nbytes, LINE, 0) if nbytes < SMALLEST else _take(size_class(nbytes))
    return np.ndarray(shape, dtype, block)


_workspaces: dict[Any, np.ndarray[Any, Any]] = {}


def workspace(size: int, dtype: Any) -> np.ndarray[Any, Any]:
    """At least ``size`` entries for one kernel to work in, and nobody else: one runs at a time.

    The entries begin with a line of the cache, as blocks do: a vector that reaches over two lines
    takes twice as long to read or write, and NumPy's own arrays mostly begin 16 bytes behind one.
    """
    memory = _workspaces.get(dtype)
    if memory is None or memory.size < size:
        dtype = np.dtype(dtype)
        block = _fresh(size * dtype.itemsize, LINE, 0)
        memory = _workspaces[dtype] = np.ndarray(size, dtype, block)
    return memory


@functools.cache
def _kind(size: int) -> Any:
    """The type of blocks of that size, made once: making a type is slow, and leaves garbage."""
    return ctypes.c_char * size


def _fresh(size: int, step: int, offset: int) -> Any:
    """A block of fresh memory, in whole lines, ``offset`` bytes behind a multiple of ``step``."""
    size = -(-size // LINE) * LINE
    raw: Any = np.empty(size + step + offset, np.uint8)
    start = -raw.__array_interface__["data"][0] % step + offset
    # The block is no NumPy array, or NumPy would take the array that is made in it for a view.
    return _kind(size).from_buffer(raw, start)


class MemoryPool:
    """Memory that one captured graph keeps for itself: each replay writes it anew."""

    def __init__(self) -> None:
        self._own: dict[int, list[Any]] = {}  # blocks, by size

    def owns(self, root: Any) -> bool:
        """Whether an array that is no view lies in this memory."""
        block = root.base
        return any(block is own for own in self._own.get(getattr(block, "_length_", 0), ()))

    def take(self, size: int) -> Any:
        """An idle block of at least this size."""
        for known in sorted(self._own):  # nobody else will ever use them: rather a larger one than
            if size <= known <= LARGER * size:  # one more
                for block in _idle(self._own[known], lists=2):
                    return block
        block = _take_shared(size)
        self._own.setdefault(size, []).append(block)
        return block


class _Here(threading.local):
    pool: MemoryPool | None = None


_here = _Here()


@contextlib.contextmanager
def taking_from(pool: MemoryPool | None) -> Iterator[None]:
    """Let what this thread allocates inside be a pool's; None stands for everybody's memory."""
    before, _here.pool = _here.pool, pool
    try:
        yield
    finally:
        _here.pool = before


def _take(size: int) -> Any:
    """An idle block of this size, or a new one."""
    pool = _here.pool
    return _take_shared(size) if pool is None else pool.take(size)


def _take_shared(size: int) -> Any:
    """An idle block of this size that is no pool's, or a new one."""
    global _held
    with _lock:
        blocks = _blocks.setdefault(size, [])
        for block in _idle(blocks):
            return block
        if _held + size > _limit(_most):
            _shrink(size)
        block = _new(size)
        blocks.append(block)
        _held += size
        return block


def _new(size: int) -> Any:
    """A block of fresh memory, at the next offset from a page; idle memory makes room for it."""
    global _turn
    _turn = (_turn + 5) % 13
    try:
        return _fresh(size, PAGE, _turn * 5 * LINE)
    except (MemoryError, ValueError):  # NumPy's word for more than there are addresses
        _free(0)
    try:
        return _fresh(size, PAGE, _turn * 5 * LINE)
    except (MemoryError, ValueError) as error:
        raise MemoryError(
            f"expected room for an array of {size / 2**30:.2f} GiB, got none; minires is using "
            f"{_used() / 2**30:.2f} GiB. Use a smaller batch or smaller images."
        ) from error


def _used() -> int:
    """Bytes of blocks that arrays refer to."""
    return _held - sum(size * len([*_idle(blocks)]) for size, blocks in list(_blocks.items()))


def _limit(most: int) -> int:
    """Bytes that may be held where ``most`` were in use at once."""
    return most * 9 // 8 + SPARE


def _shrink(size: int) -> None:
    """Make room for ``size`` bytes where too much is held."""
    global _most
    used = _used()
    _most = max(_most, used)
    _free(_limit(max(_most, used + size)) - size)


def _free(enough: int) -> None:
    """Free idle blocks, the largest first, until no more than ``enough`` bytes are held; with 0,
    all idle blocks and the workspaces."""
    global _held
    if not enough:
        _workspaces.clear()
    for size in sorted(_blocks, reverse=True):
        for block in [*_idle(_blocks[size])]:
            if _held > enough:
                _blocks[size].remove(block)
                _held -= size


def release() -> None:
    """Give all idle memory back to the operating system."""
    with _lock:
        _free(0)


def in_use() -> int:
    """Bytes of blocks that arrays are using."""
    with _lock:
        return _used()
