"""Where compiled kernels are kept on disk, who may touch them, and who compiles first.

What is kept is machine code, in pickles, and to load a pickle is to run what it says. So nothing is
loaded from a folder or file that another user may write to, and no file that is not what was
written for this kernel (:mod:`.sealed`). And of several processes that need the same kernel at the
same time, one compiles it and the others wait for what it keeps.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
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
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from ...errors import DeviceError, message
from ...files import foreign, make_private, open_own
from ...forks import in_children
from . import sealed, talk

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


@functools.cache
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


def keeps(function: Any) -> bool:
    """Whether this function can be kept: what was typed into a notebook has no file that would tell
    whether it is still the same."""
    return os.path.exists(function.__code__.co_filename) and is_usable()


@functools.cache
def is_usable() -> bool:
    """Whether kernels can be kept, and what is kept can be trusted; warns if not."""
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
    to other users' writing, and so must the folders in it. They are closed to others' reading, too.
    The files are looked at when they are read.
    """
    if os.name != "posix":  # Windows: folders of a user's profile are the user's
        return ""
    above = [folder.parent]
    if not os.environ.get("NUMBA_CACHE_DIR"):
        above.append(folder.parent.parent)
    parts = [path for path in folder.iterdir() if path.is_dir()]
    for path in (*above, folder, *parts):
        if problem := _open_to_others(path):
            return f"{path}, which {problem}"
    for path in (folder, *parts):
        if stat.S_IMODE(path.lstat().st_mode) & 0o077 and not path.is_symlink():
            path.chmod(0o700)
    return ""


def _open_to_others(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        if foreign(status):  # a link's mode says nothing
            return "is a link of another user"
        status = path.stat()
    return sealed.why_not(status)


class Kept:
    """What is kept of a kernel on disk. It takes the place of Numba's own cache, which runs
    whatever it finds. Damaged files are compiled anew, and replaced."""

    def __init__(self, function: Any) -> None:
        code = function.__code__
        source = Path(code.co_filename).absolute()
        name = f"{source.stem}.{function.__qualname__}".replace("<", "").replace(">", "")
        place = hashlib.sha256(os.fsencode(source.parent)).hexdigest()[:16]
        self._folder = cache_folder() / f"{source.parent.name}-{place}"
        self._name = f"{name}-{code.co_firstlineno}"
        self._function = function
        self._source = sealed.hash_of(source.read_bytes(), code.co_code)
        self._damage = ""  # what was found instead of the file that is about to be compiled anew
        self._turn: int | None = None  # the descriptor of the lock that is held
        make_private(self._folder)

    @contextlib.contextmanager
    def taking_turns(self) -> Iterator[None]:
        """Compile or load within: the lock that a missing kernel needs is given back afterwards."""
        try:
            yield
        finally:
            if self._turn is not None:
                _unlock(self._turn)
                self._turn = None

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """What was kept; if it is missing, what the process before us has just compiled."""
        target_context.refresh()
        path, purpose = self._place(signature, target_context.codegen())
        found = self._load(path, purpose, target_context)
        if found is None:
            self._turn = _lock(path, self._function.__name__)
            found = self._load(path, purpose, target_context)
        return found

    def _load(self, path: Path, purpose: str, target_context: Any) -> Any:
        self._damage = ""
        try:
            content = sealed.read(path, purpose, self._source)
            if content is not None:
                return CompileResult._rebuild(target_context, *pickle.loads(content))
        except sealed.Damaged as error:
            self._damage = str(error)
        except Exception as error:  # what was written, but some other LLVM's or Python's
            self._damage = f"one that cannot be loaded ({type(error).__name__})"
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled; but what holds addresses is of use to this process alone."""
        name = self._function.__name__
        if compiled.lifted or compiled.library.has_dynamic_globals:
            warnings.warn(
                f"{name}: expected a kernel without addresses, got one with a pointer or a large "
                "array among its globals, which is compiled anew in every process. Pass such as "
                "arguments.",
                UserWarning,
                stacklevel=2,
            )
            return
        path, purpose = self._place(signature, compiled.codegen)
        make_private(self._folder)  # who tidied up may have removed it
        try:
            sealed.write(path, purpose, self._source, dumps(compiled._reduce()))
        except PermissionError:
            if os.name == "posix":
                raise
            return  # Windows: another process is reading it
        if self._damage:
            _say_replaced(name, path, self._damage)

    def _place(self, signature: Any, codegen: Any) -> tuple[Path, str]:
        """The file for a signature on this CPU, and all that it is for, in words."""
        cells = self._function.__closure__ or ()
        closure = dumps(tuple(cell.cell_contents for cell in cells)) if cells else b""
        python = (sys.implementation.cache_tag, getattr(sys, "abiflags", ""), sys.flags.optimize)
        key = (signature, codegen.magic_tuple(), python, sealed.hash_of(closure).hex())
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        path = self._folder / f"{self._name}-{digest}.nbc"
        return path, f"{path.relative_to(cache_folder().parent)} {key!r}"


_replaced = False


def _say_replaced(name: str, path: Path, damage: str) -> None:
    """Say, once in a process, that a file was damaged. (It is replaced already: where warnings are
    errors, the next try finds the new one.)"""
    global _replaced
    if not _replaced:
        _replaced = True
        warnings.warn(
            f"{name}: expected the compiled kernel that was kept in {path}, got {damage}. It was "
            "compiled anew and replaced, as others will be. If that happens again, look after the "
            "disk, or set NUMBA_CACHE_DIR to another.",
            UserWarning,
            stacklevel=2,
        )


# -- turns

_held: set[int] = set()  # descriptors of locks of this process


def _in_child() -> None:
    """A child of a fork has the descriptors too: it would hold the locks as long as it runs."""
    for handle in _held:
        os.close(handle)
    _held.clear()


in_children(_in_child)


def _lock(path: Path, name: str) -> int | None:
    """Wait for the lock of a kernel's file, which a process that ends gives back however it ends.

    Returns its descriptor; or None where there are no locks or the wait was in vain. Without one
    the kernel is compiled all the same: twice is better than never.
    """
    try:
        import fcntl

        handle = open_own(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
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
    if talk.allowed and not _waited:
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
