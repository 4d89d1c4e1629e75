"""``RawModule`` and ``RawKernel`` of CuPy, on the CPU.

Arguments are passed as to CuPy, which hands the kernel their bytes and believes that they are what
the kernel declares. Here each is held against the kernel's signature first.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .build import SimulatorError, built, runtime, source_line

# What CUDA allows (compute capability 8.0 and newer).
MOST_THREADS, MOST_THREADS_Z = 1024, 64
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
SHARED, MOST_SHARED = 48 * 1024, 227 * 1024
# Blocks of one launch, beyond which a simulation would take minutes.
PATIENCE = 1 << 22

ORDERS = ("forward", "reverse", "shuffled")
TOUCHES = (
    "shared load",
    "shared store",
    "ldmatrix",
    "async to shared",
    "global load",
    "async from global",
    "global store",
)
_EXPORTED = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\('
)
_LOCK = threading.Lock()


class ArgumentError(SimulatorError):
    """An argument that is not what the kernel declares: CUDA would not notice."""


class LaunchError(SimulatorError):
    """A launch that CUDA refuses; ``code`` is the name of CUDA's error."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class KernelError(SimulatorError):
    """What a kernel did wrong."""


@dataclass(frozen=True)
class Conditions:
    """How launches are run.

    Args:
        order: of the threads, and of the blocks: ``"forward"``, ``"reverse"`` or ``"shuffled"``.
        late: whether asynchronous copies happen when they are waited for, the last moment that is
            allowed; else when they are started, the first.
        checked: whether every access to memory is looked at: races, and what lies outside of every
            array. Twenty times as slow.
        seed: of the shuffled order.
    """

    order: str = "forward"
    late: bool = True
    checked: bool = False
    seed: int = 1

    def __str__(self) -> str:
        copies = "late" if self.late else "early"
        return f"{self.order}-{copies}" + ("-checked" if self.checked else "")


# Between them they notice what can be noticed: a test of a kernel runs under each.
ALL_CONDITIONS = (
    Conditions(),
    Conditions("reverse", late=False),
    Conditions("shuffled"),
    Conditions(checked=True),
)
_conditions = contextvars.ContextVar("conditions", default=ALL_CONDITIONS[0])
_counted: contextvars.ContextVar[tuple[int, dict[str, Counts]] | None] = contextvars.ContextVar(
    "counted", default=None
)
# Functions that return the arrays that there are: those whose addresses a kernel gets in a struct,
# or as a number, it may touch.
reachable: list[Callable[[], Sequence[Any]]] = []


@contextlib.contextmanager
def running(conditions: Conditions | None = None, **changes: Any) -> Iterator[Conditions]:
    """Inside, launches run under these conditions, or under the present ones with changes."""
    now = replace(_conditions.get() if conditions is None else conditions, **changes)
    if now.order not in ORDERS:
        raise ValueError(f"running: expected order one of {ORDERS}, got {now.order!r}")
    token = _conditions.set(now)
    try:
        yield now
    finally:
        _conditions.reset(token)


@dataclass
class Counts:
    """What the accesses of one kind cost: wavefronts of shared memory or sectors of global memory,
    beside the least that they can cost."""

    instructions: int = 0
    cost: int = 0
    least: int = 0

    @property
    def excess(self) -> float:
        return self.cost / self.least if self.least else 1.0


@contextlib.contextmanager
def counting(block: int = 0) -> Iterator[dict[str, Counts]]:
    """Inside, the accesses of one block of each launch are counted, by kind (``TOUCHES``)."""
    counts: dict[str, Counts] = {}
    token = _counted.set((block, counts))
    try:
        yield counts
    finally:
        _counted.reset(token)


class _Array(ctypes.Structure):
    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("entry", ctypes.c_size_t),
        ("argument", ctypes.c_int32),
        ("writable", ctypes.c_int32),
    )


class _Launch(ctypes.Structure):  # runtime.hpp
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("dynamic", ctypes.c_size_t),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("arrays", ctypes.POINTER(_Array)),
        ("arrays_count", ctypes.c_int32),
        ("order", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("late", ctypes.c_int32),
        ("checked", ctypes.c_int32),
        ("counted", ctypes.c_int64),
    )


class RawModule:
    """``cupy.RawModule``: kernels of one text, compiled when one is asked for."""

    def __init__(
        self,
        *,
        code: str,
        options: Sequence[str] = (),
        backend: str = "nvrtc",
        name_expressions: Sequence[str] | None = None,
    ) -> None:
        self.code, self.options, self.backend = code, tuple(options), backend
        self.name_expressions = name_expressions
        self._names = list(name_expressions or _EXPORTED.findall(code))
        self._libraries: dict[bool, ctypes.CDLL] = {}

    def compile(self, log_stream: Any = None) -> None:
        self.library(_conditions.get().checked)

    def library(self, checked: bool) -> ctypes.CDLL:
        if checked not in self._libraries:
            self._libraries[checked] = built(self.code, self._names, self.options, checked)
        return self._libraries[checked]

    def get_function(self, name: str) -> RawKernel:
        if name not in self._names:
            raise LaunchError("CUDA_ERROR_NOT_FOUND", f"named symbol not found: {name}")
        kernel = RawKernel.__new__(RawKernel)
        kernel._set(self, name, self._names.index(name))
        return kernel


