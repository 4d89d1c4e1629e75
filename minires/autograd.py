"""Reverse-mode automatic differentiation: the tape, and the walk back over it.

A :class:`Function` computes on arrays in ``forward`` and on tensors in ``backward``. Applying one
to variables of which some require a gradient makes a :class:`Node`; its edges point to the nodes
(or leaves) that made the inputs. :func:`backward` walks the nodes from the newest to the oldest,
which is a topological order because an input always exists before what is computed from it.

Because ``backward`` is written with tensor operations, a gradient is itself differentiable
(``create_graph=True``). Nothing here knows any operation, nor what a tensor can do beyond ``+``
and ``clone()``; :mod:`minires.tensor` builds the public class on :class:`Variable`.
"""

from __future__ import annotations

import contextlib
import contextvars
import heapq
import itertools
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .device import array_module
from .errors import ArgumentError, DTypeError, GraphError, NaNError, ShapeError, message

Place = tuple[str, int]

_grad_mode: contextvars.ContextVar[bool] = contextvars.ContextVar("minires_grad", default=True)
_anomaly: contextvars.ContextVar[bool] = contextvars.ContextVar("minires_anomaly", default=False)


# **** where the user was ****

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_ENGINE = tuple(
    os.path.join(_PACKAGE, part)
    for part in ("autograd.py", "tensor.py", "derivatives.py", "ops" + os.sep, "nn" + os.sep)
)
_is_engine: dict[str, bool] = {}


def caller() -> Place:
    """File and line of the nearest frame outside the engine: the line to name in a message."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if name not in _is_engine:
            _is_engine[name] = name.startswith(_ENGINE) or name == contextlib.__file__
        if not _is_engine[name]:
            break
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def show_place(place: Place) -> str:
    """``net.py:40``, relative to the working directory where that is shorter."""
    name, line = place
    near = os.path.relpath(name) if os.path.isabs(name) else name
    return f"{name if near.startswith('..') else near}:{line}"


# **** modes ****


class _Mode(contextlib.ContextDecorator):
    """Set a context variable inside ``with`` or a decorated function; nests, per thread."""

    def __init__(self, variable: contextvars.ContextVar[bool], value: bool):
        self._variable, self._value = variable, value
        self._tokens: list[contextvars.Token[bool]] = []

    def _recreate_cm(self) -> _Mode:  # a decorated function may run in several threads at once
        return _Mode(self._variable, self._value)

    def __enter__(self) -> None:
        self._tokens.append(self._variable.set(self._value))

    def __exit__(self, *exc: object) -> None:
        self._variable.reset(self._tokens.pop())


def no_grad() -> _Mode:
    """Record nothing: results inside do not require gradients. Context manager or decorator."""
    return _Mode(_grad_mode, False)


def enable_grad() -> _Mode:
    """Record again, inside :func:`no_grad`."""
    return _Mode(_grad_mode, True)


def set_grad_enabled(mode: bool) -> _Mode:
    """:func:`enable_grad` or :func:`no_grad`, by a flag."""
    return _Mode(_grad_mode, bool(mode))


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread."""
    return _grad_mode.get()


def detect_anomaly() -> _Mode:
    """Stop at the first operation that makes a NaN, forward or backward, and name its line."""
    return _Mode(_anomaly, True)


# **** the tape ****


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


Meta = tuple[tuple[int, ...], Any, Any]  # shape, dtype, array module
Edge = Any  # a leaf Variable, (Node, index of its output), or None for no gradient


