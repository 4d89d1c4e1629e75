"""Kernels: functions that Numba compiles, once for every combination of dtypes.

A kernel is a plain function whose first argument is a task (:mod:`.threads`) and whose others are
flat arrays, of which it sees pointers, and integers::

    @kernel
    def _double(task, x, y, size, block):
        for i in range(task * block, min((task + 1) * block, size)):
            y[i] = 2 * x[i]

    _double(tasks, x, y, x.size, block)  # fills y

The decorator compiles it on first use for the dtypes in hand (:mod:`.compiler`). Sizes are
arguments like any others: two layers that differ in them share one compilation.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...autograd.engine import _engine, call
from ...errors import message
from ..work import Work, name_of, work
from . import cache, compiler
from .compiler import FASTMATH, config

# isort: split
import numba
from numba import types

_KINDS: dict[str, Any] = {np.dtype(d).char: types.CPointer(numba.from_dtype(np.dtype(d))) for d in (
    "f4", "f8", "i8", "i4", "u1", "?")}  # fmt: skip
_NUMBER = "."  # the kind of an argument that is no array
_ARRAY = np.ndarray
# parameters that are no data: what a kernel works in, and its tables of sizes and places
_OWN = frozenset({"workspace", "work", "table"})


class Kernel:
    """A kernel, compiled once for every combination of dtypes it is launched with.

    ``kernel(tasks, *arguments)`` runs it for all tasks and returns when its outputs are filled.
    Arrays must be contiguous: the kernel sees where they begin and trusts its caller with the rest.
    """

    def __init__(self, function: Callable[..., None], level: int = 3):
        functools.update_wrapper(self, function)
        self.function, self.level = function, level
        self.__name__: str = function.__name__
        self._launchers: dict[str, functools.partial[None]] = {}
        self._operations: Callable[..., int] | None = None

    def __call__(self, tasks: int, *arguments: Any, reaches: Sequence[Any] = ()) -> None:
        """Run the kernel; ``reaches`` are arrays that it finds through addresses."""
        if tasks <= 0:
            return
        if config.DISABLE_JIT:
            call(self._interpret, tasks, arguments)
        else:
            _engine.get().value.launch(self, tasks, arguments, reaches)

    def run(self, tasks: int, arguments: tuple[Any, ...]) -> None:
        """Run the compiled kernel, here and now."""
        # A network is hundreds of launches, of twenty arguments each: these lines are to be quick.
        # Where an array begins, the loop that calls the kernel looks up itself (threads.py).
        kinds, words = [], []
        for a in arguments:
            if type(a) is _ARRAY:
                if not a.flags.c_contiguous:
                    got = f"strides {a.strides}"
                    raise ValueError(message(self.__name__, "contiguous arrays", got))
                kinds.append(a.dtype.char)
                words.append(id(a))
            else:
                kinds.append(_NUMBER)
                words.append(a)
        key = "".join(kinds)
        launch = self._launchers.get(key) or self._compile(key)
        launch(array("q", words), tasks)

    def address(self, arguments: tuple[Any, ...]) -> int:
        """Where the machine code for arguments of these dtypes is, with which the kernel ran."""
        kinds = "".join([a.dtype.char if type(a) is _ARRAY else _NUMBER for a in arguments])
        return int(self._launchers[kinds].args[1])

    def operations(self, function: Callable[..., int]) -> Callable[..., int]:
        """Decorate a function that says how many additions and multiplications a launch does by
        its definition; it gets the launch's arguments by their names, and takes those it needs."""
        self._operations = function
        return function

    def work(self, arguments: tuple[Any, ...], reaches: Sequence[Any] = ()) -> Work:
        """What a launch with these arguments works on, without the memory of the kernel's own."""
        names = self.function.__code__.co_varnames[1 : 1 + len(arguments)]
        arrays = [(n, a) for n, a in zip(names, arguments) if n not in _OWN]
        known = self._operations
        count = None if known is None else known(**dict(zip(names, arguments)))
        return work(name_of(self.function), arrays, count, sum(a.nbytes for a in reaches))

    def _interpret(self, tasks: int, arguments: tuple[Any, ...]) -> None:
        flat = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments]
        with np.errstate(all="ignore"):  # as the compiled kernel: inf and nan are results
            for task in range(tasks):
                self.function(task, *flat)

    def _compile(self, kinds: str) -> functools.partial[None]:
        """Compile for these dtypes, or load what was compiled before; returns what launches it."""
        from . import threads
        from .launch import MOST_ARGUMENTS

        name = self.function.__name__
        threads.check_process(name)  # in a child that cannot launch it, compiling could even hang
        if len(kinds) > MOST_ARGUMENTS:
            got = len(kinds)
            raise ValueError(message(name, f"at most {MOST_ARGUMENTS} arguments", got))
        args = [types.int64 if kind == _NUMBER else _KINDS[kind] for kind in kinds]
        signature = types.void(types.int64, *args)
        options = {"error_model": "numpy", "fastmath": set(FASTMATH), "nogil": True}
        compiled: Any = compiler.Compiled(self.function, (signature.args, types.void), {}, options)

        def compile() -> None:
            with compiler.own_settings(self.level), compiler.teaching(name):
                if cache.keeps(self.function):
                    compiled.enable_caching()
                compiled.compile()

        compiler.undisturbed(compile)
        _compiled.append(compiled)
        arrays = sum(1 << k for k, kind in enumerate(kinds) if kind != _NUMBER)
        launch = functools.partial(threads.run, self.__name__, compiled.address, arrays)
        self._launchers[kinds] = launch
        return launch


_compiled: list[Any] = []  # machine code lives as long as these


def kernel(function: Callable[..., None]) -> Kernel:
    """Make a function of (task, arrays and integers ...) a :class:`Kernel`."""
    return Kernel(function)


def large_kernel(function: Callable[..., None]) -> Kernel:
    """The same for a function that calls several register tiles, and gains nothing from LLVM's
    third level of optimisation, which takes it twice as long as the second."""
    return Kernel(function, level=2)
