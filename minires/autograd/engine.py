"""The engine: how results come to be. The one extension point of automatic differentiation.

``Function.apply`` makes a context, asks the current engine for the outputs, and records a node.
Which engine is current is a setting like any other (:mod:`minires.mode`): a mode puts an engine of
its own around the one before.

=======================  ==========================================================================
:class:`Eager`           at once, by each function's own ``forward`` and ``backward``: all that a
                         reader of the operations needs to know
``Fusing``               :mod:`minires.fusion`: some operations are deferred, and share their passes
``Recorder``             :mod:`minires.captured`: whatever is launched is written down
``Watcher``              :mod:`minires.watcher`: what operations are applied, how kinks choose
``NaNGuard``             :mod:`minires.anomaly`: stops at the first NaN
``Profiler``             :mod:`minires.profiler`: counts and times what is launched
=======================  ==========================================================================

An engine is asked at two levels. Operations: ``forward``, ``backward``, ``add_gradients`` (of two
that meet). Launches, the work that operations lead to: ``call`` (a function of arrays that is no
kernel), ``check`` (that values are right), ``launch`` (a kernel), ``replay`` (what was written
down), ``memo`` and ``part`` (values that depend on some tensors alone), ``host_read`` (Python is
about to look at a value). And three calls tell an engine of events without a result: ``chose``,
``compared`` and ``wrote``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ..device import Gpus, backend_name, backend_of, beside, is_array, memory
from ..errors import MiniresError
from ..ieee import quiet, restore, warnings_now
from ..mode import Layered, install, setting
from .context import Context
from .tape import Node
from .variable import Variable

Rule = Callable[..., Any]


class Launchable(Protocol):
    """A kernel: :meth:`run` does ``tasks`` tasks of it, :meth:`work` says what it works on."""

    def run(self, tasks: int, arguments: tuple[Any, ...]) -> None: ...

    def work(self, arguments: tuple[Any, ...], reaches: Sequence[Any]) -> Any: ...


class Eager:
    """Every operation at once, by itself.

    Attributes:
        rules: functions to call in place of ``forward``: ``rule(ctx, *args, **options)``
            returns a tensor, or None to decline. Here there are none.
        backward_rules: the same in place of ``backward``: ``rule(ctx, *gys)`` returns the
            gradients, or None to decline.
        watching: whether somebody looks at single operations.
        recording: whether launches are written down.
        complex_step: whether a derivative is being taken by a complex step, where dtypes mix.
    """

    rules: ClassVar[Mapping[Any, Rule]] = {}
    backward_rules: ClassVar[Mapping[Any, Rule]] = {}
    watching = recording = complex_step = False

    def plain(self) -> Eager:
        """The engine that does the same without rules: every operation by itself."""
        return EAGER

    # -- operations

    def forward(
        self, function: Any, ctx: Context, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """The outputs of ``function`` for these arguments: a tensor, or a tuple of tensors."""
        rule = self.rules.get(function)
        if rule is not None:
            deferred = rule(ctx, *args, **options)
            if deferred is not None:
                return deferred
        arrays = [a._array if isinstance(a, Variable) else a for a in args]
        return self.run(function, ctx, args, arrays, options)

    def run(
        self,
        function: Any,
        ctx: Context,
        args: tuple[Any, ...],
        arrays: list[Any],
        options: dict[str, Any],
    ) -> Any:
        """The outputs of ``function`` from the arrays of its arguments: ``function.forward``, and
        tensors around its results."""
        before = warnings_now()
        try:
            quiet()  # inf and nan are results
            result = function.forward(ctx, *arrays, **options)
        except MemoryError as error:
            _explain(function, arrays, error)
            raise
        finally:
            restore(before)
        return tensors(function, ctx, args, arrays, options, result)

    def backward(self, node: Node, gys: Sequence[Variable]) -> Any:
        """The gradients of a node's arguments from the gradients of its outputs."""
        rule = self.backward_rules.get(node.function)
        if rule is not None:
            gxs = rule(node.ctx, *gys)
            if gxs is not None:
                return gxs
        return node.function.backward(node.ctx, *gys)

    def add_gradients(self, a: Any, b: Any) -> Any:
        """The sum of two gradients that meet."""
        return a + b

    # -- launches

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``: work on arrays that is no kernel. It depends on its arguments alone,
        and returns an array, a tuple of arrays, or None where it writes into its arguments."""
        try:
            if Gpus.several:
                with beside(args):
                    return function(*args)
            return function(*args)
        except MemoryError as error:
            _explain(function, args, error)
            raise

    def check(self, function: Callable[..., None], *args: Any) -> None:
        """``function(*args)``, which looks at values and raises an error where they are wrong. It
        returns nothing and writes nothing."""
        if Gpus.several:
            with beside(args):
                function(*args)
        else:
            function(*args)

    def launch(
        self, kernel: Launchable, tasks: int, arguments: tuple[Any, ...], reaches: Sequence[Any]
    ) -> None:
        """Run a kernel for so many tasks. ``reaches`` are the arrays that the kernel finds through
        addresses, besides its arguments."""
        kernel.run(tasks, arguments)

    def memo(
        self, key: Any, tensors: Sequence[Variable], make: Callable[[], Any], by: Any = None
    ) -> Any:
        """``make()``, which depends on the values of these tensors and on the object ``by`` alone;
        or what it returned the last time, if it was asked for the same arrays (views have one
        version, but are not the same) and none of them was written since. Where a write could go
        unseen, nothing is remembered."""
        counts, arrays = [], []
        for tensor in tensors:
            version = tensor._version
            if version.escaped:
                return make()
            counts.append(version.count)
            arrays.append(tensor._array)
        first = tensors[0]._version
        known = None if first.memoised is None else first.memoised.get(key)
        if known is not None:
            then, theirs, belongs, value = known
            if then == counts and belongs is by and all(map(operator.is_, theirs, arrays)):
                return value
        if Gpus.several:
            with beside(tensors):
                value = make()
        else:
            value = make()
        if first.memoised is None:
            first.memoised = {}
        first.memoised[key] = (counts, arrays, by, value)
        return value

    def replay(self, node: Callable[[], Any]) -> None:
        """Do again what was written down: some launches, or a call."""
        node()

    def part(self, whole: Any, make: Callable[[], Any]) -> Any:
        """``make()``, which depends on the memoised object ``whole`` alone, and is kept in it."""
        return make()

    def host_read(self, what: str) -> None:
        """Python is about to see a value, and may decide by it."""

    # -- events

    def chose(self, name: str, choices: Callable[[], Any]) -> None:
        """An operation with kinks chose; ``choices`` makes the array of its choices."""

    def compared(self, function: Any, args: Sequence[Any], output: Any) -> None:
        """An operation was done that has no derivative and is no Function, as ``operator.gt``."""

    def wrote(self, target: Variable, new: Variable) -> None:
        """A variable was given the values of another one in place."""


def _explain(function: Any, values: Sequence[Any], error: MemoryError) -> None:
    """Raise an error that says who holds the memory of a GPU, if these are its arrays and ``error``
    is CuPy's."""
    place = next((value for value in values if is_array(value)), None)
    if place is not None and not isinstance(error, MiniresError) and backend_name(place) == "cuda":
        name = getattr(function, "__name__", type(function).__name__)
        text = f"what it computes: {str(error).rstrip('.')}"
        raise backend_of(place).out_of_memory(name, text) from error


