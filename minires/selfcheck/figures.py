"""The figure of a run of the checks: how large the errors are, argument by argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..report.figures import GREY, KIND_COLOURS, heading, key, layout, legend, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR = 1e-18  # where an error of exactly 0 is drawn
COLOURS = {"numpy": GREY, "numba": KIND_COLOURS["residual"]}  # any other backend: a GPU
WRONG = "#b42318"


@styled
def errors(rows: Sequence[Any], *, narrow: bool = False) -> Figure:
    """The largest relative error of each argument, from the smallest to the largest, one curve for
    each backend and a panel for each kind of thing that was checked.

    What fails is a cross. Arguments without a comparison (no kernel) are left out. ``rows`` are
    those of :meth:`~minires.selfcheck.Result.rows`.
    """
    from matplotlib.figure import Figure

    compared = [row for row in rows if row.references]
    kinds = list(dict.fromkeys(row.kind for row in compared)) or ["operation"]
    backends = list(dict.fromkeys(row.backend for row in compared))
    n = len(kinds)
    size = (4.7, 2.7 * n + 1.0) if narrow else (max(3.3 * n, 6.0), 4.2)
    figure = Figure(figsize=size, layout=layout())
    shape = (n, 1) if narrow else (1, n)
    axes = figure.subplots(*shape, sharey=True, squeeze=False).ravel()
    for axis, kind in zip(axes, kinds):
        for backend in backends:
            chosen = [row for row in compared if (row.kind, row.backend) == (kind, backend)]
            chosen.sort(key=lambda row: row.relative)
            y = [max(row.relative, FLOOR) for row in chosen]
            colour = COLOURS.get(backend, KIND_COLOURS["plain"])
            axis.plot(range(1, len(y) + 1), y, ls="", marker=".", ms=4, color=colour)
            wrong = [(i + 1, y[i]) for i, row in enumerate(chosen) if not row.ok]
            axis.plot(*(zip(*wrong) if wrong else ((), ())), ls="", marker="x", ms=8, color=WRONG)
        axis.set_yscale("log")
        axis.set_ylim(FLOOR / 3, 10 if any(not row.ok for row in compared) else 1e-4)
        axis.set_title(f"{kind.capitalize()}s")
        axis.set_xlabel("arguments, sorted by error")
    for axis in axes if narrow else axes[:1]:
        axis.set_ylabel("largest relative error, log scale")
    keys = [
        key(name, color=COLOURS.get(name, KIND_COLOURS["plain"]), lw=0, marker=".", ms=9)
        for name in backends
    ]
    if any(not row.ok for row in compared):
        keys.append(key("fails", color=WRONG, lw=0, marker="x", ms=8))
    if keys:
        legend(figure, keys, per_row=4)
    entries = sum(row.entries for row in compared)
    note = f"{len(compared):,} arguments, {entries:,} entries of Jacobians; 0 is drawn at 1e-18"
    heading(figure, "Gradients against numerical derivatives", [note])
    return figure
