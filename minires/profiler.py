"""Profiling: what ran, how often, and how long it took.

:func:`profile` puts an engine around the current one that times each launch of a kernel and each
piece of work that NumPy does. It decides nothing: the same kernels run as without it, fused as they
are, and of a captured step the launches are replayed one by one instead of all together.

A GPU does its work some time after Python asked for it. So work on a GPU is timed by two of its own
events, one in front of it and one behind, which the GPU passes as it comes to them; the profile
waits for them when somebody asks for its figures.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

from .autograd.context import Context
from .autograd.engine import Around, Launchable, around
from .device import cupy, memory
from .errors import ArgumentError, message
from .files import write_atomic
from .kernels.work import Work, show_shapes, work_of_call
from .texttable import text_table

KERNEL, NUMPY, CUPY, PYTHON = "kernel", "NumPy", "CuPy", "Python"


class Event(NamedTuple):
    """One launch or call: what it worked on, of which kind it is, the thread it came from, and when
    it began and ended (nanoseconds of :func:`time.perf_counter_ns`)."""

    work: Work
    kind: str
    thread: int
    begin: int
    end: int


class Row(NamedTuple):
    """All launches of one kernel on arrays of the same shapes.

    Attributes:
        name: of the kernel or function.
        kind: "kernel", "NumPy" or "CuPy", or "Python" for the time between them.
        shapes: ((name, shape), ...) of the arrays it was given.
        calls: how many times it ran.
        seconds: all of them together.
        share: of the whole time, from 0 to 1.
        bytes: of the arrays that one launch was given.
        operations: additions and multiplications of one launch; None where nobody knows.
    """

    name: str
    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    calls: int
    seconds: float
    share: float
    bytes: int
    operations: int | None


class Profile:
    """What ran inside ``with profile() as p:``; see :func:`profile`."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._on_gpu: list[_OnGPU] = []  # work that nobody has waited for yet
        self._origins: dict[int, tuple[Any, int]] = {}  # of each GPU an event, and when it was
        self._mode: Any = None
        self._begin = self._whole = 0  # when it was entered, and what was over before
        self.counting = 0  # nanoseconds that the counting itself took

    def __enter__(self) -> Profile:
        if self._mode is not None:
            fix = "Make another one: with profile() as inner."
            raise ArgumentError(
                message("profile", "a profile that is not on", "one that is", fix=fix)
            )
        self._mode = around("profile", functools.partial(Profiler, profile=self))
        self._mode.__enter__()
        self._begin = perf_counter_ns()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._mode is None:
            raise ArgumentError(message("profile", "a mode that was entered", "its exit"))
        self._wait()
        self._whole += perf_counter_ns() - self._begin
        mode, self._mode = self._mode, None
        mode.__exit__(*exc)

    def __call__(self, function: Any) -> Any:
        """Refused: nobody could get at the profile of a decorated function.

        Raises:
            ArgumentError: always; says what to write.
        """
        fix = "Write with mr.profile() as p: around the call."
        raise ArgumentError(message("profile", "a with statement", "a decorator", fix=fix))

    @property
    def events(self) -> list[Event]:
        """Every launch and call; waits for those on a GPU."""
        self._wait()
        return self._events

    def __len__(self) -> int:
        """How many launches and calls there were, without waiting for any."""
        return len(self._events) + len(self._on_gpu)

    def _wait(self) -> None:
        waiting, self._on_gpu = self._on_gpu, []
        self._events += [work.event() for work in waiting]

    def __repr__(self) -> str:
        return f"Profile(launches={len(self.events)}, seconds={self.seconds:.3g})"

    @property
    def seconds(self) -> float:
        """The time inside, all in all, without what the counting took."""
        running = 0 if self._mode is None else perf_counter_ns() - self._begin
        return max(self._whole + running - self.counting, 0) / 1e9

    @property
    def rows(self) -> list[Row]:
        """What ran, by kernel and shapes, the longest first; at the end the time between the
        launches, in which Python ran."""
        groups: dict[tuple[Work, str], list[int]] = {}
        for event in self.events:
            groups.setdefault((event.work, event.kind), []).append(event.end - event.begin)
        busy = sum(sum(times) for times in groups.values()) / 1e9
        whole = max(self.seconds, busy) or 1.0  # threads may be busy at the same time
        rows = [
            Row(w.name, kind, w.shapes, len(times), s, s / whole, w.bytes, w.operations)
            for (w, kind), times in groups.items()
            for s in [sum(times) / 1e9]
        ]
        rows.sort(key=lambda row: -row.seconds)
        rest = max(self.seconds - busy, 0.0)
        return [*rows, Row(PYTHON, PYTHON, (), 1, rest, rest / whole, 0, None)]

    def table(self) -> str:
        """The rows as text: a line for each kernel and shapes."""
        heads = ["what", "by", "arrays", "calls", "ms", "mean ms", "share", "GiB/s", "GFLOP/s"]
        rows = [[*_cells(row)] for row in self.rows]
        kinds = [event.kind for event in self.events]
        ran, library = kinds.count(KERNEL), CUPY if CUPY in kinds else NUMPY
        last = f"{ran} launches of kernels and {len(kinds) - ran} calls of {library} in "
        return text_table(heads, rows, left=3) + f"\n{last}{self.seconds * 1e3:.2f} ms"

    def chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the launches as a file that Perfetto (ui.perfetto.dev) and chrome://tracing show
        on a line of time.

        Raises:
            ArgumentError: ``path`` is no path.
            CheckpointError: it cannot be written; says why.
        """
        first = min((event.begin for event in self.events), default=0)
        events = [
            {
                "name": event.work.name,
                "cat": event.kind,
                "ph": "X",  # a complete event: it has a beginning and a duration, in microseconds
                "ts": (event.begin - first) / 1e3,
                "dur": (event.end - event.begin) / 1e3,
                "pid": os.getpid(),
                "tid": event.thread,
                "args": {
                    "shapes": {name: [*shape] for name, shape in event.work.shapes},
                    "bytes": event.work.bytes,
                    "operations": event.work.operations,
                },
            }
            for event in self.events
        ]
        write_atomic(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))

    def begin(self, values: Sequence[Any]) -> Any:
        """When work on these values begins: now, or, if there are arrays on a GPU among them, when
        the GPU comes to it."""
        for value in values:
            first = value[0] if isinstance(value, tuple | list) and value else value
            if hasattr(type(first), "__cuda_array_interface__"):
                return self.begin_on_gpu()
        return perf_counter_ns()

    def begin_on_gpu(self) -> Any:
        """The moment at which the current GPU comes to what is launched next."""
        device = cupy().cuda.runtime.getDevice()
        if device not in self._origins:
            event = _mark()
            event.synchronize()
            self._origins[device] = event, perf_counter_ns()
        return _OnGPU(self._origins[device])

    def ran(self, kind: str, begin: Any, work: Callable[..., Work], *facts: Any) -> None:
        """Something ended just now that began then (:meth:`begin`); ``work(*facts)`` says what it
        worked on."""
        end, thread = perf_counter_ns(), threading.get_ident()
        known = work(*facts)
        if isinstance(begin, _OnGPU):
            begin.ended(known, CUPY if kind == NUMPY else kind, thread)
            self._on_gpu.append(begin)
        elif known.shapes or kind == KERNEL:  # a call without arrays is Python's
            self._events.append(Event(known, kind, thread, begin, end))
        self.counting += perf_counter_ns() - end


class _OnGPU:
    """Work on the current GPU between two of its events; ``origin`` is an earlier one, and when it
    was."""

    def __init__(self, origin: tuple[Any, int]) -> None:
        self._device, self._origin = cupy().cuda.runtime.getDevice(), origin
        self._begin = _mark()

    def ended(self, work: Work, kind: str, thread: int) -> None:
        """All of it has been launched."""
        self._known, self._end = (work, kind, thread), _mark()

    def event(self) -> Event:
        """What it was and when, once it is done."""
        cuda = cupy().cuda
        first, nanoseconds = self._origin
        with cuda.Device(self._device):
            self._end.synchronize()
            begin = nanoseconds + round(1e6 * cuda.get_elapsed_time(first, self._begin))
            duration = round(1e6 * cuda.get_elapsed_time(self._begin, self._end))
        return Event(*self._known, begin, begin + duration)


def _mark() -> Any:
    """An event, to which the current GPU comes when it has done what was launched before."""
    return cupy().cuda.get_current_stream().record(cupy().cuda.Event())


def _cells(row: Row) -> list[str]:
    """A row as text."""
    ms = row.seconds * 1e3
    cells = [row.name, row.kind, show_shapes(row.shapes), str(row.calls), f"{ms:.3f}"]
    cells += [f"{ms / row.calls:.4f}", f"{row.share:.1%}"]
    if row.kind == PYTHON:
        return ["between launches", row.kind, "", "", cells[4], "", cells[6], "", ""]
    per_second = row.calls / row.seconds if row.seconds else 0.0
    cells.append(f"{row.bytes * per_second / 2**30:.2f}" if row.bytes else "")
    cells.append("" if row.operations is None else f"{row.operations * per_second / 1e9:.1f}")
    return cells


class Profiler(Around):
    """An engine that notes in a :class:`Profile` what the engine inside it launches."""

    def __init__(self, inner: Any, profile: Profile) -> None:
        super().__init__(inner)
        self.profile = profile

    def launch(
        self, kernel: Launchable, tasks: int, arguments: tuple[Any, ...], reaches: Sequence[Any]
    ) -> None:
        begin = self.profile.begin(arguments)
        self.inner.launch(kernel, tasks, arguments, reaches)
        self.profile.ran(KERNEL, begin, kernel.work, arguments, reaches)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        before, begin = len(self.profile), self.profile.begin(args)
        results = self.inner.call(function, *args)
        if len(self.profile) == before:  # else its launches were noted one by one
            self.profile.ran(NUMPY, begin, work_of_call, function, args, results)
        return results

    def run(
        self,
        function: Any,
        ctx: Context,
        args: tuple[Any, ...],
        arrays: list[Any],
        options: dict[str, Any],
    ) -> Any:
        """A function's forward: NumPy's work, unless it consists of launches, or of a view."""
        before, begin = len(self.profile), self.profile.begin(arrays)
        outputs = self.inner.run(function, ctx, args, arrays, options)
        if len(self.profile) == before:
            made = outputs if type(outputs) is tuple else (outputs,)
            results = tuple([out._array for out in made])
            if not (function.view and memory(results[0]) is memory(arrays[0])):
                self.profile.ran(NUMPY, begin, work_of_call, function.forward, arrays, results)
        return outputs

    def replay(self, node: Any) -> None:
        """Launches one by one; a call as what it is; the nodes of what is memoised come here by
        themselves."""
        profile = self.profile
        if hasattr(node, "parts"):  # a CUDA graph
            for part in node.parts:
                self.replay(part)
        elif hasattr(node, "one_by_one"):
            begin_one = profile.begin_on_gpu if hasattr(node, "on_gpu") else perf_counter_ns
            for work, launch in node.one_by_one():
                begin = begin_one()
                self.inner.replay(launch)
                profile.ran(KERNEL, begin, lambda work: work, work)
        else:
            given = node.called[1] if hasattr(node, "called") else ()
            before, begin = len(profile), profile.begin(given)
            self.inner.replay(node)
            if hasattr(node, "work") and len(profile) == before:
                profile.ran(NUMPY, begin, lambda node: node.work, node)


def profile() -> Profile:
    """Count and time what runs inside ``with profile() as p:``.

    Every launch of a kernel is counted, fused and captured ones too, and every piece of work that
    NumPy does, by the operation or function that asked for it. The rest of the time is Python's.
    The same kernels run as without it, and give the same bits; only that the launches of a captured
    step run one by one, and each takes some microseconds longer. What an operation does in NumPy
    beside launching kernels counts as Python's. Bytes are those of the arrays a kernel is given,
    each once, without its workspace; operations are those of the definition, of which Winograd's
    formula does fewer. On the references (``backend("numpy")``) there are no kernels: all work is
    NumPy's, under the names of the operations.

    Work on a GPU is timed by the GPU, between two of its events: a wait for Python in between, of a
    GPU that has nothing else to do, is in it. Its times are there when the profile is left, which
    waits for them, or when they are asked for.

    Only what this thread launches is seen, and the tasks it starts: profiles of several threads do
    not mix. They may be nested, each then counts; entered again, one adds to what it has. It is a
    context manager and no decorator, for nobody could get at what a decorated function's profile
    found.

    Returns:
        A :class:`Profile`: ``p.table()`` is a text, ``p.rows`` the same for programs,
        ``p.chrome_trace(path)`` a file for Perfetto, ``p.events`` every single launch.

    >>> import minires as mr
    >>> x = mr.ones(4, 3, 8, 8)
    >>> with mr.profile() as p:
    ...     y = mr.relu(x)
    >>> [(row.name, row.calls) for row in p.rows]
    [('relu.fwd', 1), ('Python', 1)]
    """
    return Profile()
