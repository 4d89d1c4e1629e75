"""Settings of a run in a TOML file: read with their types checked, written whole."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from minires.errors import CheckpointError, message, unknown
from minires.files import open_to_read, write_atomic
from minires.train import schema

MOST = 1_000_000  # bytes of a file of settings


def read_settings(path: Path, fields: Mapping[str, schema.Schema], op: str) -> dict[str, Any]:
    """The settings in a file; those that it does not name are not in the result.

    Args:
        fields: the known settings, and what each must be.
        op: begins the text of errors.

    Raises:
        CheckpointError: no file, no TOML, an unknown setting (the nearest one is named), or a value
            of the wrong type or range.
    """
    with open_to_read(path, op) as file:
        raw = file.read(MOST + 1)
    try:
        if len(raw) > MOST:
            raise ValueError(f"more than {MOST:,} bytes")
        values = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(message(op, f"TOML in {path}", error)) from error
    for name, value in values.items():
        if name not in fields:
            raise CheckpointError(f"{op}: in {path}, {unknown('setting', name, fields)}.")
        schema.check(fields[name], value, f"{op}: {path}: {name}")
    return values


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    """Write settings; what is None has no line.

    Raises:
        CheckpointError: the file cannot be written.
    """
    kept = {name: value for name, value in values.items() if value is not None}
    write_atomic(path, tomli_w.dumps(kept))
