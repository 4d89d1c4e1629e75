"""``cupy.cuda.nccl`` of the stand-in: operations are work of a stream, done when that comes to it.

What they do, the ranks do over MPI, in the memory at the addresses that they were given.
"""

from __future__ import annotations

import ctypes

import numpy as np

from minires.distributed.group import current_group

from . import streams

available = True
NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN = range(4)
NCCL_INT8, NCCL_UINT8, NCCL_INT32, NCCL_UINT32, NCCL_INT64 = 0, 1, 2, 3, 4
NCCL_UINT64, NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64 = 5, 6, 7, 8
_DTYPES = "i1 u1 i4 u4 i8 u8 f2 f4 f8".split()  # noqa: SIM905
_OPS = ("sum", "prod", "max", "min")
BYTES = 128  # of an id

launched = []  # (operation, count) in the order of their launches
done = []  # the same in the order in which the device came to them


class NcclError(RuntimeError):
    """``cupy.cuda.nccl.NcclError``."""

    def __init__(self, status):
        self.status = status
        super().__init__(f"NCCL_ERROR_{status}: planted")


def get_unique_id():
    return tuple(int(b) for b in np.random.default_rng(7).integers(-128, 128, BYTES))


class NcclCommunicator:
    """``cupy.cuda.nccl.NcclCommunicator``."""

    def __init__(self, ndev, commId, rank):
        assert isinstance(commId, tuple)
        assert commId == get_unique_id()  # that of rank 0
        self._group = current_group()
        assert (self._group.size, self._group.rank) == (ndev, rank)

    def abort(self):
        launched.append(("abort", 0))

    def rank_id(self):
        return self._group.rank

    def size(self):
        return self._group.size

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream):
        assert sendbuf == recvbuf

        def work():
            self._group.reduce(_array(recvbuf, count, datatype), _OPS[op])

        _launch("allReduce", count, stream, work)

    def broadcast(self, sendbuff, recvbuff, count, datatype, root, stream):
        assert sendbuff == recvbuff

        def work():
            self._group.broadcast(_array(recvbuff, count, datatype), root)

        _launch("broadcast", count, stream, work)

    def allGather(self, sendbuf, recvbuf, count, datatype, stream):
        def work():
            gathered = self._group.gather(_array(sendbuf, count, datatype))
            _array(recvbuf, self._group.size * count, datatype)[...] = gathered.reshape(-1)

        _launch("allGather", count, stream, work)


def _array(pointer, count, datatype):
    """What lies at an address of the device."""
    dtype = np.dtype(_DTYPES[datatype])
    memory = (ctypes.c_byte * (count * dtype.itemsize)).from_address(pointer)
    return np.frombuffer(memory, dtype)


def _launch(name, count, stream, work):
    """Give work to the stream with this address."""

    def run():
        done.append((name, count))
        work()

    launched.append((name, count))
    streams.by_pointer(stream)._do(run)


def reset():
    launched.clear()
    done.clear()
