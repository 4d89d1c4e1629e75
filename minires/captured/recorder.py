"""Recorder: an engine that writes down what was computed, to compute it again without its Python.

A training step is the same few hundred kernels in the same memory, time after time, and the same
Python that finds out which. While a thread computes by a :class:`Recorder`, everything it computes
leaves a *node* in a :class:`Graph`, a function without arguments that does the same again to the
same arrays: a kernel its launch, whatever the array module does a call
(:meth:`~minires.autograd.Eager.call`). :meth:`Graph.replay` runs the nodes, and nothing else.

That is safe for the memory: what was allocated during the recording stays the graph's own
(a pool of the backend), and is used again within it as it was the first time. What a graph does not
know is Python that looked at values, to decide or to compute on its own.
:meth:`Recorder.host_read` refuses that; :mod:`minires.captured` proves, before it trusts a graph,
that nothing else was missed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..autograd import Around, Context, Variable, Version, caller, current, show_place
from ..autograd.engine import around, tensors
from ..device import backend_name, is_array, memory
from ..errors import CaptureError


class Graph:
    """A computation as nodes, which are called one after another.

    Args:
        backend: the backend of its arrays, as :func:`minires.device.backend_of` has it.
        given: versions of memory whose writes they tell of. Inputs, and what is computed from
            them, have other values in each replay.

    Attributes:
        nodes: the functions to call.
        pool: memory that only this computation uses.
    """

    def __init__(self, backend: Any, given: Sequence[Version] = ()) -> None:
        self.backend, self.pool = backend, backend.memory_pool()
        self.nodes: list[Callable[[], Any]] = []
        self._first: list[Callable[[], Any]] = []  # what is looked at before all nodes
        self._given = {id(version): version.count for version in given}
        self._held: dict[int, Any] = {}  # the memory of others that the nodes use, by id
        # whether what is made now must last from one replay to the next, so that no other node may
        # use its memory
        self._lasting = False
        # memoised values: by key and arrays, with the object they also belong to and the arrays
        self._memos: dict[Any, tuple[_Memo, Any, list[Any]]] = {}
        self._makers: dict[int, _Memo] = {}  # of what was memoised, by id

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Write down what this thread computes inside."""
        with (
            around("capture", functools.partial(Recorder, graph=self)),
            self.backend.taking_from(self.pool),
        ):
            yield

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``, which is then a node: its results go where the first ones are."""
        with self._unrecorded():
            results = as_arrays(function(*args))
        given = {id(memory(array)) for array in _arrays(args)}
        places = [None if id(memory(array)) in given else array for array in _arrays(results)]
        for array in _arrays(args):
            self.hold(array)
        if any(place is not None for place in places):
            self.nodes.append(functools.partial(_compute, function, args, places))
        else:
            self.nodes.append(functools.partial(function, *args))
        return results

    @contextlib.contextmanager
    def _unrecorded(self) -> Iterator[None]:
        with around("capture", _without_recorder), self.backend.taking_from(None):
            yield

    def launch(
        self, kernel: Any, tasks: int, arguments: tuple[Any, ...], reaches: Iterable[Any]
    ) -> None:
        """A launch that was done just now becomes a node, together with the launches before it."""
        for array in (*arguments, *reaches):
            if is_array(array):
                self.hold(array)
        segment: Any = self.nodes[-1] if self.nodes else None
        if not hasattr(segment, "add"):
            segment = self.backend.segment(kernel.__name__)
            self.nodes.append(segment)
        segment.add(kernel, tasks, arguments)

    def memo(self, tensors: Sequence[Variable], key: Any, make: Callable[[], Any], by: Any) -> Any:
        """:meth:`~minires.autograd.Eager.memo`, made by nodes that run where a version says that
        its memory was written."""
        arrays = [tensor._array for tensor in tensors]
        place = (key, *map(id, arrays))
        if place in self._memos:
            known, belongs, _ = self._memos[place]
            if belongs is by and known.counts == _counts(known.versions):
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
        """``make()``, by nodes that run when those of the memoised ``whole`` do, if it is one."""
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
        """Note that a node uses the memory of this array, and keep it, unless it is our own."""
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


def _run(nodes: Sequence[Callable[[], Any]]) -> None:
    engine = current()
    for node in nodes:
        if hasattr(node, "add"):  # a segment
            engine.replay(node)
        else:
            node()


def _counts(versions: Sequence[Version]) -> list[int]:
    return [v.count for v in versions] + [v.restored for v in versions]


class _Memo:
    """What depends on the memory of some versions alone, and the nodes that make it: when one of
    the versions was written, or ``always``."""

    def __init__(self, versions: list[Version], always: bool) -> None:
        self.versions, self.counts, self.always = versions, _counts(versions), always
        self._seen: int | None = None  # the last event of all memory when it was up to date
        self.nodes: list[Callable[[], Any]] = []
        self.value: Any = None

    def __call__(self) -> None:
        event = self.versions[0].event
        if event == self._seen:
            return
        counts = _counts(self.versions)
        unsure = self.always or True in [v.escaped for v in self.versions]
        if unsure or counts != self.counts:
            _run(self.nodes)
            self.counts = counts
        self._seen = None if unsure else event


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
        """Forward, launch by launch where it consists of launches alone, else as one node, which
        keeps what backward needs up to date too."""
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
                # reductions may return scalars, and graphs keep arrays: so is what is saved
                before, result = result, as_arrays(result)
                pairs = zip(before, result) if isinstance(result, tuple) else [(before, result)]
                found = {id(old): new for old, new in pairs}
                ctx._requested = tuple(found.get(id(a), a) for a in ctx._requested)
            return result, context._constants

        result = self.graph.call(forward, *arrays)[0]
        return tensors(function, ctx, args, arrays, options, result)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.graph.call(function, *args)

    def launch(
        self, kernel: Any, tasks: int, arguments: tuple[Any, ...], reaches: Iterable[Any]
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


def _without_recorder(engine: Any) -> Any:
    """What is around a recorder, around what it was around."""
    if isinstance(engine, Recorder):
        return engine.inner
    return engine.around(_without_recorder(engine.inner))


def _compute(function: Callable[..., Any], args: tuple[Any, ...], places: list[Any]) -> None:
    """Put the results of ``function(*args)`` into their places; None for those that look at an
    argument, and are up to date with it."""
    results = function(*args)
    for place, new in zip(places, _arrays(results) if isinstance(results, tuple) else (results,)):
        if place is None:
            continue
        if place.shape != new.shape:
            raise CaptureError(
                f"capture: expected shapes that do not depend on values, got {new.shape} where "
                f"{place.shape} was recorded. Compute this outside of the captured function."
            )
        place[...] = new


def as_arrays(results: Any) -> Any:
    """Results with arrays in place of NumPy's numbers, which cannot be written to."""
    if isinstance(results, tuple):
        return tuple(as_arrays(result) for result in results)
    return np.asarray(results) if isinstance(results, np.generic) else results


def _arrays(results: Any) -> Iterator[Any]:
    if is_array(results) or isinstance(results, np.generic):
        yield results
    elif isinstance(results, tuple):
        for result in results:
            yield from _arrays(result)
