"""The pictures of the identity path.

* :func:`heat_maps`: J_F, S and their sum for one block, entry by entry;
* :func:`singular_values`: of deep stacks against depth, plain and residual;
* :func:`path_lengths`: the gradient by the number of residual branches it came through
  (Veit et al. 2016, arXiv:1605.06431, Fig. 6).

Each takes numbers that :mod:`minires.identity` computes and returns a Matplotlib figure;
:func:`draw_all` computes and writes all of them.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minires import random
from minires.data import load
from minires.files import write_atomic
from minires.identity.chains import PathLengths, around_blocks, sample_path_norms
from minires.identity.chains import path_lengths as split_by_length
from minires.identity.jacobians import Array, Jacobians, jacobians
from minires.identity.proof import RESIDUAL, example
from minires.identity.spectra import Spectra
from minires.identity.spectra import singular_values as compute_spectra
from minires.models import cifar_resnet
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
    styled,
    to_bytes,
)
from minires.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE = KIND_COLOURS["residual"]
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@styled
def heat_maps(j: Jacobians, name: str = "", *, narrow: bool = False) -> Figure:
    """J_F, S, their sum and, where a ReLU follows, what it leaves of it: the block's Jacobian.

    Rows are the entries of y and columns those of x, batch first; lines part the images, and
    colour is the value, white at zero.
    """
    from matplotlib.figure import Figure

    identity = j.skip.shape[0] == j.skip.shape[1] and bool((j.skip == np.eye(len(j.skip))).all())
    s = "I" if identity else "S"
    panels = [("∂F/∂x", j.residual), (s, j.skip), (f"∂F/∂x + {s}", j.residual + j.skip)]
    if not j.open.all():
        panels.append((f"D (∂F/∂x + {s})" + ("" if narrow else " = ∂y/∂x"), j.block))
    else:
        panels[-1] = (f"∂F/∂x + {s} = ∂y/∂x", j.block)
    columns = 2 if narrow else len(panels)
    n_rows = -(-len(panels) // columns)
    width = 4.7 if narrow else 2.5 * columns + 1.1
    panel = (width - 1.1) / columns - 0.35  # what labels leave
    tall = panel * j.block.shape[0] / j.block.shape[1]
    figure = Figure(figsize=(width, n_rows * (tall + 0.4) + 1.15), layout=layout())
    axes = figure.subplots(n_rows, columns, squeeze=False, sharex=True, sharey=True)
    # a few large entries of F must not wash out the ones of the identity
    largest = float(np.abs(j.residual + j.skip).max())
    limit = min(largest, max(1.3, float(np.quantile(np.abs(j.residual + j.skip), 0.99))))
    for (title, matrix), axis in zip(panels, axes.flat):
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_title(title)
        _matrix_axis(axis, j)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis in axes[:, 0]:
        axis.set_ylabel(f"entry of y ({_sizes(j.shape_out)})")
    for axis in axes.flat[: len(panels)][-columns:]:  # the lowest of each column
        axis.set_xlabel(f"entry of x ({_sizes(j.shape_in)})")
        axis.tick_params(labelbottom=True)
    bar = figure.colorbar(
        image,
        ax=list(axes.flat[: len(panels)]),
        shrink=0.9,
        aspect=25,
        pad=0.015,
        extend="both" if limit < largest else "neither",
    )
    bar.outline.set_visible(False)
    note = f"{_many(j.shape_in[0], 'image')}, float64"
    if j.coupling(j.residual):
        note += ". Batch norm couples the images in F" + (", never in I" if s == "I" else "")
    heading(figure, f"The Jacobian of {name or 'one block'}, entry by entry", [note])
    return figure


def _matrix_axis(axis: Axes, j: Jacobians) -> None:
    """Few ticks, and lines between the images of the batch."""
    m, n = j.block.shape
    axis.grid(False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)
    for i in range(1, j.shape_in[0]):
        axis.axhline(i * m / j.shape_in[0] - 0.5, color=GREY, lw=0.7)
        axis.axvline(i * n / j.shape_in[0] - 0.5, color=GREY, lw=0.7)
    axis.set_xticks([0, n // 2, n - 1])
    axis.set_yticks([0, m // 2, m - 1])


def _sizes(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


@styled
def singular_values(spectra: Spectra, *, narrow: bool = False) -> Figure:
    """Singular values of the stacked Jacobian against depth, plain left and residual right.

    One line for the largest, the 2nd, the 4th, ... singular value, dark to light. Values below
    eps times the largest cannot be told from zero in float64: they are not drawn.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    n = spectra.plain.shape[1]
    ranks = [2**i for i in range(n.bit_length()) if 2**i <= n]
    colours = dict(zip(ranks, colormaps["plasma"](np.linspace(0.0, 0.86, len(ranks)))))
    shape, size = ((2, 1), (4.7, 7.6)) if narrow else ((1, 2), (9.6, 4.9))
    figure = Figure(figsize=size, layout=layout())
    axes = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).reshape(-1)
    for axis, kind, values in zip(axes, KIND_COLOURS, (spectra.plain, spectra.residual)):
        floor = _resolution(values)
        axis.fill_between(spectra.depths, floor, 0, color=GREY, alpha=0.10, lw=0)
        for rank in ranks:
            line = values[:, rank - 1]
            seen = np.where(line > floor, line, np.nan)
            axis.plot(spectra.depths, seen, color=colours[rank], lw=2, marker="o", ms=4)
        axis.set_yscale("log")
        axis.set_title(f"{kind.capitalize()} stacks", color=KIND_COLOURS[kind])
        axis.set_xticks(spectra.depths)
        if not narrow or axis is axes[-1]:
            axis.set_xlabel("depth (blocks)")
        axis.tick_params(labelbottom=True)
    every = np.concatenate([spectra.plain, spectra.residual])
    drawn = every[every > _resolution(every)[:, None]]
    axes[0].set_ylim(drawn.min() / 30, drawn.max() * 5)
    if (spectra.plain < _resolution(spectra.plain)[:, None]).any():
        axes[0].text(
            0.97,
            0.03,
            "below float64's resolution",
            transform=axes[0].transAxes,
            color=GREY,
            ha="right",
        )
    for axis in axes if narrow else axes[:1]:
        axis.set_ylabel("singular value of ∂y/∂x, log scale")
    keys = [key(_ordinal(rank), color=colours[rank], lw=4) for rank in ranks]
    legend(figure, keys, per_row=4 if narrow else 8)
    c, h, w = spectra.shape
    notes = [
        f"{spectra.kinds[0]} and {spectra.kinds[1]} at initialisation",
        f"{c} channels on {h} × {w} maps, {_many(spectra.images, 'image')}",
    ]
    heading(
        figure,
        "Singular values of n blocks in a row",
        notes if narrow else [" · ".join(notes)],
    )
    return figure


