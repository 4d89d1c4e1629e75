"""What CuPy has: its names, and the parameters of its functions, in ``cupy_names.txt``.

``python tests/cupy_names.py`` writes that file anew from the CuPy that is installed; no GPU is
needed for it. A line is a name; of a function its parameters follow a colon: ``*`` stands before
those that are given by keyword alone, ``*args`` and ``**kwargs`` take any.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from pathlib import Path

FILE = Path(__file__).with_suffix(".txt")
PLACES = """
    cupy cupy.ndarray cupy.ufunc cupy.linalg cupy.RawModule cupy.RawKernel cupy.cuda
    cupy.cuda.runtime cupy.cuda.Device cupy.cuda.Stream cupy.cuda.Event cupy.cuda.Graph
    cupy.cuda.MemoryPool cupy.cuda.MemoryPointer cupy.cuda.Memory cupy.cuda.UnownedMemory
    cupy.cuda.PinnedMemoryPool cupy.cuda.PinnedMemoryPointer cupyx
""".split()  # noqa: SIM905
UFUNC = ["*args", "out", "dtype", "casting"]


@functools.cache
def known():
    """{name: its parameters, or None for what is no function}, as the file says."""
    found = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        name, colon, parameters = line.partition(":")
        found[name] = parameters.split() if colon else None
    return found


def version():
    """The version of CuPy of which the file tells."""
    return FILE.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# CuPy ")


def installed():
    """The text of the file for the CuPy that is installed."""
    lines = [f"# CuPy {importlib.import_module('cupy').__version__}"]
    for place in PLACES:
        module, *path = place.split(".")
        owner = importlib.import_module(module)
        for part in path:
            owner = getattr(owner, part)
        for name in sorted(dir(owner)):
            special = re.fullmatch("__.*__", name) and owner.__name__ == "ndarray"
            if (name[0] != "_" or special) and (told := _told(owner, name)) is not None:
                lines.append(f"{place}.{name}{told}")
    return "\n".join(lines) + "\n"


def _told(owner, name):
    try:
        value = getattr(owner, name)
    except Exception:  # what needs libraries that are not installed
        return None
    if type(value).__name__ == "ufunc":
        return f": {' '.join(UFUNC)}"
    if isinstance(value, type) or not callable(value):
        return ""
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except ValueError:
        return _documented(value, name)
    if isinstance(owner, type) and parameters[:1] and parameters[0].name == "self":
        del parameters[0]
    words, starred = [], False
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and not starred:
            words.append("*")
        starred |= p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        words.append({p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name)
    return f": {' '.join(words)}".rstrip()


def _documented(value, name):
    """The parameters of a compiled function, whose documentation begins with them."""
    found = re.match(rf"[\w.]*\b{name}\((.*?)\)(?: ->.*)?$", value.__doc__ or "", re.MULTILINE)
    if found is None:
        return ": *args **kwargs"
    parts = [part.split("=")[0].split() for part in found[1].split(",") if part.strip()]
    return f": {' '.join(p[-1] for p in parts if p[-1] not in ('self', 'cls'))}".rstrip()


if __name__ == "__main__":
    text = installed()
    FILE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{FILE}: {len(text.splitlines())} lines\n")
