"""Containers: modules whose children come in a list or a dict."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Self, overload

from minires import arguments
from minires.errors import ArgumentError, UnknownName, message, quoted
from minires.nn.module import Module, Parameter
from minires.tensor import Tensor


def _checked(owner: Module, module: Any) -> Module:
    if isinstance(module, Module):
        return module
    raise ArgumentError(
        message(
            type(owner).__name__,
            "modules",
            f"{quoted(module)} of type {type(module).__name__}",
            fix="Pass an instance, such as nn.ReLU().",
        )
    )


def _by_number(modules: Iterable[Any]) -> dict[str, Any]:
    return {str(i): module for i, module in enumerate(modules)}


class _Numbered(Module):
    """Children named "0", "1", ...: what Sequential and ModuleList share."""

    def _fill(self, named: Mapping[str, Any]) -> None:
        """Hold exactly these modules; number them anew unless some have names of their own."""
        for module in named.values():
            _checked(self, module)
        for name in self._modules:
            delattr(self, name)
        numbered = all(isinstance(name, str) and name.isdigit() for name in named)
        for i, (name, module) in enumerate(named.items()):
            self.add_module(str(i) if numbered else name, _checked(self, module))

    def _name_at(self, index: Any) -> str:
        names = list(self._modules)
        return names[arguments.position(type(self).__name__, index, len(names))]

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential | ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            # A subclass may have other constructor arguments: its slice is the plain container.
            part = Sequential() if isinstance(self, Sequential) else ModuleList()
            chosen = arguments.span(type(self).__name__, index)
            part._fill(dict(list(self._modules.items())[chosen]))
            return part
        return self._modules[self._name_at(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name_at(index), _checked(self, module))

    def __delitem__(self, index: int | slice) -> None:
        kept, name = list(self._modules.items()), type(self).__name__
        if isinstance(index, slice):
            del kept[arguments.span(name, index)]
        else:
            del kept[arguments.position(name, index, len(kept))]
        self._fill(dict(kept))

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), _checked(self, module))
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add several modules at the end."""
        given = arguments.iterator(type(self).__name__, "modules", modules)
        for module in [_checked(self, m) for m in given]:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Insert a module before position ``index``; the following ones move up by one."""
        modules: list[Any] = list(self)
        modules.insert(arguments.integer(type(self).__name__, "index", index), module)
        self._fill(_by_number(modules))
        return self


class Sequential(_Numbered):
    """Modules called one after the other: ``Sequential(a, b)(x) == b(a(x))``.

    Takes the modules, or one (ordered) dict of names to modules.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            self._fill(modules[0])
        else:
            self._fill(_by_number(modules))

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x


class ModuleList(_Numbered):
    """A list whose modules are registered; it has no ``forward`` of its own."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self._fill(_by_number(arguments.iterator(type(self).__name__, "modules", modules)))


class ModuleDict(Module):
    """A dict whose modules are registered; it has no ``forward`` of its own."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update({} if modules is None else modules)

    def _known(self, name: Any) -> str:
        if name not in self:
            owner, known = type(self).__name__, ", ".join(self) or "nothing"
            raise UnknownName(message(owner, f"one of the names {known}", quoted(name)))
        return str(name)

    def __getitem__(self, name: str) -> Module:
        return self._modules[self._known(name)]

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, _checked(self, module))

    def __delitem__(self, name: str) -> None:
        delattr(self, self._known(name))

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._modules

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> ValuesView[Module]:
        """The modules."""
        return self._modules.values()

    def items(self) -> ItemsView[str, Module]:
        """Names and modules."""
        return self._modules.items()

    def update(self, modules: Mapping[str, Module]) -> None:
        """Add or replace several modules, from a dict or from (name, module) pairs."""
        try:
            named = dict(modules)
        except Exception as error:  # also what a class's own __iter__ raises
            expected = "a dict of names and modules"
            raise ArgumentError(message(type(self).__name__, expected, quoted(modules))) from error
        for name, module in named.items():
            self[name] = module


class ParameterList(Module):
    """A list of registered parameters, named "0", "1", ...; plain tensors become parameters."""

    def __init__(self, values: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.extend(values)

    def append(self, value: Tensor) -> Self:
        """Add a parameter at the end."""
        if not isinstance(value, Tensor):
            raise ArgumentError(message("ParameterList", "tensors", type(value).__name__))
        parameter = value if isinstance(value, Parameter) else Parameter(value)
        self.register_parameter(str(len(self)), parameter)
        return self

    def extend(self, values: Iterable[Tensor]) -> Self:
        """Add several parameters at the end."""
        for value in arguments.iterator(type(self).__name__, "tensors", values):
            self.append(value)
        return self

    def __getitem__(self, index: int) -> Parameter:
        return self._parameters[str(arguments.position("ParameterList", index, len(self)))]

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._parameters.values())

    def extra_repr(self) -> str:
        return ", ".join(str(parameter.shape) for parameter in self)
