"""Capture: a function is recorded once as a graph, and replayed without its Python.

The kernels of a small network take less time than the Python that finds out, call after call, which
kernels to run. :func:`capture` runs that Python once for each shape of the inputs, and from then on
the kernels alone, in the same memory. (tinygrad's ``TinyJit`` does the same.) On a GPU they are one
CUDA graph, which is launched by one call (:mod:`.joined`).

:mod:`.recorder` tells how a graph is recorded; this module makes graphs safe to use. Everything
that the function reads or changes besides its inputs is named (``state``). Whatever decides which
graph serves is compared at each call. And a graph is used only after it was *proven*: it is
recorded on other inputs (of the call before) and with other parameters than the present ones; then
the function and the graph start from the same state, and must end with the same bits in every
result, parameter, buffer and gradient, since kernels give the same bits every time.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import arguments, random
from ..autograd import Variable, current
from ..device import (
    CPU,
    Device,
    array_module,
    assign,
    backend_name,
    backend_of,
    beside,
    move,
)
from ..errors import ArgumentError, CaptureError, message
from ..forks import new_lock_in_children
from ..interrupts import HeldBack
from ..mode import go_back, links, settings
from ..nn.module import Module
from ..optim import Optimizer
from ..tensor import Tensor
from .reads import Reads
from .recorder import Graph
from .state import MOST, PLAIN, Snapshot, State

_array = operator.attrgetter("_array")


def capture(function: Callable[..., Any], *state: Module | Optimizer) -> Captured:
    """A function that does what ``function`` does, without running its Python again.

    The first call with inputs of some shapes and dtypes runs the function as it is; the second
    records and proves, which takes as long as three calls (it waits for inputs that are finite and
    not all the same); further calls replay. Training a ResNet-20 takes a sixth less time so,
    and classifying one image a third of it (benchmarks/README.md)::

        model, optimizer = ..., optim.SGD(model.parameters(), lr=0.1)

        def step(x, y):
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        step = minires.capture(step, model, optimizer)
        for x, y in loader:
            print(step(x, y).item())

    Args:
        function: takes tensors, and besides them numbers, strings, None and tuples of these;
            returns tensors (or None), alone or in tuples, lists and dicts. Or a module.
        state: the modules and optimisers that it uses; a module that is itself the ``function``
            need not be named again.

    Python that the function contains runs while recording and not again: it may depend on shapes,
    on attributes of modules and on arguments that are no tensors, but not on the values of tensors.
    Global variables, closure variables, attributes and entries of small dicts and lists that the
    function names are compared at each call (:mod:`minires.captured.reads` says which are seen, and
    which are not): other values have a graph of their own, so that a variable that differs in every
    call gives right results and gains nothing.
    Learning rates and other options of an optimiser are read at each step, and modes (``train()``,
    ``no_grad()``), frozen parameters, hooks and replaced layers are seen: each has a graph of
    its own, or none. (Attributes must be assigned to be seen, not changed inside.) Under
    ``detect_anomaly()`` and on the reference kernels the function runs as it is. Results are new
    tensors outside the graph; gradients are in ``.grad``, in memory that the next call writes
    again, and gone if it fails. The eight graphs that were used last are kept. Several threads
    may call captured functions, which take turns; but while one records, the parameters have
    other values for a moment, which nobody else should read.

    On a GPU the replay is one CUDA graph. It does not wait for the GPU, so it does not look at
    values: labels out of range are an error in the first calls, and a loss of NaN in replays.

    Raises:
        ArgumentError: a function that is none, state of another kind, inputs or results that
            cannot be taken.
        CaptureError: at the second call: the function looks at values, reads a variable that it
            changes itself, or its graph does not repeat it; on a GPU also where it does what a
            CUDA graph cannot hold.

    >>> import minires as mr
    >>> double = mr.capture(lambda x: x * 2)
    >>> [double(mr.tensor([float(i)])).item() for i in range(4)]
    [0.0, 2.0, 4.0, 6.0]
    """
    if isinstance(function, Module) and all(part is not function for part in state):
        state = (function, *state)
    return Captured(function, state)


_serving = threading.RLock()  # one call at a time: two that share parameters would mix them up
new_lock_in_children(globals(), "_serving")


class Captured:
    """A function and its graphs; see :func:`capture`."""

    def __init__(self, function: Callable[..., Any], state: Sequence[Module | Optimizer]):
        if not callable(function):
            got = type(function).__name__
            raise ArgumentError(message("capture", "a function or a module", got))
        self._function, self._state, self._reads = function, State(state), Reads(function)
        self._seen: OrderedDict[Any, list[Any]] = OrderedDict()  # arguments of earlier calls
        self._calls: OrderedDict[Any, _CapturedCall] = OrderedDict()
        self._reads_gradients = False  # whether the function reads .grad as it is when it is called

    def __repr__(self) -> str:
        name = getattr(self._function, "__name__", type(self._function).__name__)
        return f"Captured({name}, recordings={len(self._calls)})"

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What the function returns for these arguments."""
        if current().recording:
            return self._function(*args, **options)  # another capture records it
        with _serving:
            function = functools.partial(_apply, self._function, [*options])
            values = (*args, *options.values())
            device = next((a.device for a in values if isinstance(a, Tensor)), None)
            device = self._state.device if device is None else device
            with beside((device,)):
                return self._serve(function, values, (*options,), device)

    def _serve(
        self, function: Callable[..., Any], args: tuple[Any, ...], names: Any, device: Device
    ) -> Any:
        engine = current()
        call = (names, *map(_signature, args), settings(), bool(engine.rules))
        if engine.watching or backend_name(device) == "numpy":
            return _copy(function(*args))
        state = self._state.signature(self._reads_gradients)
        read = self._reads.signature(state[0], self._state.modules)
        call, before = (read, *call), call
        key = call + state
        captured = self._calls.get(key)
        if captured is not None and captured.fits(self._state):
            self._calls.move_to_end(key)
            return captured(args)
        others = _other_inputs(self._seen.get(call), args)
        if others is None:
            seen = [_copy(arg) if isinstance(arg, Tensor) else arg for arg in args]
            result = _copy(function(*args))
            read = self._reads.ran(state[0], self._state.modules)
            self._seen[read, *before] = seen  # not if the call failed
        else:
            captured, result = _CapturedCall.proven(function, args, others, self._state, device)
            self._reads.ran(state[0], self._state.modules)
            if captured is None:
                return result
            if captured.gradients_read and not self._reads_gradients:
                self._reads_gradients = True
                key = call + self._state.signature(gradients=True)
            self._calls[key] = captured
            self._seen[call] = []
        for kept in (self._calls, self._seen):
            while len(kept) > MOST:
                kept.popitem(last=False)
        return result


