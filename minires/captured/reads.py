"""The variables and container entries that the Python of a captured function reads.

A replay runs kernels; Python that would decide otherwise today does not run. So the variables that
the function's code names are compared before each call, and another value means another graph:

- global variables and closure variables, numbers and text by value, anything else by identity;
- attributes that the code names, of Python modules, classes and objects among these
  (``config.SCALE``, ``self.scale``), but for modules of networks, optimisers and tensors, of which
  the state tells;
- the entries of lists, dicts and sets among all these, where there are at most 64 of them;
- all this for the functions that it calls, the methods of objects that it names, and the methods
  of its modules, where they are the user's: not of minires, NumPy or Python itself.

A variable in which the function only counts or logs (``n += 1``, ``log.append(x)``) is left out: it
changes when the Python runs. A variable that the function both changes and reads is an error.

Not seen are entries deeper in containers, names that are made while running (``getattr``), files,
clocks, and reads by code in other languages.
"""

from __future__ import annotations

import dis
import functools
import operator
import sys
import types
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..device import is_array
from ..errors import CaptureError
from ..nn.module import Module
from ..optim import Optimizer
from ..tensor import Tensor
from .state import MOST, PLAIN

LARGEST = 64  # entries of a container whose entries are compared
FOLLOWED = 512  # functions and objects that are followed
_OTHERS = sys.stdlib_module_names | {"minires", "numpy", "cupy", "numba", "builtins"}
_KNOWN = (Module, Optimizer, Tensor, np.generic, *PLAIN, tuple)
_ABSENT = object()


class Reads:
    """The variables that a function reads, and a number for each combination of their values."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._structure: int | None = None  # of the modules, when the variables were collected:
        # (owner, key, name in messages, mapping that has the value)
        self._variables: list[tuple[Any, str, str, Any]] = []
        self._cells: list[tuple[Any, str, str]] = []
        self._containers: list[tuple[Any, str, str]] = []
        self._entries: list[list[Any]] = []  # of each container
        self._last: list[Any] = []  # all values
        self._uses: Counter[str] = Counter()
        self._ignored: dict[Any, Any] = {}  # variables in which the function only counts or logs
        self._numbers: OrderedDict[Any, int] = OrderedDict()
        self._count = self._number = 0
        self._own = ""  # the name of a variable that the function changes and reads

    def signature(self, structure: int, modules: Sequence[Module]) -> int:
        """The number of the present values: equal values have one number.

        Args:
            structure: the number of the modules' structure (:meth:`.state.State.signature`).

        Raises:
            CaptureError: the function changed a variable that it reads when it last ran.
        """
        if self._own:
            raise CaptureError(
                f"capture: expected a function that leaves the variables it reads as they are, got "
                f"one that changes {self._own}: a recording would not do that again. Change it "
                "outside of the captured function, or keep it in a buffer of a module."
            )
        if structure == self._structure:
            now = self._values()
            if len(now) == len(self._last) and all(map(operator.is_, now, self._last)):
                return self._number
        found = _Collector(self._function, modules, self._ignored)
        self._variables, self._cells, self._containers = found.found()
        self._uses = found.uses
        self._structure, self._last = structure, self._values()
        self._entries = [_entries(container) for container, *_ in self._containers]
        told = tuple(map(_token, self._last))
        if told not in self._numbers:
            self._count += 1
            self._numbers[told] = self._count
            if len(self._numbers) > 2 * MOST:
                self._numbers.popitem(last=False)
        self._number = self._numbers[told]
        return self._number

    def ran(self, structure: int, modules: Sequence[Module]) -> int:
        """Compare the variables after the function ran. Returns the number of the values that
        further calls of this kind begin with."""
        now = self._values()
        places = [place[:3] for place in (*self._variables, *self._cells)]
        for (place, key, name), old, new in zip(places, self._last, now):
            if old is not new and _token(old) != _token(new):
                self._changed((id(place), key), place, name, self._uses[key] > 0)
        for (container, key, name), before in zip(self._containers, self._entries):
            after = _entries(container)
            if [*map(id, after)] == [*map(id, before)]:
                continue
            grew = len(after) > len(before) and {*map(id, before)} <= {*map(id, after)}
            read = (
                not grew and self._uses[key] > 1
            )  # reading the length of a log shows in the proof
            self._changed(id(container), container, f"the entries of {name}", read)
        return self._number if self._own else self.signature(structure, modules)

    def _changed(self, place: Any, thing: Any, name: str, read: bool) -> None:
        self._structure = None
        if read:
            self._own = self._own or name
        else:
            self._ignored[place] = thing

    def _values(self) -> list[Any]:
        values = [mapping.get(key, _ABSENT) for _, key, _, mapping in self._variables]
        values += [_content(cell) for cell, *_ in self._cells]
        for container, *_ in self._containers:
            values += container
            if type(container) is dict:
                values += container.values()
        return values


class _Collector:
    """Collects the variables and containers that a function's code names, directly or in the
    functions that it calls."""

    def __init__(self, function: Any, modules: Sequence[Module], ignored: dict[Any, Any]) -> None:
        self._ignored = ignored
        self._variables: dict[tuple[int, str], tuple[Any, str, str, Any]] = {}
        self._cells: dict[int, tuple[Any, str, str]] = {}
        self._containers: dict[int, tuple[Any, str, str]] = {}
        self.uses: Counter[str] = Counter()  # how often a name is read beyond being updated
        self._named: dict[str, None] = {}  # attributes that the code names
        self._objects: dict[int, tuple[Any, str]] = {}  # that may have some of them
        self._followed: dict[int, Any] = {}
        self._follow(function, "the function")
        for kind in dict.fromkeys(map(type, modules)):
            for base in kind.__mro__:
                for method in vars(base).values() if _is_users(base) else ():
                    self._follow(method, base.__name__)

    def found(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Variables, cells and containers, each with its name in messages."""
        looked = (-1, -1)
        while looked != (len(self._named), len(self._objects)):
            looked = (len(self._named), len(self._objects))
            for thing, name in [*self._objects.values()]:
                for attribute in [*self._named]:
                    self._attribute(thing, attribute, name)
        return [*self._variables.values()], [*self._cells.values()], [*self._containers.values()]

    def _attribute(self, thing: Any, attribute: str, name: str) -> None:
        own = getattr(thing, "__dict__", {})
        if attribute in own:
            self._variable(thing, own, attribute, f"{name}.{attribute}")
        kind = thing if isinstance(thing, type) else type(thing)
        for base in kind.__mro__ if not isinstance(thing, types.ModuleType) else ():
            if attribute in vars(base) and _is_users(base):
                self._variable(base, vars(base), attribute, f"{base.__name__}.{attribute}")

    def _variable(self, owner: Any, mapping: Any, key: str, name: str) -> None:
        place = id(owner), key
        if place not in self._variables and place not in self._ignored:
            self._variables[place] = owner, key, name, mapping
            self._follow(mapping.get(key), name, key)

    def _follow(self, value: Any, name: str, key: str = "") -> None:
        if isinstance(value, _KNOWN) or is_array(value) or len(self._followed) >= FOLLOWED:
            return
        first = not self._followed
        if id(value) in self._followed:
            return
        self._followed[id(value)] = value
        if isinstance(value, staticmethod | classmethod):
            self._follow(value.__func__, name)
        elif isinstance(value, property):
            self._follow(value.fget, name)
        elif isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self._follow(part, name)
        elif isinstance(value, types.MethodType):
            self._follow(value.__func__, name)
            self._follow(value.__self__, "self")
        elif isinstance(value, types.FunctionType):
            if first or _is_users(value):
                self._function(value)
        elif type(value) in (list, dict, set):
            if len(value) <= LARGEST and id(value) not in self._ignored:
                self._containers[id(value)] = value, key, name
        elif isinstance(value, types.ModuleType | type):
            if _is_users(value):
                self._objects[id(value)] = value, name
        elif first or _is_users(type(value)):
            self._objects[id(value)] = value, name
            if callable(value):
                self._follow(type(value).__call__, name)

    def _function(self, function: types.FunctionType) -> None:
        names, attributes, uses = _named(function.__code__)
        self._named |= dict.fromkeys(attributes)
        for name, times in uses:
            self.uses[name] += times
        for key, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            name = f"the variable {key}"
            if id(cell) not in self._cells and (id(cell), key) not in self._ignored:
                self._cells[id(cell)] = cell, key, name
            self._follow(_content(cell), name, key)
        for name in names:
            if name in function.__globals__:
                space = function.__globals__
                self._variable(space, space, name, f"the global variable {name}")
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._follow(value, f"a default of {function.__name__}")


