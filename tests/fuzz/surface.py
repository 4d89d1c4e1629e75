"""The public API, found by walking it: every function, constructor and method, under one name."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import minires as mr
from minires.errors import MiniresError

# Short names of the rooms, in the order in which a thing that several offer gets its name.
ROOMS = {
    "minires": "mr",
    "minires.nn": "nn",
    "minires.nn.functional": "nn.functional",
    "minires.nn.init": "nn.init",
    "minires.nn.utils": "nn.utils",
    "minires.optim": "optim",
    "minires.optim.lr_scheduler": "optim.lr_scheduler",
    "minires.optim.swa_utils": "optim.swa_utils",
    "minires.data": "data",
    "minires.utils.data": "utils.data",
    "minires.models": "models",
    "minires.train": "train",
    "minires.interop": "interop",
    "minires.gradcheck": "gradcheck",
    "minires.captured": "captured",
    "minires.derivatives": "derivatives",
    "minires.random": "random",
    "minires.device": "device",
    "minires.cuda": "cuda",
    "minires.distributed": "distributed",
    "minires.study": "study",
    "minires.show": "show",
    "minires.vision.datasets": "vision.datasets",
    "minires.vision.transforms": "vision.transforms",
    "minires.vision.transforms.functional": "vision.transforms.functional",
    "minires.vision.utils": "vision.utils",
}

# Special methods that are called with arguments of a user's.
SPECIAL = ("__call__", "__getitem__", "__setitem__", "__delitem__", "__contains__")

BINARY = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "@": operator.matmul,
    "//": operator.floordiv,
    "%": operator.mod,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    "<": operator.lt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "+=": operator.iadd,
    "*=": operator.imul,
    "/=": operator.itruediv,
    "**=": operator.ipow,
}


class Entry(NamedTuple):
    """One thing to call: its name, the function, the class it is a method of, if it is, and
    whether it is called without an object of that class."""

    name: str
    function: Callable[..., Any]
    owner: str = ""
    static: bool = False


def _public(module: Any) -> list[str]:
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    return [
        name
        for name in dir(module)
        if name[0] != "_"
        and (
            module is mr
            or getattr(getattr(module, name), "__module__", None) == module.__name__
            or module.__name__ in ("minires.captured",)
        )
    ]


def _is_ours(value: Any) -> bool:
    return callable(value) and str(getattr(value, "__module__", "")).startswith("minires")


def _methods(name: str, cls: type) -> list[tuple[str, Any]]:
    found = []
    for key in dir(cls):
        value = inspect.getattr_static(cls, key)
        if isinstance(value, classmethod | staticmethod):
            value = value.__func__
        if inspect.isfunction(value) and (key[0] != "_" or key in SPECIAL) and _is_ours(value):
            found.append((f"{name}.{key}", value))
    return found


def surface() -> list[Entry]:
    """Everything there is to call, each once: functions and constructors, then methods."""
    entries: list[Entry] = []
    classes: dict[str, type] = {}
    seen: set[int] = set()
    for path, short in ROOMS.items():
        module = import_module(path)
        for key in sorted(_public(module)):
            value = getattr(module, key)
            if not _is_ours(value) or id(value) in seen:
                continue
            seen.add(id(value))
            if inspect.isclass(value):
                if issubclass(value, MiniresError | tuple):
                    continue
                classes[f"{short}.{key}"] = value
            entries.append(Entry(f"{short}.{key}", value))
    # a method has the name of the class that is nearest to the root
    for name, cls in sorted(classes.items(), key=lambda item: len(item[1].__mro__)):
        for method, function in _methods(name, cls):
            if id(function) not in seen:
                seen.add(id(function))
                found = inspect.getattr_static(cls, method.rpartition(".")[2])
                entries.append(Entry(method, function, name, isinstance(found, staticmethod)))
    return entries + _protocols()


def _protocols() -> list[Entry]:
    """What Python calls for operators and attributes."""
    entries = []
    for symbol, function in BINARY.items():
        entries.append(Entry(f"mr.Tensor {symbol} y", _operator(function)))
        if symbol[-1] != "=" or symbol in ("==", "!=", ">="):
            entries.append(Entry(f"y {symbol} mr.Tensor", _operator(function, swapped=True)))
    for key in ("grad", "data", "requires_grad"):
        entries.append(Entry(f"mr.Tensor.{key} = y", _setter(key)))
    entries.append(Entry("y in mr.Tensor", lambda x, y: y in x))
    return entries


def _operator(function: Any, swapped: bool = False) -> Any:
    return lambda x, y: function(y, x) if swapped else function(x, y)


def _setter(key: str) -> Any:
    return lambda x, y: setattr(x, key, y)


def arguments(entry: Entry) -> list[inspect.Parameter]:
    """The parameters that a user gives, without ``self``."""
    parameters = list(inspect.signature(entry.function).parameters.values())
    bound = entry.owner and not entry.static and not inspect.isclass(entry.function)
    return parameters[1:] if bound else parameters