def _apply(function: Callable[..., Any], names: list[str], *values: Any) -> Any:
    """Call a function, the last values by their names."""
    first = len(values) - len(names)
    arguments.taken("capture", function, values[:first], dict(zip(names, values[first:])))
    return function(*values[:first], **dict(zip(names, values[first:])))


def _signature(arg: Any) -> Any:
    """The properties of an input that a graph depends on."""
    if isinstance(arg, tuple):
        return tuple(map(_plain, arg))
    if not isinstance(arg, Tensor):
        return _plain(arg)
    if arg.requires_grad:
        fix = "Gradients are for parameters; pass x.detach()."
        expected = "inputs that do not require grad"
        raise ArgumentError(message("capture", expected, "one that does", fix=fix))
    array = arg._array  # results depend on the memory order too, in their last bits
    return array.shape, array.dtype, array.strides, arg.device, arg._version.escaped


def _plain(arg: Any) -> Any:
    """An argument that is no tensor, so that 1, 1.0 and True, or 0.0 and -0.0, are not equal."""
    if type(arg) not in PLAIN:
        expected = "tensors, numbers, strings, None and tuples of the last three as arguments"
        raise ArgumentError(message("capture", expected, type(arg).__name__))
    return type(arg), repr(arg)


def _other_inputs(before: list[Any] | None, args: tuple[Any, ...]) -> list[Any] | None:
    """The arguments with other values in each tensor: the values of the call ``before``, or
    values near the present ones. None without a call before, and for values that prove nothing."""
    if before is None:
        return None
    others = []
    for arg, earlier in zip(args, before or args):
        if not isinstance(arg, Tensor):
            others.append(arg)
            continue
        array, other = move(arg._array, CPU), move(earlier._array, CPU)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return None  # NaN in all results would be the same, however wrong
        if array.size and array.tobytes() == other.tobytes():
            other = _near(array)
            if array.tobytes() == other.tobytes():
                return None
        others.append(_like(arg, other))
    return others


