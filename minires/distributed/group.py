"""The group: the processes that were started together, each with its rank.

Everybody asks :func:`current_group`. Without a launcher it is a :class:`Group` of one, in which
each operation has its result at once; so whoever uses a group needs no ``if``. With one it is a
:class:`Launched`, over MPI.

An operation of a group is *collective*: all ranks call it, in the same order, and it is done when
all have come. A rank that waits looks now and then whether another one has ended: then nobody will
come any more, and it says so instead of waiting for ever.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from minires.distributed.launch import connect, told_size
from minires.errors import DistributedError, message

GRACE = 1.0  # seconds in which an operation that others finished may still arrive
QUICK = 0.01  # seconds of waiting after which a rank sleeps between its looks
NAP = 1e-4  # seconds
GOODBYE = 1  # the tag of what a rank sends as it ends


class Group:
    """A process on its own, and the operations of all groups.

    Attributes:
        rank: which process this is, from 0.
        size: how many there are.
        local_rank: which it is of those on the same machine, from 0.
        local_size: how many are on this machine.
    """

    rank, size = 0, 1
    local_rank, local_size = 0, 1

    def reduce(self, array: np.ndarray[Any, Any], op: str = "sum") -> None:
        """Put the sum (``"prod"``, ``"max"``, ``"min"``) over all ranks into each one's array. It
        has the same bits on all of them."""

    def gather(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(size, ...): the arrays of all ranks, which have one shape and dtype, in order."""
        return array[None].copy()

    def broadcast(self, array: np.ndarray[Any, Any], src: int = 0) -> None:
        """Fill each one's array with that of rank ``src``."""

    def broadcast_object(self, value: Any, src: int = 0) -> Any:
        """What rank ``src`` gave, on all ranks; anything that can be pickled."""
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        """What all ranks gave, in order, on all of them."""
        return [value]

    def barrier(self) -> None:
        """Wait until all ranks have come here."""

    def first(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)`` by rank 0 alone; what it returns, or raises, all ranks do."""
        if self.size == 1:
            return function(*args)
        result, error = None, None
        if self.rank == 0:
            try:
                result = function(*args)
            except Exception as raised:
                error = raised
        return _result(self.broadcast_object((result, error)))


def _result(outcome: tuple[Any, Exception | None]) -> Any:
    result, error = outcome
    if error is not None:
        raise error
    return result


class Launched(Group):
    """The processes of one launcher, over MPI.

    Args:
        MPI: mpi4py's module.
    """

    def __init__(self, MPI: Any) -> None:
        self.MPI = MPI
        self.comm = MPI.COMM_WORLD.Dup()  # messages of its own: users may use MPI themselves
        self.rank, self.size = self.comm.rank, self.comm.size
        node = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = node.rank, node.size
        self.node = node
        self._farewells = self.comm.Dup()
        self._ops = {"sum": MPI.SUM, "prod": MPI.PROD, "max": MPI.MAX, "min": MPI.MIN}
        atexit.register(self._say_goodbye)  # before that of mpi4py, which waits for all

    def reduce(self, array: np.ndarray[Any, Any], op: str = "sum") -> None:
        self._finish("reduce", self.comm.Iallreduce(self.MPI.IN_PLACE, array, self._ops[op]))

    def gather(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        own = np.ascontiguousarray(array)
        gathered = np.empty((self.size, *array.shape), array.dtype)
        self._finish("gather", self.comm.Iallgather(own, gathered))
        return gathered

    def broadcast(self, array: np.ndarray[Any, Any], src: int = 0) -> None:
        self._finish("broadcast", self.comm.Ibcast(array, src))

    def broadcast_object(self, value: Any, src: int = 0) -> Any:
        self.barrier()  # whoever waits for another one, waits there
        return self.comm.bcast(value if self.rank == src else None, src)

    def gather_objects(self, value: Any) -> list[Any]:
        self.barrier()
        return list(self.comm.allgather(value))

    def barrier(self) -> None:
        self._finish("barrier", self.comm.Ibarrier())

    def _finish(self, what: str, request: Any) -> None:
        """Wait until a collective operation is done.

        Raises:
            DistributedError: a rank has ended that would have to take part.
        """
        start, deadline = time.monotonic(), None
        while not request.Test():
            now = time.monotonic()
            if now - start < QUICK:
                _yield()  # to a rank on the same core
                continue
            time.sleep(NAP)
            if deadline is None and self._farewells.Iprobe(tag=GOODBYE):
                deadline = now + GRACE
            elif deadline is not None and now > deadline:
                raise self._left_alone(what)

    def _left_alone(self, what: str) -> DistributedError:
        status = self.MPI.Status()
        self._farewells.Probe(tag=GOODBYE, status=status)
        expected = f"all {self.size} ranks to take part"
        got = f"rank {status.source} that has ended"
        fix = "All ranks must do the same collective operations, in the same order."
        return DistributedError(message(f"distributed {what}", expected, got, fix=fix))

    def _say_goodbye(self) -> None:
        """Tell the others that this rank takes part in nothing any more."""
        if self.MPI.Is_finalized():
            return
        for other in range(self.size):
            if other != self.rank:
                self._farewells.Isend(np.zeros(1, np.int8), other, GOODBYE)

    def abort(self, code: int) -> None:
        """End all ranks at once."""
        self.comm.Abort(code)


_yield: Callable[[], object] = getattr(os, "sched_yield", functools.partial(time.sleep, 0))

_alone: ContextVar[bool] = ContextVar("alone", default=False)
_ONE = Group()


@functools.cache
def _launched() -> Group:
    expected = told_size()
    return _ONE if expected == 1 else Launched(connect(expected))


def current_group() -> Group:
    """The group that this process belongs to; MPI is started by the first who asks, if there is a
    launcher.

    Raises:
        DistributedError: there is a launcher, and MPI cannot be started.
    """
    return _ONE if _alone.get() else _launched()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside this block each rank works for itself, as if it were the only one::

    with distributed.alone():
        fit(network, ...)  # another network on each rank
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)
