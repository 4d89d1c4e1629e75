"""The tape: nodes, one for each recorded operation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol

from ..device import Device
from ..errors import DeviceError, DTypeError, ShapeError, message
from .place import caller, show_place

Meta = tuple[tuple[int, ...], Any, Device]  # shape, dtype, device
Edge = Any  # a leaf Variable, (Node, index of its output), or None for no gradient


class Array(Protocol):
    """An object with a shape and a dtype: a variable."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def device(self) -> Device: ...


class Node:
    """One recorded operation: its function and context, and where its gradients go.

    Attributes:
        function: the :class:`~.function.Function` that was applied.
        ctx: the context of that application.
        edges: for each argument, where its gradient goes.
        metas: for each argument, shape, dtype and device of its gradient.
        outputs: shape, dtype and device of each output.
        hooks: by the index of an output, the functions to call with its gradient.
        order: nodes are numbered as they are made.
        place: the line of the user's code that applied the function.
    """

    __slots__ = ("ctx", "edges", "function", "hooks", "metas", "order", "outputs", "place")
    _counter: ClassVar[Iterator[int]] = itertools.count()

    def __init__(
        self, function: Any, ctx: Any, edges: list[Edge], metas: list[Meta | None]
    ) -> None:
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


def check_gradient(gradient: Array, shape: tuple[int, ...], dtype: Any, what: str) -> None:
    """Hold a gradient against the shape and dtype of its tensor.

    Raises:
        ShapeError, DTypeError: beginning with ``what``.
    """
    if gradient.shape != shape:
        raise ShapeError(message(what, f"a gradient of shape {shape}", gradient.shape))
    if gradient.dtype != dtype:
        raise DTypeError(message(what, f"a gradient of dtype {dtype}", gradient.dtype))


def check_device(gradient: Array, device: Device, what: str) -> None:
    """Hold a gradient that a user gave against the device of its tensor.

    Raises:
        DeviceError: beginning with ``what``.
    """
    if gradient.device != device:
        fix = f"Move it with .to('{device}')."
        raise DeviceError(message(what, f"a gradient on {device}", str(gradient.device), fix=fix))