def _resolution(values: Array) -> Array:
    """Below this, a computed singular value is rounding error: n eps times the largest one."""
    result: Array = values.max(1) * np.finfo(np.float64).eps * values.shape[1]
    return result


def _ordinal(n: int) -> str:
    return {1: "largest", 2: "2nd", 32: "32nd"}.get(n, f"{n}th")


def _many(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


@styled
def path_lengths(
    split: PathLengths, singles: Array, name: str = "", *, narrow: bool = False
) -> Figure:
    """Left, the norm of the gradient that came through k branches, beside the number of paths of
    that length; right, the gradient norm of single paths, which falls as paths get longer.

    Args:
        split: of :func:`minires.identity.path_lengths`.
        singles: (samples, n + 1) norms of
            :func:`minires.identity.sample_path_norms`; their geometric mean is drawn,
            and their range.
        name: of what the split is of, for the heading.

    The number of paths is scaled to the height of the norms: the shapes are what is compared.
    """
    from matplotlib.figure import Figure

    norms, counts = split.norms, np.array(split.counts, float)
    k = np.arange(len(norms))
    shape, size = ((2, 1), (4.7, 7.6)) if narrow else ((1, 2), (9.6, 4.5))
    figure = Figure(figsize=size, layout=layout())
    left, right = figure.subplots(*shape, squeeze=False).reshape(-1)
    left.bar(k, norms, width=0.82, color=BLUE, zorder=2)
    left.plot(k, counts / counts.max() * norms.max(), color=INK, lw=1.8, ls=DASHED)
    left.set_title("All paths of length k together")
    left.set_ylabel("gradient norm")
    left.yaxis.set_major_formatter(plain_number)
    left.grid(axis="x", visible=False)
    drawn = (singles > 0).all(0)
    kept = singles[:, drawn]
    right.fill_between(k[drawn], kept.min(0), kept.max(0), color=BLUE, alpha=0.18, lw=0)
    right.plot(k[drawn], np.exp(np.log(kept).mean(0)), color=BLUE, lw=2, marker="o", ms=4.5)
    right.set_yscale("log")
    right.set_title("One path of length k by itself")
    right.set_ylabel("gradient norm, log scale")
    for axis in (left, right):
        axis.set_xlabel("path length k (residual branches on the way)")
        axis.set_xlim(-0.8, len(k) - 0.2)
    legend(
        figure,
        [
            key("gradient norm", color=BLUE, lw=4),
            key("number of paths (scaled)", color=INK, lw=1.8, ls=DASHED),
        ],
        per_row=2,
    )
    blocks = len(k) - 1
    notes = [
        *([name] if name else []),
        f"{_many(blocks, 'block')}: 2{str(blocks).translate(SUPERSCRIPT)} paths",
        f"average length of a path {_centre(k, counts):.1f}, of the gradient "
        f"{_centre(k, norms):.1f}",
    ]
    if not narrow:
        notes = [" · ".join(notes)]
    heading(figure, "The gradient by path length", notes)
    return figure


def _centre(k: Any, weights: Array) -> float:
    return float((k * weights).sum() / weights.sum())


def example_split(
    depth: int = 56, images: int = 16, samples: int = 4, seed: int = 0
) -> tuple[PathLengths, Array, str]:
    """What :func:`path_lengths` draws, for a pre-activation network on handwritten digits before
    its training."""
    with random.preserved():
        random.manual_seed(seed)
        net = cifar_resnet(depth, in_channels=1, pre_activation=True).double()
    digits = load("digits")
    pixels = digits.images[:images].transpose(0, 3, 1, 2) / digits.scale
    x = Tensor((pixels - pixels.mean()) / pixels.std())
    blocks, x, gy, _ = around_blocks(net, x, Tensor(digits.labels[:images]))
    return (
        split_by_length(blocks, x, gy),
        sample_path_norms(blocks, x, gy, samples=samples, seed=seed),
        f"pre-activation ResNet-{depth} before training, a batch of {images} digits",
    )


def draw_all(folder: str | Path) -> list[Path]:
    """Compute and write every figure into ``folder``, as PNG, SVG and PDF; returns the paths.

    ``jacobian_<block>`` for each residual kind, ``singular_values`` and ``path_lengths``.
    """
    examples = {kind.__name__: jacobians(*example(kind)) for kind in RESIDUAL}
    spectra, split = compute_spectra(), example_split()
    figures = {
        f"jacobian_{name}": functools.partial(heat_maps, j, name) for name, j in examples.items()
    }
    figures["singular_values"] = functools.partial(singular_values, spectra)
    figures["path_lengths"] = functools.partial(path_lengths, *split)
    written = []
    for name, draw in figures.items():
        for file_format in FORMATS:
            written.append(Path(folder) / f"{name}.{file_format}")
            # a figure of its own for each file: the automatic layout depends on what came before
            write_atomic(written[-1], to_bytes(draw(), file_format))
    return written