class Context:
    """What one application of a Function remembers for its backward.

    ``needs_grad[i]`` says whether argument ``i`` wants a gradient. :meth:`save` keeps inputs and
    outputs, which come back from :attr:`saved` as tensors; :meth:`save_constants` keeps arrays
    that are not differentiated (masks, indices). Both are released after the backward pass; small
    facts such as a shape or a geometry are plain attributes and stay.
    """

    def __init__(self, needs_grad: tuple[bool, ...]):
        self.needs_grad = needs_grad
        self.released: Place | None = None
        self._requested: tuple[Any, ...] = ()
        self._saved: list[tuple[Any, ...]] = []
        self._constants: tuple[Any, ...] = ()
        self._node: Node | None = None

    if TYPE_CHECKING:  # small facts are attributes of any name

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def save(self, *arrays: Any) -> None:
        """Keep these inputs or outputs of forward (the very arrays, or None)."""
        self._requested = arrays

    def save_constants(self, *arrays: Any) -> None:
        """Keep arrays through which no gradient flows."""
        self._constants = arrays

    def _bind(
        self,
        args: Sequence[Any],
        arrays: Sequence[Any],
        results: Sequence[Any],
        outputs: Sequence[Any],
    ) -> None:
        """Find which input or output each saved array is, and note its version."""
        for array in self._requested:
            if array is None:
                self._saved.append(("none",))
                continue
            for arg, candidate in zip(args, arrays):
                if candidate is array and isinstance(arg, Variable):
                    self._saved.append(("input", arg, arg._version.count))
                    break
            else:
                for index, (out, made) in enumerate(zip(outputs, results)):
                    if made is array:
                        # the tensor itself would make a cycle with its node; its parts do not
                        version = out._version
                        self._saved.append(("output", out._array, version, version.count, index))
                        break
                else:
                    raise GraphError(
                        "Context.save takes inputs and outputs of forward; keep other arrays "
                        "with save_constants"
                    )
        self._requested = ()

    @property
    def saved(self) -> tuple[Any, ...]:
        """The saved inputs and outputs, as tensors that know where they came from.

        Raises:
            GraphError: one of them was changed in place since; names both lines.
        """
        assert self._node is not None
        result: list[Any] = []
        for kind, *rest in self._saved:
            if kind == "none":
                result.append(None)
            elif kind == "input":
                variable, count = rest
                self._check(variable._version, count, variable.shape)
                result.append(variable)
            else:
                array, version, count, index = rest
                self._check(version, count, array.shape)
                variable = Variable._wrap(array)
                variable._version = version
                variable._set_node(self._node, index)
                result.append(variable)
        return tuple(result)

    @property
    def constants(self) -> tuple[Any, ...]:
        return self._constants

    def _check(self, version: Version, count: int, shape: tuple[int, ...]) -> None:
        if version.count != count:
            node = self._node
            assert node is not None
            raise GraphError(
                f"{node.function.__name__} saved a tensor of shape {shape} (version {count}) at "
                f"{show_place(node.place)}; it was changed in place at "
                f"{show_place(version.place)} (version {version.count}). "
                "Use an out-of-place operation there, such as y = y + x."
            )

    def _keep_old(self, variable: Variable) -> None:
        """Keep a copy of a saved input that is about to be overwritten by this very result."""
        for position, (kind, *rest) in enumerate(self._saved):
            if kind == "input" and rest[0] is variable:
                old = Variable._wrap(variable._array.copy())
                old._node, old._index = variable._node, variable._index
                old._requires_grad = variable._requires_grad
                self._saved[position] = ("input", old, 0)

    def release(self, place: Place) -> None:
        if self._saved or self._constants:
            self._saved, self._constants, self.released = [], (), place


