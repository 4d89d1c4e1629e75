"""The report of ``minires gradcheck --report``: an HTML page, or the same facts as JSON."""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from typing import Any

from .. import environment
from ..errors import ArgumentError, message
from ..files import check_writable, write_atomic
from ..gradcheck.report import MOST_SKIPPED, ROUNDING_LIMIT
from ..report.page import document, facts, paragraph, svg_uri
from .gallery import Gallery, Picture
from .results import Result, Row

CSS = """
main { max-width: 1080px; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
.checks { font-size: .88rem; }
.checks th, .checks td { padding: .16rem .6rem; white-space: nowrap; }
.checks th[scope="rowgroup"] { text-align: left; padding-top: .7rem; padding-left: 0; }
.checks td.argument { padding-left: 1rem; }
.checks tbody { border-bottom: 1px solid #dfe3e8; }
.ok { color: #1a7f37; } .fail { color: #b42318; font-weight: 700; } .missing { color: #59636e; }
pre { background: #f3f5f7; padding: .8rem 1rem; border-radius: 6px; overflow-x: auto;
  font: .84rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
summary { cursor: pointer; margin: 0 0 .75rem; }
dl { margin: 0 0 1rem; max-width: 46rem; } dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
@media (max-width: 640px) {
  .checks { font-size: .78rem; }
  .checks th, .checks td { padding: .14rem .4rem; }
  .checks td.argument { padding-left: .5rem; }
}
"""

HEADINGS = {
    "entries": "entries<br>checked",
    "error": "worst<br>error",
    "reference": "reference",
    "skipped": "kinks<br>skipped",
    "second": "second<br>order",
    "rounding": "float32<br>units",
    "adjoint": "adjoint<br>test",
}
COLUMNS = {
    "entries checked": "Entries of the Jacobian, ∂output/∂argument, that were computed by backward "
    "and compared with a numerical derivative, over all cases; for whole networks, random probes "
    "vᵀJu.",
    "worst error": "The largest difference of the two in proportion to the entry, or to 1 % of "
    "the largest one in its row or column.",
    "reference": "How the numerical derivative was taken. A complex step has no step size to "
    "choose and is exact to the last digits; five-point (Richardson) and central differences take "
    "over where an operation is not made for complex numbers.",
    "kinks skipped": "Entries where a ReLU, a maximum or a clip switches so close by that there is "
    f"no derivative to compare with. Above {MOST_SKIPPED:.0%} the check fails.",
    "second order": "The same worst error for the derivative of the backward pass, by random "
    "probes.",
    "float32 units": "How far the float32 kernels are from the float64 reference, over the "
    "rounding error that sums of their length accumulate. Above "
    f"{ROUNDING_LIMIT:g} the check fails.",
    "adjoint test": "For linear operations: ⟨Ju, v⟩ against ⟨u, Jᵀv⟩ for random u and v, with no "
    "numerical derivative at all.",
}


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
    """Write the report in the format that the suffix names.

    Args:
        gallery: of the identity path, where blocks were checked.
    """
    data = {"command": command, **result.as_dict(), "environment": environment.describe()}
    if gallery is not None:
        data["identity"] = gallery.as_dict()
        data["ok"] = data["ok"] and gallery.ok
    if path.suffix == ".html":
        write_atomic(path, html(result, data, gallery))
    else:
        write_atomic(path, json.dumps(_strict(data), indent=1, allow_nan=False) + "\n")


def _strict(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, as strings."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def html(result: Result, data: dict[str, Any], gallery: Gallery | None = None) -> str:
    """The page; ``data`` is what the JSON report holds."""
    title = "Gradients of minires, checked"
    failures = result.failures() + (gallery.failures() if gallery is not None else [])
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="{"warning" if failures else "finding"}">{escape(result.summary())}</p>',
        "<h2>What fails</h2>" if failures else "",
        *(f"<pre>{escape(text)}</pre>" for text in failures),
        *(_identity(gallery) if gallery is not None else ()),
        "<h2>Every argument on every backend</h2>",
        _tables(result.rows()),
        "<h2>How to read the table</h2>",
        _reading(),
        "<h2>Environment</h2>",
        f"<p>Command: <code>{escape(data['command'])}</code></p>",
        facts(
            (name.replace("_", " "), "unknown" if value is None else str(value))
            for name, value in data["environment"].items()
        ),
    ]
    return document(title, "\n".join(part for part in parts if part), CSS)


