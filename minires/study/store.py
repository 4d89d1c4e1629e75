"""A study's folder on disk, checked when it is read."""

from __future__ import annotations

import json
import zlib
from datetime import datetime
from pathlib import Path
from typing import Any

from minires.errors import CheckpointError, message
from minires.files import open_to_read, write_json_atomic
from minires.study import stored
from minires.train import schema

FORMAT = 1
FILE = "results.json"

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
    with open_to_read(file, "resume") as opened:
        raw = opened.read()
    try:
        results = json.loads(raw.decode())
        found = results["format"]
        whole = results.get("checksum") == _checksum(results)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
    if found != FORMAT:
        raise CheckpointError(message(f"resume {file}", f"format {FORMAT}", found))
    if not whole:
        raise _damaged(file, "its checksum does not fit what is in it")
    schema.check(stored.results, results, f"resume {file}", "Start a new study.")
    return results


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"resume: {file} is damaged ({why}). Its numbers cannot be trusted; start a new study."
    )


def _checksum(results: Results) -> int:
    rest = {key: value for key, value in results.items() if key != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())
