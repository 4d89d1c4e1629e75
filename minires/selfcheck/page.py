"""The report of ``minires gradcheck --report``: an HTML page, or the same facts as JSON.

The words and the markup of the page are in ``report/templates/selfcheck.html``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from .. import environment
from ..device import Device
from ..errors import ArgumentError, message
from ..files import check_writable, write_atomic
from ..gradcheck.report import MOST_SKIPPED, ROUNDING_LIMIT
from ..report.page import render
from . import figures
from .gallery import Gallery, Picture, picture
from .results import Result

Line = TypeVar("Line")


def check_path(path: Path) -> None:
    """Raise now what :func:`write` would raise after the work.

    Raises:
        ArgumentError: neither .html nor .json.
        CheckpointError: the folder cannot be made or written.
    """
    if path.suffix not in (".html", ".json"):
        raise ArgumentError(message("--report", "a file ending in .html or .json", str(path)))
    check_writable(path)


def write(path: Path, result: Result, command: str, gallery: Gallery | None = None) -> None:
    """Write the report in the format that the suffix names. Beside a page, the folder
    ``<page>_figures`` gets its figures as PNG, SVG and PDF.

    Args:
        gallery: of the identity path, where blocks were checked.
    """
    data = {"command": command, **result.as_dict(), "environment": _environment(result)}
    if gallery is not None:
        data["identity"] = gallery.as_dict()
        data["ok"] = data["ok"] and gallery.ok
    if path.suffix == ".html":
        errors = picture(
            "errors",
            "How large the errors are",
            "The largest relative error of each argument, from the smallest to the largest. "
            "float64 has about 1e-16 of rounding in each operation; what is compared with central "
            "differences loses more.",
            lambda narrow: figures.errors(result.rows(), narrow=narrow),
        )
        write_atomic(path, html(result, data, gallery, errors))
        for shown in [errors, *(gallery.pictures if gallery is not None else [])]:
            shown.save(path.with_name(f"{path.stem}_figures"))
    else:
        write_atomic(path, json.dumps(_strict(data), indent=1, allow_nan=False) + "\n")
    if path not in result.pages:
        result.pages.append(path)


def _environment(result: Result) -> dict[str, Any]:
    """Of this machine, and of the first GPU that something was checked on."""
    names = (outcome.backend for outcome in result.outcomes)
    gpu = next((name for name in names if name.startswith("cuda")), "cpu")
    return environment.describe(Device(gpu))


def _strict(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, as strings."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def html(result: Result, data: dict[str, Any], gallery: Gallery | None, errors: Picture) -> str:
    """The page; ``data`` is what the JSON report holds."""
    proofs = gallery.proofs if gallery is not None else []
    rows_by_kind = _grouped(result.rows(), lambda row: row.kind)
    return render(
        "selfcheck.html",
        title="Gradients of minires, checked",
        summary=result.summary(),
        failures=result.failures() + (gallery.failures() if gallery is not None else []),
        gallery=gallery,
        errors=errors,
        proofs_by_block=_grouped(proofs, lambda proof: proof.block),
        rows_by_kind={
            kind: _grouped(rows, lambda row: row.name) for kind, rows in rows_by_kind.items()
        },
        most_skipped=f"{MOST_SKIPPED:.0%}",
        rounding_limit=f"{ROUNDING_LIMIT:g}",
        command=data["command"],
        environment=[
            (name.replace("_", " "), "unknown" if value is None else str(value))
            for name, value in data["environment"].items()
        ],
    )


def _grouped(lines: Iterable[Line], key: Callable[[Line], str]) -> dict[str, list[Line]]:
    """The lines by key, both in the order in which they come."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return groups
