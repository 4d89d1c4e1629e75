"""What the tape is made of: nodes, and the versions of the memory they saved."""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..device import array_module
from ..errors import DTypeError, ShapeError, message
from .observe import in_complex_step
from .place import Place, caller, show_place
from .recording import here

if TYPE_CHECKING:
    from .function import Context, Function
    from .pending import Pending
    from .variable import Variable

Meta = tuple[tuple[int, ...], Any, Any]  # shape, dtype, array module
Edge = Any  # a leaf Variable, (Node, index of its output), or None for no gradient


MANY = 16  # readers of one memory: time to see which of them are done


class Version:
    """What happened to an array's memory; views share it.

    Attributes:
        count: how often it was written in place, last at ``place``.
        restored: how often the count was set back, with the values.
        exposed: whether someone outside the engine was ever handed the raw array, and may write
            there unseen.
    """

    event: ClassVar[int] = 0  # the number of the last write or exposure of all memory
    _events: ClassVar[Iterator[int]] = itertools.count(1)

    __slots__ = ("_derived", "_most", "_readers", "count", "exposed", "place", "restored")

    def __init__(self) -> None:
        self.count = self.restored = 0
        self.place: Place = ("", 0)
        self.exposed = False
        self._readers: list[weakref.ref[Pending]] | None = None
        self._derived: dict[Any, tuple[Any, ...]] | None = None

    def bump(self) -> None:
        self.count += 1
        Version.event = next(Version._events)
        self.place = caller()
        self._derived = None

    def advance(self, times: int) -> None:
        """Note so many writes that were recorded before."""
        self.count += times
        self._derived = None
        Version.event = next(Version._events)

    def restore(self, count: int) -> None:
        """Say that the memory is what it was at this count again."""
        self.count, self._derived = count, None
        self.restored += 1
        Version.event = next(Version._events)

    def expose(self) -> None:
        """Note that someone has the array, who may write there unseen."""
        if not self.exposed:
            self.exposed = True
            Version.event = next(Version._events)

    def will_be_read(self, reader: weakref.ref[Pending]) -> None:
        """Note that this memory is still to be read, by work that was put off."""
        if self._readers is None:
            self._readers, self._most = [], MANY
        elif len(self._readers) == self._most:  # forget those that are done
            self._readers = [ref for ref in self._readers if _unfinished(ref())]
            self._most = max(MANY, 2 * len(self._readers))
        self._readers.append(reader)

    def settle(self) -> None:
        """Have all work done that is to read this memory: it is about to be written."""
        readers, self._readers = self._readers, None
        for reader in readers or ():
            pending = reader()
            if pending is not None:
                pending.finish()


def _unfinished(pending: Pending | None) -> bool:
    return pending is not None and pending.array is None


def derived(tensors: Sequence[Variable], key: Any, make: Callable[[], Any], by: Any = None) -> Any:
    """``make()``, which depends on these tensors' values, and on the object ``by``, alone; or what
    it returned the last time, if it was asked for the same arrays (views have one version, but are
    not the same) and none of them was written since. Where a write could go unseen, nothing is
    remembered."""
    if here.recording is not None:
        return here.recording.derive(tensors, key, make, by)
    counts = []
    for tensor in tensors:
        version = tensor._version
        if version.exposed:
            return make()
        counts.append(version.count)
    arrays = [tensor._array for tensor in tensors]
    first = tensors[0]._version
    known = None if first._derived is None else first._derived.get(key)
    if known is not None:
        then, theirs, belongs, value = known
        if then == counts and belongs is by and all(map(operator.is_, theirs, arrays)):
            return value
    value = make()
    if first._derived is None:
        first._derived = {}
    first._derived[key] = (counts, arrays, by, value)
    return value


class Node:
    """One recorded operation: what to call on the way back, and where its gradients go."""

    __slots__ = ("ctx", "edges", "function", "hooks", "metas", "order", "outputs", "place")
    _counter: ClassVar[Iterator[int]] = itertools.count()

    def __init__(
        self,
        function: type[Function],
        ctx: Context,
        edges: list[Edge],
        metas: list[Meta | None],
    ):
        self.function = function
        self.ctx = ctx
        self.edges = edges
        self.metas = metas
        self.outputs: list[Meta] = []
        self.hooks: dict[int, dict[int, Callable[[Any], Any]]] = {}
        self.order = next(Node._counter)
        self.place = caller()

    def __lt__(self, other: Node) -> bool:
        return self.order > other.order  # the newest node comes off the heap first

    def __repr__(self) -> str:
        return f"<{self.function.__name__} {show_place(self.place)}>"


def meta(variable: Variable) -> Meta:
    if variable._pending is not None:
        return variable.shape, variable.dtype, np
    array = variable._array
    return array.shape, array.dtype, np if type(array) is np.ndarray else array_module(array)


def check_gradient(gradient: Variable, shape: tuple[int, ...], dtype: Any, what: str) -> None:
    if gradient.shape != shape:
        raise ShapeError(message(what, f"a gradient of shape {shape}", gradient.shape))
    if gradient.dtype != dtype and not in_complex_step():
        raise DTypeError(message(what, f"a gradient of dtype {dtype}", gradient.dtype))
