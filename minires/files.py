"""Files that are either the old one or the new one, whenever the process is killed.

A folder may be one that others write to as well, and they may plant something under a name that
minires is about to open. So every file that minires makes for itself (temporary ones, locks, parts
of downloads) is opened by :func:`open_own`: it follows no link and waits for nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import stat
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minires.errors import ArgumentError, CheckpointError, message, quoted


def as_path(op: str, path: Any) -> Path:
    """A path given by a user, of a file that there is or may be.

    Raises:
        ArgumentError: neither text nor a path, or one that no file can have.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ArgumentError(message(op, "a path, as text or pathlib.Path", type(path).__name__))
    try:
        os.lstat(path)
    except ValueError as error:  # a NUL, or a surrogate that no byte stands for
        raise ArgumentError(message(op, "a path that files can have", quoted(path))) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            got = f"one of {len(os.fspath(path)):,} characters"
            raise ArgumentError(message(op, "a path that files can have", got)) from error
    return Path(path)


def open_own(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file of minires' own, or make it; returns its descriptor. An ``opener`` of ``open()``.

    Whatever else stands under the name is left alone: a symbolic link is not followed and a file
    with a second name is not changed, since both may lead to any file of the user; a pipe is not
    waited for.

    Raises:
        OSError: something else stands there, and what; or the system refuses.
    """
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags & ~os.O_TRUNC | careful, 0o666)
    except OSError as error:
        _refuse(_status(path), error.errno)
        raise
    try:
        _refuse(os.fstat(handle), errno.EEXIST)
        if flags & os.O_TRUNC:  # only now is it certain whose content that is
            os.ftruncate(handle, 0)
    except BaseException:
        os.close(handle)
        raise
    return handle


_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISREG, "a file that has a second name (a hard link)"),
)


def _status(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:  # nothing is there, or nothing that may be looked at
        return None


def _refuse(status: os.stat_result | None, number: int | None) -> None:
    """Raise unless this is nothing, or an ordinary file with one name."""
    if status is None or (stat.S_ISREG(status.st_mode) and status.st_nlink <= 1):
        return
    kind = next((kind for test, kind in _KINDS if test(status.st_mode)), "no ordinary file")
    raise OSError(number or errno.EEXIST, f"{kind} under the name of a file of minires")


def open_to_read(path: Path, op: str) -> BinaryIO:
    """A file opened for reading. A pipe, which could be waited for without end, is no file.

    Raises:
        ArgumentError: a path that no file can have.
        CheckpointError: it is missing, a folder, or cannot be read; the text begins with ``op``.
    """
    path = as_path(op, path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        if path.exists() and not path.is_dir():
            got = "no ordinary file"
        raise CheckpointError(message(op, f"a file at {path}", got))
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(message(op, f"to read {path}", error.strerror or error)) from error


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write ``content`` (text as UTF-8) to ``path``; a reader never sees half of it.

    Parts of file names that are no text (lone surrogates) are written as their escapes.

    The content goes to a new file in the same folder, is forced to the disk, and then takes the
    name in one step. Missing folders are made; the user's own symbolic link keeps pointing where
    it did.

    Raises:
        ArgumentError: ``path`` is no path, or ``content`` neither text nor bytes.
        CheckpointError: the folder cannot be made or written, the disk is full, or the name is a
            symbolic link that another user made; names the folder and the system's reason. A file
            that was there is as it was.
    """
    if not isinstance(content, str | bytes | bytearray):
        raise ArgumentError(message("write", "content of text or bytes", quoted(content)))
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    target = _followed(path)
    with _explained(target):
        replace(target, data)


def replace(target: Path, data: bytes | bytearray, mode: int | None = None) -> None:
    """What :func:`write_atomic` does, for a file of minires' own: no link is followed.

    Args:
        mode: who may read and write it; by default what the umask leaves.

    Raises:
        OSError: it cannot be written. A file that was there is as it was.
    """
    with _temporary(target) as temporary:
        # Not tempfile: its files are private to the owner, ours follow the umask.
        with open(temporary, "xb", opener=open_own) as file:
            if mode is not None:
                os.chmod(temporary, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise now what :func:`write_atomic` would raise later, after hours of training.

    Raises:
        CheckpointError: the folder of ``path`` cannot be made or written, or ``path`` is a folder.
    """
    target = _followed(path)
    with _explained(target), _temporary(target) as temporary:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with open(temporary, "xb", opener=open_own):
            pass


def _followed(path: str | os.PathLike[str]) -> Path:
    """The file that a path leads to, by links of the user's own or of the system's administrator:
    a link that others planted could lead to any file that this user may write."""
    link = as_path("write", path)
    for _ in range(40):  # as many as systems follow
        status = _status(link)
        if status is None or not stat.S_ISLNK(status.st_mode):
            break
        if foreign(status):
            raise CheckpointError(
                message(
                    "write",
                    f"{link.name} to be a file, or a link of your own",
                    "a symbolic link of another user",
                    f"folder {link.parent}",
                    "Remove it, or choose another place.",
                )
            )
        link = link.parent / os.readlink(link)
    return Path(os.path.realpath(path))


def foreign(status: os.stat_result) -> bool:
    """Whether a file belongs to another user, who is not the system's administrator."""
    return hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), 0)


