"""A function at a point: the one place where a check evaluates it, forward and backward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import random
from ..autograd import Variable, Version, enable_grad, no_grad
from ..device import array_module, backend, beside, device_of, move
from ..errors import ArgumentError
from ..tensor import Tensor
from ..watcher import watch
from .demands import check_result

Array = NDArray[np.float64]
Vector = NDArray[Any]
Switches = tuple[tuple[str, bytes], ...]
EPS = float(np.finfo(np.float64).eps)
Guard = Callable[[], AbstractContextManager[Any]]


class Point:
    """``f(*xs)`` as a function of the tensors ``varied``, at their present values, in float64.

    The tensors keep their identity and lend their arrays: inside ``with point:`` they hold
    float64 copies, and for each evaluation the arrays that are asked for. So ``f`` may reach them
    through its arguments or through a closure, as a layer reaches its weights.

    Args:
        f: takes ``xs``, returns one tensor.
        xs: its arguments.
        varied: the tensors with respect to which derivatives are taken.
        held: other tensors that ``f`` reads (buffers), to be in float64 as well.
        guard: entered around each evaluation; puts back what an evaluation changes.
        name: of ``f``, for reports. Default: its own.
        labels: of the varied tensors, for reports.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        xs: Sequence[Any],
        varied: Sequence[Tensor],
        held: Sequence[Tensor] = (),
        guard: Guard = contextlib.nullcontext,
        *,
        name: str | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        self.f, self.xs, self.varied, self.guard = f, list(xs), list(varied), guard
        self.held = list(held)
        self.name = name_of(f) if name is None else name
        self.labels = [f"input {i}" for i in range(len(varied))] if labels is None else list(labels)
        self._lent = [*varied, *(t for t in self.held if t.dtype.kind == "f")]
        self._own = _held_by(self._lent)
        self._in_own_precision = False
        self.draws_on_gpu = False  # known after the first forward pass
        self.values = [host(t._array).astype(np.float64) for t in varied]

    def __enter__(self) -> Point:
        self._place = beside(self.varied)
        self._place.__enter__()
        for tensor in self._lent:
            if tensor.dtype != np.float64:
                _hand(tensor, tensor._array.astype(np.float64))
        return self

    def __exit__(self, *error: object) -> None:
        _give_back(self._lent, self._own)
        self._place.__exit__(*error)

    @contextlib.contextmanager
    def own_precision(self) -> Iterator[None]:
        """The tensors as the user made them, inside ``with point:``."""
        held = _held_by(self._lent)
        _give_back(self._lent, self._own)
        self._in_own_precision = True
        try:
            yield
        finally:
            self._in_own_precision = False
            _give_back(self._lent, held)

    def forward(self) -> Tensor:
        """``f`` at the present arrays, recorded.

        Raises:
            DTypeError, NaNError: what it returns cannot be checked.
            ArgumentError: it changes its inputs.
        """
        with self.guard(), enable_grad():
            before = random.get_state()["gpu"]
            y = self.f(*self.xs)
            self.draws_on_gpu = random.get_state()["gpu"] != before
        self._demand_unchanged()
        check_result(self.name, y, own=self._in_own_precision)
        return y

    def _demand_unchanged(self) -> None:
        for index, (tensor, value) in enumerate(zip(self.varied, self.values)):
            if not np.array_equal(host(tensor._array), value):
                tensor._array[...] = move(value, device_of(tensor._array))
                raise ArgumentError(
                    f"check: expected {self.name} to leave its inputs as they are, got a forward "
                    f"pass that writes into input {index}, of shape {value.shape}. Write into a "
                    "copy of it."
                )

    def at(
        self, values: Sequence[Vector], complex_step: bool = False
    ) -> tuple[Vector, Switches, set[str]]:
        """``f`` at other values: the result on the host, how it switched, what is not
        complex-safe. A complex step runs on the references, on the host."""
        with contextlib.ExitStack() as stack:
            stack.callback(_give_back, self.varied, _held_by(self.varied))
            if complex_step:
                stack.enter_context(backend("numpy"))
            self._put(values, complex_step)
            stack.enter_context(self.guard())
            stack.enter_context(no_grad())
            seen = stack.enter_context(watch(complex_step))
            y = self.f(*self.xs)
            return host(y._array).copy(), tuple(seen.switches), seen.unsafe

    def nearby(self, count: int, base: Sequence[Vector] | None = None) -> Iterator[list[Vector]]:
        """Points an ulp or two away, where only rounding differs."""
        rng = np.random.default_rng(0)
        for _ in range(count):
            yield [
                v * (1 + 2 * EPS * rng.choice([-1, 1], v.shape))
                for v in (self.values if base is None else base)
            ]

    @contextlib.contextmanager
    def moved(self, values: Sequence[Vector]) -> Iterator[None]:
        """Another point, for as long as the ``with`` lasts."""
        own, held = self.values, _held_by(self.varied)
        self.values = list(values)
        self._put(values)
        try:
            yield
        finally:
            self.values = own
            _give_back(self.varied, held)

    def _put(self, values: Sequence[Vector], complex_step: bool = False) -> None:
        for tensor, value in zip(self.varied, values):
            if complex_step:
                _hand(tensor, np.asarray(value, np.complex128))
            else:
                _hand(tensor, move(np.array(value), device_of(tensor._array)))

    def along(
        self,
        directions: Sequence[Vector | None],
        complex_step: bool = False,
        base: Sequence[Vector] | None = None,
    ) -> Curve:
        """t → f(base + t * directions), from the present values by default; None is no
        direction."""
        start = self.values if base is None else base

        def curve(t: complex) -> tuple[Vector, Switches]:
            values = [v if d is None else v + t * d for v, d in zip(start, directions)]
            y, switches, _ = self.at(values, complex_step)
            return y.reshape(-1), switches

        return curve


Curve = Callable[[complex], tuple[Vector, Switches]]


def _hand(tensor: Tensor, array: Any) -> None:
    """Let a tensor hold another array, with a version of its own: what the engine derived from the
    former one must not serve this one, and what was saved of that one is still as it was."""
    tensor._array, tensor._version = array, Version()


def _held_by(tensors: Sequence[Tensor]) -> list[tuple[Any, Version]]:
    return [(t._array, t._version) for t in tensors]


def _give_back(tensors: Sequence[Tensor], held: Sequence[tuple[Any, Version]]) -> None:
    for tensor, (array, version) in zip(tensors, held):
        tensor._array, tensor._version = array, version


def host(array: Any) -> Any:
    """The array in the memory of the host."""
    return array if array_module(array) is np else array.get()


def name_of(f: Any) -> str:
    """What a report calls ``f``: ``conv2d``; for the ``apply`` of a Function, its class."""
    owner = getattr(f, "__self__", None)
    if isinstance(owner, type) and f.__name__ == "apply":
        return owner.__name__
    return getattr(f, "__name__", type(f).__name__)


def kept_arrays(y: Variable) -> list[tuple[str, Any]]:
    """Every array that the graph behind ``y`` keeps for the backward pass, with its owner."""
    found, seen, stack = [], set(), [y.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += [(node.function.__name__, array) for array in node.ctx.kept()]
        stack += [edge[0] for edge in node.edges if isinstance(edge, tuple)]
    return found
