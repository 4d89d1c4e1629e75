"""Calls of everything public: with valid arguments, some of them replaced."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from fuzz.recipes import BY_NAME, INSTANCES, RECIPES, SKIPPED, TOGETHER, matrix
from fuzz.surface import Entry, arguments, surface

from minires import nn

ENTRIES = {entry.name: entry for entry in surface()}
CALLED = [
    entry for entry in ENTRIES.values() if entry.name not in SKIPPED and entry.owner not in SKIPPED
]
POSITIONAL, KEYWORDS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def recipe(entry: Entry) -> dict[str, Any]:
    """How to make each required argument, and those that the recipe of this function names."""
    own = RECIPES.get(entry.name, {})
    made = {}
    for p in arguments(entry):
        if p.kind is POSITIONAL:
            made[f"*{p.name}"] = own.get(f"*{p.name}", lambda: (2, 3))
        elif p.kind is KEYWORDS or entry.name in TOGETHER:
            continue
        elif p.name in own:
            made[p.name] = own[p.name]
        elif " " in entry.name:  # an operator
            made[p.name] = matrix
        elif p.default is inspect.Parameter.empty:
            assert p.name in BY_NAME, f"{entry.name} needs a recipe for {p.name}"
            made[p.name] = BY_NAME[p.name]
    return made


def instance(entry: Entry) -> Any:
    """What a method is called on."""
    own = RECIPES.get(entry.name, {})
    if "self" in own:
        return own["self"]()
    if entry.owner in INSTANCES:
        return INSTANCES[entry.owner]()
    return call(ENTRIES[entry.owner], {})


def same(value: Any) -> Any:
    return value


def call(entry: Entry, replaced: dict[str, Any], changed: Callable[[Any], Any] = same) -> Any:
    """The function of valid arguments, but for those given here; what is passed in the end is
    ``changed`` of each."""
    if entry.name in TOGETHER:
        values = TOGETHER[entry.name]() | replaced
    else:
        values = {key: make() for key, make in recipe(entry).items() if key not in replaced}
        values |= replaced
    first: list[Any] = []
    if entry.owner and not entry.static:
        owner = instance(entry)
        static = inspect.getattr_static(owner, entry.name.rpartition(".")[2], None)
        first.append(type(owner) if isinstance(static, classmethod) else owner)
    for p in arguments(entry):
        if p.kind is POSITIONAL:
            if first or any(
                q.kind is p.POSITIONAL_OR_KEYWORD for q in arguments(entry)
            ):  # what stands before the star
                first += [values.pop(q.name) for q in _before(entry) if q.name in values]
            first += values.pop(f"*{p.name}")
        elif p.kind is p.POSITIONAL_ONLY:
            first.append(values.pop(p.name))
    first, values = [changed(v) for v in first], {k: changed(v) for k, v in values.items()}
    return entry.function(*first, **values)


def _before(entry: Entry) -> list[inspect.Parameter]:
    return [p for p in arguments(entry) if p.kind is p.POSITIONAL_OR_KEYWORD]


def names(entry: Entry) -> list[str]:
    """Every argument that can be given, options of a TypedDict among them."""
    found = []
    for p in arguments(entry):
        if (
            entry.name.endswith((" = y", " in mr.Tensor")) and p.name == "x"
        ):  # other things have other attributes
            continue
        if p.kind is POSITIONAL:
            found.append(f"*{p.name}")
        elif p.kind is KEYWORDS:
            found += _options(entry, p.name)
        else:
            found.append(p.name)
    return found


def _options(entry: Entry, name: str) -> list[str]:
    function = entry.function.__init__ if inspect.isclass(entry.function) else entry.function
    try:
        hint = typing.get_type_hints(function, include_extras=True)[name]
    except NameError:  # names that only a type checker sees
        return []
    return list(typing.get_type_hints(typing.get_args(hint)[0])) if typing.get_args(hint) else []


def following(entry: Entry) -> Any:
    """What a module that was made is called with: the arguments of its ``forward``."""

    def inputs(module: nn.Module) -> Any:
        forward = ENTRIES.get(f"{entry.name}.forward")
        if forward is None or forward.name in SKIPPED:
            return None
        return [make() for make in recipe(forward).values()]

    return inputs
