"""What every function of :mod:`minires.show` returns, and what their figures are made of."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.errors import ArgumentError, message
from minires.files import as_path, write_atomic
from minires.report.figures import FORMATS, GREY, to_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches of a figure
SMALL = 128  # pixels: a picture with fewer is drawn pixel by pixel


@dataclass(frozen=True, eq=False, repr=False)
class Shown:
    """A picture and the numbers in it.

    Attributes:
        figure: a Matplotlib figure.
    """

    figure: Figure

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture into a file, ``.png``, ``.svg`` or ``.pdf``.

        Raises:
            ArgumentError: another ending.
            CheckpointError: the file cannot be written.
        """
        target = as_path("save", path)
        kind = target.suffix.lower().removeprefix(".")
        if kind not in FORMATS:
            endings = " or ".join(f".{known}" for known in FORMATS)
            raise ArgumentError(message("save", f"a path that ends in {endings}", repr(str(path))))
        write_atomic(target, to_bytes(self.figure, kind))

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """For notebooks: the picture, and its width on the screen."""
        return to_bytes(self.figure, "png"), {"width": round(self.figure.get_figwidth() * 96)}

    def facts(self) -> str:
        """What is shown, in a line."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{self.facts()}. .figure is the picture, .save(path) writes it."


def mosaic(tiles: Any, columns: int, empty: Any = np.nan) -> Any:
    """Tiles beside one another, with a gap of a pixel (or an eighth of a tile) between them.

    Args:
        tiles: (n, h, w), or (n, h, w, 3).
        columns: how many stand in a row.
        empty: the value of gaps.

    Returns:
        (rows * (h + gap) - gap, columns * (w + gap) - gap), with the 3 behind it if there was one.
    """
    n, h, w, *colours = tiles.shape
    rows, gap = -(-n // columns), max(1, min(h, w) // 8)
    whole = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, *colours), empty, float)
    for i, tile in enumerate(tiles):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        whole[y : y + h, x : x + w] = tile
    return whole


def columns_of(n: int) -> int:
    """How many columns a grid of n tiles has: twice as many as rows, or so, and no row cut short
    where that can be."""
    best = max(8, math.ceil(math.sqrt(2 * n)))
    even = [columns for columns in range(8, 17) if n % columns == 0]
    return min(n, min(even, key=lambda columns: abs(columns - best), default=best))


def many(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def bare(axis: Axes) -> None:
    """A picture has no axes."""
    axis.set_axis_off()


def draw_picture(axis: Axes, picture: Any) -> None:
    """A picture (h, w) or (h, w, 3) in 0..1."""
    smooth = "nearest" if max(picture.shape[:2]) < SMALL else "antialiased"
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation=smooth)
    bare(axis)


def colour_bar(figure: Figure, image: Any, axes: Any, label: str = "") -> None:
    """The scale of what ``image`` shows."""
    bar: Any = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label, color=GREY)


def stages(axes: Any, names: list[str]) -> None:
    """Along x stand layers; a line parts what belongs to one top-level module from the next, and
    the last panel names them."""
    tops = [name.partition(".")[0] for name in names]
    starts = [i for i, top in enumerate(tops) if i == 0 or tops[i - 1] != top]
    for axis in axes:
        axis.grid(axis="x", visible=False)
        axis.set_xlim(-0.6, len(names) - 0.4)
        for start in starts[1:]:
            axis.axvline(start - 0.5, color=GREY, lw=0.6, alpha=0.5)
        axis.tick_params(axis="x", length=0)
    ends = [*starts[1:], len(names)]
    centres = [(a + b - 1) / 2 for a, b in zip(starts, ends)]
    narrow = len(starts) > 8 or any(
        (b - a) / len(names) * 62 < len(tops[a]) for a, b in zip(starts, ends)
    )
    shown = [(c, tops[a]) for c, a in zip(centres, starts)]
    if len(shown) > 40:  # more than a figure can hold
        shown = shown[:: -(-len(shown) // 40)]
    axes[-1].set_xticks(
        [c for c, _ in shown],
        [_short(t) for _, t in shown],
        rotation=90 if narrow else 0,
    )


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:9]}…{name[-9:]}"