def _like(arg: Tensor, array: Any) -> Tensor:
    """A tensor with the values of ``array`` and the memory order of ``arg``; escaped if ``arg`` is,
    because escaped tensors are not deferred."""
    own = array_module(arg._array).empty_like(arg._array)
    assign(own, array)
    tensor: Tensor = Variable._wrap(own)
    tensor._version.escaped = arg._version.escaped
    return tensor


def _near(array: Any) -> Any:
    """Other values of the same kind."""
    other = np.roll(array, 1, axis=0) if array.ndim else array.copy()
    if array.dtype.kind == "f":
        noise = np.random.default_rng(0).standard_normal(array.shape)
        other = np.asarray(0.75 * other + 0.125 * noise, array.dtype)
    return other


class _CapturedCall:
    """A graph with its inputs, its results, and the gradients and versions that it writes."""

    def __init__(
        self, function: Callable[..., Any], args: Sequence[Any], state: State, device: Device
    ):
        self._inputs = [_like(arg, arg._array) if isinstance(arg, Tensor) else arg for arg in args]
        before = [(t, t._version, t._version.count) for t in state.tensors]
        entering = [(t, t._grad) for t in state.tensors]
        counts = [0 if g is None else g._version.count for _, g in entering]
        self._graph = Graph(device, [t._version for t in state.tensors])
        with self._graph.recorded():
            self._result = function(*self._inputs)
            _map_tensors(self._result, _array)  # lazy results are computed
            self._gradients = [(t, t._grad) for t, g in entering if t._grad is not g]
            for _, gradient in self._gradients:
                _ = None if gradient is None else gradient._array
        for number, tensor in enumerate(self._inputs):
            if isinstance(tensor, Tensor) and tensor._version.count:
                got = f"a write into input {number}"
                raise CaptureError(message("capture", "a function that only reads inputs", got))
        self._graph.join()
        before += [(t, g._version, n) for (t, g), n in zip(entering, counts) if g is not None]
        written = [(version, version.count - count) for _, version, count in before]
        self._written = [(version, times) for version, times in written if times]
        self._arrays = state.arrays()
        uses = self._graph.uses
        self.gradients_read = [(t, g) for t, g in entering if g is not None and uses(g._array)]

    @classmethod
    def proven(
        cls,
        function: Callable[..., Any],
        args: Sequence[Any],
        others: list[Any],
        state: State,
        device: Device,
    ) -> tuple[_CapturedCall | None, Any]:
        """A captured call, proven to do the same as the function, and the function's result.

        None in place of the captured call where an optimiser begins to keep state, or where
        gradients turn out to need copies (either happens once), or where the function leaves
        modules in another mode, or frozen, which a graph would not do.

        Raises:
            CaptureError: names the first result that differs.
        """
        with HeldBack() as signals:  # while parameters have other values than their own
            start, modes = Snapshot(state), state.signature(gradients=False)[:2]
            entered = links()
            try:
                result = signals.let_through(lambda: _copy(function(*args)))
                if state.signature(gradients=False)[:2] != modes:
                    return None, result
                if len(state.arrays()) != start.size:
                    return None, result
                if start.lost():
                    state.adds_to_gradients = True
                    return None, result
                expected = _outcome(result, state)
                start.restore(change=0.875)
                backend_of(device).release()  # idle memory, for the graph gets its own
                recorded = functools.partial(signals.let_through, function)
                captured = cls(recorded, others, state, device)
                start.restore()
                result = signals.let_through(captured, args)
                _demand_same(expected, _outcome(result, state), state.names())
            except BaseException:
                go_back(entered)
                start.restore()
                raise
            return captured, result

    def fits(self, state: State) -> bool:
        """Whether the state is still in the memory that was recorded."""
        arrays = state.arrays()
        same = len(arrays) == len(self._arrays) and all(map(operator.is_, arrays, self._arrays))
        return same and not any(t._grad is not g for t, g in self.gradients_read)

    def __call__(self, args: Sequence[Any]) -> Any:
        """Compute everything again for these inputs."""
        for mine, arg in zip(self._inputs, args):
            if isinstance(arg, Tensor):
                mine._array[...] = arg._array
        for version, _ in self._written:
            version.flush_readers()
        for tensor, gradient in self._gradients:
            tensor._grad = None  # should this fail
            if gradient is not None:
                gradient._version.flush_readers()
        try:
            self._graph.replay()
        finally:
            for version, times in self._written:
                version.advance(times)
        for tensor, gradient in self._gradients:
            tensor._grad = gradient
            if gradient is not None:
                gradient._version.advance(1)
        return _copy(self._result)


