"""Arrays of GPUs between ranks: NCCL, through CuPy.

NCCL's operations are work of the GPU, as kernels are: the host launches them and goes on. They have
a stream of their own, beside the one that computes, with two events around each:

    compute stream   ... pack | ready                        wait(done) | unpack ...
    NCCL's stream               wait(ready) | all-reduce | done

Between *ready* and the wait for *done* the GPU computes something else, if there is something. All
ranks launch the same operations in the same order. Each rank has one GPU, which no other one has:
NCCL cannot share one, and would not say so in words. The same operations on the same numbers of
ranks give the same bits on all ranks and in every run, as NCCL's rings and trees are fixed.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import socket
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from minires.device import Device, backend_name, cupy, device_of, on
from minires.distributed.group import Group
from minires.errors import DistributedError, DTypeError, message

GRACE = 5.0  # seconds in which operations that were started may still end when the program does
NAP = 0.01  # seconds

# By dtype, NCCL's name; the types it can add up.
_TYPES = {
    "bool": "UINT8",
    "uint8": "UINT8",
    "int8": "INT8",
    "int32": "INT32",
    "uint32": "UINT32",
    "int64": "INT64",
    "uint64": "UINT64",
    "float16": "FLOAT16",
    "float32": "FLOAT32",
    "float64": "FLOAT64",
}
_PARTS = {"complex64": "float32", "complex128": "float64"}  # what is added up in pairs


class Place(NamedTuple):
    """Where a rank computes.

    Attributes:
        host: the machine.
        gpu: which of its GPUs, by the place on its bus: programs may number them as they like.
        gpus: how many the process sees.
        name: what the process calls its own.
    """

    host: str
    gpu: str
    gpus: int
    name: str


class Communicator:
    """NCCL between the ranks of a group, with the operations of the group itself.

    Args:
        group: the ranks. Which GPU each has, its first operation says.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._device: Device | None = None
        self._nccl: Any = None
        self._communicator: Any = None
        self._stream: Any = None
        self._running: list[tuple[Any, Any]] = []  # events, and the arrays in use until then

    def reduce(self, array: Any, op: str = "sum") -> None:
        """Put the sum (``"prod"``, ``"max"``, ``"min"``) over all ranks into each one's array. The
        host does not wait, whatever follows on the current stream does.

        Raises:
            DistributedError: CuPy has no NCCL; ranks that share a GPU; an array of another GPU than
                those before; NCCL failed.
            DTypeError: a dtype that NCCL cannot add up.
        """
        whole = _contiguous(array)
        self.wait(self.start_reduce(whole, op))
        if whole is not array:
            with on(device_of(array)):
                array[...] = whole

    def gather(self, array: Any) -> Any:
        """(size, ...): the arrays of all ranks, which have one shape and dtype, in order."""
        whole = _contiguous(array)
        with on(device_of(array)):
            gathered = cupy().empty((self._group.size, *array.shape), array.dtype)

        def work(nccl: Any, stream: int) -> None:
            self._communicator.allGather(
                whole.data.ptr, gathered.data.ptr, whole.nbytes, nccl.NCCL_UINT8, stream
            )

        self.wait(self._start((whole, gathered), work))
        return gathered

    def broadcast(self, array: Any, src: int = 0) -> None:
        """Fill each one's array with that of rank ``src``."""
        whole = _contiguous(array)

        def work(nccl: Any, stream: int) -> None:
            self._communicator.broadcast(
                whole.data.ptr, whole.data.ptr, whole.nbytes, nccl.NCCL_UINT8, src, stream
            )

        self.wait(self._start((whole,), work))
        if whole is not array:
            with on(device_of(array)):
                array[...] = whole

    def start_reduce(self, array: Any, op: str = "sum") -> Any:
        """Start :meth:`reduce` of an array in one piece; gives what :meth:`wait` takes. Until then
        nobody reads or writes the array."""
        parts = _PARTS.get(array.dtype.name, array.dtype.name)
        if parts not in _TYPES or (parts != array.dtype.name and op != "sum"):
            expected = "numbers that NCCL can add up"
            raise DTypeError(message("distributed reduce", expected, f"{array.dtype} ({op})"))
        if array.dtype == bool:  # which are bytes to NCCL
            op = {"sum": "max", "prod": "min"}.get(op, op)
        count = array.size * (2 if parts != array.dtype.name else 1)

        def work(nccl: Any, stream: int) -> None:
            kind = getattr(nccl, f"NCCL_{_TYPES[parts]}")
            how = getattr(nccl, f"NCCL_{op.upper()}")
            pointer = array.data.ptr
            self._communicator.allReduce(pointer, pointer, count, kind, how, stream)

        return self._start((array,), work)

    def wait(self, done: Any) -> None:
        """Let the current stream wait for what was started; the host goes on."""
        assert self._device is not None
        with on(self._device):
            cupy().cuda.get_current_stream().wait_event(done)

    def _start(self, arrays: tuple[Any, ...], work: Callable[[Any, int], None]) -> Any:
        """Launch work on NCCL's stream, after all that the current one was given so far. Gives the
        event that says that it is done."""
        self._connect(device_of(arrays[0]))
        assert self._device is not None
        with on(self._device):
            ready = _event(cupy().cuda.get_current_stream())
            self._stream.wait_event(ready)
            try:
                work(self._nccl, self._stream.ptr)
            except self._nccl.NcclError as error:
                fix = "NCCL_DEBUG=INFO in the environment says more."
                expected = "NCCL to work between all ranks"
                raise DistributedError(
                    message("distributed", expected, str(error), fix=fix)
                ) from error
            done = _event(self._stream)
        self._running = [(event, held) for event, held in self._running if not event.done]
        self._running.append((done, arrays))
        return done

    def _connect(self, device: Device) -> None:
        """Meet the other ranks, at the first operation."""
        if self._device is None:
            self._meet(device)
        elif device != self._device:
            expected = f"arrays on {self._device}, the GPU of this rank"
            raise DistributedError(message("distributed", expected, str(device)))

    def _meet(self, device: Device) -> None:
        nccl, error = None, None
        try:
            nccl = _find_nccl()
        except DistributedError as missing:
            error = missing
        self._group.agree(error)
        runtime = cupy().cuda.runtime
        bus = runtime.deviceGetPCIBusId(device.index)
        own = Place(socket.gethostname(), str(bus), runtime.getDeviceCount(), str(device))
        check_places([Place(*place) for place in self._group.gather_objects(tuple(own))])
        assert nccl is not None
        meeting = self._group.first(nccl.get_unique_id)
        with on(device):
            self._communicator = nccl.NcclCommunicator(self._group.size, meeting, self._group.rank)
            self._stream = cupy().cuda.Stream(non_blocking=True)
        self._nccl, self._device = nccl, device
        atexit.register(self._leave)

    def _leave(self) -> None:
        """At the end: wait for what is under way, which other ranks may wait for; but not for ever,
        as NCCL would, where one of them has failed and will never take part."""
        deadline = time.monotonic() + GRACE
        while any(not event.done for event, _ in self._running):
            if time.monotonic() > deadline:
                self._communicator.abort()
                return
            time.sleep(NAP)