class RawKernel:
    """``cupy.RawKernel``: one kernel, called with a grid, a block and a tuple of arguments."""

    def __init__(
        self, code: str, name: str, options: Sequence[str] = (), backend: str = "nvrtc"
    ) -> None:
        module = RawModule(code=code, options=options, name_expressions=[name])
        self._set(module, name, 0)

    def _set(self, module: RawModule, name: str, number: int) -> None:
        self._module, self.name, self._number = module, name, number
        self._signature: list[str] | None = None
        self._most_dynamic = SHARED

    def compile(self, log_stream: Any = None) -> None:
        self._module.compile()

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._most_dynamic

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > MOST_SHARED:
            text = f"{self.name}: {size} bytes of shared memory, of which a block has {MOST_SHARED}"
            raise LaunchError("CUDA_ERROR_INVALID_VALUE", text)
        self._most_dynamic = size

    @property
    def signature(self) -> list[str]:
        """The kernel's parameters in letters (cuda.hpp, ``describe``)."""
        if self._signature is None:
            text = ctypes.create_string_buffer(4096)
            library = self._module.library(_conditions.get().checked)
            getattr(library, f"cusim_signature_{self._number}")(text)
            self._signature = text.value.decode().split()
        return self._signature

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: Any = None,
    ) -> None:
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        self._check_limits(grid, block, shared_mem)
        if len(args) != len(self.signature):
            raise ArgumentError(
                f"{self.name}: {len(args)} arguments for {len(self.signature)} parameters"
            )
        arrays: list[_Array] = []
        addresses: set[int] = set()
        words = [
            self._argument(i, sort, arg, arrays, addresses)
            for i, (sort, arg) in enumerate(zip(self.signature, args, strict=True))
        ]
        if _conditions.get().checked:
            arrays += _found(addresses)
        self._run(grid, block, shared_mem, words, arrays)

    def _check_limits(self, grid: tuple[int, ...], block: tuple[int, ...], dynamic: int) -> None:
        if any(not 0 < size <= most for size, most in zip(grid, MOST_BLOCKS, strict=True)):
            raise LaunchError("CUDA_ERROR_INVALID_VALUE", f"{self.name}: grid {grid}")
        threads = block[0] * block[1] * block[2]
        if min(block) < 1 or threads > MOST_THREADS or block[2] > MOST_THREADS_Z:
            raise LaunchError("CUDA_ERROR_INVALID_VALUE", f"{self.name}: block {block}")
        if dynamic > self._most_dynamic:
            text = f"{dynamic} bytes of dynamic shared memory, {self._most_dynamic} allowed"
            raise LaunchError("CUDA_ERROR_INVALID_VALUE", f"{self.name}: {text}")
        if grid[0] * grid[1] * grid[2] > PATIENCE:
            raise SimulatorError(f"{self.name}: a simulation of {grid} blocks would not end")

    def _run(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        dynamic: int,
        words: list[np.ndarray],
        arrays: list[_Array],
    ) -> None:
        now, counted = _conditions.get(), _counted.get()
        library, run = self._module.library(now.checked), runtime()
        launch = _Launch(
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block),
            dynamic,
            (ctypes.c_void_p * len(words))(*[word.ctypes.data for word in words]),
            (_Array * len(arrays))(*arrays),
            len(arrays),
            ORDERS.index(now.order),
            now.seed,
            now.late,
            now.checked,
            -1 if counted is None else counted[0],
        )
        static = ctypes.c_size_t()
        with _LOCK:
            kernel = getattr(library, f"cusim_kernel_{self._number}")
            error = run.cusim_launch(kernel, ctypes.byref(launch), ctypes.byref(static))
            found_at = run.cusim_found_at() if error else None
            if counted is not None and not error:
                _read_counts(run, counted[1])
        if error:
            where = f" at {source_line(library, found_at)}" if found_at else ""
            raise KernelError(f"{self.name}: {error.decode()}{where}")
        if static.value > SHARED or static.value + dynamic > max(
            SHARED, min(self._most_dynamic, MOST_SHARED)
        ):
            text = (
                f"{self.name}: {static.value} + {dynamic} bytes of static and dynamic shared memory"
            )
            raise LaunchError("CUDA_ERROR_INVALID_VALUE", text)

    def _argument(
        self, i: int, sort: str, arg: Any, arrays: list[_Array], addresses: set[int]
    ) -> np.ndarray:
        """The bytes that CuPy passes for an argument, as an array."""

        def refuse(what: str) -> None:
            raise ArgumentError(
                f"{self.name}: argument {i} is {what}, the parameter is {_words(sort)}"
            )

        if sort[0] == "p":
            if arg is None:
                return np.zeros(1, np.uint64)
            if isinstance(arg, np.uint64):  # an address, as what replays launches passes it
                addresses.add(int(arg))
                return np.array([arg])
            memory = _interface(arg)
            if memory is None:
                refuse(f"{type(arg).__name__}, not an array")
            address, shape, dtype, contiguous, read_only = memory
            if not contiguous:
                refuse("an array that is not contiguous (strides are not passed)")
            kind, size = sort[2], int(sort[3:])
            bytes_ = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            if kind == "s":
                if bytes_ % size:
                    refuse(f"an array of {bytes_} bytes")
            elif kind != "v" and (dtype.kind, dtype.itemsize) != (kind, size):
                refuse(f"a {dtype} array")
            if sort[1] == "w" and read_only:
                refuse("read-only")
            if bytes_:
                entry = dtype.itemsize if kind == "v" else size
                arrays.append(_Array(address, bytes_, entry, i, sort[1] == "w"))
            return np.array([address if bytes_ else 0], np.uint64)
        if sort[0] == "s":  # CuPy passes the bytes of an array of one record
            if not (isinstance(arg, np.ndarray) and arg.size == 1 and arg.dtype.kind == "V"):
                refuse(f"{type(arg).__name__}, not an array of one record")
            if arg.dtype.itemsize != int(sort[1:]):
                refuse(f"a record of {arg.dtype.itemsize} bytes")
            addresses |= _addresses(arg)
            return np.ascontiguousarray(arg).reshape(1)
        if not isinstance(arg, np.generic):
            refuse(f"Python's {type(arg).__name__} (CuPy passes 8 bytes: use NumPy's numbers)")
        if (arg.dtype.kind, arg.dtype.itemsize) != (sort[0], int(sort[1:])):
            refuse(f"{arg.dtype}")
        return np.array([arg])


