"""Recorder: an engine that writes a computation down, to replay it without its Python.

A training step is the same few hundred kernels in the same memory, time after time, and the same
Python that finds out which. While a :class:`Recorder` is a thread's engine, everything that the
thread computes leaves a *node* in a :class:`Graph`: a function without arguments that computes the
same once more in the same arrays. A kernel leaves its launch, work of the array module a call
(:meth:`~minires.autograd.Eager.call`). :meth:`Graph.replay` runs the nodes, and nothing else.

Memory is safe: arrays that were allocated during the recording stay in the graph's own pool, and
each replay uses them as the recording did. A graph knows nothing of Python that looked at values,
to decide or to compute on its own.
:meth:`Recorder.host_read` refuses that; :mod:`minires.captured` proves, before it trusts a graph,
that the graph misses nothing else.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..autograd import Around, Context, Variable, Version, call, caller, current, show_place
from ..autograd.engine import around, tensors, without
from ..device import Device, as_array, backend_name, backend_of, device_of, is_array, memory
from ..errors import CaptureError, message
from ..kernels.work import Work, work_of_call
from .joined import joined


class Graph:
    """A computation as nodes, which are called one after another.

    Args:
        device: where its arrays are.
        given: the versions of memory whose writes are counted (parameters, buffers). All other
            memory, inputs and results, has other values in each replay.

    Attributes:
        nodes: the functions to call.
        pool: memory that only this computation uses.
    """

    def __init__(self, device: Device, given: Sequence[Version] = ()) -> None:
        self.device, self.backend = device, backend_of(device)
        self.pool = self.backend.memory_pool()
        self.nodes: list[Callable[[], Any]] = []
        self._first: list[_Memo] = []  # memos, brought up to date before the nodes run
        self._given = {id(version): version.count for version in given}
        self._held: dict[int, Any] = {}  # the memory of others that the nodes use, by id
        # whether arrays made now must last from one replay to the next, so that no other node may
        # use their memory
        self._lasting = False
        # memoised values: by key and arrays, with the object they also belong to and the arrays
        self._memos: dict[Any, tuple[_Memo, Any, list[Any]]] = {}
        self._makers: dict[int, _Memo] = {}  # memos by the id of their values

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the computation of this thread inside ``with``."""
        with (
            around("capture", functools.partial(Recorder, graph=self)),
            self.backend.taking_from(self.pool),
        ):
            yield

    def join(self) -> None:
        """Make one node of many where the backend can (:mod:`.joined`).

        Raises:
            CaptureError: a node cannot be part of one.
        """
        make = self.backend.as_one
        if make is None:
            return
        self.replay()  # what is compiled on first use is compiled by then
        nodes: list[Callable[[], Any]] = []
        first, self._first = self._first, []
        for memo in first:
            if any(version.count != self._given[id(version)] for version in memo.versions):
                nodes.append(memo)  # the recorded computation writes them, as each replay will
            else:
                memo.nodes = joined(make, [*_flat(memo.nodes)], self.pool)
                self._first.append(memo)
        self.nodes = joined(make, [*_flat([*nodes, *self.nodes])], self.pool)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``, and a node that calls it again and puts the results into the same
        arrays."""
        made = None if self.backend.allocations is None else self.backend.allocations()
        with self._unrecorded(), contextlib.nullcontext() if made is None else made.first():
            results = as_arrays(call(function, *args))
        given = {id(memory(array)) for array in _arrays(args)}
        places = [None if id(memory(array)) in given else array for array in _arrays(results)]
        for array in _arrays(args):
            self.hold(array)
        if all(place is None for place in places):
            self.nodes.append(Call(function, *args))
            return results
        results_there = [place for place in places if place is not None]
        if made is None or any(isinstance(place, np.ndarray) for place in results_there):
            made = None  # work on the CPU, also of a step on a GPU
        else:
            made.keep(results_there)
        self.nodes.append(Call(_compute, function, args, places, made))
        return results

    @contextlib.contextmanager
    def _unrecorded(self) -> Iterator[None]:
        without_recorder = functools.partial(without, kind=Recorder)
        with around("capture", without_recorder), self.backend.taking_from(None):
            yield

    def launch(
        self, kernel: Any, tasks: int, arguments: tuple[Any, ...], reaches: Sequence[Any]
    ) -> None:
        """Append a launch, which has just run, to the node of consecutive launches.

        Raises:
            CaptureError: the launch is one of another backend.
        """
        arrays = [array for array in (*arguments, *reaches) if is_array(array)]
        for array in arrays:
            if device_of(array) != self.device and array.dtype.kind != "V":  # a struct by value
                fix = "Move its inputs and its state to one device before the call."
                expected, got = "a function on one device", f"a kernel on {device_of(array)}"
                raise CaptureError(message("capture", expected, got, fix=fix))
        for array in arrays:
            self.hold(array)
        segment: Any = self.nodes[-1] if self.nodes else None
        if not hasattr(segment, "add"):
            segment = self.backend.segment(kernel.__name__)
            self.nodes.append(segment)
        segment.add(kernel, tasks, arguments, reaches)

    def memo(self, tensors: Sequence[Variable], key: Any, make: Callable[[], Any], by: Any) -> Any:
        """:meth:`~minires.autograd.Eager.memo`, made by nodes that run where one of the versions
        counts a new write."""
        arrays = [tensor._array for tensor in tensors]
        place = (key, *map(id, arrays))
        if place in self._memos:
            known, belongs, _ = self._memos[place]
            if belongs is by and known.counts == known.writes()[0]:
                return known.value
        before = self._makers.get(id(by))
        versions = [tensor._version for tensor in tensors]
        versions += [] if before is None else before.versions
        at_first = [self._given.get(id(version)) for version in versions]
        always = None in at_first or (by is not None and before is None)
        made = _Memo(versions, always)
        unwritten = at_first == [version.count for version in versions]
        early = unwritten and not always and not self._lasting
        (self._first if early else self.nodes).append(made)
        made.value = self._into(made, make)
        self._memos[place] = made, by, arrays
        for thing in (made.value, *_arrays(made.value)):
            self._makers[id(thing)] = made
        return made.value

    def part(self, whole: Any, make: Callable[[], Any]) -> Any:
        """``make()``; if ``whole`` is a memoised value, by nodes that run together with its own."""
        made = self._makers.get(id(whole))
        return make() if made is None else self._into(made, make)

    def _into(self, made: _Memo, make: Callable[[], Any]) -> Any:
        before = self.nodes, self._lasting
        self.nodes, self._lasting = made.nodes, True
        try:
            with self.backend.taking_from(None):
                return make()
        finally:
            self.nodes, self._lasting = before

    def hold(self, array: Any) -> None:
        """Keep the memory of an array that a node uses, unless it is the graph's own."""
        root = memory(array)
        if not self.pool.owns(root):
            self._held[id(root)] = root

    def uses(self, array: Any) -> bool:
        """Whether a node uses the memory of this array, which is not the graph's own."""
        return id(memory(array)) in self._held

    def replay(self) -> None:
        """Compute everything again, in the same memory."""
        with np.errstate(all="ignore"):  # inf and nan are results
            for memo in self._first:
                memo()
            _run(self.nodes)


