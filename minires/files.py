"""Files that are either the old one or the new one, whenever the process is killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minires.errors import ArgumentError, CheckpointError, message


def as_path(op: str, path: Any) -> Path:
    """A path given by a user.

    Raises:
        ArgumentError: neither text nor a path.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ArgumentError(message(op, "a path, as text or pathlib.Path", type(path).__name__))
    return Path(path)


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write ``content`` (text as UTF-8) to ``path``; a reader never sees half of it.

    The content goes to a new file in the same folder, is forced to the disk, and then takes the
    name in one step. Missing folders are made; a symbolic link keeps pointing where it did.

    Raises:
        CheckpointError: the folder cannot be made or written, or the disk is full; names the
            folder and the system's reason. A file that was there is as it was.
    """
    target = Path(os.path.realpath(path))
    data = content.encode() if isinstance(content, str) else content
    with _explained(target), _temporary(target) as temporary:
        # Not tempfile: its files are private to the owner, ours follow the umask.
        with open(temporary, "xb") as file:
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
    target = Path(os.path.realpath(path))
    with _explained(target), _temporary(target) as temporary:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary.touch()


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A free name beside ``target``; a file of that name is removed, after Ctrl-C too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


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
    except (TypeError, ValueError) as error:
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
