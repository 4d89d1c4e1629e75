"""The study's three figures, from the ``results`` dictionary that ``minires depth`` stores.

* :func:`curves`: running training error and test error by epoch (He et al. 2015,
  arXiv:1512.03385, Fig. 6);
* :func:`error_by_depth`: final error against depth;
* :func:`gradient_norms`: gradient norm of each layer at the start and at the end of training.

The same visual code in all of them, that of the paper's Fig. 6: dashed is training error and solid
is test error. Colour is the kind of network, in shades from dark to light by depth, so that it also
reads in grey. Over several seeds a line is the mean of the finished runs and the band around it
their range. The style is that of :mod:`minires.report.figures`; the same results give the same
bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.files import write_atomic
from minires.report.figures import (
    DASHED,
    FORMATS,
    GREY,
    INK,
    KIND_COLOURS,
    heading,
    key,
    layout,
    legend,
    plain_number,
    shades,
    styled,
    to_bytes,
)
from minires.study import words
from minires.study.tables import KINDS, groups, rows
from minires.study.words import Words, sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Where both kinds have the same error, an open square around a disc still shows both.
MARKERS: dict[str, dict[str, Any]] = {
    "plain": {"marker": "s", "ms": 9, "mfc": "none", "mew": 1.6, "zorder": 3},
    "residual": {"marker": "o", "ms": 5.5, "zorder": 2.5},
}

MEASURES: dict[str, dict[str, Any]] = {
    "train_error": {"ls": DASHED, "lw": 1.3},
    "test_error": {"ls": "-", "lw": 2.0},
}


@styled
def curves(results: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Running training error (dashed) and test error (solid) by epoch; a panel per kind.

    The running error is counted during the epoch, in training mode; the final error of the other
    figure and of the table is measured after it, in evaluation mode.

    As in the paper's Fig. 6 the y axis stops at 20 % where every run ends below that, since the
    first epochs would otherwise press the interesting part flat. A run cut short is drawn by
    itself up to a cross. ``narrow`` stacks the panels for a phone's width.
    """
    from matplotlib.ticker import MaxNLocator

    kinds, colours, say = _kinds(results), _depth_colours(results), words.of(results)
    figure, axes = _panels(1, kinds, narrow, width=9.6, height=4.7, narrow_height=3.3)
    top, cut = _axis_top(results)
    stopped = False
    for axis, kind in zip(axes[0], kinds):
        for (depth, run_kind), runs in groups(results).items():
            if run_kind != kind:
                continue
            for part in _drawn_together(runs):
                stopped |= not part[0]["finished"]
                for measure in MEASURES:
                    _curve(axis, part, measure, colours[kind][depth])
        axis.set_title(sentence(say("plot.networks", kind=say.kind(kind))))
        axis.set_xlabel(say("plot.epoch"))
        axis.set_ylim(-0.012 * top, top)  # a line at 0 % stays clear of the axis
        axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        _whole_epochs(axis, results)
    for axis in axes[0] if narrow else axes[0][:1]:
        axis.set_ylabel(say("curves.y"))
    keys = _depth_keys(say, colours)
    keys += [
        key(say("curves.train"), color=INK, **MEASURES["train_error"]),
        key(say("curves.test"), color=INK, **MEASURES["test_error"]),
    ]
    if stopped:
        keys.append(key(say("curves.stopped"), color=INK, lw=0, marker="x"))
    legend(figure, keys, per_row=3 if narrow else 8)
    notes = [say("curves.cut", top=top)] if cut else []
    _heading(figure, results, say("curves.title"), narrow, notes)
    return figure