EAGER = Eager()
_engine = setting("engine", EAGER, listed=False)


class Around:
    """An engine around another one, ``inner``, which answers whatever this one does not."""

    forward = Eager.forward

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def plain(self) -> Any:
        """The same around the plain form of the inner engine."""
        plain = self.inner.plain()
        return self if plain is self.inner else self.around(plain)

    def around(self, inner: Any) -> Any:
        """The same around another engine."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, inner=inner)
        return other


def without(engine: Any, kind: type[Around]) -> Any:
    """An engine without the one of this kind that stands around it, if one does."""
    if isinstance(engine, kind):
        return engine.inner
    return engine.around(without(engine.inner, kind)) if isinstance(engine, Around) else engine


def current() -> Any:
    """The engine of this thread or task."""
    return _engine.get().value


def use(engine: Eager) -> None:
    """Make an engine the one that is current where no mode says otherwise."""
    install(_engine, engine)


def around(name: str, make: Callable[[Any], Any]) -> Layered:
    """A mode, called ``name`` in messages, in which ``make(engine before)`` is the engine."""
    return Layered(name, _engine, make)


def no_fusion(function: Any = None) -> Any:
    """Run every operation by itself, at once.

    By default convolutions, batch norms, additions and ReLUs share their passes over memory where
    nobody looks in between; the values are the same up to rounding. See docs/architecture.md.
    """
    mode = around("no_fusion", _plain)
    return mode if function is None else mode(function)


def _plain(engine: Any) -> Any:
    return engine.plain()


def call(function: Callable[..., Any], *args: Any) -> Any:
    """:meth:`Eager.call` of the current engine."""
    return _engine.get().value.call(function, *args)


def check(function: Callable[..., None], *args: Any) -> None:
    """:meth:`Eager.check` of the current engine."""
    _engine.get().value.check(function, *args)


def copied(array: Any) -> Any:
    """A copy of an array, in the same memory order."""
    return call(_copy, array)


def _copy(array: Any) -> Any:
    return array.copy(order="K")


def memo(key: Any, tensors: Sequence[Variable], make: Callable[[], Any], by: Any = None) -> Any:
    """:meth:`Eager.memo` of the current engine."""
    return _engine.get().value.memo(key, tensors, make, by)


def host_read(what: str) -> None:
    """:meth:`Eager.host_read` of the current engine.

    Raises:
        CaptureError: the engine records launches.
    """
    _engine.get().value.host_read(what)


def switch(name: str, choices: Callable[[], Any]) -> None:
    """Tell the engine how an operation with kinks chose (:meth:`Eager.chose`).

    Args:
        name: of the operation, as in "relu".
        choices: makes the array of choices, a mask or indices; not called unless watched.
    """
    _engine.get().value.chose(name, choices)


def in_complex_step() -> bool:
    """Whether a derivative is being taken by a complex step, where dtypes may mix."""
    return bool(_engine.get().value.complex_step)


def tensors(
    function: Any,
    ctx: Context,
    args: tuple[Any, ...],
    arrays: list[Any],
    options: dict[str, Any],
    result: Any,
) -> Any:
    """Tensors around the ``result`` of a function's forward, an array or a tuple of arrays; saved
    arrays are bound in its context."""
    if type(result) is tuple:
        outputs = tuple([Variable._wrap(array) for array in result])
        results: tuple[Any, ...] = result
    else:
        outputs, results = (Variable._wrap(result),), (result,)
    if function.view:
        if memory(outputs[0]._array) is memory(args[0]._array):
            outputs[0]._become_view(args[0], (function, args[1:], options))
    else:
        for out in outputs:
            made = out._array
            for array in arrays:
                if array is made:
                    out._array = array.copy()  # an input handed through is no memory of its own
    if ctx._requested and ctx.recorded:
        ctx.bind(args, arrays, results, outputs)
    return outputs if type(result) is tuple else outputs[0]
