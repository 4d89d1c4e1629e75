"""``Module``: a tree of layers that knows its parameters, buffers and sub-modules.

A module keeps its members as ordinary attributes and *looks* at their types when it is asked for
them: a :class:`Parameter` is trained, a ``Module`` is a child, and a buffer is a tensor whose name
was announced with :meth:`Module.register_buffer`. There is no second registry that could disagree
with the attributes, so pickling, copying and ``del`` need no special care.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from minires import arguments
from minires.autograd import HookHandle, is_grad_enabled
from minires.device import Device, assign, beside, move
from minires.errors import ArgumentError, MiniresError, message, quoted
from minires.nn.hooks import call_watched
from minires.nn.module_html import module_html
from minires.nn.parameter import Parameter, Uninitialized
from minires.nn.state import as_tensors, fits, load_error, missing_keys
from minires.ops.layout import check_format
from minires.tensor import Tensor, as_dtype

changes = 0  # how often attributes or hooks of any module changed: captured graphs compare it


def _changed() -> None:
    global changes
    changes += 1


class ModuleAttributeError(MiniresError, AttributeError):
    """An attribute that a module does not have; an ``AttributeError``, so ``hasattr`` works."""


class IncompatibleKeys(NamedTuple):
    """The names that :meth:`Module.load_state_dict` could not pair up."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all layers and networks; a subclass assigns its parts in ``__init__`` and defines
    ``forward``.

    >>> from minires import nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return nn.functional.relu(self.fc(x))
    >>> [name for name, _ in Net().named_parameters()]
    ['fc.weight', 'fc.bias']
    """

    training: bool

    def __init__(self) -> None:
        self.training = True
        self._buffer_names: dict[str, bool] = {}  # name -> whether state_dict() contains it
        self._forward_pre_hooks: dict[int, Callable[..., Any]] = {}
        self._forward_hooks: dict[int, Callable[..., Any]] = {}
        self._backward_hooks: dict[int, Callable[..., Any]] = {}

    # ---------------------------------------------------------------------- attributes

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Parameter, Module)):
            self._require_init(f"assigning {name}")
        old = self.__dict__.get(name)
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            if isinstance(old, Parameter):
                raise ArgumentError(
                    message(
                        f"{type(self).__name__}.{name}",
                        "a Parameter (or None) in place of a Parameter",
                        f"a plain Tensor of shape {value.shape}",
                        fix=f"Wrap it: nn.Parameter(...), or write into it under no_grad(): "
                        f"{name}.copy_(...)",
                    )
                )
        elif value is not None and name in self.__dict__.get("_buffer_names", ()):
            raise ArgumentError(
                message(
                    f"{type(self).__name__}.{name}",
                    "a Tensor or None as buffer",
                    type(value).__name__,
                )
            )
        object.__setattr__(self, name, value)
        _changed()

    def __getattr__(self, name: str) -> Any:
        # Only reached when ordinary look-up failed.
        if isinstance(getattr(type(self), name, None), property):
            # The property exists; its own AttributeError is the one to show.
            return object.__getattribute__(self, name)
        near: list[str] = []
        if not name.startswith("__"):  # copy and pickle ask for dunder names, and expect no answer
            self._require_init(f"reading {name}")
            near = difflib.get_close_matches(name, dir(self), n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ModuleAttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        _changed()
        self._buffer_names.pop(name, None)

    def _require_init(self, doing: str) -> None:
        if "_buffer_names" not in self.__dict__:
            raise ModuleAttributeError(
                f"{type(self).__name__}: {doing} before Module.__init__() has run. "
                f"Call super().__init__() first in {type(self).__name__}.__init__"
            )

    def _check_new_name(self, kind: str, name: str) -> None:
        self._require_init(f"registering a {kind}")
        legal = isinstance(name, str) and name != "" and "." not in name
        if not legal:
            raise ArgumentError(
                message(
                    f"{type(self).__name__}: name of a {kind}",
                    "a non-empty string without a dot",
                    quoted(name),
                )
            )
        taken = hasattr(type(self), name) or not (
            isinstance(self.__dict__.get(name), (Tensor, Module, type(None)))
        )
        if taken:
            raise ArgumentError(
                message(
                    f"{type(self).__name__}: name of a {kind}",
                    "a name that the class does not use itself",
                    quoted(name),
                )
            )

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Set attribute ``name`` to a parameter; ``None`` says "this module has none of it"."""
        self._check_new_name("parameter", name)
        if param is not None and not isinstance(param, Parameter):
            raise ArgumentError(
                message("register_parameter", "a Parameter or None", type(param).__name__)
            )
        setattr(self, name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Set attribute ``name`` to a tensor that belongs to the state but is not trained.

        Buffers with ``persistent=False`` follow :meth:`to` but stay out of :meth:`state_dict`.
        """
        self._check_new_name("buffer", name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise ArgumentError(
                message("register_buffer", "a Tensor or None", type(tensor).__name__)
            )
        self._buffer_names[name] = arguments.flag("register_buffer", "persistent", persistent)
        setattr(self, name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """Set attribute ``name`` to a child module (the way for names that are not identifiers)."""
        self._check_new_name("module", name)
        if module is not None and not isinstance(module, Module):
            raise ArgumentError(message("add_module", "a Module or None", type(module).__name__))
        setattr(self, name, module)

    # ---------------------------------------------------------------------- members

    @property
    def _modules(self) -> dict[str, Module]:
        """Own children by name, in definition order, shared ones under each of their names."""
        return {k: v for k, v in self.__dict__.items() if isinstance(v, Module)}

    @property
    def _parameters(self) -> dict[str, Parameter]:
        return {k: v for k, v in self.__dict__.items() if isinstance(v, Parameter)}

    @property
    def _buffers(self) -> dict[str, Tensor]:
        found = {name: self.__dict__[name] for name in self._buffer_names}
        return {k: v for k, v in found.items() if v is not None}

    def named_modules(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, depth first, with dotted names; shared ones once."""
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            name, module = stack.pop()
            if remove_duplicate and id(module) in seen:
                continue
            seen.add(id(module))
            yield name, module
            below = f"{name}." if name else ""
            stack += [(below + k, child) for k, child in reversed(module._modules.items())]

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below this one, with their names; shared ones once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules directly below this one."""
        return (module for _, module in self.named_children())

    def _named_members(
        self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, tensor in getattr(module, kind).items():
                if remove_duplicate and id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                yield (f"{path}.{name}" if path else name), tensor

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names, in definition order; shared ones once."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, in definition order; shared ones once."""
        return (param for _, param in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """All buffers with their dotted names; shared ones once."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers; shared ones once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    # ---------------------------------------------------------------------- state

    def _named_state(self) -> dict[str, Tensor]:
        """The live tensors of the state, in PyTorch's order: per module parameters, buffers."""
        state: dict[str, Tensor] = {}
        for path, module in self.named_modules(remove_duplicate=False):
            below = f"{path}." if path else ""
            state |= {below + name: param for name, param in module._parameters.items()}
            state |= {
                below + name: buffer
                for name, buffer in module._buffers.items()
                if module._buffer_names[name]
            }
        return state

    def state_dict(self) -> dict[str, Tensor]:
        """Name -> detached tensor of every parameter and persistent buffer.

        The tensors share memory with the module, as in PyTorch: ``clone()`` what shall survive
        the next training step.
        """
        return {name: tensor.detach() for name, tensor in self._named_state().items()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy ``state_dict`` into this module's parameters and buffers.

        Values may be tensors, or arrays of NumPy, PyTorch and others. They are converted to the
        module's own float precision; shapes, and whether a value is floating point at all, must
        agree. Nothing is written unless everything fits. With ``strict=False`` names may be
        missing or left over; they are returned, and the rest loaded. A batch norm's
        ``num_batches_tracked`` stays as it is where only that is missing (old PyTorch files).
        Parameters of lazy layers take the shapes of what is loaded.

        Raises:
            CheckpointError: names every missing, unexpected and misshapen key at once.
            ArgumentError: no dict of names and tensors; a parameter or buffer of the module that
                looks at read-only memory.
            DTypeError: a value of a dtype that minires does not take.
        """
        own = self._named_state()
        given = as_tensors("load_state_dict", state_dict)
        missing = missing_keys(own, given)
        unexpected = [name for name in given if name not in own]
        misfit = any(not fits(own[name], given[name]) for name in own if name in given)
        if misfit or (strict and (missing or unexpected)):
            raise load_error(type(self).__name__, own, given, missing)
        loaded = [n for n in own if n in given and not isinstance(given[n], Uninitialized)]
        waiting = [name for name in loaded if isinstance(own[name], Uninitialized)]
        targets = {
            name: own[name]._to_write("load_state_dict", name)
            for name in loaded
            if name not in waiting
        }
        for name in waiting:
            own[name].materialize(given[name].shape)
            targets[name] = own[name]._to_write("load_state_dict", name)
        for name, array in targets.items():
            assign(array, given[name]._array)
            own[name].bump_version()
        return IncompatibleKeys(missing, unexpected)

    def to(
        self, target: Any = None, *, non_blocking: bool = False, memory_format: Any = None
    ) -> Self:
        """Move to a device, or convert to a float dtype, in place; returns the module.

        ``non_blocking`` and ``memory_format`` are taken so that PyTorch code runs, and change
        nothing: a move ends before this returns, and operations lay their memory out themselves.

        The parameters stay the same objects, so an optimiser that holds them goes on working; but
        what it remembers of them is not converted: convert before the first step.
        Integer buffers (``num_batches_tracked``) keep their dtype.
        """
        arguments.flag("Module.to", "non_blocking", non_blocking)
        if check_format("Module.to", memory_format) is not None and target is None:
            return self
        convert = _converter(target)
        for module in self.modules():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if isinstance(tensor, Uninitialized):
                    tensor._convert(convert)
                    continue
                array = convert(tensor._array)  # first: this may fail, and then nothing is lost
                grad = None if tensor.grad is None else Tensor(convert(tensor.grad._array))
                tensor.grad = None  # a gradient has its tensor's dtype at all times
                tensor._hold(array)
                tensor.grad = grad
        return self

    def cuda(self, device: int | str | Device = "cuda") -> Self:
        """Move to a GPU, given as its number or as a device, in place; returns the module."""
        index = arguments.as_integer(device)
        return self.to(device if index is None else Device("cuda", index))

    def cpu(self) -> Self:
        """Move to main memory, in place; returns the module."""
        return self.to("cpu")

    def float(self) -> Self:
        """Convert floating-point parameters and buffers to float32, in place."""
        return self.to(np.float32)

    def double(self) -> Self:
        """Convert floating-point parameters and buffers to float64, in place (gradient checks)."""
        return self.to(np.float64)

    # ---------------------------------------------------------------------- modes

    def train(self, mode: bool = True) -> Self:
        """Set training mode (batch statistics, dropout) here and below."""
        mode = arguments.flag("Module.train", "mode", mode)
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode (running statistics, no dropout) here and below."""
        return self.train(False)

    def apply(self, fn: Callable[[Module], object]) -> Self:
        """Call ``fn`` on every module, children before parents."""
        if not callable(fn):
            raise ArgumentError(message("Module.apply", "fn(module) to call", quoted(fn)))
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Switch gradients of all parameters on or off (freezing)."""
        requires_grad = arguments.flag("Module.requires_grad_", "requires_grad", requires_grad)
        for param in self.parameters():
            param.requires_grad = requires_grad
        return self

    def zero_grad(self) -> None:
        """Forget all gradients: ``grad`` becomes ``None``."""
        for param in self.parameters():
            param.grad = None

    # ---------------------------------------------------------------------- calling

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation of this module; every subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self._forward_pre_hooks or self._forward_hooks or self._backward_hooks):
            return self.forward(*args, **kwargs)
        for pre_hook in tuple(self._forward_pre_hooks.values()):
            replaced = pre_hook(self, args)
            if replaced is not None:
                args = replaced if isinstance(replaced, tuple) else (replaced,)
        if self._backward_hooks and is_grad_enabled():
            out = call_watched(self, args, kwargs)
        else:
            out = self.forward(*args, **kwargs)
        for hook in tuple(self._forward_hooks.values()):
            replaced = hook(self, args, out)
            if replaced is not None:
                out = replaced
        return out

    def register_forward_pre_hook(
        self, hook: Callable[[Module, tuple[Any, ...]], Any]
    ) -> HookHandle:
        """``hook(module, args)`` before ``forward``; a result other than None replaces ``args``."""
        return self._hooked(self._forward_pre_hooks, hook, "hook(module, args)")

    def register_forward_hook(
        self, hook: Callable[[Module, tuple[Any, ...], Any], Any]
    ) -> HookHandle:
        """``hook(module, args, output)`` after ``forward``; a result other than None replaces
        the output."""
        return self._hooked(self._forward_hooks, hook, "hook(module, args, output)")

    def register_full_backward_hook(
        self, hook: Callable[[Module, tuple[Any, ...], tuple[Any, ...]], Any]
    ) -> HookHandle:
        """``hook(module, grad_input, grad_output)`` when the gradients through this module are
        known.

        ``grad_input`` has one entry per positional argument (None where it takes no gradient) and
        holds what flows back through *this* module only. A returned tensor or one-tuple replaces
        the input gradient of a module with one differentiable input; elsewhere it is an
        :class:`ArgumentError`, since the first of several gradients has already moved on.
        """
        like = "hook(module, grad_input, grad_output)"
        return self._hooked(self._backward_hooks, hook, like)

    def _hooked(self, hooks: dict[int, Any], hook: Any, like: str) -> HookHandle:
        if not callable(hook):
            raise ArgumentError(message(type(self).__name__, f"{like} to call", quoted(hook)))
        _changed()
        return HookHandle(hooks, hook)

    # ---------------------------------------------------------------------- text

    def extra_repr(self) -> str:
        """The text between the parentheses of a layer without children."""
        return ""

    def __repr__(self) -> str:
        lines = [self.extra_repr()] if self.extra_repr() else []
        for name, child in self._modules.items():
            lines.append(f"({name}): " + repr(child).replace("\n", "\n  "))
        if not self._modules:
            return f"{type(self).__name__}({''.join(lines)})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"

    def _repr_html_(self) -> str:
        return module_html(self)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name.isidentifier()]


def _converter(target: Any) -> Callable[[Any], Any]:
    """The function that :meth:`Module.to` applies to each array, for a device or a float dtype."""
    name = target.split(":")[0] if isinstance(target, str) else ""
    if isinstance(target, Device) or name in ("cpu", "cuda"):
        device = Device.parse(target)
        return lambda array: move(array, device)
    dtype = as_dtype(target)
    if dtype.kind != "f":
        raise ArgumentError(message("Module.to", "a device or a float dtype", quoted(target)))

    def convert(array: Any) -> Any:
        with beside((array,)):
            return array.astype(dtype, copy=False) if array.dtype.kind == "f" else array

    return convert
