"""What a state file must look like: fields, types and ranges, checked whenever one is read.

A schema is a function of a value and of where it stands; it raises :class:`Unfit` at the first
value that is not as it must be. Larger ones are made of smaller ones::

    ROW = record({"epoch": whole(1), "lr": real(0)}, {"note": text})
    check(listing(ROW), rows, "resume runs/x/results.json")

A checksum shows that a file is as it was written; this shows that what was written makes sense,
whoever wrote it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from minires.errors import CheckpointError, message, quoted
from minires.files import open_to_read

MOST = 2**63 - 1

Schema = Callable[[Any, str], None]


class Unfit(Exception):
    """A value that is not as it must be; never leaves this module."""

    def __init__(self, where: str, expected: str, got: str) -> None:
        super().__init__(where, expected, got)


def check(schema: Schema, value: Any, op: str, fix: str = "") -> None:
    """Check what was read of a file.

    Raises:
        CheckpointError: it does not fit; names the place, what was expected there, and what came.
    """
    try:
        schema(value, "")
    except Unfit as error:
        where, expected, got = error.args
        raise CheckpointError(message(op, f"{where} {expected}".strip(), got, fix=fix)) from error


def read_json(path: Path, schema: Schema, op: str, fix: str) -> Any:
    """The value of a JSON file that fits.

    Raises:
        CheckpointError: the file is missing, no JSON, or does not fit; the text begins with ``op``.
    """
    with open_to_read(path, op) as file:
        raw = file.read()
    try:
        value = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        got = f"a damaged file ({type(error).__name__}: {error})"
        raise CheckpointError(message(op, f"JSON in {path}", got, fix=fix)) from error
    check(schema, value, f"{op} {path}", fix)
    return value


def whole(least: int = 0, most: int = MOST) -> Schema:
    """An integer from ``least`` to ``most``."""

    def fits(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            raise Unfit(where, f"a whole number from {least} to {most}", quoted(value))

    return fits


def real(least: float = -math.inf, most: float = math.inf) -> Schema:
    """A finite number from ``least`` to ``most``."""
    bounds = {-math.inf: "", 0: " >= 0"}.get(least, f" >= {least:g}")
    bounds += f" and <= {most:g}" if most < math.inf else ""

    def fits(value: Any, where: str) -> None:
        try:
            good = type(value) in (int, float) and math.isfinite(value) and least <= value <= most
        except OverflowError:  # an integer beyond all floats
            good = False
        if not good:
            raise Unfit(where, f"a finite number{bounds}", quoted(value))

    return fits


def text(value: Any, where: str) -> None:
    """Text of any kind."""
    if type(value) is not str:
        raise Unfit(where, "text", quoted(value))


def flag(value: Any, where: str) -> None:
    """True or false."""
    if type(value) is not bool:
        raise Unfit(where, "true or false", quoted(value))


def one_of(names: Collection[str]) -> Schema:
    """One of some names."""

    def fits(value: Any, where: str) -> None:
        if type(value) is not str or value not in names:
            raise Unfit(where, f"one of {', '.join(names)}", quoted(value))

    return fits


def optional(schema: Schema) -> Schema:
    """Null, or what fits another schema."""

    def fits(value: Any, where: str) -> None:
        if value is not None:
            schema(value, where)

    return fits


def listing(schema: Schema, least: int = 0, most: int = MOST) -> Schema:
    """A list of so many values that fit."""

    def fits(value: Any, where: str) -> None:
        if type(value) is not list or not least <= len(value) <= most:
            many = f" of {least}" if least == most else f" of {least} or more" if least else ""
            raise Unfit(where, f"a list{many}", quoted(value))
        for index, entry in enumerate(value):
            schema(entry, f"{where}[{index}]")

    return fits


def record(fields: Mapping[str, Schema], may_have: Mapping[str, Schema] | None = None) -> Schema:
    """An object that has all of ``fields``, perhaps some of ``may_have``, and nothing else."""
    known = {**fields, **(may_have or {})}

    def fits(value: Any, where: str) -> None:
        if type(value) is not dict:
            raise Unfit(where, "an object", quoted(value))
        missing = [name for name in fields if name not in value]
        if missing:
            raise Unfit(where, f"the fields {', '.join(fields)}", f"none called {missing[0]}")
        for name, entry in value.items():
            if name not in known:
                raise Unfit(where, f"the fields {', '.join(known)}", f"one called {quoted(name)}")
            known[name](entry, f"{where}.{name}" if where else name)

    return fits


def mapping(schema: Schema) -> Schema:
    """An object of any fields, each of which fits."""

    def fits(value: Any, where: str) -> None:
        if type(value) is not dict:
            raise Unfit(where, "an object", quoted(value))
        for name, entry in value.items():
            schema(entry, f"{where}.{name}" if where else name)

    return fits


def anything(value: Any, where: str) -> None:
    """What another check is for."""


def demand(good: bool, where: str, expected: str, got: object) -> None:
    """Raise unless a condition holds that ties several fields together."""
    if not good:
        raise Unfit(where, expected, quoted(got))


# -- what fit() remembers of each epoch

_ALWAYS = {
    "epoch": whole(1),
    "lr": real(0),
    "train_loss": real(),
    "train_error": real(0, 1),
    "seconds": real(0),
}
_ROWS = {
    name: listing(record({**_ALWAYS, f"{name}_loss": real(), f"{name}_error": real(0, 1)}))
    for name in ("test", "val")
}


def history(value: Any, where: str) -> None:
    """One row per epoch, in order, all of them with an evaluation of the same images."""
    validated = type(value) is list and value and type(value[0]) is dict and "val_loss" in value[0]
    _ROWS["val" if validated else "test"](value, where)
    for index, row in enumerate(value):
        demand(row["epoch"] == index + 1, f"{where}[{index}].epoch", f"{index + 1}", row["epoch"])