@styled
def error_by_depth(results: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Final training and test error in percent against depth, plain and residual in each panel.

    The y axis is linear up to 1 % and logarithmic above, so that 0 %, 2 % and 90 % are all
    legible. Bars span the range over seeds. Runs without a final result are left out.
    """
    table = [row for row in rows(results) if row["seeds"]]
    panels, say = ("train_error", "test_error"), words.of(results)
    figure, axes = _panels(1, panels, narrow, width=9.6, height=4.4, narrow_height=3.2)
    depths = sorted({row["depth"] for row in table})
    for axis, measure in zip(axes[0], panels):
        for kind in _kinds(results):
            line = [row for row in table if row["kind"] == kind]
            if not line:
                continue
            x = [row["depth"] for row in line]
            y = [100 * row[measure]["mean"] for row in line]
            low = [100 * (row[measure]["mean"] - row[measure]["min"]) for row in line]
            high = [100 * (row[measure]["max"] - row[measure]["mean"]) for row in line]
            axis.errorbar(
                x,
                y,
                yerr=(low, high) if any(high) else None,
                color=KIND_COLOURS[kind],
                ls=MEASURES[measure]["ls"],
                lw=2,
                elinewidth=1.2,
                capsize=3,
                **MARKERS[kind],
            )
        axis.set_title(say("depth.train" if measure == "train_error" else "depth.test"))
        axis.set_xlabel(say("depth.x"))
        _percent_symlog(axis, table)
        _depth_ticks(axis, depths)
        _label_ends(axis, table, measure)
    for axis in axes[0] if narrow else axes[0][:1]:
        axis.set_ylabel(say("depth.y"))
    kinds = _kinds(results)
    keys = [key(say.kind(kind), color=KIND_COLOURS[kind], lw=2, **MARKERS[kind]) for kind in kinds]
    legend(figure, keys, per_row=2)
    _heading(figure, results, say("depth.title"), narrow)
    return figure


@styled
def gradient_norms(results: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Gradient norm of every convolution's weight, first to last, at the start and at the end.

    One row of panels for the start and one for the end, one column per kind, one logarithmic y
    axis for all; x is the layer's relative position, so that depths share an axis. Means over
    seeds are geometric. A norm that is zero or not finite has no place on a logarithmic axis: it
    is marked by a triangle at the foot of the panel instead of being left out.
    """
    kinds, colours, say = _kinds(results), _depth_colours(results), words.of(results)
    moments = ("start", "end")
    figure, axes = _panels(2, kinds, narrow, width=9.6, height=6.6, narrow_height=2.6)
    for row, moment in zip(axes, moments):
        for axis, kind in zip(row, kinds):
            drawn = False
            for (depth, run_kind), runs in groups(results).items():
                measured = [
                    norms
                    for run in runs
                    if run_kind == kind and (norms := run.get("gradient_norms", {}).get(moment))
                ]
                if measured:
                    drawn = True
                    _profile(axis, np.array(measured, float), colours[kind][depth])
            if not drawn:
                none = say("norms.none")
                axis.text(0.5, 0.5, none, transform=axis.transAxes, ha="center", color=GREY)
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(plain_number)
            axis.set_xlim(-0.02, 1.02)
            axis.set_title(sentence(say(f"norms.{moment}", kind=say.kind(kind))))
    _at_least_a_decade(axes[0][0])
    for axis in axes[-1] if not narrow else [axes[-1][-1]]:
        axis.set_xlabel(say("norms.x"))
    for row in axes:
        for axis in row if narrow else row[:1]:
            axis.set_ylabel(say("norms.y"))
    legend(figure, _depth_keys(say, colours), per_row=4 if narrow else 8)
    _heading(figure, results, say("norms.title"), narrow)
    return figure


FIGURES: dict[str, Callable[..., Figure]] = {
    "curves": curves,
    "error_by_depth": error_by_depth,
    "gradient_norms": gradient_norms,
}


def render(results: Mapping[str, Any], name: str, file_format: str, narrow: bool = False) -> bytes:
    """The bytes of figure ``name`` (a key of :data:`FIGURES`) in one of :data:`FORMATS`."""
    return to_bytes(FIGURES[name](results, narrow=narrow), file_format)


def draw_all(results: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write every figure into ``folder`` as PNG, SVG and PDF, ``<name>.png``; returns the paths.

    The folder must exist; files of the same name are replaced atomically.
    """
    paths = []
    for name in FIGURES:
        for file_format in FORMATS:
            path = Path(folder) / f"{name}.{file_format}"
            write_atomic(path, render(results, name, file_format))
            paths.append(path)
    return paths


# -- panels, axes, keys ------------------------------------------------------------------------


def _kinds(results: Mapping[str, Any]) -> list[str]:
    """The kinds of the study in drawing order (the plan's, so panels do not come and go)."""
    return [kind for kind in KINDS if kind in results["config"]["kinds"]]


def _depth_colours(results: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    """A colour per kind and depth: shades of the kind's colour, the deepest network the darkest."""
    depths = sorted({*results["config"]["depths"], *(run["depth"] for run in results["runs"])})
    return {
        kind: dict(zip(depths, reversed(shades(KIND_COLOURS[kind], len(depths)))))
        for kind in _kinds(results)
    }


def _depth_keys(say: Words, colours: Mapping[str, Mapping[int, Any]]) -> list[Any]:
    """An entry per depth with the colours of all kinds."""
    depths = next(iter(colours.values()))
    return [
        tuple(
            key(say("plot.depth", depth=depth), color=colours[kind][depth], lw=4)
            for kind in colours
        )
        for depth in depths
    ]


def _panels(
    n_rows: int,
    columns: Sequence[str],
    narrow: bool,
    *,
    width: float,
    height: float,
    narrow_height: float,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of ``n_rows`` × ``columns`` panels with shared axes, sizes in inches.

    Narrow figures stack all panels in one column, ``narrow_height`` each; the returned nesting is
    the same, so the drawing code need not know.
    """
    from matplotlib.figure import Figure

    n_columns = len(columns)
    if narrow:
        size, shape = (4.7, narrow_height * n_rows * n_columns + 1.0), (n_rows * n_columns, 1)
    else:
        size, shape = (width if n_columns > 1 else 0.62 * width, height), (n_rows, n_columns)
    figure = Figure(figsize=size, layout=layout())
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    if narrow:
        for axis in grid.flat:  # shared axes hide the inner labels, which a phone scrolls away from
            axis.tick_params(labelbottom=True)
    return figure, [list(row) for row in grid.reshape(n_rows, n_columns)]


def _heading(
    figure: Figure,
    results: Mapping[str, Any],
    what: str,
    narrow: bool,
    notes: Sequence[str] = (),
) -> None:
    """The title: what is shown, and under it the data, the recipe and any notes."""
    config, say = results["config"], words.of(results)
    protocol, count = config["protocol"], len(config["seeds"])
    seeds = say("seeds.one") if count == 1 else say("plot.seeds", count=count)
    epochs = say.epochs(protocol["epochs"])
    parts = [
        say("plot.images", dataset=config["dataset"], count=config["train_size"]),
        say("plot.protocol", name=protocol["name"], epochs=epochs, seeds=seeds),
        *notes,
    ]
    heading(figure, what, parts if narrow else [" · ".join(parts)])


# -- error by epoch ----------------------------------------------------------------------------


def _drawn_together(runs: list[Mapping[str, Any]]) -> Iterable[list[Mapping[str, Any]]]:
    """Finished runs as one group (mean and range), each run cut short by itself.

    A mean over seeds of different lengths would jump where one of them ends.
    """
    finished = [run for run in runs if run["finished"]]
    if finished:
        yield finished
    yield from ([run] for run in runs if not run["finished"] and run["epochs"])


def _curve(
    axis: Axes,
    runs: list[Mapping[str, Any]],
    measure: str,
    colour: Any,
) -> None:
    """One line with its band: the mean over ``runs``, which have the same epochs."""
    epochs = [epoch["epoch"] for epoch in runs[0]["epochs"]]
    values = 100 * np.array([[epoch[measure] for epoch in run["epochs"]] for run in runs])
    alone = "o" if len(epochs) == 1 else None  # a line of one point is invisible
    line = MEASURES[measure]
    axis.plot(epochs, values.mean(0), color=colour, marker=alone, ms=2.5 * line["lw"], **line)
    if len(runs) > 1:
        axis.fill_between(
            epochs, values.min(0), values.max(0), color=colour, alpha=0.13, linewidth=0
        )
    if not runs[0]["finished"]:
        axis.plot(epochs[-1:], values[0, -1:], color=colour, marker="x", ms=7, mew=1.6)


def _axis_top(results: Mapping[str, Any]) -> tuple[float, bool]:
    """The upper end of the error axis in percent, and whether it cuts a curve.

    20 % as in Fig. 6 if every run ends below; else all there is.
    """
    errors = [
        [100 * epoch[measure] for epoch in run["epochs"]]
        for run in results["runs"]
        for measure in ("train_error", "test_error")
        if run["epochs"]
    ]
    if not errors:
        return 100.0, False
    highest = max(max(line) for line in errors)
    if max(line[-1] for line in errors) < 19:
        return 20.0, highest > 20
    return min(100.0, 5.0 * math.ceil(1.04 * highest / 5)), False


def _whole_epochs(axis: Axes, results: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    last = results["config"]["protocol"]["epochs"]
    axis.set_xlim(1 - 0.03 * last, last * 1.03)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


# -- final error against depth -----------------------------------------------------------------


def _percent_symlog(axis: Axes, table: list[dict[str, Any]]) -> None:
    """Percent, linear in 0–1 and logarithmic above, with ticks a person would choose."""
    from matplotlib.ticker import FixedLocator

    worst = max(
        (100 * row[measure]["max"] for row in table for measure in ("train_error", "test_error")),
        default=100,
    )
    ticks = [0, 0.5, 1, 2, 5, 10, 20, 50, 100]
    top = next((tick for tick in ticks[2:] if tick >= 1.15 * worst), 100)
    axis.set_yscale("symlog", linthresh=1, linscale=0.6)
    axis.set_ylim(-0.08, max(top, worst) * 1.12)
    axis.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= top]))
    axis.yaxis.set_minor_locator(FixedLocator([]))
    axis.yaxis.set_major_formatter(plain_number)


def _depth_ticks(axis: Axes, depths: list[int]) -> None:
    """Ticks at the depths themselves; logarithmic where 8 and 110 share an axis."""
    from matplotlib.ticker import FixedLocator

    if not depths:
        return
    if depths[-1] > 10 * depths[0]:
        axis.set_xscale("log")
        axis.set_xlim(depths[0] / 1.25, depths[-1] * 1.6)
    else:
        span = max(depths[-1] - depths[0], 4)
        axis.set_xlim(depths[0] - 0.08 * span, depths[-1] + 0.2 * span)
    axis.xaxis.set_major_locator(FixedLocator(depths))
    axis.xaxis.set_minor_locator(FixedLocator([]))
    axis.xaxis.set_major_formatter(plain_number)


def _label_ends(axis: Axes, table: list[dict[str, Any]], measure: str) -> None:
    """The value in percent beside each kind's deepest network; the upper of two makes room."""
    ends = []
    for kind in KINDS:
        line = [row for row in table if row["kind"] == kind]
        if line:
            ends.append((100 * line[-1][measure]["mean"], line[-1]["depth"], kind))
    below, line_height = -1.0, 0.07  # in heights of the panel
    for value, depth, kind in sorted(ends):
        _, at = (axis.transScale + axis.transLimits).transform((depth, value))
        lift = max(0.0, below + line_height - at)
        below = at + lift
        axis.annotate(
            f"{value:.1f}%",
            (depth, value),
            xytext=(9, lift / line_height * 13),
            textcoords="offset points",
            va="center",
            color=KIND_COLOURS[kind],
            fontweight="bold",
            annotation_clip=False,
        )


# -- gradient norm by layer --------------------------------------------------------------------


def _profile(axis: Axes, norms: np.ndarray, colour: Any) -> None:
    """One line over layers from ``norms`` (seeds, layers): geometric mean, band of the range."""
    n_layers = norms.shape[1]
    position = np.arange(n_layers) / max(n_layers - 1, 1)
    drawable = np.isfinite(norms).all(0) & (norms > 0).all(0)
    logs = np.log10(np.where(drawable, norms, 1.0))
    middle = np.where(drawable, 10 ** logs.mean(0), np.nan)
    axis.plot(position, middle, color=colour, lw=1.8)
    if len(norms) > 1:
        low = np.where(drawable, norms.min(0), np.nan)
        high = np.where(drawable, norms.max(0), np.nan)
        axis.fill_between(position, low, high, color=colour, alpha=0.13, linewidth=0)
    if not drawable.all():
        axis.plot(
            position[~drawable],
            np.full((~drawable).sum(), 0.02),
            transform=axis.get_xaxis_transform(),
            ls="",
            marker="v",
            ms=5,
            color=colour,
        )


def _at_least_a_decade(axis: Axes) -> None:
    """Widen a logarithmic axis to a factor of ten, so that it has a labelled tick to read."""
    low, high = axis.get_ylim()
    widen = math.sqrt(max(10 / (high / low), 1))
    axis.set_ylim(low / widen, high * widen)
