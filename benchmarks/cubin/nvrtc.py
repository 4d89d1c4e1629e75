"""NVRTC, the compiler that CuPy calls, from the wheel ``nvidia-cuda-nvrtc``.

A kernel is compiled as on a GPU: by the same library, with CuPy's options, to machine code of one
kind of GPU. How many registers it needs is in the log of ptxas, the assembler inside; for how many
threads it was compiled stands in the machine code itself.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# What CuPy 14 adds to a module's own options (cupy/cuda/compiler.py), and the log of ptxas.
OPTIONS = (
    "-std=c++17",
    "-ftz=true",
    "--device-as-default-execution-space",
    "--ptxas-options=-v",
)
REGISTERS = 64 * 1024  # of a multiprocessor, in all that follow
OLDEST = 80  # asynchronous copies, tf32 and max.NaN need it


class CompilerMissing(RuntimeError):
    """There is no NVRTC."""


class CompileError(RuntimeError):
    """A kernel that NVRTC refuses."""


@dataclass(frozen=True)
class Code:
    """A compiled kernel.

    Args:
        name: its name expression.
        symbol: what it is called in the machine code.
        target: 90 for ``sm_90``.
        registers: of a thread.
        shared: bytes of static shared memory of a block.
        stack: bytes of a thread's memory for what found no register, or is indexed.
        spills: bytes that are stored to it and loaded from it for want of registers.
        threads: the most that a block may have.
        cubin: the machine code of the program, in which there may be other kernels too.
        log: what the compiler said.
    """

    name: str
    symbol: str
    target: int
    registers: int
    shared: int
    stack: int
    spills: int
    threads: int
    cubin: bytes
    log: str


@functools.cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).glob("cu1*/lib/libnvrtc.so.*")):
            if "alt" not in path.name:
                return ctypes.CDLL(str(path))
    raise CompilerMissing('nvrtc: not installed. Install it with pip install "minires[test]".')


def missing() -> str:
    """Why nothing can be compiled here; an empty string where it can."""
    try:
        _library()
    except CompilerMissing as error:
        return str(error)
    return ""


def _call(name: str, *arguments: object) -> None:
    status = getattr(_library(), name)(*arguments)
    if status:
        raise CompileError(f"{name}: error {status}")


@functools.cache
def version() -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@functools.cache
def newest_target() -> int:
    """The newest kind of GPU that this NVRTC knows."""
    count = ctypes.c_int()
    _call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    targets = (ctypes.c_int * count.value)()
    _call("nvrtcGetSupportedArchs", targets)
    return max(targets)


def _text(program: ctypes.c_void_p, kind: str) -> bytes:
    size = ctypes.c_size_t()
    _call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    _call(f"nvrtcGet{kind}", program, data)
    return data.raw


def compiled(text: str, names: Sequence[str], target: int) -> tuple[list[Code], float]:
    """The kernels ``names`` of a text, compiled for one target, and the processor's seconds.

    Raises:
        CompileError: with the compiler's log.
        CompilerMissing: there is no NVRTC.
    """
    start = time.process_time()
    program = ctypes.c_void_p()
    source = text.encode()
    _call("nvrtcCreateProgram", ctypes.byref(program), source, b"kernels.cu", 0, None, None)
    try:
        for name in names:
            _call("nvrtcAddNameExpression", program, name.encode())
        flags = [option.encode() for option in (*OPTIONS, f"-arch=sm_{target}")]
        array = (ctypes.c_char_p * len(flags))(*flags)
        status = _library().nvrtcCompileProgram(program, len(flags), array)
        log = _text(program, "ProgramLog").rstrip(b"\0").decode()
        if status:
            raise CompileError(f"sm_{target}, {', '.join(names)}:\n{log[:4000]}")
        cubin = _text(program, "CUBIN")
        seconds = time.process_time() - start
        found = resources(log)
        codes = []
        for name in names:
            symbol = ctypes.c_char_p()
            _call("nvrtcGetLoweredName", program, name.encode(), ctypes.byref(symbol))
            mangled = (symbol.value or b"").decode()
            threads = most_threads(cubin, mangled)
            codes.append(Code(name, mangled, target, *found[mangled], threads, cubin, log))
        return codes, seconds
    finally:
        _library().nvrtcDestroyProgram(ctypes.byref(program))


def resources(log: str) -> dict[str, tuple[int, int, int, int]]:
    """Registers, shared memory, stack and spills by symbol, as ptxas tells them."""
    found: dict[str, list[int]] = {}
    now: list[int] = []
    for line in log.splitlines():
        if name := re.search(r"Compiling entry function '(\w+)'", line):
            now = found.setdefault(name[1], [0, 0, 0, 0])
        if sizes := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            now[2], now[3] = int(sizes[1]), int(sizes[2]) + int(sizes[3])
        if used := re.search(r"Used (\d+) registers", line):
            now[0] = int(used[1])
        if shared := re.search(r"(\d+) bytes smem", line):
            now[1] = int(shared[1])
    return {name: (a, b, c, d) for name, (a, b, c, d) in found.items()}


def most_threads(cubin: bytes, symbol: str) -> int:
    """The threads of a block for which a kernel was compiled, from ``__launch_bounds__``; 1024
    where it says nothing. A larger block is an error of the launch.

    A cubin is an ELF file, whose section ``.nv.info.<symbol>`` holds attributes: a byte for the
    format, one for the kind, a half for the size of what follows.
    """
    sized, max_threads = 0x04, 0x05
    data = _sections(cubin).get(f".nv.info.{symbol}", b"")
    at = 0
    while at + 4 <= len(data):
        form, kind, size = struct.unpack_from("<BBH", data, at)
        if form == sized and kind == max_threads:
            x, y, z = struct.unpack_from("<3I", data, at + 4)
            return int(x * y * z)
        at += 4 + (size if form == sized else 0)
    return 1024


def _sections(elf: bytes) -> dict[str, bytes]:
    """The contents of an ELF file's sections by name."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    strings = headers[names][4]
    found = {}
    for name, kind, _, _, offset, length in headers:
        label = elf[strings + name : elf.index(b"\0", strings + name)].decode()
        found[label] = b"" if kind == 8 else elf[offset : offset + length]  # 8: takes no room
    return found
