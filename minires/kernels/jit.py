"""How minires compiles Numba kernels.

A kernel is a plain function whose first argument is a task (:mod:`.threads`) and whose others are
flat arrays, of which it sees pointers, and integers::

    @kernel
    def _double(task, x, y, size, block):
        for i in range(task * block, min((task + 1) * block, size)):
            y[i] = 2 * x[i]

    _double(tasks, x, y, x.size, block)  # fills y

:func:`kernel` compiles it on first use for the dtypes in hand and keeps the machine code on disk.
Sizes are arguments like any others: two layers that differ in them share one compilation. Under
``NUMBA_DISABLE_JIT=1`` kernels run as the Python functions they are, with flat arrays in place of
pointers.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import contextvars
import functools
import os
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from . import settings  # noqa: F401 - looks at Numba's settings before it is imported

# isort: split
import numba
import numpy as np
from numba import types
from numba.core.ccallback import CFunc

from ..autograd.recording import Recording, computed, here
from ..errors import DeviceError, message
from ..forks import new_lock_in_children
from . import cache
from .cache import cache_folder

# Floating-point freedoms that allow vector code. "nnan" and "ninf" are left out on purpose: NaN
# and infinity must flow through every kernel as they do through the references.
FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})

config: Any = numba.config  # its settings are made at run time


_setting = threading.RLock()
new_lock_in_children(globals(), "_setting")
_running = 0  # compilations


@contextlib.contextmanager
def _own_settings(level: int = 3) -> Iterator[None]:
    """Numba's settings are those of the whole process: others keep theirs.

    Kernels are written in vectors: LLVM's own search for some, a tenth of its time, finds none.
    """
    global _running
    with _setting:  # by one thread at a time, or they would restore each other's
        own = {"OPT": type(config.OPT)(level), "LOOP_VECTORIZE": 0, "CACHE_LOCATOR_CLASSES": ""}
        if cache.is_usable():
            own["CACHE_DIR"] = str(cache_folder())
        others = {name: getattr(config, name) for name in own if hasattr(config, name)}
        for name in others:
            setattr(config, name, own[name])
        _running += 1
        try:
            yield
        finally:
            _running -= 1
            for name, value in others.items():
                setattr(config, name, value)


def compiling() -> bool:
    """Whether some thread compiles or loads a kernel at this moment."""
    return _running > 0


def _undisturbed(compile: Callable[[], Any]) -> Any:
    """Call a function that compiles, so that Ctrl-C does not interrupt it.

    Python handles signals in the main thread, between any two instructions, and an exception out of
    a handler leaves LLVM's objects half made, or freed twice. So the main thread has another one
    compile. It waits, and this wait can be interrupted; the other one finishes what it does.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return compile()
    outcome: list[Any] = []
    done = threading.Lock()

    def work() -> None:
        try:
            outcome.append((compile(), None))
        except BaseException as error:  # whatever it is, it is for who asked
            outcome.append((None, error))
        finally:
            done.release()

    # Neither Thread nor Event: their own locks, in Python, stay held where Ctrl-C hits them.
    done.acquire()
    try:
        _thread.start_new_thread(contextvars.copy_context().run, (work,))
    except RuntimeError:  # the system has no thread left
        return compile()
    done.acquire()
    result, error = outcome.pop()
    if error is not None:
        raise error
    return result


def _finish() -> None:
    """Let a thread that compiles come to its end before Python does."""
    with _setting:
        pass


atexit.register(_finish)


