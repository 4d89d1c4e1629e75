"""How minires compiles with Numba: undisturbed, once, and with settings of its own.

Kernels (:mod:`.kernel`) and the functions that they call are compiled on first use, and the
machine code is kept on disk (:mod:`.cache`). Under ``NUMBA_DISABLE_JIT=1`` kernels run as the
Python functions they are, with flat arrays in place of pointers.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import contextvars
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import settings  # noqa: F401 - looks at Numba's settings before it is imported

# isort: split
import numba
from numba.core.ccallback import CFunc

from ...errors import DeviceError
from ...forks import new_lock_in_children
from ...interrupts import HeldBack
from . import cache, talk
from .cache import cache_folder

# Floating-point freedoms that allow vector code. "nnan" and "ninf" are left out on purpose: NaN
# and infinity must flow through every kernel as they do through the references.
FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})

config: Any = numba.config  # its settings are made at run time


_setting = threading.RLock()
new_lock_in_children(globals(), "_setting")
_running = 0  # compilations


@contextlib.contextmanager
def own_settings(level: int = 3) -> Iterator[None]:
    """Numba's settings are those of the whole process: others keep theirs.

    Kernels are written in vectors: LLVM's own search for some, a tenth of its time, finds none.
    """
    global _running
    with _setting:  # by one thread at a time, or they would restore each other's
        own = {"OPT": type(config.OPT)(level), "LOOP_VECTORIZE": 0}
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


def undisturbed(compile: Callable[[], Any]) -> Any:
    """Call a function that compiles, so that Ctrl-C does not interrupt it.

    Python handles signals in the main thread, between any two instructions, and an exception out of
    a handler leaves LLVM's objects half made, or freed twice. So the main thread has another one
    compile. It waits, and this wait can be interrupted; the other one finishes what it does.

    A module that launches a kernel while it is imported is the exception: its import holds a lock
    that the other thread would wait for, and so on for ever. There, signals wait for the compiler.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return compile()
    if _importing():
        with HeldBack():
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


def _importing() -> bool:
    """Whether the code of some module is running for the first time."""
    specs = (getattr(module, "__spec__", None) for module in list(sys.modules.values()))
    return any(getattr(spec, "_initializing", False) for spec in specs)


def _finish() -> None:
    """Let a thread that compiles come to its end before Python does."""
    with _setting:
        pass


atexit.register(_finish)


@contextlib.contextmanager
def teaching(name: str) -> Iterator[None]:
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
    if talk.allowed and not _announced and not _listeners:
        from .cpu import instructions

        kept = f"they are kept in {cache_folder()}. `minires warmup` does it ahead."
        print(
            f"minires: compiling kernels for this CPU ({instructions()}), beginning with {name}; "
            + (kept if cache.is_usable() else "there is no folder to keep them in."),
            file=sys.stderr,
        )
    _announced = True


class Compiled(CFunc):
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
        with own_settings(), teaching(function.__name__):
            dispatcher: Any = numba.njit(nogil=True)(function)
            if cache.keeps(function):
                dispatcher._cache = kept = cache.Kept(function)
                with kept.taking_turns():
                    dispatcher.compile(signature)
            else:
                dispatcher.compile(signature)
            dispatcher.disable_compile()
            return dispatcher

    return functools.cache(lambda: undisturbed(compile))
