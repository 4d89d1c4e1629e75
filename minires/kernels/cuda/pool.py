"""Memory of the GPU: arrays from CuPy's pools, and a pool for each captured graph.

CuPy's memory pool keeps the memory of an array that nobody holds any more, and gives it to the next
one of a similar size that is asked for on the same stream. That is safe although kernels may still
be reading the old array: what is launched later on a stream begins when all that came before is
done. So a kernel's workspace is an array like any other, which its caller forgets after the launch.

A CUDA graph (:mod:`.graph`) has the addresses of its arrays written into it. Memory that it uses
must go to nobody else as long as it lives, not even where a graph has no use for it between two of
its kernels. Hence a captured graph has a :class:`MemoryPool` of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...device import cupy, memory
from ...errors import OutOfMemory, message

GIB = 2**30


class MemoryPool:
    """Memory that one captured graph keeps for itself: each replay writes it anew."""

    def __init__(self) -> None:
        self._blocks: list[Any] = []  # all that the pool ever got; held, so that addresses stay its
        self._pool = cupy().cuda.MemoryPool(self._fresh)
        _pools.add(self)

    def malloc(self, nbytes: int) -> Any:
        """Memory as CuPy's allocators return it."""
        return self._pool.malloc(nbytes)

    def owns(self, root: Any) -> bool:
        """Whether an array that is no view lies in this memory."""
        if isinstance(root, np.ndarray):
            return False
        at = root.data.ptr
        return any(block.ptr <= at < block.ptr + block.size for block in self._blocks)

    def nbytes(self, device: int) -> int:
        """Bytes of this pool on a GPU."""
        return sum(block.size for block in self._blocks if block.device_id == device)

    def _fresh(self, nbytes: int) -> Any:
        """A block from the driver; memory that CuPy's common pool has idle makes room for it."""
        cuda = cupy().cuda
        try:
            block = cuda.Memory(nbytes)
        except cuda.runtime.CUDARuntimeError:
            cupy().get_default_memory_pool().free_all_blocks()
            block = cuda.Memory(nbytes)
        self._blocks.append(block)
        return cuda.MemoryPointer(block, 0)


_pools: weakref.WeakSet[MemoryPool] = weakref.WeakSet()


class _Here(threading.local):
    everybody: Any = None  # CuPy's allocator outside of all pools; None where no pool is in use


_here = _Here()


@contextlib.contextmanager
def taking_from(pool: MemoryPool | None) -> Iterator[None]:
    """Let what this thread allocates inside be a pool's; None stands for everybody's memory."""
    using = cupy().cuda.using_allocator
    with _inside(), using(_here.everybody if pool is None else pool.malloc):
        yield


@contextlib.contextmanager
def _inside() -> Iterator[None]:
    """Inside, the allocator may be another than everybody's."""
    before = _here.everybody
    if before is None:
        _here.everybody = cupy().cuda.get_allocator()
    try:
        yield
    finally:
        _here.everybody = before


class Allocations:
    """What a call allocates, by number, so that its results find their place again.

    CuPy's functions allocate what they return. A call in a graph must leave its results where the
    graph's other nodes read them, and to copy them there costs a kernel more. But a function that
    is called again allocates the same again, in the same order: so it is given the memory of its
    first results where it asked for that.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}  # by address, of the last that got it
        self._kept: dict[int, Any] = {}  # root arrays of results, by number

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Count what is allocated inside, by the call that is to be repeated."""
        numbers, allocator = itertools.count(), cupy().cuda.get_allocator()

        def malloc(nbytes: int) -> Any:
            found = allocator(nbytes)
            self._numbers[found.ptr] = next(numbers)
            return found

        with _inside(), cupy().cuda.using_allocator(malloc):
            yield

    def keep(self, results: Sequence[Any]) -> None:
        """Say which arrays are the results of the first call."""
        for root in map(memory, results):
            number = self._numbers.get(root.data.ptr)
            if number is not None:
                self._kept[number] = root

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Inside, the same call gets the same memory for its results. (Should it allocate otherwise
        than the first one, its results lie elsewhere.)"""
        numbers, allocator = itertools.count(), cupy().cuda.get_allocator()

        def malloc(nbytes: int) -> Any:
            kept = self._kept.get(next(numbers))
            return kept.data if kept is not None and kept.nbytes == nbytes else allocator(nbytes)

        with _inside(), cupy().cuda.using_allocator(malloc):
            yield

    @staticmethod
    def in_place(result: Any, place: Any) -> bool:
        """Whether a result of a later call lies where that of the first one lies."""
        same: bool = result.data.ptr == place.data.ptr and result.strides == place.strides
        return same and result.dtype == place.dtype


def allocate(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array without values on the current GPU.

    Raises:
        OutOfMemory: says what was asked for, and who holds how much.
    """
    try:
        return cupy().empty(shape, dtype)
    except MemoryError as error:
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize / GIB
        what = f"{size:.2f} GiB, an array {shape} of {dtype}"
        raise out_of_memory("allocate", what) from error


def workspace(size: int, dtype: Any) -> Any:
    """At least ``size`` entries for one kernel to work in: what comes later on the stream may have
    the same memory."""
    return allocate((size,), dtype)


def release() -> None:
    """Give memory that nobody uses back to the driver, and so to other processes."""
    cupy().get_default_memory_pool().free_all_blocks()


class Held(NamedTuple):
    """Who has the memory of a GPU, in bytes.

    Attributes:
        arrays: arrays of this process.
        idle: what CuPy's pool keeps for the next arrays.
        graphs: captured graphs.
        others: other processes, other libraries, compiled kernels.
        free: nobody.
        total: all of it.
    """

    arrays: int
    idle: int
    graphs: int
    others: int
    free: int
    total: int

    def __str__(self) -> str:
        parts = [f"{name} {value / GIB:.2f}" for name, value in self._asdict().items()]
        return "GiB: " + ", ".join(parts)


def held(device: int) -> Held:
    """Who has the memory of a GPU, by its number."""
    with cupy().cuda.Device(device) as place:
        free, total = place.mem_info
        pool = cupy().get_default_memory_pool()
        arrays, idle = pool.used_bytes(), pool.free_bytes()
    graphs = sum(each.nbytes(device) for each in [*_pools])
    return Held(arrays, idle, graphs, max(total - free - arrays - idle - graphs, 0), free, total)


def out_of_memory(op: str, what: str) -> OutOfMemory:
    """The error for something that finds no room on the current GPU."""
    device = cupy().cuda.runtime.getDevice()
    fix = "Use a smaller batch or smaller images; nvidia-smi lists other processes."
    expected, got = f"room on cuda:{device} for {what}", f"none ({held(device)})"
    return OutOfMemory(message(op, expected, got, fix=fix))
