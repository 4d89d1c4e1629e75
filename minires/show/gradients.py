"""``gradient_flow``: how large the gradients of all layers are after a backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.errors import ArgumentError, message, quoted
from minires.nn import Module
from minires.nn.parameter import Uninitialized
from minires.report.figures import KIND_COLOURS, heading, key, layout, legend, styled
from minires.show.given import network_of, on_host
from minires.show.shown import WIDTH, Shown, many, stages
from minires.texttable import text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Norms = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False, repr=False)
class Flow(Shown):
    """Of :func:`gradient_flow`; ``str()`` is the table. Of each network, by its name:

    Attributes:
        figure: a Matplotlib figure.
        layers: the weights, in order of definition.
        norms: the Euclidean norm of the gradient of each.
        relative: that norm over the norm of the weight itself.
    """

    layers: dict[str, tuple[str, ...]]
    norms: Norms
    relative: Norms

    def facts(self) -> str:
        several = ", ".join(f"{name} ({len(of)} weights)" for name, of in self.layers.items())
        return f"Gradient flow of {several}: .layers, .norms, .relative"

    def __str__(self) -> str:
        rows = [
            [net, layer, f"{norm:.4g}", f"{relative:.4g}"]
            for net, layers in self.layers.items()
            for layer, norm, relative in zip(layers, self.norms[net], self.relative[net])
        ]
        return text_table(["network", "weight", "‖grad‖", "‖grad‖ / ‖weight‖"], rows, left=2)


def gradient_flow(net: Any) -> Flow:
    """The norm of the gradient of every weight, from the first layer to the last, on a log scale.

    Call it after ``loss.backward()``. In deep plain networks the norms of the first layers are
    orders of magnitude away from those of the last; along residual networks they stay level.
    Weights are parameters of two dimensions or more: not biases, nor the scales of batch norm.

    Args:
        net: a network; or several, as ``{"plain": net, "residual": other}``, which are drawn over
            each other, from their first layers to their last. Names that begin with plain or
            residual have the colours of the study's figures.

    Raises:
        ArgumentError: no network; one without gradients, or without weights.
    """
    op = "gradient_flow"
    if isinstance(net, Mapping):
        if not net or not all(isinstance(name, str) for name in net):
            raise ArgumentError(message(op, "networks by their names", quoted(net)))
        nets = {name: network_of(op, one) for name, one in net.items()}
    else:
        one = network_of(op, net)
        nets = {type(one).__name__: one}
    layers, norms, relative = {}, {}, {}
    missing = 0
    for name, module in nets.items():
        layers[name], norms[name], relative[name], without = _norms(op, module)
        missing += without
    return Flow(_flow(layers, norms, missing), layers, norms, relative)


def _norms(op: str, net: Module) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, int]:
    """Names of weights with gradients, both norms of each, and how many have no gradient."""
    weights = [
        (name, p)
        for name, p in net.named_parameters()
        if isinstance(p, Uninitialized) or p.ndim > 1
    ]
    if not weights:
        raise ArgumentError(message(op, "a network with weights", f"a {type(net).__name__}"))
    ready = [(name, p, p.grad) for name, p in weights if p.grad is not None]
    if not ready:
        got = f"no gradient in any of the {len(weights)} weights of the {type(net).__name__}"
        fix = "Call loss.backward() first, and zero_grad() after this."
        raise ArgumentError(message(op, "a network after a backward pass", got, fix=fix))
    norms = np.array([_norm(gradient) for _, _, gradient in ready])
    sizes = np.array([_norm(p) for _, p, _ in ready])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = norms / sizes
    return tuple(name for name, _, _ in ready), norms, relative, len(weights) - len(ready)


def _norm(tensor: Any) -> float:
    return float(np.linalg.norm(on_host(tensor).astype(np.float64)))


# For names that say nothing of their kind: green, purple, orange, light blue (Okabe-Ito).
OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def _colours(names: list[str]) -> dict[str, str]:
    others = iter(OTHERS * (len(names) // len(OTHERS) + 1))
    colours: dict[str, str] = {}
    for name in names:
        kind = next((k for k in KIND_COLOURS if name.lower().startswith(k)), "")
        if len(names) == 1:
            kind = kind or "residual"  # one line is blue
        colour = KIND_COLOURS.get(kind)
        colours[name] = colour if colour and colour not in colours.values() else next(others)
    return colours


@styled
def _flow(layers: dict[str, tuple[str, ...]], norms: Norms, missing: int) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 4.2), layout=layout())
    axis = figure.subplots()
    colours = _colours(list(layers))
    notes = []
    for name, values in norms.items():
        at = np.arange(len(values), dtype=float)
        if len(layers) > 1:
            at /= max(len(values) - 1, 1)
        drawable = np.isfinite(values) & (values > 0)
        shown = np.where(drawable, values, np.nan)
        axis.plot(at, shown, color=colours[name], lw=1.8, marker="o", ms=3.5)
        odd = ~drawable
        if odd.any():
            bottom = axis.get_xaxis_transform()
            look: dict[str, Any] = {"marker": "v", "ls": "", "color": colours[name]}
            axis.plot(at[odd], np.full(odd.sum(), 0.03), transform=bottom, **look)
            kind = "0" if np.isfinite(values[odd]).all() else "0, NaN or infinity"
            notes.append(f"{name}: {many(int(odd.sum()), 'gradient')} of {kind} (triangles)")
    axis.set_yscale("log")
    axis.set_ylabel("‖∂loss/∂weight‖, log scale")
    low, high = axis.get_ylim()
    if high < 10 * low:  # a decade at least, so that there is a tick to read
        axis.set_ylim(low / 3, high * 3)
    if len(layers) > 1:
        axis.set_xlabel("position of the layer: 0 = first, 1 = last")
        axis.set_xlim(-0.02, 1.02)
        legend(
            figure, [key(name, lw=1.8, color=colour) for name, colour in colours.items()], per_row=4
        )
    else:
        (names,) = layers.values()
        stages([axis], [name.removesuffix(".weight") for name in names])
    total = ", ".join(f"{name}: {many(len(of), 'weight')}" for name, of in layers.items())
    notes.insert(0, total + (f"; {missing} without a gradient" if missing else ""))
    heading(figure, "Gradient norm of every layer", notes)
    return figure
