"""Device memory of the stand-in: blocks between red zones, full of NaN, poisoned when freed.

An address stays valid for good, as far as the process is concerned: who reads through one whose
block was freed reads NaN, or what the next user of the block wrote, as on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import weakref

import numpy as np

from . import streams
from .device import DEVICES, CUDARuntimeError, Device

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


class Memory:
    """``cupy.cuda.Memory``: so many bytes of the current device, between red zones."""

    def __init__(self, size, watched=False):
        self.size, self.device_id = size, Device._current
        self.gone = False  # given back to the device
        self.watched = watched  # whether nobody may write to it once it is freed: no graph knows it
        if _taken[self.device_id] + size > TOTAL:
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        _taken[self.device_id] += size
        self._raw = np.full(size + 2 * len(ZONE) + ALIGNMENT, ZONE[0], np.uint8)
        start = self._raw.ctypes.data + len(ZONE)
        self._start = len(ZONE) + -start % ALIGNMENT
        self.ptr = self._raw.ctypes.data + self._start
        self._bytes = memoryview(self._raw)
        self.fill(FRESH)
        self.guard(size)

    @property
    def device(self):
        return Device(self.device_id)

    def fill(self, value, size=None):
        """Set its first bytes, all if no size is given."""
        self._raw[self._start : self._start + (self.size if size is None else size)] = value

    def guard(self, size):
        """From now on nothing but its first ``size`` bytes may be written."""
        end = self._start + self.size + len(ZONE)
        _before[id(self)] = self._bytes[self._start - len(ZONE) : self._start]
        _after[id(self)] = self._bytes[self._start + size : end]

    def check_freed(self):
        """Raise if something was written to it since it was freed."""
        if self.watched and (self._raw[self._start : self._start + self.size] != FREED).any():
            raise RedZoneError(f"write to a block of {self.size} bytes after it was freed")

    def __del__(self, ending=sys.is_finalizing):
        if hasattr(self, "_bytes") and not ending():
            del _before[id(self)], _after[id(self)]
            self.fill(FREED)
            self.gone = True
            _taken[self.device_id] -= self.size
            quarantine.append((self._raw, self._start, self.size, self.watched))


class PooledMemory:
    """A block of a pool in use, which goes back to it when nobody holds it."""

    def __init__(self, block, size, pool, arena):
        self._arena = arena
        self.size, self.ptr, self.device_id = size, block.ptr, block.device_id
        self._block, self._pool = block, pool
        block.fill(ZONE[0])
        block.fill(FRESH, size)
        if block.watched:
            block.guard(size)
        live.add(self)

    @property
    def device(self):
        return Device(self.device_id)

    def __del__(self, ending=sys.is_finalizing):
        if not ending():
            self._block.fill(FREED)
            self._pool._give(self._block, self._arena)


class UnownedMemory:
    """``cupy.cuda.UnownedMemory``: an address, which nobody holds for its user."""

    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size = ptr, size
        self.device_id = Device._current if device_id < 0 else device_id

    @property
    def device(self):
        return Device(self.device_id)


live = weakref.WeakSet()  # the blocks of pools that are in use
_before, _after = {}, {}  # of each block of a device, by its id: bytes that nobody may write
quarantine = []  # what was given back to a device: addresses stay readable
_taken = [0] * DEVICES  # bytes of each device


def check():
    """Raise if a kernel wrote outside of the arrays that there are."""
    found = b"".join([*_before.values(), *_after.values()])  # at once: there are thousands
    if found == ZONE[:1] * len(found):
        return
    for before, after in zip(_before.values(), _after.values(), strict=True):
        raw = np.frombuffer(before.obj, np.uint8)
        start, end = (np.frombuffer(part, np.uint8).ctypes.data for part in (before, after))
        start, end = start + len(ZONE) - raw.ctypes.data, end - raw.ctypes.data
        written = np.flatnonzero(raw != ZONE[0])
        written = written[(written < start) | (written >= end)]
        if written.size:
            at, size = written[0] - start, end - start
            raise RedZoneError(f"write outside of an array: byte {at} of a block of {size} bytes")


class MemoryPointer:
    """``cupy.cuda.MemoryPointer``: an address in device memory."""

    def __init__(self, mem, offset):
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, mem.device_id

    @property
    def device(self):
        return Device(self.device_id)

    def __add__(self, offset):
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)

    def _values(self, shape, dtype, strides=None):
        """What lies there, as an array of NumPy's for the stand-in alone."""
        room = (ctypes.c_char * (self.mem.ptr + self.mem.size - self.ptr)).from_address(self.ptr)
        return np.ndarray(shape, dtype, room, 0, strides)

    def memset_async(self, value, size, stream=None):
        self._values(size, np.uint8)[...] = value

    def memset(self, value, size):
        self.memset_async(value, size)