def others_may_write(status: os.stat_result) -> bool:
    """Whether other users may change a file, or what is in a folder. (In a folder like /tmp, whose
    mode has the sticky bit, they may add files but not touch those of others.)"""
    return bool(status.st_mode & 0o022) and not status.st_mode & stat.S_ISVTX


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone, whatever the umask.

    Raises:
        OSError: it cannot be made.
    """
    for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A free name beside ``target``; a file of that name is removed, after Ctrl-C too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        if _is_plain(temporary):
            temporary.unlink(missing_ok=True)


_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


def _remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove what processes that were killed while they wrote these files left beside them.

    Only where no other process writes them now: its work in progress looks the same.
    """
    names: dict[Path, set[str]] = {}
    for path in paths:
        target = _followed(path)
        names.setdefault(target.parent, set()).add(target.name)
    for folder, owned in names.items():
        if not folder.is_dir():
            continue
        with _explained(folder / min(owned)):
            for name in os.listdir(folder):
                made = _TEMPORARY.fullmatch(name)
                if made and made[1] in owned and _is_plain(folder / name):
                    (folder / name).unlink(missing_ok=True)


def _is_plain(path: Path) -> bool:
    status = _status(path)
    return status is not None and stat.S_ISREG(status.st_mode)


LOCK = ".lock"


@contextlib.contextmanager
def claimed(folder: Path, op: str, owned: Iterable[Path] = ()) -> Iterator[None]:
    """Keep other processes of minires out of a folder until the block ends, or this process does.

    Args:
        folder: made if need be.
        op: begins the text of errors.
        owned: the files that the block writes. What killed processes left of them is removed.

    Raises:
        CheckpointError: the folder cannot be written, or another process works in it.
    """
    path = folder / LOCK
    with _explained(path):
        folder.mkdir(parents=True, exist_ok=True)
    owned = [*owned, path]
    if owned[0] != path:
        check_writable(owned[0])
    try:
        import fcntl
    except ImportError:  # Windows: the system has no such lock, and none is pretended
        _remove_leftovers(owned)
        yield
        _remove_leftovers(owned)
        return
    while True:
        try:
            handle = open_own(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            fix = f"Remove {path} if it is there, or choose another folder."
            got = error.strerror or str(error)
            raise CheckpointError(message(op, f"to lock {folder}", got, fix=fix)) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise CheckpointError(
                f"{op}: another process works in {folder}. Wait for it, or choose another folder."
            ) from None
        except OSError as error:  # some network file systems
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}): start no second process there.",
                UserWarning,
                stacklevel=3,
            )
            break
        status = _status(path)
        if status is not None and os.path.samestat(status, os.fstat(handle)):
            break
        os.close(handle)  # the process before removed the file between our two calls
    owner = os.getpid()
    try:
        _remove_leftovers(owned)
        yield
        _remove_leftovers(owned)
    finally:
        status = _status(path)  # of none or another file, if the user removed the folder meanwhile
        ours = status is not None and os.path.samestat(status, os.fstat(handle))
        if ours and os.getpid() == owner:  # not a forked child: its parent still works here
            os.unlink(path)
        os.close(handle)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            message(
                "write",
                f"to be able to write {target.name}",
                error.strerror or str(error),
                f"folder {target.parent}",
                "Choose another place, or free space and permissions there.",
            )
        ) from error


def write_json_atomic(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NumPy numbers and arrays and paths are fine.

    Raises:
        ArgumentError: a value that JSON cannot hold, NaN and infinities among them.
        CheckpointError: see :func:`write_atomic`.
    """
    try:
        text = json.dumps(value, indent=1, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(
            message("write_json_atomic", "JSON values and finite numbers", error, f"for {path}")
        ) from error
    write_atomic(path, text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a {type(value).__name__}")


def _sync_folder(folder: Path) -> None:
    """Force the new name itself to the disk, where the system can do that (POSIX)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
