"""``feature_maps`` and ``activations``: what layers return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minires import arguments
from minires.autograd import no_grad
from minires.nn import Module
from minires.nn.trace import initialized
from minires.report.figures import GREY, heading, key, layout, legend, styled
from minires.show.given import given, on_host
from minires.show.running import layer_name, maps_of, no_maps, run, watched
from minires.show.shown import (
    WIDTH,
    Shown,
    bare,
    colour_bar,
    columns_of,
    draw_picture,
    many,
    mosaic,
    stages,
)
from minires.tensor import Tensor
from minires.texttable import text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class FeatureMaps(Shown):
    """Of :func:`feature_maps`.

    Attributes:
        figure: a Matplotlib figure.
        layer: the layer's name.
        maps: (c, h, w), all of them.
        picture: (h, w) or (h, w, 3) in 0..1, as it is shown.
    """

    layer: str
    maps: np.ndarray
    picture: np.ndarray

    def facts(self) -> str:
        return f"Feature maps of layer {self.layer!r}: {self.maps.shape}"


def feature_maps(
    net: Any, x: Any, layer: Any = None, *, normalize: Any = None, size: Any = None, most: int = 64
) -> FeatureMaps:
    """What a layer returns for a picture: one tile for each channel, on one scale.

    The network runs in evaluation mode. A layer that is called several times shows its last call.

    Args:
        net: a network; or a trained run (:func:`minires.train.load_run`), which prepares pictures
            as in its training.
        x: a path or a PIL image, bytes (h, w, 3) in an array, or what the network takes, a tensor
            or an array (c, h, w) or (1, c, h, w).
        layer: which, by its name or itself; by default the first that returns maps.
        normalize: (mean, std), one number for each channel or for all: a picture in 0..1 is
            normalised by them; a tensor is so already, and is shown by them.
        size: height and width to cut a picture to; by default all of it is taken.
        most: how many maps are drawn; ``maps`` has them all.

    Raises:
        ArgumentError: no such layer (names the nearest), one that is not called, or no network
            with maps; no picture.
        ShapeError: a layer that returns no maps; several pictures.
        DataError: a file that is no picture.
    """
    op = "feature_maps"
    what = given(op, net, x, normalize, size)
    most = arguments.integer(op, "most", most, 1)
    name = None if layer is None else layer_name(op, what.net, layer)
    with no_grad():
        seen = watched(what)
    if name is None:
        found = seen.maps()
        if not found:
            raise no_maps(op, what.net)
        name = found[0][0]
    maps = on_host(maps_of(op, seen, name))[0]  # (c, h, w)
    return FeatureMaps(_feature_maps(maps, what.picture, name, most), name, maps, what.picture)


@styled
def _feature_maps(maps: Any, picture: Any, name: str, most: int) -> Figure:
    from matplotlib.figure import Figure

    tiles = maps[:most].astype(float)
    columns = columns_of(len(tiles))
    whole = mosaic(tiles, columns)
    room = WIDTH - 2.9
    tall = min(max(room * whole.shape[0] / whole.shape[1], 1.6), 9.0)
    figure = Figure(figsize=(WIDTH, tall + 1.1), layout=layout())
    left, right = figure.subplots(1, 2, width_ratios=[1, 3])
    draw_picture(left, picture)
    left.set_title("the picture", fontweight="normal", color=GREY)
    known = tiles[np.isfinite(tiles)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    image = right.imshow(whole, cmap="viridis", vmin=low, vmax=high or 1.0, interpolation="nearest")
    bare(right)
    colour_bar(figure, image, right)
    c, h, w = maps.shape
    notes = [f"{many(c, 'channel')} of {h} × {w}"]
    if most < c:
        notes[0] += f"; the first {most} are drawn"
    dead = int((maps == 0).all((1, 2)).sum())
    notes[0] += f"; {dead} of them are 0 everywhere" if dead else ""
    heading(figure, f"Feature maps of {name or 'the network'}", notes)
    return figure


@dataclass(frozen=True, eq=False, repr=False)
class Activations(Shown):
    """Of :func:`activations`; ``str()`` is the table.

    Attributes:
        figure: a Matplotlib figure.
        names: the layer of each call; its second call has " (2)" behind it.
        kinds: the class of each layer.
        mean, std, zeros: of what it returned: mean, standard deviation, and share of exact zeros.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    zeros: np.ndarray

    def facts(self) -> str:
        return f"Activations of {len(self.names)} calls of layers: .mean, .std, .zeros"

    def __str__(self) -> str:
        rows = [
            [name, kind, f"{mean:.4g}", f"{std:.4g}", f"{100 * zeros:.1f}%"]
            for name, kind, mean, std, zeros in zip(
                self.names, self.kinds, self.mean, self.std, self.zeros
            )
        ]
        return text_table(["layer", "kind", "mean", "std", "zeros"], rows, left=2)


