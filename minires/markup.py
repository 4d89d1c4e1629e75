"""HTML that notebooks show for a value: text is escaped, and colours are the notebook's own, so
that it can be read in the light and in the dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

EDGE = 5  # rows and columns of a large table that are shown at each end
_CELL = "padding:.15em .6em;white-space:nowrap;text-align:right;font-variant-numeric:tabular-nums"
_LEFT = "padding:.15em .6em;white-space:nowrap;text-align:left"


def code(text: object) -> str:
    return f"<code>{escape(str(text))}</code>"


def line(*parts: str) -> str:
    """Facts, one after another; what is wider than the page wraps."""
    return f'<div style="overflow-wrap:anywhere">{" · ".join(parts)}</div>'


def details(summary: str, body: str, is_open: bool = False) -> str:
    """What unfolds on a click. Both are HTML."""
    opened = " open" if is_open else ""
    return (
        f'<details{opened} style="margin:.1em 0"><summary style="cursor:pointer">{summary}'
        f'</summary><div style="margin-left:1.2em">{body}</div></details>'
    )


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A table of texts; the first ``left`` columns begin on the left. Wide ones scroll."""

    def cells(tag: str, values: Sequence[object]) -> str:
        return "".join(
            f'<{tag} style="{_LEFT if i < left else _CELL}">{escape(str(value))}</{tag}>'
            for i, value in enumerate(values)
        )

    head = f"<thead><tr>{cells('th', heads)}</tr></thead>" if heads else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        '<div style="overflow-x:auto;max-width:100%"><table style="border-collapse:collapse">'
        f"{head}<tbody>{body}</tbody></table></div>"
    )


def picture(svg: bytes, what: str) -> str:
    """A picture that the page holds itself; on white, as it was drawn."""
    data = base64.b64encode(svg).decode("ascii")
    return (
        f'<img alt="{escape(what)}" src="data:image/svg+xml;base64,{data}" '
        'style="max-width:100%;height:auto;background:#fff">'
    )


def array(values: np.ndarray, facts: Sequence[str]) -> str:
    """An array with facts above it: up to two axes as a table, abbreviated where it is large; more
    axes as their range, and as text that unfolds."""
    head = line(*map(code, facts))
    if values.size == 0:
        return head
    if values.ndim == 0:
        return head + f'<div style="font-size:1.2em">{escape(number(values[()]))}</div>'
    if values.ndim <= 2:
        rows = values.reshape(-1, values.shape[-1])
        down, across = (_shown(n) for n in rows.shape)
        cells = [
            ["⋮" if r is None or c is None else number(rows[r, c]) for c in across] for r in down
        ]
        return head + table([], cells, left=0)
    with np.printoptions(threshold=200, edgeitems=2):
        text = escape(np.array2string(values, separator=", "))
    return head + line(*_range(values)) + details("values", f"<pre>{text}</pre>")


def _shown(n: int) -> list[int | None]:
    """Which of n places are shown; None stands for those left out."""
    if n <= 2 * EDGE + 1:
        return list(range(n))
    return [*range(EDGE), None, *range(n - EDGE, n)]


def _range(values: np.ndarray) -> list[str]:
    if values.dtype.kind not in "fiu":
        return []
    known = values[np.isfinite(values)]
    parts = []
    if known.size:
        mean = known.mean(dtype=np.float64)
        parts = [f"from {number(known.min())} to {number(known.max())}", f"mean {number(mean)}"]
    if known.size < values.size:
        parts.append(f"{values.size - known.size:,} NaN or infinite")
    return parts


def number(value: Any) -> str:
    """A value as a cell shows it."""
    return f"{value:.4g}" if getattr(value, "dtype", np.dtype(bool)).kind in "fc" else str(value)
