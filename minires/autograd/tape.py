"""What the tape is made of: nodes, and the versions of the memory they saved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from ..device import array_module
from ..errors import DTypeError, ShapeError, message
from .observe import in_complex_step
from .place import Place, caller, show_place

if TYPE_CHECKING:
    from .function import Context, Function
    from .variable import Variable

Meta = tuple[tuple[int, ...], Any, Any]  # shape, dtype, array module
Edge = Any  # a leaf Variable, (Node, index of its output), or None for no gradient


class Version:
    """How often an array was written in place, and where last; views share it."""

    __slots__ = ("count", "place")

    def __init__(self) -> None:
        self.count = 0
        self.place: Place = ("", 0)

    def bump(self) -> None:
        self.count += 1
        self.place = caller()


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
        outputs: list[Meta],
    ):
        self.function = function
        self.ctx = ctx
        self.edges = edges
        self.metas = metas
        self.outputs = outputs
        self.hooks: dict[int, dict[int, Callable[[Any], Any]]] = {}
        self.order = next(Node._counter)
        self.place = caller()

    def __lt__(self, other: Node) -> bool:
        return self.order > other.order  # the newest node comes off the heap first

    def __repr__(self) -> str:
        return f"<{self.function.__name__} {show_place(self.place)}>"


def meta(variable: Variable) -> Meta:
    array = variable._array
    return array.shape, array.dtype, array_module(array)


def memory(array: Any) -> Any:
    """The array that owns the memory this one looks at."""
    while True:
        base = getattr(array, "base", None)
        if base is None or not hasattr(base, "dtype"):
            return array
        array = base


def check_gradient(gradient: Variable, shape: tuple[int, ...], dtype: Any, what: str) -> None:
    array = gradient._array
    if array.shape != shape:
        raise ShapeError(message(what, f"a gradient of shape {shape}", array.shape))
    if array.dtype != dtype and not in_complex_step():
        raise DTypeError(message(what, f"a gradient of dtype {dtype}", array.dtype))
