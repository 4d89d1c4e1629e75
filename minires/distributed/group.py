"""The group: the processes that were started together, each with its rank.

Everybody asks :func:`current_group`. Without a launcher it is a :class:`Group` of one, in which
each operation has its result at once; so whoever uses a group needs no ``if``. With one it is a
:class:`Launched`, over MPI.

An operation of a group is *collective*: all ranks call it, in the same order, and it is done when
all have come. A rank that waits looks now and then whether another one has ended: then nobody will
come any more, and it says so instead of waiting for ever. One that waits long also tells its
neighbours in what, and compares: ranks that wait in different operations would do so for ever.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from minires import errors
from minires.distributed import cores, deaths, exits
from minires.distributed.launch import connect, told
from minires.errors import DistributedError, message
from minires.forks import in_children, new_lock_in_children
from minires.kernels.numba import talk

GRACE = 0.5  # seconds in which an operation that others finished may still arrive
QUICK = 0.01  # seconds of waiting after which a rank sleeps between its looks
NAP, LONG_NAP = 1e-4, 1e-3  # seconds; the longer one after a wait of a hundred times that
PATIENCE = 3.0  # seconds of waiting after which a rank tells in what it waits
GOODBYE, STEPS = 1, 2  # tags: of what a rank sends as it ends, and as it waits long
KEPT = 32  # operations that a rank remembers
KINDS = ("reduce", "gather", "broadcast", "barrier", "gather of objects")

ALIKE = "All ranks must do the same collective operations, in the same order."

Array = np.ndarray[Any, Any]


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

    def reduce(self, array: Array, op: str = "sum") -> None:
        """Put the sum (``"prod"``, ``"max"``, ``"min"``) over all ranks into each one's array. It
        has the same bits on all of them."""

    def gather(self, array: Array) -> Array:
        """(size, ...): the arrays of all ranks, which have one shape and dtype, in order."""
        return array[None].copy()

    def broadcast(self, array: Array, src: int = 0) -> None:
        """Fill each one's array with that of rank ``src``."""

    def broadcast_object(self, value: Any, src: int = 0) -> Any:
        """What rank ``src`` gave, on all ranks; anything that can be pickled.

        Raises:
            DistributedError: it cannot, on all ranks.
        """
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        """What all ranks gave, in order, on all of them.

        Raises:
            DistributedError: one of them cannot be pickled, on all ranks.
        """
        return [value]

    def barrier(self) -> None:
        """Wait until all ranks have come here."""

    def agree(self, error: Exception | None = None) -> None:
        """Go on only if no rank has an error: each gives its own, or None.

        Raises:
            Exception: some rank gave one: that rank its own; the others a copy of the first, of its
                class if it is one of minires, else a :class:`DistributedError`. The text of the
                copy begins "rank 1: ".
        """
        if error is not None:
            raise error

    def first(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)`` by rank 0 alone; what it returns, all ranks do; and where it raises
        an error, they do as of :meth:`agree`."""
        result, error = None, None
        if self.rank == 0:
            try:
                result = function(*args)
            except Exception as raised:
                error = raised
        self.agree(error)
        return self.broadcast_object(result)


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
        self._farewells = self.comm.Dup()
        self._process = os.getpid()
        self._left: list[Any] = []  # requests that were given up, and may still write
        self._telling: list[Any] = []  # requests of what neighbours were told, on its way
        self._count = 0  # of operations that began
        self._steps = np.zeros((KEPT, 3), np.int64)  # the last: number, which of KINDS, bytes
        self._ops = {"sum": MPI.SUM, "prod": MPI.PROD, "max": MPI.MAX, "min": MPI.MIN}
        cores.take(cores.part(node.allgather(cores.usable()), node.rank))
        talk.allowed = self.rank == 0
        exits.watch(self.rank, self.size, self.abort)
        self._line = deaths.Line(node, self.rank, self.size)
        node.Free()
        atexit.register(self._say_goodbye)  # before that of mpi4py, which waits for all

    def reduce(self, array: Array, op: str = "sum") -> None:
        whole = _contiguous(array)
        in_place = self.MPI.IN_PLACE
        size = whole.nbytes
        self._finish("reduce", size, self.comm.Iallreduce, in_place, whole, self._ops[op])
        if whole is not array:
            array[...] = whole

    def gather(self, array: Array) -> Array:
        gathered = np.empty((self.size, *array.shape), array.dtype)
        sent = _bytes(array)
        self._finish("gather", sent.size, self.comm.Iallgather, sent, _bytes(gathered))
        return gathered

    def broadcast(self, array: Array, src: int = 0) -> None:
        whole = _contiguous(array)
        self._finish("broadcast", whole.nbytes, self.comm.Ibcast, _bytes(whole), src)
        if whole is not array:
            array[...] = whole

    def broadcast_object(self, value: Any, src: int = 0) -> Any:
        data, error = _pickled(value) if self.rank == src else (np.empty(0, np.uint8), None)
        size = np.array(-1 if error else data.size)
        self.broadcast(size, src)
        if size < 0:
            raise self._not_pickled(src, error)
        if self.rank != src:
            data = np.empty(size, np.uint8)
        self.broadcast(data, src)
        return value if self.rank == src else pickle.loads(data.tobytes())

    def gather_objects(self, value: Any) -> list[Any]:
        data, error = _pickled(value)
        sizes = self.gather(np.array(-1 if error else data.size))
        if sizes.min() < 0:
            raise self._not_pickled(int(sizes.argmin()), error)
        ends = sizes.cumsum()
        both = np.empty(ends[-1], np.uint8)
        layout = [both, sizes, ends - sizes, self.MPI.BYTE]
        self._finish("gather of objects", both.size, self.comm.Iallgatherv, data, layout)
        parts = np.split(both, ends[:-1])
        return [
            value if rank == self.rank else pickle.loads(part.tobytes())
            for rank, part in enumerate(parts)
        ]

    def barrier(self) -> None:
        self._finish("barrier", 0, self.comm.Ibarrier)

    def agree(self, error: Exception | None = None) -> None:
        failed = np.array(self.size if error is None else self.rank)
        self.reduce(failed, "min")
        speaker = int(failed)
        if speaker == self.size:
            return
        class_and_text = self.broadcast_object(error and described(error), speaker)
        if error is None:
            raise retold(class_and_text, speaker)
        exits.name_speaker(error, speaker)
        raise error

    def _not_pickled(self, rank: int, reason: Exception | None) -> DistributedError:
        """The error for what rank ``rank`` gave; only that one knows the reason."""
        expected, got = "an object that can be pickled", f"another on rank {rank}"
        context = f"{type(reason).__name__}: {reason}" if self.rank == rank else ""
        error = DistributedError(message("distributed", expected, got, context))
        exits.name_speaker(error, rank)
        return error

    def _finish(self, what: str, size: int, begin: Callable[..., Any], *args: Any) -> None:
        """Begin a collective operation on ``size`` bytes, and wait until it is done.

        Raises:
            DistributedError: a rank has ended that would have to take part, or waits in another
                operation; or MPI says that what the ranks do does not fit together.
        """
        self._count += 1
        self._steps[self._count % KEPT] = self._count, KINDS.index(what), size
        try:
            request = begin(*args)
            try:
                self._wait(what, request)
            except BaseException:
                self._left.append(request)  # it holds its arrays
                raise
        except self.MPI.Exception as error:
            expected = "the same operation on arrays of the same size on all ranks"
            got = str(error).split("\n", 1)[0].removesuffix(", error stack:")
            raise DistributedError(message(f"distributed {what}", expected, got)) from error

    def _wait(self, what: str, request: Any) -> None:
        start, deadline, told = time.monotonic(), None, False
        while not request.Test():
            now = time.monotonic()
            waited = now - start
            if waited < QUICK:
                _yield()  # to a rank on the same core
                continue
            time.sleep(NAP if waited < 100 * LONG_NAP else LONG_NAP)
            if deadline is None and self._farewells.Iprobe(tag=GOODBYE):
                deadline = now + GRACE
            elif deadline is not None and now > deadline:
                raise self._left_alone(what)
            if waited > PATIENCE:
                if not told:
                    self._tell_steps()
                    told = True
                self._compare_steps()

    def _tell_steps(self) -> None:
        """Tell the neighbours the last operations. They suffice: where ranks in a ring differ, two
        neighbours do."""
        steps = self._steps.copy()
        self._telling = [request for request in self._telling if not request.Test()]
        for other in {(self.rank + 1) % self.size, (self.rank - 1) % self.size}:
            self._telling.append(self._farewells.Isend(steps, other, STEPS))

    def _compare_steps(self) -> None:
        """Compare this rank's last operations with those that neighbours have told.

        Raises:
            DistributedError: operations of one number differ, so that ranks wait for ever.
        """
        status, theirs = self.MPI.Status(), np.empty_like(self._steps)
        while self._farewells.Iprobe(tag=STEPS, status=status):
            other = status.source
            self._farewells.Recv(theirs, other, STEPS)
            wrong = (theirs[:, 0] == self._steps[:, 0]) & (theirs != self._steps).any(1)
            if not wrong.any():
                continue
            first = min(np.flatnonzero(wrong), key=lambda k: theirs[k, 0])
            both = sorted([(self.rank, tuple(self._steps[first])), (other, tuple(theirs[first]))])
            got = " and ".join(
                f"{KINDS[kind]} ({size} bytes) on rank {rank}" for rank, (_, kind, size) in both
            )
            expected = "the same operation on all ranks"
            raise DistributedError(message("distributed", expected, got, fix=ALIKE))

    def _left_alone(self, what: str) -> DistributedError:
        status = self.MPI.Status()
        self._farewells.Probe(tag=GOODBYE, status=status)
        expected = f"all {self.size} ranks to take part"
        got = f"rank {status.source} that has ended"
        return DistributedError(message(f"distributed {what}", expected, got, fix=ALIKE))

    def _say_goodbye(self) -> None:
        """Tell the others that this rank takes part in nothing any more."""
        if self.MPI.Is_finalized() or os.getpid() != self._process:
            return
        self._line.goodbye()
        for other in range(self.size):
            if other != self.rank:
                self._left.append(self._farewells.Isend(np.zeros(1, np.int8), other, GOODBYE))

    def abort(self, code: int) -> None:
        """End all ranks at once; why has been said."""
        self._line.goodbye(for_all=True)
        self.comm.Abort(code)


_yield: Callable[[], object] = getattr(os, "sched_yield", functools.partial(time.sleep, 0))


def _contiguous(array: Array) -> Array:
    """The array, if it lies in memory row by row, else a copy that does."""
    return array if array.flags.c_contiguous else array.copy()


def _bytes(array: Array) -> Array:
    """The bytes of an array, row by row: MPI does not know all dtypes that there are."""
    return _contiguous(array).reshape(-1).view(np.uint8)


def _pickled(value: Any) -> tuple[Array, Exception | None]:
    """A value as bytes, or why it cannot be."""
    try:
        return np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8), None
    except Exception as error:  # whatever a class's own methods raise
        return np.empty(0, np.uint8), error


def described(error: BaseException) -> tuple[str, str]:
    """What is told to other ranks of an error: the name of the class of minires' own that is
    nearest to its class, and its text."""
    for kind in type(error).__mro__:
        if kind.__module__ == errors.__name__:
            return kind.__name__, str(error)
    return DistributedError.__name__, f"{type(error).__name__}: {error}"


def retold(class_and_text: tuple[str, str], rank: int) -> Exception:
    """The copy of an error of rank ``rank``, which was :func:`described`, for another rank."""
    name, text = class_and_text
    error: Exception = getattr(errors, name)(f"rank {rank}: {text}")
    exits.name_speaker(error, rank)
    return error


_alone: ContextVar[bool] = ContextVar("alone", default=False)
_ONE = Group()
_group: Group | None = None  # once somebody has asked for it
_beginning = threading.RLock()
new_lock_in_children(globals(), "_beginning")
in_children(lambda: globals().update(_group=None))  # a fork of a rank is no rank


def current_group() -> Group:
    """The group that this process belongs to; MPI is started by the first who asks, if there is a
    launcher.

    Raises:
        DistributedError: there is a launcher, and MPI cannot be started.
    """
    return _ONE if _alone.get() else _group or _begin()


def _begin() -> Group:
    global _group
    with _beginning:
        if _group is None:
            said = told()
            MPI = None if said.size == 1 else connect(said)
            _group = _ONE if MPI is None or MPI.COMM_WORLD.size == 1 else Launched(MPI)
        return _group


def begun() -> bool:
    """Whether somebody has asked for the group of this process."""
    return _group is not None


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside this block each rank works for itself, as if it were the only one::

    with distributed.alone():
        fit(network, ...)  # another network on each rank

    It is so for the thread that entered the block. A thread that is started inside belongs to the
    group of all ranks, unless it enters a block of its own.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)