def _words(sort: str) -> str:
    """A parameter's letters for people: ``const float32*``."""
    if sort[0] == "p":
        return ("const " if sort[1] == "r" else "") + _words(sort[2:]) + "*"
    if sort[0] == "s":
        return f"a struct of {sort[1:]} bytes"
    return "void" if sort[0] == "v" else np.dtype(sort).name


def _interface(array: Any) -> tuple[int, tuple[int, ...], np.dtype[Any], bool, bool] | None:
    """Address, shape, dtype, whether contiguous and whether read-only, of NumPy's and CuPy's."""
    found = getattr(array, "__cuda_array_interface__", None)
    if found is None and isinstance(array, np.ndarray):
        found = array.__array_interface__
    if found is None:
        return None
    shape, dtype, strides = tuple(found["shape"]), np.dtype(found["typestr"]), found.get("strides")
    if isinstance(array, np.ndarray):
        dtype = array.dtype
    contiguous, step = True, dtype.itemsize
    for size, stride in reversed(list(zip(shape, strides or shape, strict=True))):
        contiguous &= strides is None or size == 1 or stride == step
        step *= size
    address, read_only = found["data"]
    return address, shape, dtype, contiguous or 0 in shape, read_only


def _addresses(record: np.ndarray) -> set[int]:
    """The numbers in a record that may be addresses: those of 64 bits without a sign."""
    found: set[int] = set()
    for name in record.dtype.names or ():
        field = record[name]
        if field.dtype.names:
            found |= _addresses(field)
        elif field.dtype == np.uint64:
            found |= set(field.ravel().tolist())
    return found


def _found(addresses: set[int]) -> list[_Array]:
    """The arrays of :data:`reachable` in which one of the addresses lies."""
    if not addresses:
        return []
    arrays = [_reached(array) for function in reachable for array in function()]
    return [a for a in arrays if any(0 <= at - (a.begin or 0) < a.bytes for at in addresses)]


def _reached(array: Any) -> _Array:
    memory = _interface(array)
    if memory is None:
        raise ArgumentError(f"reachable: {type(array).__name__}, not an array")
    address, shape, dtype, _, read_only = memory
    bytes_ = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return _Array(address, bytes_, dtype.itemsize, -1, not read_only)


def _read_counts(run: ctypes.CDLL, counts: dict[str, Counts]) -> None:
    table = np.ctypeslib.as_array(run.cusim_counted(), (len(TOUCHES), 3))
    for name, (instructions, cost, least) in zip(TOUCHES, table, strict=True):
        if instructions:
            kind = counts.setdefault(name, Counts())
            kind.instructions += int(instructions)
            kind.cost += int(cost)
            kind.least += int(least)
