"""What all figures of minires share: one style, a heading, a legend, and how they become files.

The same visual code everywhere: vermillion is plain and blue is residual; and as in He et al. 2015
(arXiv:1512.03385, Fig. 6) dashed is the training error and solid the test error. Figures are built
on ``matplotlib.figure.Figure`` without pyplot, so that drawing neither needs a display nor touches
the figures or settings of a notebook that calls this; Matplotlib is imported on first use. The same
figure gives the same bytes (no dates, fixed SVG identifiers).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_DPI = 160
FORMATS = ("png", "svg", "pdf")
DASHED: Any = (0, (4, 1.6))
# Vermillion and blue of the Okabe-Ito palette: told apart with every common colour blindness.
KIND_COLOURS = {"plain": "#d55e00", "residual": "#0072b2"}
INK, GREY, RULE = "#1f2328", "#59636e", "#dfe3e8"
# Any: Matplotlib's own type for the keys exists in recent versions only.
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: searchable, selectable, small
    "svg.hashsalt": "minires",
}

P = ParamSpec("P")


def matplotlib() -> Any:
    """Matplotlib, imported on first use.

    No figure here needs a window, so a window system that Matplotlib does not know, named by
    ``MPLBACKEND``, is no reason to fail.
    """
    try:
        return importlib.import_module("matplotlib")
    except ValueError:
        if "MPLBACKEND" not in os.environ:
            raise
        chosen = os.environ.pop("MPLBACKEND")
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # what the failed import has left
        try:
            return importlib.import_module("matplotlib")
        finally:
            os.environ["MPLBACKEND"] = chosen


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a figure be built under :data:`STYLE`, whatever the caller's own settings."""

    @functools.wraps(draw)
    def under_style(*args: P.args, **options: P.kwargs) -> Figure:
        with matplotlib().rc_context(STYLE):
            return draw(*args, **options)

    return under_style


def to_bytes(figure: Figure, file_format: str) -> bytes:
    """The figure in one of :data:`FORMATS`."""
    # Without these, Matplotlib stamps the time and its own version into the file.
    stamps = {
        "png": ("Software",),
        "svg": ("Date", "Creator"),
        "pdf": ("CreationDate", "Creator", "Producer"),
    }
    metadata: Any = dict.fromkeys(stamps[file_format])
    buffer = io.BytesIO()
    with matplotlib().rc_context(STYLE), _undated():
        figure.savefig(buffer, format=file_format, dpi=PNG_DPI, metadata=metadata)
    return buffer.getvalue()


@contextlib.contextmanager
def _undated() -> Iterator[None]:
    """Matplotlib reads ``SOURCE_DATE_EPOCH`` for a date that is in none of our files, and fails
    where it is no number."""
    date = os.environ.pop("SOURCE_DATE_EPOCH", None)
    try:
        yield
    finally:
        if date is not None:
            os.environ["SOURCE_DATE_EPOCH"] = date


def layout() -> Any:
    """The automatic layout of a figure's panels."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, hspace=0.04, wspace=0.04)


def heading(figure: Figure, what: str, notes: Sequence[str]) -> None:
    """The title: what is shown, and under it lines of notes, in grey.

    The figure must have a :func:`layout`.
    """
    lines: list[tuple[str, dict[str, Any]]] = [(what, {"weight": "bold", "size": 11.5})]
    lines += [(note, {"color": GREY}) for note in notes]
    # Lines of different style cannot share a supertitle, so they are placed in inches, and the
    # automatic layout is given what is left below them.
    height = figure.get_figheight()
    y = height - 0.12
    for text, style in lines:
        figure.text(0.14, y, text, va="top", transform=figure.dpi_scale_trans, **style)
        y -= 0.24
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, (y + 0.02) / height))


def key(label: str, **line: Any) -> Any:
    """An entry of a legend: a line of this look."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **line)


def shades(colour: str, n: int) -> list[tuple[float, float, float]]:
    """``n`` shades of a colour, from the darkest to a light one, told apart in grey as well."""
    from matplotlib.colors import to_rgb

    base = to_rgb(colour)
    if n == 1:
        return [base]
    mixed = []
    for step in range(n):
        share = 1.35 - 0.9 * step / (n - 1)  # above 1: mixed with black, below: with white
        towards, weight = (1.0, share) if share < 1 else (0.0, 2 - share)
        mixed.append(tuple(weight * part + (1 - weight) * towards for part in base))
    return mixed  # type: ignore[return-value]


def legend(figure: Figure, keys: list[Any], per_row: int) -> None:
    """A legend below all panels. A key of several lines, a tuple, shows them side by side."""
    from matplotlib.legend_handler import HandlerTuple

    figure.legend(
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.2)},
        handles=keys,
        labels=[(part[0] if isinstance(part, tuple) else part).get_label() for part in keys],
        loc="outside lower center",
        ncols=min(per_row, len(keys)),
        handlelength=2.4,
        columnspacing=1.6,
    )


def plain_number(value: float, _: object = None) -> str:
    """A tick label without trailing zeros."""
    return f"{value:g}"
