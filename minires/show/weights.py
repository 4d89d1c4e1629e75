"""``filters``: the weights of a convolution as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minires import arguments
from minires.errors import ArgumentError, UninitializedError, message
from minires.nn import Conv1d, Conv2d, Module
from minires.nn.parameter import Uninitialized
from minires.report.figures import heading, layout, styled
from minires.show.given import network_of, on_host
from minires.show.running import layer_name
from minires.show.shown import WIDTH, Shown, bare, colour_bar, columns_of, many, mosaic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONVOLUTIONS = Conv2d | Conv1d


@dataclass(frozen=True, eq=False, repr=False)
class Filters(Shown):
    """Of :func:`filters`.

    Attributes:
        figure: a Matplotlib figure.
        layer: the convolution's name.
        weights: (c_out, c_in / groups, k_h, k_w), all of them.
    """

    layer: str
    weights: np.ndarray

    def facts(self) -> str:
        which = f" of layer {self.layer!r}" if self.layer else ""
        return f"Filters{which}: weights {self.weights.shape}"


def filters(net: Any, layer: Any = None, *, most: int = 64) -> Filters:
    """The weights of a convolution.

    Where they look at three channels, as the first layer of a network for colour pictures does,
    each filter is a small picture: grey is 0, and its largest weight has full colour. Else each
    row of tiles is a filter and each column a channel it reads, blue below 0 and red above, on one
    scale. 1 x 1 filters are one matrix.

    Args:
        net: a convolution, a network, or a trained run.
        layer: which convolution of the network, by its name or itself; by default the first.
        most: how many filters, and channels of each, are drawn; ``weights`` has them all.

    Raises:
        ArgumentError: no convolution; no such layer (names the nearest); ``most`` below 1.
        UninitializedError: a lazy layer that has not seen its first input.
    """
    op = "filters"
    network = network_of(op, net)
    most = arguments.integer(op, "most", most, 1)
    name, convolution = _convolution(op, network, layer)
    if isinstance(convolution.weight, Uninitialized):
        fix = "Call the network once, on a batch or on zeros of its shape."
        got = "none yet, since the lazy layer has not seen an input"
        raise UninitializedError(message(op, "weights", got, fix=fix))
    weights = on_host(convolution.weight)
    if weights.ndim == 3:  # of one direction
        weights = weights[:, :, None]
    return Filters(_filters(weights, name, most), name, weights)


def _convolution(op: str, net: Module, layer: Any) -> tuple[str, Any]:
    """The name of the convolution that is meant, and the layer."""
    if layer is not None:
        name = layer_name(op, net, layer)
        found = dict(net.named_modules())[name]
        if isinstance(found, CONVOLUTIONS):
            return name, found
        got = f"{name!r}, which is a {type(found).__name__}"
        near = next((n for n, m in found.named_modules(name) if isinstance(m, CONVOLUTIONS)), None)
        fix = f"In it is {near!r}." if near else ""
        raise ArgumentError(message(op, "a convolution", got, fix=fix))
    for name, module in net.named_modules():
        if isinstance(module, CONVOLUTIONS):
            return name, module
    got = f"a {type(net).__name__} without one"
    raise ArgumentError(message(op, "a convolution, or a network with one", got))


@styled
def _filters(weights: Any, name: str, most: int) -> Figure:

    c_out, c_in, k_h, k_w = weights.shape
    notes = [f"{many(c_out, 'filter')} of {many(c_in, 'channel')}, {k_h} × {k_w}"]
    what = f"Filters of {name}" if name else "Filters"
    finite = np.nan_to_num(weights.astype(float), posinf=0.0, neginf=0.0)
    if not np.isfinite(weights).all():
        notes.append("NaN and infinite weights are left white")
    if c_in == 3 and k_h * k_w > 1:
        tiles = finite[:most].transpose(0, 2, 3, 1)  # (n, k_h, k_w, 3)
        largest = np.abs(tiles).max((1, 2, 3), keepdims=True)
        tiles = 0.5 + tiles / (2 * np.where(largest > 0, largest, 1))
        whole = mosaic(tiles, columns_of(len(tiles)), 1.0)
        if most < c_out:
            notes[0] += f"; the first {most} are drawn"
        figure, axis = _panel(whole)
        axis.imshow(whole, interpolation="nearest")
        bare(axis)
    else:
        if k_h * k_w == 1:
            whole, shown = weights[:, :, 0, 0].astype(float), (c_out, c_in)
        else:
            shown = min(c_out, most, 16), min(c_in, most, 16)
            tiles = weights[: shown[0], : shown[1]].reshape(-1, k_h, k_w)
            whole = mosaic(tiles, shown[1])
        if shown != (c_out, c_in):
            notes[0] += f"; the first {shown[0]} and {shown[1]} are drawn"
        limit = float(np.abs(finite[: shown[0], : shown[1]]).max(initial=0.0)) or 1.0
        figure, axis = _panel(whole, beside=1.2)
        image = axis.imshow(whole, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(f"channel 0 to {shown[1] - 1}")
        axis.set_ylabel(f"filter 0 to {shown[0] - 1}, from the top")
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)
        colour_bar(figure, image, axis, "weight")
    heading(figure, what, notes)
    return figure


def _panel(whole: Any, beside: float = 0.0) -> tuple[Figure, Any]:
    """A figure for one picture of these proportions, with so many inches beside it."""
    from matplotlib.figure import Figure

    height, width = whole.shape[:2]
    wide = min(WIDTH, 1.6 + beside + 0.04 * width * max(1, 8 * 8 / width))
    tall = min((wide - beside) * height / width, 9.0)
    figure = Figure(figsize=(max(wide, 4.2), max(tall, 0.9) + 1.1), layout=layout())
    return figure, figure.subplots()
