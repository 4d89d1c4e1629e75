"""CUDA sources: a ``.cu`` file and the headers that it includes, as one text for the compiler."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import KernelMissing, message

HEADERS = Path(__file__).parent
C_TYPES = {
    "f4": "float",
    "f8": "double",
    "i4": "int",
    "i8": "long long",
    "u4": "unsigned",
    "u1": "unsigned char",
    "b1": "bool",
}
_INCLUDE = re.compile(r'#include "([\w.]+)"')


def c_type(dtype: Any) -> str:
    """What C++ calls the entries of an array: ``float`` for float32.

    Raises:
        KernelMissing: there are no kernels for such entries.
    """
    name: str | None = C_TYPES.get(f"{dtype.kind}{dtype.itemsize}")
    if name is None:
        expected, fix = "one of " + ", ".join(C_TYPES.values()), 'Move the tensors with .to("cpu").'
        raise KernelMissing(message("cuda", expected, str(dtype), fix=fix))
    return name


@functools.cache
def text(path: Path) -> str:
    """The file with its includes in their places, each once.

    A header is looked for beside the file that includes it, then beside this module. CuPy keeps
    what it compiled by the text that it was given, not by the files that the text includes: with
    the includes left to the compiler, a changed header would go unnoticed.
    """
    return "\n".join(_lines(path, set()))


def _lines(path: Path, seen: set[Path]) -> list[str]:
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        include = _INCLUDE.fullmatch(line.strip())
        if include is None:
            lines.append("" if line == "#pragma once" else line)
            continue
        beside = path.parent / include[1]
        header = beside if beside.exists() else HEADERS / include[1]
        if header in seen:
            lines.append("")
        else:
            seen.add(header)
            lines += [*_lines(header, seen), f'#line {number + 1} "{path.name}"']
    return lines


class Parameter(NamedTuple):
    """A parameter of a kernel: ``const float* x`` is ("x", "float", True)."""

    name: str
    type: str
    pointer: bool


@functools.cache
def parameters(path: Path, name: str) -> tuple[Parameter, ...]:
    """The parameters of the kernel ``name`` of a file, as its source declares them.

    Raises:
        KernelMissing: the file has no such kernel.
    """
    pattern = rf"__global__\s+void\s+(?:__launch_bounds__\([^;{{]*?\)\s+)?{name}\s*\(([^)]*)\)"
    found = re.search(pattern, re.sub(r"//[^\n]*", "", text(path)))
    if found is None:
        raise KernelMissing(message("cuda", f"a kernel {name!r} in {path.name}", "none"))
    result = []
    for declaration in found[1].split(","):
        words = declaration.replace("*", " * ").split()
        kind = [w for w in words[:-1] if w not in ("*", "const", "__restrict__")]
        result.append(Parameter(words[-1], " ".join(kind), "*" in words))
    return tuple(result)