def _from_device(size):
    return MemoryPointer(Memory(size), 0)


class MemoryPool:
    """``cupy.cuda.MemoryPool``: blocks that were freed are used again, by later allocations of the
    same size in units of 512 bytes on the same stream."""

    def __init__(self, allocator=_from_device):
        self._allocator = allocator
        self._free = {}  # {(device, stream, capacity): [block]}
        self._all = {}  # by id: a block in use is no garbage with its user, who gives it back
        self._used, self._held, self._limit = [0] * DEVICES, [0] * DEVICES, [0] * DEVICES

    def malloc(self, size):
        device, capacity = Device._current, max(-(-size // ALIGNMENT), 1) * ALIGNMENT
        arena = device, streams.get_current_stream().ptr, capacity
        blocks = self._free.get(arena)
        if blocks:
            blocks[-1].check_freed()
            block = blocks.pop()
        else:
            limit = self._limit[device]
            try:
                if limit and self._held[device] + capacity > limit:
                    raise OutOfMemoryError(capacity, self._held[device], limit)
                block = self._allocator(capacity).mem
                self._all[id(block)] = block
            except CUDARuntimeError:
                raise OutOfMemoryError(capacity, self._held[device], limit) from None
            self._held[device] += capacity
        self._used[device] += capacity
        return MemoryPointer(PooledMemory(block, size, self, arena), 0)

    def _give(self, block, arena):
        self._used[block.device_id] -= block.size
        if block.gone:  # the collector of cycles came to it first
            return
        block.guard(block.size)
        self._free.setdefault(arena, []).append(block)

    def free_all_blocks(self, stream=None):
        for (device, _, capacity), blocks in self._free.items():
            if device == Device._current:
                self._held[device] -= capacity * len(blocks)
                for block in blocks:
                    del self._all[id(block)]
                blocks.clear()

    def _blocks(self):
        """(capacity, how many) of what is free on the current device."""
        items = self._free.items()
        return [(size, len(b)) for (device, _, size), b in items if device == Device._current]

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


def _everybodys():
    return MemoryPool(lambda size: MemoryPointer(Memory(size, watched=True), 0))


class _Here(threading.local):
    allocator = None  # of the current thread, if one was set


_default, _here = _everybodys(), _Here()


def reset():
    """Forget what was allocated before; arrays that there are stay usable."""
    global _default
    check()
    for raw, start, size, watched in quarantine:
        if watched and (raw[start : start + size] != FREED).any():
            raise RedZoneError(f"write to a block of {size} bytes after it was freed")
    quarantine.clear()
    _default, _here.allocator = _everybodys(), None


def get_default_memory_pool():
    return _default


def alloc(size):
    """``cupy.cuda.alloc``: from the allocator that is set, else from the default pool."""
    return get_allocator()(size)


def get_allocator():
    return _here.allocator or _default.malloc


def set_allocator(allocator=None):
    _here.allocator = allocator


@contextlib.contextmanager
def using_allocator(allocator=None):
    before, _here.allocator = _here.allocator, allocator
    try:
        yield
    finally:
        _here.allocator = before
