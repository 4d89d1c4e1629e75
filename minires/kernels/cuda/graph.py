"""Captured graphs: launches that run again without their Python, and all of them as a CUDA graph.

Python needs some microseconds for every launch, the GPU often less for what is launched. A CUDA
graph is a list of launches that the driver keeps: kernels, their grids, and their arguments down to
the addresses. One call launches all of them, and between two of them there is next to no pause.

A graph is made by *stream capture*: between ``begin_capture`` and ``end_capture`` whatever is
launched on a stream is written into a graph and not run. Nothing may look at a value meanwhile,
since there is none: CuPy refuses to copy to or from the CPU, and to wait. It also refuses to call
cuBLAS. What is written down is final: a learning rate that was passed as a number would stay as it
is. So whatever changes from replay to replay is read by the kernels from memory of the GPU, into
which it is written before the graph is launched.

**Streams.** All work goes to one stream, the one that is current in CuPy when it is asked for, in
the order in which it is asked for: memory is used again in that order (:mod:`.pool`), and a graph
writes its memory at each launch. Who works on a second stream orders the two by events, before the
array is read and before its memory may be written again::

    ready = copying.record()               # after the copy, on the stream that copies
    cupy.cuda.get_current_stream().wait_event(ready)

Only captures have a stream of their own, on which nothing runs.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...device import cupy, is_array
from ..work import Work
from .limits import graph_failed
from .pool import MemoryPool, taking_from


class Launches:
    """Launches that follow each other: calling it launches them anew, one by one."""

    on_gpu = True

    def __init__(self, name: str) -> None:
        self.name = name  # of the first kernel, for messages
        self._launches: list[_Launch] = []

    def add(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        arguments: tuple[Any, ...],
        reaches: Sequence[Any] = (),
    ) -> None:
        """Launch one more kernel, which ran with these arguments just now. The row names arrays by
        where they begin: it does not hold them, or nobody could use their memory again."""
        work = kernel.work(arguments, reaches)
        self._launches.append(_Launch(kernel, grid, tuple(map(_unheld, arguments)), work))

    def __call__(self) -> None:
        for launch in self._launches:
            launch.run()

    def one_by_one(self) -> Iterator[tuple[Work, Callable[[], None]]]:
        """Of each launch what it works on, and what runs it alone."""
        for launch in self._launches:
            yield launch.work, launch.run

    @classmethod
    def joined(cls, rows: Sequence[Launches]) -> Launches:
        """Rows that follow each other as one, in which neighbours of one kernel are launched
        together, if the kernel knows how."""
        row = cls(rows[0].name)
        launches = itertools.chain.from_iterable(each._launches for each in rows)
        for kernel, group in itertools.groupby(launches, lambda launch: launch.kernel):
            found = [*group]
            if kernel.together is not None and len(found) > 1:
                found = [*_together(kernel, found)]
            row._launches += found
        return row


class _Launch(NamedTuple):
    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    work: Work

    def run(self) -> None:
        self.kernel.run(self.grid, self.arguments)


def _together(kernel: Any, launches: Sequence[_Launch]) -> Iterator[_Launch]:
    """The launches of one kernel as few; the work of all of them is that of the first."""
    nbytes = sum(launch.work.bytes for launch in launches)
    for grid, arguments in kernel.together([launch.arguments for launch in launches]):
        yield _Launch(kernel, grid, arguments, launches[0].work._replace(bytes=nbytes))
        nbytes = 0


def _unheld(argument: Any) -> Any:
    """An argument as a launch keeps it: an array of CuPy as another one in the same memory, which
    does not hold it; a struct as a copy."""
    if isinstance(argument, np.ndarray):
        return argument.copy()
    if not is_array(argument):
        return argument
    cuda, a = cupy().cuda, argument
    extent = (
        a.itemsize + sum((n - 1) * step for n, step in zip(a.shape, a.strides)) if a.size else 0
    )
    memory = cuda.UnownedMemory(a.data.ptr, extent, None, a.device.id)
    return cupy().ndarray(a.shape, a.dtype, cuda.MemoryPointer(memory, 0), a.strides)


class Refused(Exception):
    """A node that a CUDA graph cannot hold.

    Attributes:
        node: the node.
    """

    def __init__(self, node: Callable[[], Any], reason: object) -> None:
        super().__init__(str(reason))
        self.node = node


def _parts(nodes: Sequence[Callable[[], Any]]) -> list[Any]:
    """The nodes, with rows of launches that follow each other as one row."""
    parts: list[Any] = []
    for rows, group in itertools.groupby(nodes, lambda node: isinstance(node, Launches)):
        found: list[Any] = [*group]
        parts += [Launches.joined(found)] if rows else found
    return parts


class CudaGraph:
    """Nodes as one CUDA graph: calling it launches all of them at once, on the current stream.

    Args:
        nodes: functions without arguments, which launch work on the current GPU. They ran before:
            what CuPy compiles or loads for them on first use is there.
        pool: where memory comes from that they allocate; the graph's own from now on.

    Attributes:
        parts: the nodes, with rows of launches joined; calling one after the other does what the
            graph does.

    Raises:
        Refused: a node does what a graph cannot hold. Nothing is being captured any more then.
        DeviceError: CUDA reports an error; when it is called, too.
    """

    def __init__(self, nodes: Sequence[Callable[[], Any]], pool: MemoryPool) -> None:
        cuda = cupy().cuda
        self.parts, self._pool = _parts(nodes), pool
        stream = cuda.Stream(non_blocking=True)
        with taking_from(pool), stream:
            stream.begin_capture()
            try:
                for node in self.parts:
                    _capture(node, stream)
            except BaseException:
                # A capture that is left open would swallow what comes next on this stream. Ending
                # one that CUDA has given up is an error, and there is no graph then either.
                with contextlib.suppress(cuda.runtime.CUDARuntimeError):
                    stream.end_capture()
                raise
            try:
                self._graph = stream.end_capture()
            except cuda.runtime.CUDARuntimeError as error:
                raise graph_failed(error, self._names()) from error

    def __call__(self) -> None:
        try:
            self._graph.launch()
        except cupy().cuda.runtime.CUDARuntimeError as error:
            raise graph_failed(error, self._names()) from error

    def _names(self) -> list[str]:
        """What the parts are called, in messages."""
        works = [part.work if hasattr(part, "work") else part for part in self.parts]
        return [getattr(work, "name", "") for work in works]


def _capture(node: Callable[[], Any], stream: Any) -> None:
    """Let a node launch its work into the graph that is being captured."""
    cuda = cupy().cuda
    try:
        node()
        stream.is_capturing()  # an error if CUDA gave the capture up for what the node did
    except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
        raise Refused(node, error) from error
    except (RuntimeError, NotImplementedError) as error:
        # CuPy's own words for what it refuses while a stream captures; other errors are the node's
        if "captur" not in str(error):
            raise
        raise Refused(node, error) from error
