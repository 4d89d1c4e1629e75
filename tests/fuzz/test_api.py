"""Whatever a user passes anywhere: an answer, or an error of ours that teaches; never a raw one.

Each public function, constructor and method is called with each of its arguments replaced by each
of the values
of :mod:`fuzz.values`, among valid ones; of each argument every eighth value, starting at a place of
its own, or all of them with ``MINIRES_FUZZ=all`` in the environment (some minutes).
``MINIRES_FUZZ=all pytest tests/fuzz -k nn.functional`` tries all of one module.
"""

from __future__ import annotations

import inspect
import os
import resource
import sys
import typing
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
from fuzz.judge import boxed, fault, used
from fuzz.recipes import BY_NAME, INSTANCES, RECIPES, SKIPPED, TOGETHER, matrix
from fuzz.surface import Entry, arguments, surface
from fuzz.values import BAD
from harness import undrawn

import minires as mr
from minires import nn
from minires.kernels.numba.threads import get_num_threads, set_num_threads

ENTRIES = {entry.name: entry for entry in surface()}
CALLED = [
    entry for entry in ENTRIES.values() if entry.name not in SKIPPED and entry.owner not in SKIPPED
]
ROOM = 4 * 2**30  # bytes that a call may take beside what there is
STRIDE = 1 if os.environ.get("MINIRES_FUZZ") == "all" else 8
SHOWN = 60  # faults of one function that a failing test lists

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


def call(entry: Entry, replaced: dict[str, Any]) -> Any:
    """The function of valid arguments, but for those given here."""
    if entry.name in TOGETHER:
        values = TOGETHER[entry.name]() | replaced
    else:
        values = {key: make() for key, make in recipe(entry).items() if key not in replaced}
        values |= replaced
    first: list[Any] = []
    if entry.owner:
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
        if forward is None:
            return None
        return [make() for make in recipe(forward).values()]

    return inputs


def attempt(entry: Entry, replaced: dict[str, Any]) -> None:
    used(call(entry, replaced), following(entry) if inspect.isclass(entry.function) else None)


@pytest.fixture(autouse=True)
def _in_a_box(tmp_path, monkeypatch):
    """A folder of its own, little memory, and all settings back afterwards."""
    monkeypatch.chdir(tmp_path)
    threads = get_num_threads()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":  # elsewhere the limit is not kept, or the size not told
        present = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit = present * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    with boxed(), undrawn(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    set_num_threads(threads)


@pytest.mark.parametrize("entry", CALLED, ids=lambda entry: entry.name)
def test_valid_arguments_are_taken(entry):
    """Else the bad ones would stand among others, and nothing would come to them."""
    attempt(entry, {})


@pytest.mark.slow
@pytest.mark.parametrize("entry", CALLED, ids=lambda entry: entry.name)
def test_bad_arguments_end_in_errors_of_ours(entry):
    faults = []
    for name in names(entry):
        first = zlib.crc32(f"{entry.name} {name}".encode()) % STRIDE
        for label, make in list(BAD.items())[first::STRIDE]:
            mr.manual_seed(0)
            for what, value in _forms(entry, name, make):
                found = fault(lambda n=name, v=value: attempt(entry, {n: v()}))
                if found:
                    faults.append(f"{name} = {what.format(label)}: {found}")
    more = len(faults) - SHOWN
    listed = "\n  ".join([*faults[:SHOWN], *([f"... and {more} more"] if more > 0 else [])])
    assert not faults, f"{entry.name}: {len(faults)} calls\n  {listed}"


def _forms(entry: Entry, name: str, make: Any) -> list[Any]:
    """A value by itself; of ``*name``, alone and after the valid ones."""
    if name[0] != "*":
        return [("{}", make)]
    return [
        ("({},)", lambda: (make(),)),
        ("(..., {})", lambda: (*recipe(entry)[name](), make())),
    ]


def test_what_is_not_called_exists():
    assert set(SKIPPED) <= set(ENTRIES)
    assert set(RECIPES) <= set(ENTRIES)