@contextlib.contextmanager
def _teaching(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # compiling itself makes none: it is the cache
        raise DeviceError(
            f"{name}: cannot keep compiled kernels in {cache_folder()} ({error.strerror}). Free "
            "space there, or set NUMBA_CACHE_DIR."
        ) from error


_listeners: list[Callable[[str], None]] = []  # told the name of each kernel that is compiled
_announced = False


@contextlib.contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Call ``listener`` with the name of each kernel that is compiled meanwhile."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _compiling(name: str) -> None:
    """Say, once in a process, why the first step takes so long."""
    global _announced
    for listener in _listeners:
        listener(name)
    if not _announced and not _listeners:
        from .cpu import instructions

        kept = f"they are kept in {cache_folder()}. `minires warmup` does it ahead."
        print(
            f"minires: compiling kernels for this CPU ({instructions()}), beginning with {name}; "
            + (kept if cache.is_usable() else "there is no folder to keep them in."),
            file=sys.stderr,
        )
    _announced = True


class _Compiled(CFunc):
    """A kernel in machine code, with an address."""

    def enable_caching(self) -> None:
        self._cache = cache.Kept(self.__wrapped__)

    def compile(self) -> None:
        """Compile it, or load what was compiled before, here or by a process that began earlier."""
        kept = isinstance(self._cache, cache.Kept)
        with self._cache.taking_turns() if kept else contextlib.nullcontext():
            super().compile()

    def _compile_uncached(self) -> Any:
        _compiling(self.__name__)
        return super()._compile_uncached()  # type: ignore[misc]


_KINDS: dict[str, Any] = {np.dtype(d).char: types.CPointer(numba.from_dtype(np.dtype(d))) for d in (
    "f4", "f8", "i8", "i4", "u1", "?")}  # fmt: skip
_NUMBER = "."  # the kind of an argument that is no array
_ARRAY = np.ndarray


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

    def __call__(self, tasks: int, *arguments: Any) -> None:
        if tasks <= 0:
            return
        if config.DISABLE_JIT:
            computed(self._interpret, tasks, arguments)
            return
        # A network is hundreds of launches, of twenty arguments each: these lines are to be quick.
        # Where an array begins, the loop that calls the kernel looks up itself (threads.py).
        kinds = "".join([a.dtype.char if type(a) is _ARRAY else _NUMBER for a in arguments])
        words = array("q", [id(a) if type(a) is _ARRAY else a for a in arguments])
        if False in [a.flags.c_contiguous for a in arguments if type(a) is _ARRAY]:
            scattered = next(a for a in arguments if type(a) is _ARRAY and not a.flags.c_contiguous)
            got = f"strides {scattered.strides}"
            raise ValueError(message(self.__name__, "contiguous arrays", got))
        launch = self._launchers.get(kinds) or self._compile(kinds)
        launch(words, tasks)
        if here.recording is not None:
            self._record(here.recording, launch, arguments, tasks)

    def _interpret(self, tasks: int, arguments: tuple[Any, ...]) -> None:
        flat = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments]
        with np.errstate(all="ignore"):  # as the compiled kernel: inf and nan are results
            for task in range(tasks):
                self.function(task, *flat)

    def _record(
        self, recording: Recording, launch: functools.partial[None], arguments: Any, tasks: int
    ) -> None:
        """Make the launch a step, together with those before it. It names arrays by where their
        data begins: it must not hold them, or the recording could not use their memory again."""
        from .threads import Launches

        words = array("q")
        for a in arguments:
            if type(a) is _ARRAY:
                recording.hold(a)
            words.append(a.__array_interface__["data"][0] if type(a) is _ARRAY else a)
        _, address, _ = launch.args
        steps = recording.steps
        last = steps[-1] if steps else None
        if not isinstance(last, Launches):
            last = Launches(self.__name__)
            steps.append(last)
        last.add(address, words, tasks)

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
        compiled: Any = _Compiled(self.function, (signature.args, types.void), {}, options)

        def compile() -> None:
            with _own_settings(self.level), _teaching(name):
                # what was typed into a notebook has no file to tell whether it is still the same
                if os.path.exists(self.function.__code__.co_filename) and cache.is_usable():
                    compiled.enable_caching()
                compiled.compile()

        _undisturbed(compile)
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


def device_function(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call."""
    if config.DISABLE_JIT:
        return function
    return numba.njit(
        function, nogil=True, error_model="numpy", fastmath=set(FASTMATH), forceinline=True
    )


def lazily(function: Callable[..., Any], signature: Any) -> Any:
    """Compile a function with this signature when the result is first called."""

    def compile() -> Any:
        with _own_settings(), _teaching(function.__name__):
            dispatcher: Any = numba.njit(nogil=True)(function)
            if cache.is_usable():
                dispatcher._cache = kept = cache.Kept(function)
                with kept.taking_turns():
                    dispatcher.compile(signature)
            else:
                dispatcher.compile(signature)
            dispatcher.disable_compile()
            return dispatcher

    return functools.cache(lambda: _undisturbed(compile))
