"""Profiling: what ran, how often, and how long it took.

:func:`profile` puts an engine around the current one that times each launch of a kernel and each
piece of work that NumPy does. It decides nothing: the same kernels run as without it, fused as they
are, and of a captured step the launches are replayed one by one instead of all together.
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
from .device import memory
from .errors import ArgumentError, message
from .files import write_atomic
from .kernels.work import Work, show_shapes, work_of_call
from .texttable import text_table

KERNEL, NUMPY, PYTHON = "kernel", "NumPy", "Python"


class Event(NamedTuple):
    """One launch or call: what it worked on, of which kind it is, in which thread it ran, and when
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
        kind: "kernel", "NumPy", or "Python" for the time between them.
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
        self.events: list[Event] = []
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
        ran = sum(event.kind == KERNEL for event in self.events)
        last = f"{ran} launches of kernels and {len(self.events) - ran} calls of NumPy in "
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

    def ran(self, kind: str, begin: int, work: Callable[..., Work], *facts: Any) -> None:
        """Something ended just now that began then; ``work(*facts)`` says what it worked on."""
        end = perf_counter_ns()
        known = work(*facts)
        if known.shapes or kind == KERNEL:  # a call without arrays is Python's
            self.events.append(Event(known, kind, threading.get_ident(), begin, end))
        self.counting += perf_counter_ns() - end


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
        begin = perf_counter_ns()
        self.inner.launch(kernel, tasks, arguments, reaches)
        self.profile.ran(KERNEL, begin, kernel.work, arguments, reaches)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        before, begin = len(self.profile.events), perf_counter_ns()
        results = self.inner.call(function, *args)
        if len(self.profile.events) == before:  # else its launches were noted one by one
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
        before, begin = len(self.profile.events), perf_counter_ns()
        outputs = self.inner.run(function, ctx, args, arrays, options)
        if len(self.profile.events) == before:
            made = outputs if type(outputs) is tuple else (outputs,)
            results = tuple([out._array for out in made])
            if not (function.view and memory(results[0]) is memory(arrays[0])):
                self.profile.ran(NUMPY, begin, work_of_call, function.forward, arrays, results)
        return outputs

    def replay(self, node: Any) -> None:
        """Launches one by one; a call as what it is; the nodes of what is memoised come here by
        themselves."""
        if hasattr(node, "one_by_one"):
            for work, launch in node.one_by_one():
                begin = perf_counter_ns()
                self.inner.replay(launch)
                self.profile.ran(KERNEL, begin, lambda work: work, work)
        else:
            before, begin = len(self.profile.events), perf_counter_ns()
            self.inner.replay(node)
            if hasattr(node, "work") and len(self.profile.events) == before:
                self.profile.ran(NUMPY, begin, lambda node: node.work, node)


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
