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

import contextlib
import functools
import hashlib
import os
import sys
import threading
import warnings
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

from ..autograd.recording import Recording, computed, here
from ..errors import DeviceError, message
from ..forks import new_lock_in_children

# Floating-point freedoms that allow vector code. "nnan" and "ninf" are left out on purpose: NaN
# and infinity must flow through every kernel as they do through the references.
FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})

config: Any = numba.config  # its settings are made at run time


def cache_folder() -> Path:
    """Where compiled kernels are kept: below ``NUMBA_CACHE_DIR``, else ``~/.cache/minires``.

    The last part of the path names the version, the vector width and a hash of all kernels' code,
    because Numba itself notices only changes in the file that a kernel stands in. The CPU's
    features are in Numba's own key.

    Raises:
        DeviceError: there is neither that variable nor a home.
    """
    from .cpu import LANES

    root = os.environ.get("NUMBA_CACHE_DIR")
    if not root:
        try:
            root = str(Path.home() / ".cache" / "minires" / "kernels")
        except RuntimeError as error:
            fix = "Set NUMBA_CACHE_DIR to a folder for compiled kernels."
            raise DeviceError(message("cache", "a home directory", "none", fix=fix)) from error
    return Path(root) / f"minires-{_version()}-{LANES}-{_shared_hash()}"


def _version() -> str:
    from importlib.metadata import version

    return version("minires")


@functools.cache
def _shared_hash() -> str:
    here = Path(__file__).parent
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted([*here.glob("*.py"), *here.parent.glob("ops/*/*numba*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _cache_is_usable() -> bool:
    """Whether the cache folder can be written; warns if not. (Numba would quietly take another
    one, which knows nothing of the code that kernels share.)"""
    folder: Any = "a home directory: there is none"
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except (DeviceError, OSError):
        writable = False
    if not writable:
        warnings.warn(
            f"compiled kernels cannot be kept in {folder}: they will be compiled anew in every "
            "process. Set NUMBA_CACHE_DIR to a folder that can be written.",
            UserWarning,
            stacklevel=2,
        )
    return writable


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
        others = config.CACHE_DIR, config.OPT, config.LOOP_VECTORIZE
        if _cache_is_usable():
            config.CACHE_DIR = str(cache_folder())
        config.OPT, config.LOOP_VECTORIZE = type(config.OPT)(level), 0
        _running += 1
        try:
            yield
        finally:
            _running -= 1
            config.CACHE_DIR, config.OPT, config.LOOP_VECTORIZE = others


def compiling() -> bool:
    """Whether some thread compiles or loads a kernel at this moment."""
    return _running > 0


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
            + (kept if _cache_is_usable() else "there is no folder to keep them in."),
            file=sys.stderr,
        )
    _announced = True


class _Kept(FunctionCache):
    """What Numba keeps of a kernel on disk. Damaged files are compiled anew, and replaced."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except OSError:
            raise
        except Exception as error:  # pickles of any bytes may raise anything
            warnings.warn(
                f"{self._py_func.__name__}: expected compiled kernels in {self.cache_path}, got "
                f"files that cannot be read ({type(error).__name__}). They are compiled again.",
                UserWarning,
                stacklevel=2,
            )
            self.flush()
            return None


class _Compiled(CFunc):
    """A kernel in machine code, with an address."""

    def enable_caching(self) -> None:
        self._cache = _Kept(self.__wrapped__)

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

        name = self.function.__name__
        threads.check_process(name)  # in a child that cannot launch it, compiling could even hang
        if len(kinds) > threads.MOST_ARGUMENTS:
            got = len(kinds)
            raise ValueError(message(name, f"at most {threads.MOST_ARGUMENTS} arguments", got))
        args = [types.int64 if kind == _NUMBER else _KINDS[kind] for kind in kinds]
        signature = types.void(types.int64, *args)
        options = {"error_model": "numpy", "fastmath": set(FASTMATH), "nogil": True}
        compiled: Any = _Compiled(self.function, (signature.args, types.void), {}, options)
        with _own_settings(self.level), _teaching(name):
            # what was typed into a notebook has no file to tell whether it is still the same
            if os.path.exists(self.function.__code__.co_filename) and _cache_is_usable():
                compiled.enable_caching()
            compiled.compile()
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


def lazily(function: Callable[..., None], signature: Any, parallel: bool = False) -> Any:
    """Compile a function with this signature when the result is first called."""

    @functools.cache
    def compiled() -> Any:
        with _own_settings(), _teaching(function.__name__):
            dispatcher: Any = numba.njit(parallel=parallel, nogil=True)(function)
            if _cache_is_usable():
                dispatcher._cache = _Kept(function)
            dispatcher.compile(signature)
            dispatcher.disable_compile()
            return dispatcher

    return compiled
