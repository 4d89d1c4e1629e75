"""Recordings: what was computed, to be computed again without the Python that asked for it.

A training step is the same few hundred kernels in the same memory, time after time, and the same
Python that finds out which. While a :class:`Recording` is on in a thread, everything that computes
there leaves a *step* in it, a function without arguments that does the same again to the same
arrays: a kernel its launch (:mod:`minires.kernels.numba`), whatever NumPy does a call through
:func:`computed`. :meth:`Recording.repeat` runs the steps, and nothing else.

That is safe for the memory: buffers that were taken during the recording stay its own
(:mod:`.allocator`), and are used again within it as they were the first time.
What it does not know is Python that looked at values, to decide or to compute on its own.
:func:`look` refuses that while a recording is on; :mod:`minires.captured` proves, before it trusts
a recording, that nothing else was missed.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..device import memory
from ..errors import CaptureError
from .place import caller, show_place

if TYPE_CHECKING:
    from .tape import Version
    from .variable import Variable


class _Here(threading.local):
    recording: Recording | None = None


here = _Here()


class Recording:
    """The steps of a computation.

    Attributes:
        steps: to be called one after another.
        memory: blocks of memory that only this computation uses, by size.
        held: the memory of others that the steps use, by id.
        lasting: whether what is made now must last from one repetition to the next, so that no
            other step may use its memory.
    """

    def __init__(self, given: Sequence[Version] = ()) -> None:
        """``given``: those of memory whose writes versions tell of. Inputs, and what is computed
        from them, have other values in each repetition."""
        self.steps: list[Callable[[], Any]] = []
        self._first: list[Callable[[], Any]] = []  # what is looked at before all steps
        self._given = {id(version): version.count for version in given}
        self.memory: dict[int, list[Any]] = {}
        self.held: dict[int, Any] = {}
        self.lasting = False
        # by what it is and whose, with what else it belongs to and the arrays it was made of
        self._derived: dict[Any, tuple[_Derivation, Any, list[Any]]] = {}
        self._makers: dict[int, _Derivation] = {}  # of what was derived, by id

    @contextlib.contextmanager
    def on(self) -> Iterator[Recording]:
        """Record what this thread computes inside."""
        with _set(self):
            yield self

    def compute(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``, which is then a step: its results go where the first ones are."""
        with _set(None):
            results = as_arrays(function(*args))
        given = {id(memory(array)) for array in _arrays(args)}
        places = [None if id(memory(array)) in given else array for array in _arrays(results)]
        for array in _arrays(args):
            self.hold(array)
        if any(place is not None for place in places):
            self.steps.append(functools.partial(_compute, function, args, places))
        else:
            self.steps.append(functools.partial(function, *args))
        return results

    def derive(
        self, tensors: Sequence[Variable], key: Any, make: Callable[[], Any], by: Any
    ) -> Any:
        """:func:`~.tape.derived`, made by steps that run where a version says it was written."""
        arrays = [tensor._array for tensor in tensors]
        place = (key, *map(id, arrays))
        if place in self._derived:
            known, belongs, _ = self._derived[place]
            if belongs is by and known.counts == _counts(known.versions):
                return known.value
        before = self._makers.get(id(by))
        versions = [tensor._version for tensor in tensors]
        versions += [] if before is None else before.versions
        at_first = [self._given.get(id(version)) for version in versions]
        always = None in at_first or (by is not None and before is None)
        made = _Derivation(versions, always)
        unwritten = at_first == [version.count for version in versions]
        early = unwritten and not always and not self.lasting
        (self._first if early else self.steps).append(made)
        made.value = self._into(made, make)
        self._derived[place] = made, by, arrays
        for thing in (made.value, *_arrays(made.value)):
            self._makers[id(thing)] = made
        return made.value

    def derive_from(self, value: Any, make: Callable[[], Any]) -> Any:
        """``make()``, by steps that run when those run that derived ``value``, if it is derived."""
        made = self._makers.get(id(value))
        return make() if made is None else self._into(made, make)

    def _into(self, made: _Derivation, make: Callable[[], Any]) -> Any:
        before = self.steps, self.lasting
        self.steps, self.lasting = made.steps, True
        try:
            return make()
        finally:
            self.steps, self.lasting = before

    def hold(self, array: np.ndarray[Any, Any]) -> None:
        """Note that a step uses the memory of this array, and keep it, unless it is our own."""
        root = memory(array)
        own = self.memory.get(getattr(root.base, "_length_", 0), ())
        if not any(block is root.base for block in own):
            self.held[id(root)] = root

    def uses(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether a step uses the memory of this array, which is not the recording's own."""
        return id(memory(array)) in self.held

    def repeat(self) -> None:
        """Compute everything again, in the same memory."""
        with np.errstate(all="ignore"):  # inf and nan are results
            for derivation in self._first:
                derivation()
            for step in self.steps:
                step()


def _counts(versions: Sequence[Version]) -> list[int]:
    return [v.count for v in versions] + [v.restored for v in versions]


class _Derivation:
    """What depends on the memory of some versions alone, and the steps that make it: when one of
    them was written, or ``always``."""

    def __init__(self, versions: list[Version], always: bool) -> None:
        self.versions, self.counts, self.always = versions, _counts(versions), always
        self._looked: int | None = None
        self.steps: list[Callable[[], Any]] = []
        self.value: Any = None

    def __call__(self) -> None:
        event = self.versions[0].event  # the last of all memory
        if event == self._looked:
            return
        counts = _counts(self.versions)
        unsure = self.always or True in [v.exposed for v in self.versions]
        if unsure or counts != self.counts:
            for step in self.steps:
                step()
            self.counts = counts
        self._looked = None if unsure else event


@contextlib.contextmanager
def _set(recording: Recording | None) -> Iterator[None]:
    before, here.recording = here.recording, recording
    try:
        yield
    finally:
        here.recording = before


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
    if isinstance(results, np.ndarray | np.generic):
        yield results
    elif isinstance(results, tuple):
        for result in results:
            yield from _arrays(result)


def computed(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``: work on arrays that is no kernel, and is to be seen by recordings.

    It must depend on its arguments alone, and return an array, a tuple of them, or None where it
    writes into its arguments.
    """
    recording = here.recording
    return function(*args) if recording is None else recording.compute(function, *args)


def copied(array: Any) -> Any:
    """A copy of an array, in the same memory order."""
    return computed(_copy, array)


def _copy(array: Any) -> Any:
    return array.copy(order="K")


def look(what: str) -> None:
    """Say that Python is about to look at values. A recording could not know what it does then.

    Raises:
        CaptureError: a recording is on.
    """
    if here.recording is not None:
        raise CaptureError(
            f"capture: expected Python that does not depend on values, got {what} at "
            f"{show_place(caller())}: it would not run again. Return the tensor, and look at it "
            "outside of the captured function."
        )
