"""CUDA C++ compiled as plain C++: what is changed in the text, compiler, flags, cache of builds.

A kernel becomes a shared library of its own, compiled twice at most: plain, and *checked*, where
every access to memory calls the runtime first (``checks.cpp``). The runtime is a library too, the
same for all. Builds are kept in the folder ``CUSIM_CACHE`` by their content, compiler and flags.
"""

from __future__ import annotations

import ctypes
import functools
import getpass
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
RUNTIME = ("scheduler.cpp", "memory.cpp", "counting.cpp", "checks.cpp")
FLAGS = ("-std=c++17", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off")
# A static of a template is one object in the whole process unless it is hidden: two builds of a
# kernel would share their shared memory.
KERNEL_FLAGS = (
    "-O1",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-fno-threadsafe-statics",
    "-Wno-unknown-pragmas",
    "-fno-exceptions",
)
CHECKED = (
    "-g1",
    "-gdwarf-4",  # of version 5 the GNU tools take the wrong file name
    "-fsanitize=thread",
    "--param=tsan-instrument-func-entry-exit=0",
    "-fsanitize=bounds-strict,alignment,null,shift,integer-divide-by-zero,signed-integer-overflow",
)
# options of NVRTC that say nothing about what a kernel computes
IGNORED = ("-lineinfo", "--generate-line-info", "-std=c++17", "--std=c++17")

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ALIGNED = r"(?:(?:alignas|__align__)\s*\(\s*\w+\s*\)\s*)?"
_DYNAMIC = re.compile(
    rf"extern\s+__shared__\s+{_ALIGNED}([\w:]+(?:\s+[\w:]+)*)\s+(\w+)\s*\[\s*\]\s*;"
)
_STATIC = re.compile(
    rf"(?<!extern )__shared__\s+({_ALIGNED}[^;=()\[\]]*?\b(\w+)\s*(?:\[[^;,]*?\]\s*)*);"
)


class SimulatorError(RuntimeError):
    """What the simulator refuses, and what it finds wrong in a kernel."""


class BuildError(SimulatorError):
    """The kernel's text is no program."""


@functools.cache
def compiler() -> str | None:
    """The C++ compiler: ``CXX``, or g++, or clang++; None if there is none."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    return next((found for name in names if (found := shutil.which(name))), None)


def missing() -> str:
    """Why kernels cannot be run here; an empty string where they can."""
    return "" if compiler() else "no C++ compiler (g++, or CXX): kernels cannot be simulated"


@functools.cache
def _version() -> str:
    command = [str(compiler()), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@functools.cache
def _processor_flags() -> tuple[str, ...]:
    """Fused multiply-add as an instruction, where the processor has it: else a slow function."""
    cpuinfo = Path("/proc/cpuinfo")
    has = cpuinfo.exists() and " fma " in cpuinfo.read_text()
    return ("-mfma",) if has else ()


def cache() -> Path:
    """The folder of builds."""
    default = Path(tempfile.gettempdir()) / f"cusim-{getpass.getuser()}"
    folder = Path(os.environ.get("CUSIM_CACHE", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _static_array(found: re.Match[str]) -> str:
    declaration = found[1].replace("alignas", "__align__")  # which C++ takes behind "static", too
    return f"__shared__ {declaration}; CUSIM_SHARED({found[2]});"


def rewritten(text: str) -> str:
    """The text with its declarations of shared memory as plain C++, line for line.

    Raises:
        BuildError: a declaration is none of the two forms that are known.
    """
    text = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), text)
    declared = len(re.findall(r"\b__shared__\b", text))
    text, dynamic = _DYNAMIC.subn(r"\1* \2 = static_cast<\1*>(cusim::dynamic_shared());", text)
    text, static = _STATIC.subn(_static_array, text)
    if dynamic + static != declared:
        raise BuildError(
            f"expected one array per __shared__ declaration, got {declared - dynamic - static} of "
            f"{declared} declarations of another form"
        )
    return text


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{command[0]} failed:\n{done.stderr[:4000]}")


def _compiled(unit: str, sources: list[Path], key: object, flags: tuple[str, ...]) -> Path:
    """The shared library of a text or of files, from the cache or made now."""
    if missing():
        raise SimulatorError(missing())
    flags = (*FLAGS, *_processor_flags(), *flags)
    content = repr((key, unit, flags, compiler(), _version()))
    library = cache() / f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        if unit:
            sources = [Path(folder) / "kernel.cpp"]
            sources[0].write_text(unit)
        objects = [f"{folder}/{source.stem}.o" for source in sources]
        for source, to in zip(sources, objects, strict=True):
            _run([str(compiler()), *flags, f"-I{HERE}", "-c", "-o", to, str(source)])
        # Linked without flags: what sanitizers call is in the runtime.
        _run([str(compiler()), "-shared", "-o", f"{folder}/library.so", *objects])
        os.replace(f"{folder}/library.so", library)
    return library


def _headers() -> tuple[str, ...]:
    return tuple(path.read_text() for path in sorted(HERE.glob("*.hpp")))


@functools.cache
def runtime() -> ctypes.CDLL:
    """The library that runs kernels. Its functions are visible to those loaded afterwards."""
    sources = [HERE / name for name in RUNTIME]
    key = (_headers(), [source.read_text() for source in sources])
    library = ctypes.CDLL(str(_compiled("", sources, key, ("-O2",))), mode=ctypes.RTLD_GLOBAL)
    library.cusim_launch.restype = ctypes.c_char_p
    library.cusim_found_at.restype = ctypes.c_void_p
    library.cusim_counted.restype = ctypes.POINTER(ctypes.c_double)
    return library


def options_for(options: tuple[str, ...]) -> tuple[str, ...]:
    """The compiler's options for NVRTC's.

    Raises:
        BuildError: one is not known here.
    """
    unknown = [o for o in options if not o.startswith(("-D", "-I")) and o not in IGNORED]
    if unknown:
        raise BuildError(f"expected options -D, -I or one of {IGNORED}, got {unknown}")
    return tuple(o for o in options if o.startswith(("-D", "-I")))


def built(text: str, names: list[str], options: tuple[str, ...], checked: bool) -> ctypes.CDLL:
    """The library of the kernels ``names`` of a text."""
    runtime()
    exports = "\n".join(f"CUSIM_EXPORT({i}, {name})" for i, name in enumerate(names))
    start = "" if text.lstrip().startswith("#line") else '#line 1 "kernel.cu"\n'
    unit = f'#include "cuda.hpp"\n{start}{rewritten(text)}\n#line 1 "exports"\n{exports}\n'
    flags = (*KERNEL_FLAGS, *options_for(options), *(CHECKED if checked else ()))
    return ctypes.CDLL(str(_compiled(unit, [], _headers(), flags)))


def source_line(library: ctypes.CDLL, address: int) -> str:
    """Which line of the source the code before an address is of, as far as addr2line knows."""
    start = 0
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith(library._name):
                start = int(line.split("-")[0], 16)
                break
    program = shutil.which("addr2line")
    if not program:
        return "an unknown line: addr2line (binutils) is missing"
    command = [program, "-e", library._name, hex(address - 1 - start)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return re.sub(r" \(discriminator \d+\)", "", found).rsplit("/", 1)[-1]