class Function:
    """An operation with a derivative.

    Subclasses define two static methods: ``forward(ctx, *arrays, **options)``, which computes on
    arrays and returns an array or a tuple of arrays, and ``backward(ctx, *gys)``, which gets and
    returns tensors, one per positional argument of forward (None where there is no gradient).
    """

    view: ClassVar[bool] = False  # forward returns a view of its first argument where it can

    @staticmethod
    def forward(ctx: Context, *arrays: Any, **options: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Context, *gys: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def apply(cls, *args: Any, **options: Any) -> Any:
        """Run forward, and record it if a gradient may be wanted."""
        needs = tuple(isinstance(a, Variable) and a.requires_grad for a in args)
        record = _grad_mode.get() and any(needs)
        arrays = [a._array if isinstance(a, Variable) else a for a in args]
        for name, option in options.items():
            if isinstance(option, Variable):  # no gradient could ever reach it
                raise GraphError(
                    f"{cls.__name__}: expected tensors as positional arguments, got one as {name}="
                )
        ctx = Context(needs if record else (False,) * len(needs))
        with np.errstate(all="ignore"):  # inf and nan are results, as in IEEE; see detect_anomaly
            result = cls.forward(ctx, *arrays, **options)
        many = isinstance(result, tuple)
        results = list(result) if many else [result]
        outputs = [Variable._wrap(array) for array in results]
        for out in outputs:
            if not cls.view and any(out._array is array for array in arrays):
                out._array = out._array.copy()  # an input handed through is no memory of its own
        if _anomaly.get():
            _check_forward(cls, arrays, outputs)
        if cls.view and memory(outputs[0]._array) is memory(args[0]._array):
            outputs[0]._become_view(args[0], (cls, args[1:], options))
        if record:
            cls._record(ctx, args, arrays, results, outputs)
        return tuple(outputs) if many else outputs[0]

    @classmethod
    def _record(
        cls,
        ctx: Context,
        args: Sequence[Any],
        arrays: Sequence[Any],
        results: Sequence[Any],
        outputs: Sequence[Variable],
    ) -> None:
        metas = [_meta(a) if isinstance(a, Variable) else None for a in args]
        edges = [a._edge() if need else None for a, need in zip(args, ctx.needs_grad)]
        node = Node(cls, ctx, edges, metas, [_meta(out) for out in outputs])
        for index, out in enumerate(outputs):
            if out._array.dtype.kind in "fc":
                out._set_node(node, index)
        ctx._bind(args, arrays, results, outputs)

    @classmethod
    def record(cls, ctx: Context, args: Sequence[Any], array: Any) -> Any:
        """A tensor on ``array``, recorded as this function's result of ``args``: for writes in
        place, which have no forward of their own."""
        output = Variable._wrap(array)
        cls._record(ctx, args, (), (), [output])
        return output


def _meta(variable: Variable) -> Meta:
    array = variable._array
    return array.shape, array.dtype, array_module(array)


def _has_nan(array: Any) -> bool:
    return array.dtype.kind in "fc" and bool(array_module(array).isnan(array).any())


def _check_forward(cls: type, arrays: Sequence[Any], outputs: Sequence[Variable]) -> None:
    if any(_has_nan(out._array) for out in outputs) and not any(
        hasattr(a, "dtype") and _has_nan(a) for a in arrays
    ):
        raise NaNError(
            f"{cls.__name__} made the first NaN of the forward pass at {show_place(caller())}: "
            "its inputs had none."
        )


def memory(array: Any) -> Any:
    """The array that owns the memory this one looks at."""
    while True:
        base = getattr(array, "base", None)
        if base is None or not hasattr(base, "dtype"):
            return array
        array = base


# **** variables ****


class Variable:
    """An array with a place on the tape. :class:`minires.Tensor` is this with operations."""

    __slots__ = (
        "__weakref__",
        "_array",
        "_grad",
        "_hooks",
        "_index",
        "_node",
        "_node_version",
        "_requires_grad",
        "_retains",
        "_version",
        "_view",
    )
    _class: ClassVar[type[Variable]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not hasattr(Variable, "_class"):
            Variable._class = cls  # the first subclass, Tensor, is what operations return

    def __init__(self, array: Any, requires_grad: bool = False):
        self._array = array
        self._version = Version()
        self._node: Node | None = None
        self._index = 0
        self._node_version = 0
        self._view: tuple[Variable, tuple[Any, ...], bool] | None = None
        self._requires_grad = False
        self._retains = False
        self._grad: Variable | None = None
        self._hooks: dict[int, Callable[[Any], Any]] | None = None
        if requires_grad:
            self.requires_grad = True

    @staticmethod
    def _wrap(array: Any) -> Any:
        """A new tensor on this array, outside the graph."""
        variable = Variable._class.__new__(Variable._class)
        if not hasattr(array, "shape") or isinstance(array, np.generic):
            array = np.asarray(array)  # NumPy reductions return scalars
        Variable.__init__(variable, array)
        return variable

    # -- facts

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def is_leaf(self) -> bool:
        """Made by the user (or detached), not by a recorded operation."""
        self._refresh()
        return self._node is None

    @property
    def grad_fn(self) -> Node | None:
        """The recorded operation that made this tensor, or None for a leaf."""
        self._refresh()
        return self._node

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to this tensor; settable on leaves."""
        if self._view is not None:
            self._refresh()
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and self._array.dtype.kind not in "fc":
            raise DTypeError(
                message(
                    "requires_grad",
                    "a floating-point tensor",
                    str(self._array.dtype),
                    fix="Only real numbers have derivatives; convert with .float().",
                )
            )
        if not self.is_leaf and not value:
            raise GraphError(
                f"requires_grad: expected a leaf, got the result of {self._node!r}. "
                "Use .detach() for a copy without history."
            )
        self._requires_grad = bool(value)

    @property
    def grad(self) -> Any:
        """The gradient that backward passes have added up here, or None."""
        if self._grad is None and self._requires_grad and not self._retains and self._node:
            warnings.warn(
                f"this tensor is the result of {self._node!r}; its grad is not kept. "
                "Call .retain_grad() on it before backward().",
                UserWarning,
                stacklevel=2,
            )
        return self._grad

    @grad.setter
    def grad(self, value: Variable | None) -> None:
        if value is not None:
            if not isinstance(value, Variable):
                raise DTypeError(message("grad", "a Tensor or None", type(value).__name__))
            _check_gradient(value, self._array.shape, self._array.dtype, "grad")
        self._grad = value

    # -- the graph

    def _set_node(self, node: Node, index: int) -> None:
        if self._retains and self._node is not None:  # .grad is that of the newest value
            table = self._node.hooks[self._index]
            for key, hook in list(table.items()):
                if isinstance(hook, _Keeper) and hook.variable() is self:
                    HookHandle(node.hooks.setdefault(index, {}), table.pop(key))
        self._node, self._index = node, index
        self._requires_grad = True
        self._node_version = self._version.count

    def _edge(self) -> Any:
        self._refresh()
        return self if self._node is None else (self._node, self._index)

    def _become_view(self, source: Variable, step: tuple[Any, ...]) -> None:
        """Note that this variable looks at ``source``'s memory, through ``step``."""
        self._version = source._version
        self._node_version = source._version.count
        if source._view is None:
            self._view = (source, (step,), _grad_mode.get())
        else:
            base, steps, recorded = source._view
            self._view = (base, (*steps, step), recorded and _grad_mode.get())

    def _refresh(self) -> None:
        """After an in-place write to its memory, a view's history starts anew from its base."""
        if self._view is None or self._node_version == self._version.count:
            return
        base, steps, recorded = self._view
        self._node_version = self._version.count
        if recorded and base.requires_grad:
            fresh = base
            with enable_grad():
                for function, args, options in steps:
                    fresh = function.apply(fresh, *args, **options)
            assert fresh._node is not None
            self._set_node(fresh._node, fresh._index)
        elif recorded and self._node is not None:  # overwritten by constants together with its base
            self._node, self._requires_grad = None, False

    def _check_inplace(self, *sources: Any) -> bool:
        """Whether an in-place write must be recorded; refuses those that cannot be."""
        if not _grad_mode.get():
            return False
        base, _, recorded = self._view or (self, (), True)
        leaf = next((v for v in (self, base) if v.is_leaf and v.requires_grad), None)
        if leaf is not None:
            what = "a leaf" if leaf is self else "a view of a leaf"
            raise GraphError(
                f"in-place write at {show_place(caller())}: {what} that requires grad cannot be "
                "changed in place, its gradient would have no meaning. Do it under "
                "minires.no_grad(), or make a new tensor (y = x + 1)."
            )
        record = self.requires_grad or any(
            isinstance(s, Variable) and s.requires_grad for s in sources
        )
        if record and not recorded:
            raise GraphError(
                f"in-place write at {show_place(caller())}: this view was made under no_grad(), "
                "so the write cannot be recorded. Make the view with gradients enabled."
            )
        return record

    def _replace(self, new: Variable) -> None:
        """Write ``new``'s values here, in place, and continue from ``new``'s place on the tape."""
        record = self._check_inplace(new)
        old = self._array
        if new._array.shape != old.shape:
            raise ShapeError(
                message(
                    "in-place operation",
                    f"a result of this tensor's shape {old.shape}",
                    new._array.shape,
                    fix="Use the out-of-place form.",
                )
            )
        if new._array.dtype != old.dtype:
            raise DTypeError(
                message(
                    "in-place operation",
                    f"a result of this tensor's dtype {old.dtype}",
                    str(new._array.dtype),
                    fix="Use the out-of-place form.",
                )
            )
        self._check_writeable()
        if record and new._node is not None:
            new._node.ctx._keep_old(self)
        old[...] = new._array
        self._written(new if record else None)

    def _check_writeable(self) -> None:
        if not getattr(self._array.flags, "writeable", True):  # CuPy arrays always are
            raise ArgumentError(
                f"in-place write: this tensor of shape {self.shape} looks at read-only memory "
                "(an expanded tensor, or a NumPy array marked so). Write to x.clone()."
            )

    def _written(self, new: Variable | None) -> None:
        """The array was written in place; ``new`` carries the history of what is in it now."""
        if new is None:
            self._version.bump()
            return
        if self._view is None:
            self._version.bump()
            if new.requires_grad:
                assert new._node is not None, "new values come out of an operation"
                self._set_node(new._node, new._index)
            else:  # overwritten by a constant: nothing flows back from here any more
                self._node, self._requires_grad = None, False
            return
        # a view: its base now holds the old values outside the view and the new ones inside
        base, steps, _ = self._view
        edges = [v._edge() if v.requires_grad else None for v in (base, new)]
        ctx = Context((edges[0] is not None, edges[1] is not None))
        ctx.steps = steps
        node = Node(_CopyIntoView, ctx, edges, [_meta(base), _meta(new)], [_meta(base)])
        self._version.bump()
        base._set_node(node, 0)

    def bump_version(self) -> None:
        """Say that ``.data`` was written in place; saved tensors then know they are stale."""
        self._version.bump()

    def register_hook(self, hook: Callable[[Any], Any]) -> HookHandle:
        """Call ``hook(grad)`` when this tensor's gradient is complete; a result replaces it.

        Raises:
            GraphError: the tensor does not require grad.
        """
        if not self.requires_grad:
            raise GraphError("register_hook: expected a tensor that requires grad, got one not")
        if self._node is None:
            if self._hooks is None:
                self._hooks = {}
            table = self._hooks
        else:
            table = self._node.hooks.setdefault(self._index, {})
        return HookHandle(table, hook)

    def retain_grad(self) -> None:
        """Keep ``.grad`` of a tensor that is not a leaf."""
        if not self.requires_grad:
            raise GraphError("retain_grad: expected a tensor that requires grad, got one not")
        if self._node is None or self._retains:
            return
        self._retains = True
        self.register_hook(_Keeper(self))

    def backward(
        self,
        gradient: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> None:
        """Add the gradient of this tensor to ``.grad`` of every leaf behind it.

        Args:
            gradient: the upstream gradient, of this tensor's shape; needed unless it is a scalar.
            retain_graph: keep what the graph saved, for another backward. Default: create_graph.
            create_graph: record the backward pass itself, for higher derivatives.

        Raises:
            ShapeError: not a scalar and no ``gradient``, or one of another shape.
            GraphError: nothing requires grad, or the graph was released by an earlier backward.
        """
        walk([self], [gradient], None, retain_graph, create_graph)


class HookHandle:
    """Takes a hook away again: ``handle.remove()``, or leaving a ``with handle:`` block."""

    _keys: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, table: dict[int, Any], hook: Any):
        self._table = table
        self._key = next(HookHandle._keys)
        table[self._key] = hook

    def remove(self) -> None:
        self._table.pop(self._key, None)

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class _Keeper:
    """Stands among the hooks of a tensor that is not a leaf: its gradient is to be kept."""

    def __init__(self, variable: Variable):
        self.variable = weakref.ref(variable)  # the tensor holds its node, and that its hooks

    def __call__(self, gradient: Any) -> None:
        """The walk looks for these itself, to keep what the last hook made of the gradient."""


class _CopyIntoView(Function):
    """base[view] = new: what a base becomes when one of its views is written in place."""

    @staticmethod
    def backward(ctx: Context, gy: Any) -> Any:
        seen = gy
        for function, args, options in ctx.steps:
            seen = function.apply(seen, *args, **options)
        if not ctx.needs_grad[0]:
            return None, seen
        # the base keeps its gradient outside the view; where that is, the steps say themselves
        # when they are taken on the numbers of the entries, in whatever memory layout
        xp = array_module(gy._array)
        inside = Variable._wrap(xp.arange(gy._array.size).reshape(gy.shape))
        for function, args, options in ctx.steps:
            inside = function.apply(inside, *args, **options)
        outside = xp.ones(gy._array.size, gy._array.dtype)
        outside[inside._array.reshape(-1)] = 0
        return gy * Variable._wrap(outside.reshape(gy.shape)), seen


# **** the walk back ****


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """Gradients of ``outputs`` with respect to ``inputs``, without touching any ``.grad``.

    Args:
        outputs: a tensor or a sequence of them.
        inputs: a tensor or a sequence of them, leaves or not.
        grad_outputs: upstream gradients, one per output; may be left out for scalars.
        retain_graph: keep what the graph saved. Default: the value of ``create_graph``.
        create_graph: make the gradients differentiable in turn.
        allow_unused: give None for an input that no output depends on, instead of an error.

    Returns:
        A tuple with one gradient per input.
    """
    outs = [outputs] if isinstance(outputs, Variable) else list(outputs)
    ins = [inputs] if isinstance(inputs, Variable) else list(inputs)
    if grad_outputs is None:
        gys: list[Any] = [None] * len(outs)
    else:
        gys = list(grad_outputs) if isinstance(grad_outputs, tuple | list) else [grad_outputs]
    if len(gys) != len(outs):
        raise ShapeError(message("grad", f"{len(outs)} grad_outputs", len(gys)))
    for index, variable in enumerate(ins):
        if not variable.requires_grad:
            raise GraphError(
                f"grad: input {index} of shape {variable.shape} does not require grad. "
                "Make it with requires_grad=True, or call .requires_grad_() before using it."
            )
    result = walk(outs, gys, ins, retain_graph, create_graph)
    for index, gradient in enumerate(result):
        if gradient is None and not allow_unused:
            raise GraphError(
                f"grad: input {index} of shape {ins[index].shape} was not used to compute the "
                "outputs. Leave it out, or pass allow_unused=True to get None for it."
            )
    return tuple(result)


def _start(output: Variable, gradient: Any) -> Any:
    if not output.requires_grad:
        raise GraphError(
            f"backward: no tensor behind this result of shape {output.shape} has "
            "requires_grad=True. Did you call detach() or numpy(), or build it under no_grad()?"
        )
    if gradient is None:
        if output._array.size != 1:
            raise ShapeError(
                f"backward() needs a scalar; got shape {output.shape}. Reduce it (.mean()) or "
                "pass gradient= of that shape."
            )
        return Variable._wrap(array_module(output._array).ones_like(output._array))
    if not isinstance(gradient, Variable):
        gradient = Variable._wrap(np.asarray(gradient, dtype=output._array.dtype))
    _check_gradient(gradient, output._array.shape, output._array.dtype, "backward")
    return gradient


def _check_gradient(gradient: Variable, shape: tuple[int, ...], dtype: Any, what: str) -> None:
    array = gradient._array
    if array.shape != shape:
        raise ShapeError(message(what, f"a gradient of shape {shape}", array.shape))
    if array.dtype != dtype:
        raise DTypeError(message(what, f"a gradient of dtype {dtype}", array.dtype))


def _leading_nodes(starts: list[Node], targets: set[Any]) -> set[Node]:
    """The nodes from which some target can be reached; the walk may skip all others."""
    found: set[Node] = set()
    seen: set[Node] = set()
    order: list[Node] = []
    stack = list(starts)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        order.append(node)
        stack += [edge[0] for edge in node.edges if isinstance(edge, tuple)]
    for node in sorted(order, key=lambda n: n.order):  # the oldest first
        for edge in node.edges:
            if edge is None:
                continue
            key = edge if isinstance(edge, tuple) else id(edge)
            if key in targets or (isinstance(edge, tuple) and edge[0] in found):
                found.add(node)
                break
    return found


def walk(
    outputs: Sequence[Variable],
    gradients: Sequence[Any],
    inputs: Sequence[Variable] | None,
    retain_graph: bool | None,
    create_graph: bool,
) -> list[Any]:
    """The backward pass, iterative. With ``inputs`` their gradients are returned, else the leaves'
    are added to ``.grad``. Releases what nodes saved as it goes, unless told to retain it."""
    retain = create_graph if retain_graph is None else retain_graph
    here = caller()
    sums: dict[Node, list[Any]] = {}  # the gradients of each node's outputs, so far
    leaves: dict[int, tuple[Variable, list[Any]]] = {}  # the same for leaves, by id
    own: set[int] = set()  # arrays in sums and leaves that the walk added up itself
    kept: list[tuple[Variable, Any]] = []  # what retain_grad asked for
    exposed = {id(memory(g._array)) for g in gradients if isinstance(g, Variable)}
    heap: list[Node] = []
    wanted: dict[Any, Any] = {}
    if inputs is not None:
        for variable in inputs:
            edge = variable._edge()
            wanted[edge if isinstance(edge, tuple) else id(edge)] = None

    def deliver(edge: Any, gradient: Any) -> None:
        if isinstance(edge, tuple):
            node, index = edge
            if node not in sums:
                sums[node] = [None] * len(node.outputs)
                heapq.heappush(heap, node)
            slots = sums[node]
        else:
            index, slots = 0, leaves.setdefault(id(edge), (edge, [None]))[1]
        present = slots[index]
        if present is None:
            slots[index] = gradient
        elif id(present._array) in own:  # nobody else has seen this array: no new memory
            _accumulate(present, gradient)
        else:
            slots[index] = present + gradient
            if not create_graph:
                own.add(id(slots[index]._array))

    def run_hooks(table: dict[int, Any] | None, gradient: Any) -> Any:
        if not table:
            return gradient
        keepers = []
        for hook in list(table.values()):
            if isinstance(hook, _Keeper):
                keepers.append(hook.variable())
                continue
            exposed.add(id(memory(gradient._array)))  # the hook may hold on to it
            replaced = hook(gradient)
            if replaced is not None:
                _check_gradient(replaced, gradient.shape, gradient._array.dtype, "hook")
                gradient = replaced
                exposed.add(id(memory(gradient._array)))
        kept.extend((v, gradient.clone()) for v in keepers if v is not None and inputs is None)
        return gradient

    with set_grad_enabled(create_graph):
        starts = []
        for output, given in zip(outputs, gradients):
            gradient = _start(output, given)
            edge = output._edge()
            if isinstance(edge, tuple):
                starts.append(edge[0])
            deliver(edge, gradient)
        leading = None if inputs is None else _leading_nodes(starts, set(wanted))
        while heap:
            node = heapq.heappop(heap)
            gys = sums.pop(node)
            for index, gradient in enumerate(gys):
                if gradient is None:
                    continue
                own.discard(id(gradient._array))
                gys[index] = gradient = run_hooks(node.hooks.get(index), gradient)
                if (node, index) in wanted:
                    wanted[node, index] = gradient
            if leading is not None and node not in leading:
                continue
            for edge, gx in zip(node.edges, _backward_of(node, gys, here)):
                if edge is not None and gx is not None:
                    deliver(edge, gx)
            if not retain:
                node.ctx.release(here)
        totals = [
            (leaf, run_hooks(leaf._hooks, total))
            for key, (leaf, (total,)) in leaves.items()
            if inputs is None or key in wanted
        ]
        if inputs is None:  # nothing has failed until here, and no .grad has changed
            for leaf, gradient in totals + kept:
                present = leaf._grad
                if present is None:
                    leaf._grad = _unaliased(gradient, exposed, create_graph)
                elif create_graph or not getattr(present._array.flags, "writeable", True):
                    leaf._grad = present + gradient
                else:
                    _accumulate(present, gradient)
                    present._version.bump()
            return []
        for leaf, gradient in totals:
            wanted[id(leaf)] = gradient
        result: list[Any] = []
        for variable in inputs:
            edge = variable._edge()
            gradient = wanted[edge if isinstance(edge, tuple) else id(edge)]
            if gradient is not None:
                gradient = _unaliased(gradient, exposed, create_graph)
            result.append(gradient)
        return result


def _accumulate(total: Variable, gradient: Variable) -> None:
    with np.errstate(all="ignore"):  # inf - inf is nan, as it is in a forward pass
        total._array += gradient._array


def _backward_of(node: Node, gys: list[Any], here: Place) -> Sequence[Any]:
    """Call a node's backward, and hold what it returns to its contract."""
    ctx, name = node.ctx, node.function.__name__
    if ctx.released is not None:
        raise GraphError(
            f"the values that {name} saved at {show_place(node.place)} were released by the "
            f"first backward at {show_place(ctx.released)}; a second one came at "
            f"{show_place(here)}. Compute the result again, or pass retain_graph=True."
        )
    for index, (shape, dtype, xp) in enumerate(node.outputs):
        if gys[index] is None:
            gys[index] = Variable._wrap(xp.zeros(shape, dtype))
    kept = {
        id(memory(item[1]._array if item[0] == "input" else item[1]))
        for item in ctx._saved
        if item[0] != "none"
    }
    kept.update(id(memory(array)) for array in ctx._constants if array is not None)
    ctx._node = node
    anomaly = _anomaly.get()
    token = _anomaly.set(False)  # it is this node that is to be named, not what it is made of
    try:
        result = node.function.backward(ctx, *gys)
    except NotImplementedError as error:
        raise GraphError(f"{name} at {show_place(node.place)} has no derivative.") from error
    finally:
        _anomaly.reset(token)
        ctx._node = None  # a node and its context would otherwise keep each other alive
    gxs: list[Any] = list(result) if isinstance(result, tuple) else [result]
    if len(gxs) != len(node.edges):
        raise GraphError(
            f"{name}.backward: expected {len(node.edges)} gradients (one per argument of "
            f"forward, None where there is none), got {len(gxs)}"
        )
    for index, (gx, edge, meta) in enumerate(zip(gxs, node.edges, node.metas)):
        if gx is None or edge is None or meta is None:
            continue
        if not isinstance(gx, Variable):
            expected = f"a tensor for argument {index}"
            raise GraphError(message(f"{name}.backward", expected, type(gx).__name__))
        _check_gradient(gx, meta[0], meta[1], f"{name}.backward, argument {index}")
        if id(memory(gx._array)) in kept:  # a saved array is no gradient: it may be the user's
            gxs[index] = gx = gx.clone()  # type: ignore[attr-defined]
        if anomaly and _has_nan(gx._array) and not any(_has_nan(g._array) for g in gys):
            raise NaNError(
                f"{name}, called at {show_place(node.place)}, made the first NaN of the "
                f"backward pass, in the gradient of argument {index}."
            )
    return gxs


def _unaliased(gradient: Any, exposed: set[int], create_graph: bool) -> Any:
    """A gradient the user may change without changing another one (or anything else)."""
    array = gradient._array
    root = memory(array)
    fresh = id(root) not in exposed and root.flags.writeable and root.size == array.size
    if not fresh:
        gradient = gradient.clone()
        root = memory(gradient._array)
    exposed.add(id(root))
    return gradient if create_graph else gradient.detach()