def activations(net: Any, x: Any, *, normalize: Any = None, size: Any = None) -> Activations:
    """Mean, standard deviation and share of zeros of what each layer returns, in order.

    Signals that grow or die from layer to layer, and ReLUs that let nothing pass, are seen here.
    The network runs in the mode it is in: in training mode batch norm normalises by this batch, as
    it does in training (its running statistics stay as they are).

    Args:
        net, normalize, size: see :func:`feature_maps`.
        x: as there, or a batch (n, c, h, w).

    Raises:
        ArgumentError, ShapeError, DataError: see :func:`feature_maps`.
    """
    op = "activations"
    what = given(op, net, x, normalize, size, one=False)
    rows: list[tuple[str, str, float, float, float]] = []
    calls: dict[str, int] = {}

    def seen(name: str, module: Module, output: Any) -> None:
        if module._modules or not isinstance(output, Tensor) or output.numel() == 0:
            return
        values = on_host(output).astype(np.float64)
        calls[name] = calls.get(name, 0) + 1
        label = (name or type(module).__name__) + (f" ({calls[name]})" if calls[name] > 1 else "")
        with np.errstate(all="ignore"):  # values that overflowed are what this is to show
            statistics = float(values.mean()), float(values.std()), float((values == 0).mean())
        rows.append((label, type(module).__name__, *statistics))

    with no_grad():
        net = initialized(what.net, [what.x])
        run(net, what.x, seen, evaluation=False)
    names, kinds, *numbers = zip(*rows)
    mean, std, zeros = (np.array(column) for column in numbers)
    mode = "training" if what.net.training else "evaluation"
    n = what.x.shape[0]
    note = f"{many(n, 'picture')}, {mode} mode"
    figure = _activations(names, kinds, mean, std, zeros, note)
    return Activations(figure, names, kinds, mean, std, zeros)


# Of the Okabe-Ito palette, for kinds of layers in the order in which they come.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1f2328")


@styled
def _activations(names: Any, kinds: Any, mean: Any, std: Any, zeros: Any, note: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(WIDTH, 6.4), layout=layout())
    axes = figure.subplots(3, 1, sharex=True)
    listed = list(dict.fromkeys(kinds))
    colours = {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(listed)}
    at = np.arange(len(names))
    for kind in listed:
        mine = np.array([k == kind for k in kinds])
        look = {"color": colours[kind], "marker": "o", "ms": 4, "lw": 1.2}
        axes[0].plot(at[mine], mean[mine], **look)
        axes[1].plot(at[mine], std[mine], **look)
        axes[2].plot(at[mine], zeros[mine], **look)
    positive = std[np.isfinite(std) & (std > 0)]
    if positive.size and positive.max() > 50 * positive.min():
        axes[1].set_yscale("log")
    axes[2].set_ylim(-0.03, 1.03)
    axes[2].yaxis.set_major_formatter(PercentFormatter(1))
    for axis, title in zip(axes, ("mean", "standard deviation", "share of zeros")):
        axis.set_title(title)
    stages(axes, list(names))
    keys = [key(kind, color=colour, marker="o", ms=4, lw=1.2) for kind, colour in colours.items()]
    legend(figure, keys, per_row=5)
    notes = [note + "; layers in the order of their calls"]
    broken = np.flatnonzero(~np.isfinite(mean) | ~np.isfinite(std))
    if broken.size:
        notes.append(f"NaN or infinity from {names[broken[0]]} on")
    heading(figure, "Activations", notes)
    return figure
