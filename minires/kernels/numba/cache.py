"""Where compiled kernels are kept on disk, who may touch them, and who compiles first.

What is kept are pickles, and to load a pickle is to run what it says. So nothing is loaded from a
folder that another user may write to. And of several processes that need the same kernel at the
same time, one compiles it and the others wait for what it keeps.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import settings  # noqa: F401 - looks at Numba's settings before it is imported

# isort: split
import numba
from numba.core.caching import FunctionCache

from ...errors import DeviceError, message
from ...files import foreign, make_private, open_own, others_may_write
from ...forks import in_children

PATIENCE = 120.0  # seconds that a process waits for another's kernel before it compiles its own
_SILENCE = 2.0  # seconds until it says so
_PAUSE = 0.02  # seconds between two looks


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
def is_usable() -> bool:
    """Whether kernels can be kept, and what is kept can be trusted; warns if not. (Numba would
    quietly take another folder, which knows nothing of the code that kernels share.)"""
    folder: Any = "a home directory: there is none"
    fix = "Set NUMBA_CACHE_DIR to a folder that can be written."
    try:
        folder = cache_folder()
        make_private(folder)
        danger = _danger(folder)
        if danger:
            why = f"{folder}: {danger}, so that what is kept there cannot be trusted"
            fix = (
                f"Remove {folder} and close {folder.parent} to others' writing, or set "
                "NUMBA_CACHE_DIR to a folder of your own."
            )
        elif os.access(folder, os.W_OK):
            return True
        else:
            why = str(folder)
    except (DeviceError, OSError):
        why = str(folder)
    warnings.warn(
        f"compiled kernels cannot be kept in {why}: they will be compiled anew in every "
        f"process. {fix}",
        UserWarning,
        stacklevel=2,
    )
    return False


def _danger(folder: Path) -> str:
    """What makes it unsafe to load kernels from a folder; nothing if nothing does.

    The folder and those above it, up to minires' own or the one that the user named, must be closed
    to other users' writing. What is in the folder is looked at where they can reach it; from then
    on they cannot.
    """
    if os.name != "posix":  # Windows: folders of a user's profile are the user's
        return ""
    above = [folder.parent]
    if not os.environ.get("NUMBA_CACHE_DIR"):
        above.append(folder.parent.parent)
    for path in (*above, folder):
        if problem := _open_to_others(path):
            return problem
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        for path in folder.rglob("*"):
            if problem := _open_to_others(path):
                return problem
        folder.chmod(0o700)
    return ""


def _open_to_others(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        if foreign(status):
            return f"{path} is a link of another user"
        status = path.stat()
    if foreign(status):
        return f"{path} belongs to another user"
    return f"other users may write to {path}" if others_may_write(status) else ""


class Kept(FunctionCache):
    """What Numba keeps of a kernel on disk. Damaged files are compiled anew, and replaced."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._turn: int | None = None  # the descriptor of the lock that is held

    @contextlib.contextmanager
    def taking_turns(self) -> Iterator[None]:
        """Compile or load within: the lock that a missing kernel needs is given back afterwards."""
        try:
            yield
        finally:
            if self._turn is not None:
                _unlock(self._turn)
                self._turn = None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was kept; if it is missing, what the process before us has just compiled."""
        try:
            found = super().load_overload(sig, target_context)
        except OSError:
            raise
        except Exception:  # pickles of any bytes may raise anything: the second look tells
            found = None
        if found is None:
            self._turn = _lock(Path(self._cache_file._index_path), self._py_func.__name__)
            found = self._look_again(sig, target_context)
        return found

    def _look_again(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except OSError:
            raise
        except Exception as error:
            warnings.warn(
                f"{self._py_func.__name__}: expected compiled kernels in {self.cache_path}, got "
                f"files that cannot be read ({type(error).__name__}). They are compiled again.",
                UserWarning,
                stacklevel=2,
            )
            self.flush()
            return None


# -- turns

_held: set[int] = set()  # descriptors of locks of this process


def _in_child() -> None:
    """A child of a fork has the descriptors too: it would hold the locks as long as it runs."""
    for handle in _held:
        os.close(handle)
    _held.clear()


in_children(_in_child)


def _lock(index: Path, name: str) -> int | None:
    """Wait for the lock of a kernel, which a process that ends gives back however it ends.

    Returns its descriptor; or None where there are no locks or the wait was in vain. Without one
    the kernel is compiled all the same: twice is better than never.
    """
    try:
        import fcntl

        handle = open_own(index.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
    except (ImportError, OSError):  # Windows; a disk that is full or cannot be written
        return None
    _held.add(handle)
    begin, said = time.monotonic(), False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            waited = time.monotonic() - begin
        except OSError:  # some network file systems have none
            waited = PATIENCE
        if waited >= PATIENCE:
            _unlock(handle)
            return None
        if waited >= _SILENCE and not said:
            said = True
            _say_waiting(name)
        time.sleep(_PAUSE)


_waited = False


def _say_waiting(name: str) -> None:
    """Say, once in a process, what is awaited."""
    global _waited
    if not _waited:
        print(
            f"minires: waiting for another process that is compiling {name}; it keeps its kernels "
            f"in {cache_folder()}.",
            file=sys.stderr,
        )
    _waited = True


def _unlock(handle: int) -> None:
    import fcntl

    with contextlib.suppress(OSError):  # there were no locks
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough: a child may have a copy
    _held.discard(handle)
    os.close(handle)