@functools.cache
def communicator(group: Group) -> Communicator:
    """The communicator of a group of several ranks: one, since NCCL wants all of its operations in
    one order."""
    return Communicator(group)


def carrier(group: Group, array: Any) -> Any:
    """What carries an array between ranks: the group itself, or NCCL if the array is on a GPU."""
    return communicator(group) if backend_name(array) == "cuda" else group


def check_places(places: list[Place]) -> None:
    """Refuse ranks that share a GPU.

    Args:
        places: of all ranks, in order.

    Raises:
        DistributedError: which ranks, and how many their machine has room for.
    """
    for rank, place in enumerate(places):
        first = next(i for i, p in enumerate(places) if (p.host, p.gpu) == (place.host, place.gpu))
        if first == rank:
            continue
        here = [p for p in places if p.host == place.host]
        room = max(*[p.gpus for p in here], len({p.gpu for p in here}))
        shared = f"ranks {first} and {rank} both have {place.name} of {place.host}"
        expected, got = "a GPU of its own for each rank", "one for two"
        fix = "Move each network to its own: minires.distributed.get_local_rank() is its number."
        if len(here) > room:
            expected, got = f"at most {room} ranks on this node", str(len(here))
            fix = "NCCL cannot share a GPU: start fewer, or on more machines."
        raise DistributedError(message("distributed", expected, got, shared, fix))


def _find_nccl() -> Any:
    """CuPy's module for NCCL.

    Raises:
        DistributedError: the library is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns, and what follows says it better
        nccl = importlib.import_module("cupy.cuda.nccl")
    if not nccl.available:
        version = cupy().cuda.runtime.runtimeGetVersion() // 1000
        fix = f"pip install nvidia-nccl-cu{version}."
        raise DistributedError(message("distributed", "NCCL, for arrays on GPUs", "none", fix=fix))
    return nccl


def _event(stream: Any) -> Any:
    event = cupy().cuda.Event(disable_timing=True)
    event.record(stream)
    return event


def _contiguous(array: Any) -> Any:
    """The array, if it lies in memory row by row, else a copy that does."""
    if array.flags.c_contiguous:
        return array
    with on(device_of(array)):
        return array.copy(order="C")
