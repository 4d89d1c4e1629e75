"""A study's folder on disk: claimed by one process at a time, checked when it is read."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from minires.errors import CheckpointError, message
from minires.train import check_writable, write_json_atomic

FORMAT = 1
FILE = "results.json"
LOCK = ".lock"

Results = dict[str, Any]


def new_folder() -> Path:
    """Make ``runs/depth-<date and time>``, with a number behind it if that exists already.

    Raises:
        CheckpointError: it cannot be made; names the reason.
    """
    name = f"depth-{datetime.now():%Y-%m-%d-%H%M%S}"
    for number in range(1, 1000):
        path = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise CheckpointError(f"study: cannot make {path}: {error.strerror}") from error
        return path
    raise CheckpointError(f"study: runs/{name}-2 to -999 all exist. Choose a folder by --out.")


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keep other processes out of the folder until the block ends, or this process does.

    Raises:
        CheckpointError: the folder cannot be written, or another process works in it.
    """
    check_writable(path / FILE)
    try:
        import fcntl
    except ImportError:  # Windows: the system has no such lock, and none is pretended
        yield
        return
    with open(path / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"study: another process works in {path}. Wait for it, or choose another folder."
            ) from None
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):  # the user may have removed the folder
                os.unlink(path / LOCK)


def save(results: Results, path: Path) -> None:
    """Write ``results.json``, with a checksum of everything else in it."""
    results["checksum"] = _checksum(results)
    write_json_atomic(path / FILE, results)


def load(path: Path) -> Results:
    """Read ``results.json``.

    Raises:
        CheckpointError: it is missing, of another format, or not as it was written.
    """
    file = path / FILE
    if not file.exists():
        raise CheckpointError(
            f"resume: expected a study in {path}, got no {FILE} there. Give the folder that "
            "minires depth wrote, such as runs/depth-2026-01-31-120000."
        )
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        found = results["format"]
        whole = results.get("checksum") == _checksum(results)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"resume: cannot read {file}: {error.strerror}") from error
    if found != FORMAT:
        raise CheckpointError(message(f"resume {file}", f"format {FORMAT}", found))
    if not whole:
        raise _damaged(file, "its checksum does not fit what is in it")
    return results


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"resume: {file} is damaged ({why}). Its numbers cannot be trusted; start a new study."
    )


def _checksum(results: Results) -> int:
    rest = {key: value for key, value in results.items() if key != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())
