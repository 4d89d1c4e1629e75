"""Gradient of a convolution's weight on a GPU for 3 x 3 taps and few channels, which brings each
pixel of x to shared memory once for several taps: ``cuda_weight_rows.cu``."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.struct import DIVISOR, divisor, record
from .op import Conv2dGeometry

_SOURCE = Path(__file__).with_suffix(".cu")
SIZES = np.dtype(
    [
        *[(name, "i4") for name in ("h_in", "w_in", "h_out", "w_out", "c_out", "p_h", "p_w")],
        *[("tiles", "i4"), ("share", "i4"), ("tiles_of_image", DIVISOR)],
        *[("tiles_of_row", DIVISOR), ("gy_kind", "i4"), ("x_kind", "i4")],
    ]
)
WASTE = 1.6  # tiles may have so many times the pixels that there are
BLOCKS = 264  # about how many to launch: two for each multiprocessor of a large GPU


class Tile(NamedTuple):
    """Template arguments of ``conv2d_bwd_weight_rows``.

    Attributes:
        c: channels of x, and of gy that a block takes.
        rows: of the kernel, whose taps a block takes.
        wc: channels of each tap that a warp takes.
        slices: warps that take the same, and share the pixels.
        h, w: pixels of y that are brought at a time.
    """

    c: int
    rows: int
    wc: int
    slices: int
    h: int
    w: int

    @property
    def threads(self) -> int:
        return self.c // self.wc * self.slices * 32

    @property
    def shared(self) -> int:
        """Bytes of shared memory: two stages of both operands; in the end the sums of all slices
        but the first."""
        pixels = self.h * self.w + (self.h + self.rows - 1) * (self.w + 2)
        sums = (self.slices - 1) * self.rows * 3 * self.c**2
        return 4 * max(2 * pixels * (self.c + 8), sums)


TILES = {16: Tile(16, 3, 16, 4, 4, 32), 32: Tile(32, 1, 32, 4, 4, 16), 64: Tile(64, 1, 16, 1, 4, 8)}
ARITHMETICS = ("Fp32", "Tf32")


def tile_of(g: Conv2dGeometry, math: str, gy: str, x: str) -> Tile | None:
    """The tile for a geometry and the families of two prologues, or None where these kernels do
    not suit it."""
    tile = TILES.get(g.c_in)
    if tile is None or math not in ARITHMETICS or g.groups > 1:
        return None
    if (g.k_h, g.k_w, g.stride, g.dilation) != (3, 3, (1, 1), (1, 1)):
        return None
    tile = _with_prologues(tile, gy, x)
    pixels = -(-g.h_out // tile.h) * tile.h * -(-g.w_out // tile.w) * tile.w
    return tile if pixels <= WASTE * g.h_out * g.w_out else None


def _with_prologues(tile: Tile, gy: str, x: str) -> Tile:
    """What waits in registers for two prologues leaves room for half of the larger tiles only."""
    both = (gy, x) == ("BACKWARD", "AFFINE")
    return tile._replace(h=2) if both and tile.c > 16 else tile


def overhangs(g: Conv2dGeometry, tile: Tile) -> bool:
    """Whether tiles reach over the border of y, where gy counts as 0."""
    return bool(g.h_out % tile.h or g.w_out % tile.w)


@functools.cache
def kernel(math: str, tile: Tile, gy: str, x: str) -> Kernel:
    arguments = ", ".join([math, *map(str, tile), gy, x])
    name = f"conv2d_bwd_weight_rows<{arguments}>"
    return Kernel(_SOURCE, name, tile.threads, tile.shared, _operations)


def _operations(*arguments: Any) -> int:
    """Multiply-adds, times two, of a launch, whose fourth argument is x and the last its sizes."""
    g = {name: arguments[-1][0][name] for name in SIZES.names or ()}
    images = int(g["tiles"]) // int(g["tiles_of_image"]["value"])
    pixels = images * int(g["h_out"]) * int(g["w_out"])
    return 2 * pixels * int(g["c_out"]) * 9 * int(arguments[3].shape[-1])


def plan(
    g: Conv2dGeometry, n: int, tile: Tile, gy_kind: int, x_kind: int
) -> tuple[Any, tuple[int, int]]:
    """For n images: the kernel's sizes, and its grid: blocks for the product, and shares."""
    down, across = -(-g.h_out // tile.h), -(-g.w_out // tile.w)
    tiles, blocks = n * down * across, 3 // tile.rows * -(-g.c_out // tile.c)
    share = max(-(-tiles // max(BLOCKS // blocks, 1)), 1)
    sizes = record(
        SIZES, h_in=g.h_in, w_in=g.w_in, h_out=g.h_out, w_out=g.w_out, c_out=g.c_out,
        p_h=g.padding[0], p_w=g.padding[1], tiles=tiles, share=share,
        tiles_of_image=divisor(down * across), tiles_of_row=divisor(across), gy_kind=gy_kind,
        x_kind=x_kind,
    )  # fmt: skip
    return sizes, (blocks, -(-tiles // share))


def instances() -> Iterator[Kernel]:
    """Every kernel that this module may ask for."""
    for math in ARITHMETICS:
        for tile in TILES.values():
            for gy in ("AS_IS", "BACKWARD"):
                for x in ("AS_IS", "AFFINE"):
                    yield kernel(math, _with_prologues(tile, gy, x), gy, x)
