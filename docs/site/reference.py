"""Which names the reference pages have: every public one, found by importing minires.

A page names modules by lines such as ``::: minires.nn``; each becomes one such line for each name
of the module, so that no name can be forgotten.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from docstrings import markdown

import minires

_MODULE = re.compile(r"^::: (\S+)$", re.MULTILINE)
_WITH_INHERITED = {"Tensor"}  # whose base classes are no public names
_METHODS = "<!-- methods of the tensor -->"


def public_names(module: str) -> list[str]:
    """The functions and classes that a module offers, and that belong to minires. ``minires``
    itself is listed without what it has from others that have pages of their own."""
    there: Any = importlib.import_module(module)
    names = set(vars(there).get("__all__") or dir(there))
    if there is minires:
        names -= {*dir(minires.ops), *minires.nn.__all__, *minires.interop.__all__}
    return sorted(name for name in names if name[0] != "_" and _is_public(there, name))


def _is_public(module: Any, name: str) -> bool:
    thing = getattr(module, name)
    home = getattr(thing, "__module__", "") or ""
    if inspect.ismodule(thing) or not callable(thing) or not home.startswith("minires"):
        return False
    # without an __all__, what a module imports for itself is not what it offers
    package = hasattr(module, "__path__")
    return "__all__" in vars(module) or package or home == module.__name__


def expand(markdown: str) -> str:
    """A reference page with a line for each name of the modules that it lists."""

    def lines(match: re.Match[str]) -> str:
        module = match[1]
        return "\n".join(_entry(module, name) for name in public_names(module))

    return _MODULE.sub(lines, markdown).replace(_METHODS, "\n".join(_methods()))


def _entry(module: str, name: str) -> str:
    """One name; where it is defined is what the reader of sources finds it under."""
    there = importlib.import_module(module)
    thing = getattr(there, name)
    home = f"{thing.__module__}.{thing.__qualname__}"
    known_as = dict.fromkeys((f"{module}.{name}", f"minires.{name}"))
    anchors = "\n".join(f"[](){{ #{alias} }}" for alias in known_as if alias != home) + "\n\n"
    if name != thing.__name__ and getattr(there, thing.__name__, None) is thing:
        return f"{anchors}## {name}\n\nAnother name of [`{thing.__name__}`][{home}].\n"
    if "<locals>" in home:  # made by a function: no source to read it from
        text = markdown(inspect.getdoc(thing) or "", module)
        return f"{anchors}## {name}\n\n```python\n{name}{_signature(thing)}\n```\n\n{text}\n"
    options = {"heading": name, "toc_label": name}
    if name in _WITH_INHERITED:
        options["inherited_members"] = "true"
    lines = "".join(f"      {key}: {value}\n" for key, value in options.items())
    return f"{anchors}::: {home}\n    options:\n{lines}"


def _signature(thing: Any) -> str:
    """With annotations as they are written, which inspect puts into quotation marks."""
    return re.sub(r"(?<=: |> )'([^']+)'", r"\1", str(inspect.signature(thing)))


def _methods() -> Iterator[str]:
    """A table of the methods that others give the tensor, with what each is documented by."""
    yield "| method | what it does |"
    yield "|---|---|"
    operations = set(public_names("minires.ops"))
    for name in dir(minires.Tensor):
        method = getattr(minires.Tensor, name)
        home, own = (getattr(method, key, "") or "" for key in ("__module__", "__qualname__"))
        if name[0] == "_" or not home.startswith("minires") or own.startswith(("Tensor", "Vari")):
            continue
        shown = (
            f"[`{name}`](operations.md#minires.ops.{name})" if name in operations else f"`{name}`"
        )
        summary = markdown(inspect.getdoc(method) or "", home)
        summary = summary.partition("\n\n")[0].replace("\n", " ")
        if not summary and name.endswith("_"):
            summary = f"`{name[:-1]}`, written into this tensor."
        yield f"| {shown} | {summary.replace('|', chr(92) + '|')} |"
