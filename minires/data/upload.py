"""Batches on their way to a GPU: through pinned memory, on a stream of their own.

While the GPU computes with one batch, the next one is copied to it::

    host            batch 1 → pinned      batch 2 → pinned     batch 3 → pinned
    copy stream                  copy 1               copy 2               copy 3
    compute stream                      step 1               step 2 ...

Only a copy from *pinned* memory, which the system does not move, runs beside the host's and the
GPU's other work; from ordinary memory the host would wait for it. A *stream* is a queue of work of
which each piece begins when the one before is done; two streams know nothing of each other unless
one waits for an *event* that was recorded in the other.

Pinned and device memory form a ring of slots, which are used again and again. Three events keep a
slot from being written too early:

- the host fills its pinned half when the copy out of it is done (``copied``);
- the copy into its device half begins when the compute stream has read what was there (``read``);
- the compute stream reads it when the copy is done (``copied`` again).

What the compute stream gets is an array of its own, made from the slot: whoever holds a batch for
long holds nothing of the ring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minires.device import Device, cupy, on

SLOTS = 3  # one that is filled, one that is copied, one that is read
ALIGNMENT = 256  # bytes: where arrays begin in a slot


class _Slot:
    """Pinned memory, as much memory of the device, and the events that tell who is done with it."""

    def __init__(self) -> None:
        self.pinned: Any = None
        self.staged: Any = None
        self.copied: Any = None
        self.read: Any = None


class Sent:
    """A batch in a slot: the arrays of the device that the copies fill."""

    def __init__(self, slot: _Slot, arrays: list[Any]) -> None:
        self.slot, self.arrays = slot, arrays


class Upload:
    """A ring of slots through which batches go to one GPU. For one thread at a time.

    Args:
        device: the GPU.

    Raises:
        DeviceError: there is no such GPU.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        with on(device):
            self._copies = cupy().cuda.Stream(non_blocking=True)
        self._slots = [_Slot() for _ in range(SLOTS)]
        self._count = 0

    def send(self, arrays: Sequence[NDArray[Any]]) -> Sent:
        """Start the copy of arrays to the GPU; the host may change them at once.

        At most :data:`SLOTS` batches may be on their way: :meth:`receive` frees a slot.
        """
        slot = self._slots[self._count % SLOTS]
        self._count += 1
        starts, size = [], 0
        for array in arrays:
            starts.append(size)
            size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        with on(self.device):
            if slot.copied is not None:
                slot.copied.synchronize()
            if slot.pinned is None or slot.pinned.size < size:
                self._enlarge(slot, size)
            if slot.read is not None:
                self._copies.wait_event(slot.read)
            staged = []
            for array, start in zip(arrays, starts):
                here = slice(start, start + array.nbytes)
                pinned = slot.pinned[here].view(array.dtype).reshape(array.shape)
                pinned[...] = array
                staged.append(slot.staged[here].view(array.dtype).reshape(array.shape))
                if array.size:
                    staged[-1].set(pinned, stream=self._copies)
            slot.copied = self._event(self._copies)
        return Sent(slot, staged)

    def receive(self, sent: Sent, make: Callable[..., Any]) -> Any:
        """``make(*arrays)``: what is made of a batch on the GPU, in memory of its own. Its work and
        whatever follows on the current stream wait for the copies; the host does not."""
        with on(self.device):
            stream = cupy().cuda.get_current_stream()
            stream.wait_event(sent.slot.copied)
            result = make(*sent.arrays)
            sent.slot.read = self._event(stream)
        return result

    def close(self) -> None:
        """Wait for the copies: the memory they write to goes to others then."""
        with on(self.device):
            self._copies.synchronize()

    def _enlarge(self, slot: _Slot, size: int) -> None:
        slot.pinned = import_module("cupyx").empty_pinned(size, np.uint8)
        slot.staged = cupy().empty(size, np.uint8)
        # CuPy hands out memory that work of the current stream, queued before, may still use
        self._copies.wait_event(self._event(cupy().cuda.get_current_stream()))

    def _event(self, stream: Any) -> Any:
        event = cupy().cuda.Event(disable_timing=True)
        event.record(stream)
        return event
