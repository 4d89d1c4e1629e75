"""The variable: an array with a place on the tape."""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..arguments import flag
from ..device import CPU, OWN_MEMORY, Device, check_writeable, device_of
from ..errors import ArgumentError, DTypeError, GraphError, message, quoted
from .lazy import Lazy
from .modes import _grad_mode, enable_grad
from .tape import Meta, Node, check_gradient
from .version import Version


class Variable:
    """An array with a place on the tape. :class:`minires.Tensor` is this with operations."""

    __slots__ = (  # and no others: x.requires_gard = True is an error
        "__weakref__",
        "_array",
        "_grad",
        "_hooks",
        "_index",
        "_lazy",
        "_node",
        "_node_version",
        "_requires_grad",
        "_retains",
        "_version",
        "_view",
    )
    _class: ClassVar[type[Variable]]

    _array: Any  # not there while the tensor is lazy
    _version: Version
    _lazy: Lazy | None  # the array to come, while it is still to be computed
    _node: Node | None  # the operation that made the tensor, if it is recorded
    _index: int  # which output of the node the tensor is
    _view: tuple[Variable, tuple[Any, ...], bool] | None  # base, steps, whether recorded
    _node_version: int  # of a view: the version that its node belongs to
    _requires_grad: bool
    _retains: bool
    _grad: Variable | None
    _hooks: dict[int, Callable[[Any], Any]] | None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not hasattr(Variable, "_class"):
            Variable._class = cls  # the first subclass, Tensor, is what operations return

    def __init__(self, array: Any, requires_grad: bool = False):
        self._array = array
        self._start()
        if requires_grad is not False:
            self.requires_grad = requires_grad

    def _start(self) -> None:
        self._version = Version()
        self._lazy = self._node = self._view = self._grad = self._hooks = None
        self._requires_grad = self._retains = False

    @staticmethod
    def _wrap(array: Any) -> Any:
        """A new tensor on this array, outside the graph."""
        variable = _new(Variable._class)
        if type(array) is not np.ndarray and not _is_array(array):
            array = np.asarray(array)  # NumPy reductions return scalars
        variable._array = array
        variable._version = Version()
        variable._lazy = variable._node = variable._view = None
        variable._grad = variable._hooks = None
        variable._requires_grad = variable._retains = False
        return variable

    @staticmethod
    def _defer(lazy: Lazy) -> Any:
        """A new lazy tensor, outside the graph."""
        variable = _new(Variable._class)
        variable._start()
        variable._lazy = lazy
        return variable

    def __getattr__(self, name: str) -> Any:
        """Called for missing attributes: computes the array of a lazy tensor."""
        if name != "_array":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        lazy = self._lazy
        if lazy is not None:
            self._array = lazy.realize()
            self._lazy = None  # after the array is there: another thread may look
        return object.__getattribute__(self, "_array")

    def _to_write(self, op: str, name: str, fix: str = OWN_MEMORY) -> Any:
        """The array, for the engine to write into; call ``bump_version`` afterwards. An operation
        that writes several asks for all of them first: nothing is written if one is refused.

        Raises:
            ArgumentError: it is read-only; the message says so of ``name``, and ``fix`` after it.
        """
        array = self._array
        check_writeable(op, name, array, fix)
        self._version.flush_readers()
        return array

    # -- facts

    @property
    def shape(self) -> tuple[int, ...]:
        lazy = self._lazy
        return self._array.shape if lazy is None else lazy.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        lazy = self._lazy
        return self._array.dtype if lazy is None else lazy.dtype

    @property
    def device(self) -> Device:
        """Where the array lives, or will."""
        lazy = self._lazy
        if lazy is not None:
            return lazy.device
        return CPU if type(self._array) is np.ndarray else device_of(self._array)

    @property
    def _meta(self) -> Meta:
        """Shape, dtype and device."""
        where: Any = self._lazy
        if where is None:
            array = self._array
            if type(array) is np.ndarray:
                return array.shape, array.dtype, CPU
            return array.shape, array.dtype, device_of(array)
        return where.shape, where.dtype, where.device

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
        value = flag("requires_grad", "value", value)
        if value and self.dtype.kind != "f":
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
        self._requires_grad = value

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
            check_gradient(value, self.shape, self.dtype, "grad")
        self._grad = value

    # -- the graph

    def _set_node(self, node: Node, index: int) -> None:
        if self._retains and self._node is not None:  # .grad is that of the newest value
            table = self._node.hooks[self._index]
            for key, hook in list(table.items()):
                if isinstance(hook, Keeper) and hook.variable() is self:
                    HookHandle(node.hooks.setdefault(index, {}), table.pop(key))
        self._node, self._index = node, index
        self._requires_grad = True
        self._node_version = self._version.count

    def _edge(self) -> Any:
        if self._view is not None:
            self._refresh()
        return self if self._node is None else (self._node, self._index)

    def _become_view(self, source: Variable, step: tuple[Any, ...]) -> None:
        """Note that this variable looks at ``source``'s memory, through ``step``."""
        self._version = source._version
        self._node_version = source._version.count
        if source._view is None:
            self._view = (source, (step,), _grad_mode.get().value)
        else:
            base, steps, recorded = source._view
            self._view = (base, (*steps, step), recorded and _grad_mode.get().value)

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

    def bump_version(self) -> None:
        """Say that ``.data`` was written in place; saved tensors then know they are stale."""
        self._version.bump()

    def register_hook(self, hook: Callable[[Any], Any]) -> HookHandle:
        """Call ``hook(grad)`` when this tensor's gradient is complete; a result replaces it.

        Raises:
            GraphError: the tensor does not require grad.
        """
        if not callable(hook):
            raise ArgumentError(message("register_hook", "a function of a gradient", quoted(hook)))
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
        self.register_hook(Keeper(self))

    if TYPE_CHECKING:  # bound by .final_hooks and .walk

        def register_final_hook(self, hook: Callable[[Any], Any]) -> HookHandle: ...

        def backward(
            self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False
        ) -> None: ...


_new = object.__new__  # quicker than asking the class for its own


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and not isinstance(value, np.generic)


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


class Keeper:
    """Stands among the hooks of a tensor that is not a leaf: its gradient is to be kept."""

    def __init__(self, variable: Variable):
        self.variable = weakref.ref(variable)  # the tensor holds its node, and that its hooks

    def __call__(self, gradient: Any) -> None:
        """Nothing: the walk looks for keepers itself, and keeps the result of the last hook."""
