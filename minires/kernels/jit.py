"""How minires compiles and launches Numba kernels.

:func:`kernel` is the only decorator in use. It compiles on first call, keeps the machine code on
disk, and launches one parallel kernel at a time: Numba's portable threading layer aborts the
process when two Python threads launch at once, and two kernels that share the cores gain nothing.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from ..errors import ArgumentError, DeviceError, message

# Floating-point freedoms that allow vector code. "nnan" and "ninf" are left out on purpose: NaN
# and infinity must flow through every kernel as they do through the references.
FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})

config: Any = numba.config  # its settings are made at run time

_launching = threading.RLock()
_started = False  # the threads that kernels run on, in this process
_broken_by_fork = False


def cache_folder() -> Path:
    """Where compiled kernels are kept: below ``NUMBA_CACHE_DIR``, else ``~/.cache/minires``.

    The last part of the path is a hash of the code that kernels share, because Numba itself
    notices only changes in a kernel's own file.
    """
    root = os.environ.get("NUMBA_CACHE_DIR") or Path.home() / ".cache" / "minires" / "kernels"
    return Path(root) / f"minires-{_shared_hash()}"


@functools.cache
def _shared_hash() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def kernel(function: Callable[..., None]) -> Any:
    """Compile a function whose outer loop is a ``prange``, as a kernel that fills its outputs."""
    compiled = _compile(function, parallel=True)

    @functools.wraps(function)
    def launch(*args: Any) -> None:
        if _broken_by_fork:
            raise DeviceError(
                f"{function.__name__}: expected to run in the process that started the kernel "
                "threads, got a fork of it, where those threads do not exist. Start workers with "
                "multiprocessing.get_context('spawn'), or use threads."
            )
        with _launching:
            _start_threads()
            try:
                compiled(*args)
            except OSError as error:  # a kernel itself makes none: it is the cache
                raise DeviceError(
                    f"{function.__name__}: cannot keep compiled kernels in {cache_folder()} "
                    f"({error.strerror}). Free space there, or set NUMBA_CACHE_DIR."
                ) from error

    launch.compiled = compiled  # type: ignore[attr-defined]
    return launch


def _start_threads() -> None:
    """Start the threads that kernels run on, before anything else makes Numba do so.

    OpenMP gets the passive wait policy, unless the user chose one.

    By default idle threads spin for milliseconds. On a machine that does anything else besides,
    a spinning thread then holds the core that the working one waits for, and small kernels
    become up to fifty times slower; sleeping threads cost a few microseconds a launch. The
    policy is read once, when the threads start: the variable is gone again afterwards.
    """
    global _started
    if _started:
        return
    chosen = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not chosen:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    try:
        numba.get_num_threads()  # asking starts them
    finally:
        if not chosen:
            del os.environ["OMP_WAIT_POLICY"]
    _started = True


def device_function(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call."""
    return _compile(function, parallel=False)


@functools.cache
def _cache_is_usable() -> bool:
    """Whether the cache folder can be written; warns if not. (Numba would quietly take another
    one, which knows nothing of the code that kernels share.)"""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        warnings.warn(
            f"compiled kernels cannot be kept in {folder}: they will be compiled anew in every "
            "process. Set NUMBA_CACHE_DIR to a folder that can be written.",
            UserWarning,
            stacklevel=2,
        )
    return writable


def _compile(function: Callable[..., Any], parallel: bool) -> Any:
    # Numba reads the folder when it decorates, and it is a setting of the whole process:
    # other people's kernels must keep theirs.
    others, config.CACHE_DIR = config.CACHE_DIR, str(cache_folder())
    try:
        return numba.njit(
            function,
            parallel=parallel,
            cache=_cache_is_usable(),
            nogil=True,
            error_model="numpy",
            fastmath=set(FASTMATH),
        )
    finally:
        config.CACHE_DIR = others


def _after_fork() -> None:
    global _broken_by_fork, _launching
    _launching = threading.RLock()
    try:
        _broken_by_fork = numba.threading_layer() == "omp"
    except ValueError:  # no threads were started before the fork, by minires or anyone
        _broken_by_fork = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def set_num_threads(n: int) -> None:
    """Run kernels on ``n`` threads. Results do not depend on it, to the last bit.

    Raises:
        ArgumentError: ``n`` is below 1 or above the number the process started with.
    """
    limit = config.NUMBA_NUM_THREADS
    if not isinstance(n, int) or not 1 <= n <= limit:
        raise ArgumentError(
            message(
                "set_num_threads",
                f"1 to {limit}",
                n,
                fix="Set NUMBA_NUM_THREADS before starting Python for more.",
            )
        )
    _start_threads()
    numba.set_num_threads(n)


def get_num_threads() -> int:
    """How many threads kernels run on."""
    _start_threads()
    return numba.get_num_threads()