def _demand_same(
    expected: list[tuple[Any, Any]], got: list[tuple[Any, Any]], names: dict[int, str]
) -> None:
    for (what, first), (_, second) in zip(expected, got):
        if first != second:
            raise CaptureError(
                f"capture: expected a recording that repeats the function to the last bit, got "
                f"another {names.get(what, what) if isinstance(what, int) else what}. The "
                "function may compute outside of minires' operations, keep something from one "
                "call to the next, or use modules or optimisers that were not passed as state."
            )


def _outcome(result: Any, state: State) -> list[tuple[Any, Any]]:
    """(name, value) of everything that a call returns or changes; of arrays a digest."""
    outcome: list[tuple[Any, Any]] = []
    _map_tensors(result, lambda t: outcome.append(("result", _digest(t._array))))
    for tensor in state.tensors:
        outcome.append((id(tensor), _digest(tensor._array)))
        gradient = None if tensor._grad is None else _digest(tensor._grad._array)
        outcome.append((f"gradient of a parameter of shape {tensor.shape}", gradient))
    kept = [_digest(array) for array in state.arrays()[len(state.tensors) :]]
    outcome.append(("state of an optimiser", (kept, state.numbers())))
    return [*outcome, ("state of the random generator", random.get_state())]


def _digest(array: Any) -> tuple[Any, ...]:
    content = np.ascontiguousarray(move(array, CPU)).reshape(-1).view(np.uint8).data
    return array.shape, array.dtype, hashlib.blake2b(content, digest_size=16).digest()


def _map_tensors(result: Any, visit: Callable[[Tensor], Any]) -> Any:
    """The structure of ``result`` with ``visit(tensor)`` in the place of each tensor."""
    if result is None:
        return None
    if isinstance(result, Tensor):
        return visit(result)
    if isinstance(result, dict):
        return {key: _map_tensors(value, visit) for key, value in result.items()}
    if isinstance(result, tuple | list):
        parts = [_map_tensors(value, visit) for value in result]
        if hasattr(result, "_fields"):  # a named tuple
            return type(result)(*parts)
        return type(result)(parts)
    expected = "a function that returns tensors, alone or in tuples, lists and dicts"
    raise ArgumentError(message("capture", expected, type(result).__name__))


def _copy(result: Any) -> Any:
    """The results in memory of their own, outside the graph."""
    return _map_tensors(result, lambda t: Variable._wrap(t._array.copy(order="K")))