def _identity(gallery: Gallery) -> list[str]:
    """The proofs in a table, then the pictures."""
    worst = max(proof.disagreement for proof in gallery.proofs)
    failed = len(gallery.failures())
    text = (
        f"{failed} of {len(gallery.proofs)} proofs do not hold."
        if failed
        else f"The Jacobian J of a block should be D (∂F/∂x + S). In {len(gallery.proofs)} blocks "
        "both sides were compared, entry by entry. As backward computes them, they are equal bit "
        "for bit. As "
        f"the complex step computes them, without backward, they differ by at most {worst:.0e} of "
        "the largest entry. S is the identity, the 0/1 matrix of shortcut A, or a projection. D is "
        "the mask of the ReLU behind the addition, where there is one."
    )
    heads = (
        *("mode", "shortcut", "stride", "S"),
        *("entries", "bit for<br>bit", "disagree-<br>ment", "backward<br>error", "verdict"),
    )
    bodies = []
    for block in dict.fromkeys(proof.block for proof in gallery.proofs):
        lines = [f'<tr><th scope="rowgroup" colspan="{len(heads)}">{escape(block)}</th></tr>']
        for p in gallery.proofs:
            if p.block != block:
                continue
            words = (p.mode, p.shortcut or "none", str(p.stride), p.skip)
            numbers = (
                *(f"{p.entries:,}", "yes" if p.bitwise else "no"),
                *(f"{p.disagreement:.0e}", f"{p.truth:.0e}"),
            )
            lines.append(
                "<tr>"
                + "".join(f'<td class="text argument">{escape(word)}</td>' for word in words)
                + "".join(f"<td>{number}</td>" for number in numbers)
                + f'<td class="text {"ok" if p else "fail"}">{"ok" if p else "FAIL"}</td></tr>'
            )
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    titles = "".join(
        f'<th scope="col" class="{"text" if i < 4 or i == 8 else ""}">{head}</th>'
        for i, head in enumerate(heads)
    )
    return [
        "<h2>The identity path</h2>",
        paragraph(text),
        *(_figure(number, picture) for number, picture in enumerate(gallery.pictures, 1)),
        "<details><summary>Every block, shortcut, stride and mode</summary>"
        f'<div class="scroll"><table class="checks"><thead><tr>{titles}</tr></thead>'
        f"{''.join(bodies)}</table></div></details>",
    ]


def _figure(number: int, picture: Picture) -> str:
    """A picture in both layouts; the browser picks by the width of the page."""
    return (
        f'<figure><picture><source media="(max-width: 640px)" srcset="{svg_uri(picture.narrow)}">'
        f'<img src="{svg_uri(picture.wide)}" alt="{escape(picture.title)}"></picture>'
        f"<figcaption><strong>Figure {number}. {escape(picture.title)}.</strong> "
        f"{escape(picture.caption)}</figcaption></figure>"
    )


def _tables(rows: list[Row]) -> str:
    """One table for operations, one for layers, one for blocks."""
    parts = []
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if row.kind == kind]
        bodies = "".join(
            _body(name, [row for row in own if row.name == name])
            for name in dict.fromkeys(row.name for row in own)
        )
        heads = "".join(f'<th scope="col">{text}</th>' for text in HEADINGS.values())
        parts.append(
            f"<h3>{escape(kind.capitalize())}s</h3>"
            '<div class="scroll"><table class="checks"><thead><tr>'
            '<th scope="col" class="text">argument</th><th scope="col" class="text">backend</th>'
            f'<th scope="col" class="text">verdict</th>{heads}</tr></thead>{bodies}</table></div>'
        )
    return "".join(parts)


def _body(name: str, rows: list[Row]) -> str:
    columns = len(HEADINGS) + 3
    lines = [f'<tr><th scope="rowgroup" colspan="{columns}">{escape(name)}</th></tr>']
    argument = None
    for row in rows:
        cells = row.cells()
        shown = "" if row.argument == argument else row.argument
        argument = row.argument
        style = {"ok": "ok", "FAIL": "fail"}.get(cells["verdict"], "missing")
        numbers = "".join(f"<td>{escape(cells[key])}</td>" for key in HEADINGS)
        lines.append(
            f'<tr><td class="text argument">{escape(shown)}</td>'
            f'<td class="text">{escape(row.backend)}</td>'
            f'<td class="text {style}">{escape(cells["verdict"])}</td>{numbers}</tr>'
        )
    return f"<tbody>{''.join(lines)}</tbody>"


def _reading() -> str:
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in COLUMNS.items())
    return f"<dl>{items}</dl>"