@functools.lru_cache(maxsize=1024)
def _named(code: types.CodeType) -> tuple[Any, Any, Any]:
    """(global variables, attributes, uses) of code and of the functions inside it: the names, and
    for each name, closure variables too, how many more reads than writes there are."""
    names: dict[str, None] = {}
    attributes: dict[str, None] = {}
    uses: Counter[str] = Counter()
    for step in dis.get_instructions(code):
        kind, _, what = step.opname.partition("_")
        if what in ("GLOBAL", "NAME"):
            names[step.argval] = None
        elif what in ("ATTR", "METHOD"):
            attributes[step.argval] = None
        elif what != "DEREF":
            continue
        uses[step.argval] += 1 if kind == "LOAD" else -1
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            more = _named(inner)
            names |= dict.fromkeys(more[0])
            attributes |= dict.fromkeys(more[1])
            for name, times in more[2]:
                uses[name] += times
    return tuple(names), tuple(attributes), tuple(uses.items())


def _is_users(thing: Any) -> bool:
    """Whether a function, class or Python module is the user's."""
    module = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return isinstance(module, str) and module.partition(".")[0] not in _OTHERS


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return _ABSENT


def _entries(container: Any) -> list[Any]:
    values = container.values() if type(container) is dict else ()
    return [*container, *values]


class _Same:
    """A value that is equal to itself alone."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __hash__(self) -> int:
        return id(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value


def _token(value: Any) -> Any:
    """A key for a value: equal for equal numbers, text and tuples of them, else by identity."""
    if isinstance(value, np.generic) or type(value) in (*PLAIN, bytes, complex):
        return type(value), repr(value)
    if type(value) is tuple:
        return tuple(map(_token, value))
    return _Same(value)
