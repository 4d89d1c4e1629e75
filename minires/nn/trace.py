"""Tracing: which operations one forward pass of a network is made of, and on what they work.

A trace is a list of :class:`Step`, in the order in which they ran, each with the :class:`Value`
objects that it read and made. ``summary``, ``draw`` and ``export_onnx`` are built on it.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minires import arguments
from minires.autograd import Context, caller, copied, enable_grad, no_grad
from minires.creation import zeros
from minires.device import CPU, assign, beside, is_array
from minires.errors import ArgumentError, message, quoted
from minires.nn.module import Module
from minires.nn.parameter import Uninitialized
from minires.random import get_state, set_state
from minires.tensor import Tensor, as_dtype
from minires.watcher import Observer, observed_by


@dataclass(eq=False)
class Value:
    """A tensor that took part.

    Attributes:
        name: the key in the state dict of a parameter or buffer, else "".
        array: the values of a parameter, buffer or constant; None for what the pass computed.
        step: what made it; None for an input, a parameter or a constant.
        written: the line that wrote into it in a way that no step describes, as ``x[0] = 1`` does.
    """

    shape: tuple[int, ...]
    dtype: Any
    name: str = ""
    array: Any = None
    step: Step | None = None
    written: tuple[str, int] | None = None

    @property
    def nbytes(self) -> int:
        size = int(self.dtype.itemsize)
        for n in self.shape:
            size *= n
        return size


@dataclass(eq=False)
class Step:
    """One operation.

    Attributes:
        function: the :class:`~minires.autograd.Function` that was applied, or for a comparison
            ``operator.gt`` or a sibling of it.
        inputs: its positional arguments, with a :class:`Value` in place of each tensor.
        options: its keyword arguments.
        module: the dotted path of the module whose ``forward`` applied it.
        place: the line outside minires' engine that did.
        ctx: the context for its backward, if the pass was recorded.
    """

    function: Any
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    module: str
    place: tuple[str, int]
    ctx: Context | None = None
    outputs: tuple[Value, ...] = ()

    @property
    def values(self) -> list[Value]:
        """The inputs that are tensors."""
        return [value for value in self.inputs if isinstance(value, Value)]


@dataclass(eq=False)
class Trace:
    """The operations and tensors of one forward pass.

    Attributes:
        calls: for each call of a module, in the order of their ends, its dotted path and what it
            returned (None if that is not one tensor).
        outputs: the tensors that the network returned.
    """

    inputs: list[Value]
    outputs: list[Value] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    calls: list[tuple[str, Value | None]] = field(default_factory=list)

    def needed(self) -> list[Step]:
        """The steps that the outputs depend on, in order."""
        wanted = set(self.outputs)
        steps = []
        for step in reversed(self.steps):
            if not wanted.isdisjoint(step.outputs):
                wanted.update(step.values)
                steps.append(step)
        return steps[::-1]


def trace(name: str, net: Module, inputs: Sequence[Tensor], grad: bool = False) -> Trace:
    """Run ``net`` once in evaluation mode, operation by operation, and say what it did.

    The network and the random state are left as they were, and ``inputs`` are only read. With
    ``grad`` the pass is recorded, so that steps know what backward needs.

    Raises:
        ArgumentError: ``net`` is no module, or returns anything but tensors; calls itself ``name``.
    """
    check_module(name, net)
    given = [x.detach().clone() for x in inputs]
    recorder = _Recorder(net, given)
    with (
        unchanged(net),
        enable_grad() if grad else no_grad(),
        recorder.following(net),
        observed_by(recorder),
    ):
        result = net(*given)
    returned = result if isinstance(result, tuple | list) else [result]
    for output in returned:
        if not isinstance(output, Tensor):
            raise ArgumentError(
                message(
                    name,
                    f"{type(net).__name__} to return a tensor, or a tuple of tensors",
                    type(output).__name__,
                )
            )
    recorder.trace.outputs = [recorder.value(output) for output in returned]
    return recorder.trace


def check_module(name: str, net: Any) -> None:
    """Refuse a network that is none, or that cannot be called."""
    if not isinstance(net, Module):
        raise ArgumentError(message(name, "a Module as network", type(net).__name__))
    if getattr(net.forward, "__func__", None) is Module.forward:
        raise ArgumentError(
            message(
                name,
                "a network with a forward()",
                f"{type(net).__name__}, which defines none",
                fix="Define it, or put modules that follow one another into nn.Sequential.",
            )
        )


def initialized(net: Module, inputs: Sequence[Tensor]) -> Module:
    """The network; or, where layers of it wait for their first input, a copy that has seen this
    one. The random state is left as it was."""
    if not any(isinstance(t, Uninitialized) for t in (*net.parameters(), *net.buffers())):
        return net
    state, net = get_state(), copy.deepcopy(net).eval()
    try:
        with no_grad():
            net(*inputs)
    finally:
        set_state(state)
    return net


def tensors(name: str, x: Any) -> list[Tensor]:
    """``x``, a tensor or a tuple of them, as a list; arrays become tensors.

    Raises:
        ArgumentError: anything else.
    """
    given = list(x) if isinstance(x, tuple | list) else [x]
    for value in given or [None]:
        if not _is_given(value):
            kind = type(value).__name__
            raise ArgumentError(message(name, "a tensor, or a tuple of tensors, as x", kind))
    return [value if isinstance(value, Tensor) else Tensor(value) for value in given]


def tensors_or_zeros(name: str, net: Module, x: Any, dtype: Any = None) -> list[Tensor]:
    """:func:`tensors`, or zeros if ``x`` is a shape: of ``dtype`` or that of the parameters, and
    on their device.

    Raises:
        ArgumentError: neither tensors nor integers >= 1, batch first.
    """
    if _is_given(x) or (isinstance(x, tuple | list) and any(map(_is_given, x))):
        return tensors(name, x)
    given = list(x) if isinstance(x, tuple | list) else []
    sizes = [size for size in map(arguments.as_integer, given) if size is not None]
    if not len(sizes) == len(given) >= 2 or min(sizes) < 1:
        raise ArgumentError(
            message(
                name,
                "a tensor, or a shape of integers >= 1, batch first, such as (1, 3, 32, 32)",
                quoted(x),
            )
        )
    first = next(net.parameters(), None)
    if dtype is None:
        dtype = np.dtype(np.float32) if first is None else first.dtype
    itemsize = as_dtype(dtype).itemsize
    arguments.check_memory(name, math.prod(sizes) * itemsize, f"an input of shape {tuple(sizes)}")
    return [zeros(*sizes, dtype=dtype, device=CPU if first is None else first.device)]


def _is_given(x: Any) -> bool:
    """Whether an input is there, as a tensor or an array, and not as a shape."""
    return isinstance(x, Tensor) or is_array(x)


@contextlib.contextmanager
def unchanged(net: Module, evaluation: bool = True) -> Iterator[None]:
    """Evaluation mode inside, or else the mode that the network is in; afterwards modes, buffers
    and the random state as before."""
    modes = [(module, module.training) for module in net.modules()]
    buffers = [
        (module, name, buffer, copied(buffer._array))
        for module, _ in modes
        for name, buffer in module._buffers.items()
    ]
    state = get_state()
    if evaluation:
        net.eval()
    try:
        yield
    finally:
        set_state(state)
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, values in buffers:  # a forward may count its calls
            setattr(module, name, buffer)
            with beside((buffer,)):
                changed = bool((buffer._array != values).any())
            if changed:
                assign(buffer._to_write("trace", name), values)
                buffer.bump_version()


class _Recorder(Observer):
    """Writes a trace down.

    Tensors are told apart by their arrays, which also recognises ``x.detach()``. Every array seen
    is kept alive while this is, so that none can take another's place in memory.
    """

    def __init__(self, net: Module, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._known: dict[int, tuple[Any, Any, int, Value]] = {}
        self._path = [""]
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            self._know(tensor, Value(tensor.shape, tensor.dtype, name, tensor._array))
        self.trace = Trace([self._know(x, Value(x.shape, x.dtype)) for x in inputs])

    def _know(self, variable: Any, value: Value) -> Value:
        version = variable._version
        self._known[id(variable._array)] = (variable._array, version, version.count, value)
        return value

    def value(self, variable: Any) -> Value:
        """The :class:`Value` of this tensor in the trace; a constant if the tensor is unknown."""
        known = self._known.get(id(variable._array))
        if known is None:
            value = Value(variable.shape, variable.dtype, array=variable._array)
            return self._know(variable, value)
        _, version, count, value = known
        if variable._version is version and version.count != count:
            value = Value(variable.shape, variable.dtype, written=version.place)
            return self._know(variable, value)
        return value

    def leave(
        self,
        function: Any,
        ctx: Context | None,
        args: Sequence[Any],
        options: Mapping[str, Any],
        outputs: Sequence[Any],
    ) -> None:
        inputs = tuple(self._argument(a) for a in args)
        step = Step(function, inputs, dict(options), self._path[-1], caller())
        step.ctx = ctx if ctx is not None and ctx.recorded else None
        made = [Value(out.shape, out.dtype, step=step) for out in outputs]
        step.outputs = tuple(self._know(out, value) for out, value in zip(outputs, made))
        self.trace.steps.append(step)

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, Tensor):
            return self.value(arg)
        known = self._known.get(id(arg))  # the array of a tensor, as a condition is
        return arg if known is None else known[-1]

    def wrote(self, target: Any, new: Any) -> None:
        if target._view is None:  # else the memory that it looks at changed too, partly
            self._know(target, self.value(new))

    @contextlib.contextmanager
    def following(self, net: Module) -> Iterator[None]:
        """Know inside which module of ``net`` each step runs."""
        handles = []
        for path, module in net.named_modules():
            handles.append(module.register_forward_pre_hook(self._enters(path)))
            handles.append(module.register_forward_hook(self._leaves))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enters(self, path: str) -> Callable[..., None]:
        def enter(_module: Module, _args: Any) -> None:
            self._path.append(path)

        return enter

    def _leaves(self, _module: Module, _args: Any, output: Any) -> None:
        returned = self.value(output) if isinstance(output, Tensor) else None
        self.trace.calls.append((self._path.pop(), returned))
