"""Device memory of the stand-in: blocks between red zones, full of NaN, poisoned when freed.

An address stays valid for good, as far as the process is concerned: who reads through one whose
block was freed reads NaN, or what the next user of the block wrote, as on a GPU.
"""

from __future__ import annotations

import contextlib
import weakref

import numpy as np

from .device import DEVICES, Device

ALIGNMENT = 512  # bytes, of every address that CuPy's pools hand out
ZONE = b"\xfe" * 256  # on both sides of every block
FRESH = 0xFF  # NaN as floating-point numbers, -1 as integers
FREED = 0xFD  # -4e37 in float32, which nothing computes
TOTAL = 2**30  # bytes that a device has


class OutOfMemoryError(MemoryError):
    """``cupy.cuda.memory.OutOfMemoryError``."""

    def __init__(self, size, total, limit=0):
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(text + (f", limit set to: {limit:,} bytes)." if limit else ")."))


class RedZoneError(RuntimeError):
    """A kernel wrote where it must not: on a GPU nothing would tell."""


class _Block:
    """Room for so many bytes, which stays where it is."""

    def __init__(self, capacity, private):
        self.capacity = capacity
        self.private = private  # a graph may write to it at any time: it knows the address
        self.raw = np.empty(capacity + 2 * len(ZONE) + ALIGNMENT, np.uint8)
        start = self.raw.ctypes.data + len(ZONE)
        self.offset = len(ZONE) + -start % ALIGNMENT
        self.bytes = memoryview(self.raw)
        self.ptr = self.raw.ctypes.data + self.offset

    def check_freed(self):
        """Raise if something was written to it since it was freed."""
        if not self.private and (self.raw != FREED).any():
            raise RedZoneError(f"write to a block of {self.capacity} bytes after it was freed")


class Memory:
    """``cupy.cuda.Memory``: a block in use, which goes back to its pool when nobody holds it."""

    def __init__(self, size, block, pool):
        self.size, self.device_id = size, Device._current
        self._block, self._pool, self.ptr = block, pool, block.ptr
        block.raw[:] = ZONE[0]
        block.raw[block.offset : block.offset + size] = FRESH
        live.add(self)

    @property
    def device(self):
        return Device(self.device_id)

    def check(self):
        """Raise where the red zones were written to."""
        block, end = self._block, self._block.offset + self.size
        before, after = block.bytes[block.offset - len(ZONE) : block.offset], block.bytes[end:]
        if bytes(before) != ZONE or bytes(after[: len(ZONE)]) != ZONE:
            at = np.flatnonzero(np.frombuffer(block.raw, np.uint8) != ZONE[0])
            at = at[(at < block.offset) | (at >= end)] - block.offset
            raise RedZoneError(
                f"write outside of an array: byte {at[0]} of a block of {self.size} bytes"
            )

    def values(self, shape, dtype, offset=0, strides=None):
        """The bytes as an array of NumPy's, for the stand-in alone."""
        return np.ndarray(shape, dtype, self._block.raw, self._block.offset + offset, strides)

    def __del__(self):
        block = self._block
        block.raw[:] = FREED
        self._pool._give(block, self.device_id)


live = weakref.WeakSet()
quarantine = []  # blocks that were given back to the device: their addresses stay readable


def check():
    """Raise if a kernel wrote outside of the arrays that there are."""
    for memory in live:
        memory.check()


class MemoryPointer:
    """``cupy.cuda.MemoryPointer``: an address in device memory."""

    def __init__(self, mem, offset):
        self.mem, self._offset = mem, offset
        self.ptr, self.device_id = mem.ptr + offset, mem.device_id

    @property
    def device(self):
        return Device(self.device_id)

    def __add__(self, offset):
        return MemoryPointer(self.mem, self._offset + offset)

    def memset_async(self, value, size, stream=None):
        self.mem.values(size, np.uint8, self._offset)[...] = value

    def memset(self, value, size):
        self.memset_async(value, size)


class MemoryPool:
    """``cupy.cuda.MemoryPool``: blocks that were freed are used again, by later allocations of the
    same size in units of 512 bytes."""

    def __init__(self, allocator=None):
        self._free = {}  # {(device, capacity): [block]}
        self._used, self._held, self._limit = [0] * DEVICES, [0] * DEVICES, [0] * DEVICES

    def _take(self, size, device):
        capacity = max(-(-size // ALIGNMENT), 1) * ALIGNMENT
        if self is not _default:  # whose blocks earlier kernels of a graph write to, as they were
            capacity = max(size, 1)
        blocks = self._free.get((device, capacity))
        if blocks:
            blocks[-1].check_freed()
            block = blocks.pop()
        else:
            limit = self._limit[device]
            if self._held[device] + capacity > (limit or TOTAL):
                raise OutOfMemoryError(capacity, self._held[device], limit)
            block = _Block(capacity, self is not _default)
            self._held[device] += capacity
        self._used[device] += capacity
        return block

    def _give(self, block, device):
        self._used[device] -= block.capacity
        self._free.setdefault((device, block.capacity), []).append(block)

    def malloc(self, size):
        return MemoryPointer(Memory(size, self._take(size, Device._current), self), 0)

    def free_all_blocks(self, stream=None):
        for device, capacity in self._free:
            if device == Device._current:
                blocks = self._free[device, capacity]
                self._held[device] -= capacity * len(blocks)
                quarantine.extend(blocks)
                blocks.clear()

    def _blocks(self):
        """(capacity, how many) of what is free on the current device."""
        items = self._free.items()
        return [(capacity, len(b)) for (device, capacity), b in items if device == Device._current]

    def n_free_blocks(self):
        return sum(count for _, count in self._blocks())

    def free_bytes(self):
        return sum(capacity * count for capacity, count in self._blocks())

    def used_bytes(self):
        return self._used[Device._current]

    def total_bytes(self):
        return self._held[Device._current]

    def set_limit(self, size=None, fraction=None):
        self._limit[Device._current] = int(TOTAL * fraction) if size is None else size

    def get_limit(self):
        return self._limit[Device._current]

    def __del__(self):
        quarantine.extend(block for blocks in self._free.values() for block in blocks)


_default = MemoryPool()
_allocator = None  # of the current thread, if one was set


def reset():
    """Forget what was allocated before; ``live`` arrays stay usable."""
    global _default, _allocator
    check()
    for block in quarantine:
        block.check_freed()
    quarantine.clear()
    _default, _allocator = MemoryPool(), None


def get_default_memory_pool():
    return _default


def alloc(size):
    """``cupy.cuda.alloc``: from the allocator that is set, else from the default pool."""
    return (_allocator or _default.malloc)(size)


def get_allocator():
    return _allocator or _default.malloc


def set_allocator(allocator=None):
    global _allocator
    _allocator = allocator


@contextlib.contextmanager
def using_allocator(allocator=None):
    global _allocator
    before, _allocator = _allocator, allocator
    try:
        yield
    finally:
        _allocator = before