def _flat(nodes: Sequence[Any]) -> Iterator[Any]:
    """Nodes with those of memos in the place of the memos, which make their values every time."""
    for node in nodes:
        if isinstance(node, _Memo):
            yield from _flat(node.nodes)
        else:
            yield node


def _run(nodes: Sequence[Callable[[], Any]]) -> None:
    replay = current().replay
    for node in nodes:
        replay(node)


class Call(functools.partial[Any]):
    """A node that calls a function of arrays."""

    @property
    def called(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The function, and what is given to it."""
        return self.args[:2] if self.func is _compute else (self.func, self.args)

    @functools.cached_property
    def work(self) -> Work:
        """What the function reads and writes."""
        function, args = self.called
        return work_of_call(function, args, tuple(self.args[2]) if self.func is _compute else None)


class _Memo:
    """A value that depends on the memory of some versions alone, and the nodes that make it. They
    run when one of the versions was written, or ``always``."""

    def __init__(self, versions: list[Version], always: bool) -> None:
        self.versions, self.always = versions, always
        self.counts, _ = self.writes()
        self._seen: int | None = None  # Version.event when the value was last up to date
        self.nodes: list[Callable[[], Any]] = []
        self.value: Any = None

    def __call__(self) -> None:
        event = self.versions[0].event
        if event == self._seen:
            return
        counts, unsure = self.writes()
        if unsure or counts != self.counts:
            _run(self.nodes)
            self.counts = counts
        self._seen = None if unsure else event

    def writes(self) -> tuple[list[tuple[int, int]], bool]:
        """The counts of writes of each version, and whether there may be writes that nobody saw."""
        counts, unsure = [], self.always
        for version in self.versions:
            counts.append((version.count, version.restored))
            unsure = unsure or version.escaped
        return counts, unsure


class Recorder(Around):
    """An engine that writes the launches of another one into a graph."""

    recording = True

    def __init__(self, inner: Any, graph: Graph) -> None:
        super().__init__(inner)
        self.graph = graph

    def run(
        self,
        function: Any,
        ctx: Context,
        args: tuple[Any, ...],
        arrays: list[Any],
        options: dict[str, Any],
    ) -> Any:
        """Forward, launch by launch if the function consists of launches alone; else as one node,
        which keeps the saved arrays up to date too."""
        place = next((a for a in arrays if is_array(a)), None)
        if function.launches and (place is None or backend_name(place) != "numpy"):
            return self.inner.run(function, ctx, args, arrays, options)
        if function.view:
            result = function.forward(ctx, *arrays, **options)
            if memory(result) is memory(arrays[0]):
                return tensors(function, ctx, args, arrays, options, result)
        contexts = [ctx]

        def forward(*arrays: Any) -> tuple[Any, ...]:
            context = contexts.pop() if contexts else Context(ctx.needs_grad)
            with np.errstate(all="ignore"):
                result = function.forward(context, *arrays, **options)
            if context is ctx and ctx._requested:
                # reductions may return scalars, but graphs keep arrays: save the arrays
                before, result = result, as_arrays(result)
                pairs = zip(before, result) if isinstance(result, tuple) else [(before, result)]
                found = {id(old): new for old, new in pairs}
                ctx._requested = tuple(found.get(id(a), a) for a in ctx._requested)
            return result, context._constants

        functools.update_wrapper(forward, function.forward)  # under whose name it is counted
        result = self.graph.call(forward, *arrays)[0]
        return tensors(function, ctx, args, arrays, options, result)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.graph.call(function, *args)

    def check(self, function: Callable[..., None], *args: Any) -> None:
        """Values of the CPU are looked at in every replay. A GPU would have to stop and wait for
        each look: there only those of the recording are looked at, and who checks sees to it that
        wrong ones give NaN."""
        if all(isinstance(arg, np.ndarray) for arg in args if is_array(arg)):
            self.graph.call(function, *args)
        else:
            self.inner.check(function, *args)

    def launch(
        self, kernel: Any, tasks: int, arguments: tuple[Any, ...], reaches: Sequence[Any]
    ) -> None:
        self.inner.launch(kernel, tasks, arguments, reaches)
        self.graph.launch(kernel, tasks, arguments, reaches)

    def memo(
        self, key: Any, tensors: Sequence[Variable], make: Callable[[], Any], by: Any = None
    ) -> Any:
        return self.graph.memo(tensors, key, make, by)

    def part(self, whole: Any, make: Callable[[], Any]) -> Any:
        return self.graph.part(whole, make)

    def host_read(self, what: str) -> None:
        raise CaptureError(
            f"capture: expected Python that does not depend on values, got {what} at "
            f"{show_place(caller())}: it would not run again. Return the tensor, and look at it "
            "outside of the captured function."
        )


def _compute(
    function: Callable[..., Any], args: tuple[Any, ...], places: list[Any], made: Any
) -> None:
    """Bring the results of ``function(*args)`` into their places. A result that is a view of an
    argument is up to date by itself: its place is None. With ``made``, what a GPU's backend noted
    of the first call's memory, most results are made in their places; the rest is copied."""
    if made is None:
        results = function(*args)
    else:
        with made.again():
            results = function(*args)
    for place, new in zip(places, _arrays(results) if isinstance(results, tuple) else (results,)):
        if place is None:
            continue
        if place.shape != new.shape:
            raise CaptureError(
                f"capture: expected shapes that do not depend on values, got {new.shape} where "
                f"{place.shape} was recorded. Compute this outside of the captured function."
            )
        if made is None or not made.in_place(new, place):
            place[...] = new


def as_arrays(results: Any) -> Any:
    """Results with arrays in place of NumPy's numbers, which cannot be written to."""
    if isinstance(results, tuple):
        return tuple(as_arrays(result) for result in results)
    return as_array(results)


def _arrays(results: Any) -> Iterator[Any]:
    if is_array(results) or isinstance(results, np.generic):
        yield results
    elif isinstance(results, tuple):
        for result in results:
            yield from _arrays(result)
