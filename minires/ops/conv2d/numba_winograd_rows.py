"""Tile rows of Winograd's convolution: how images are cut into tiles, and transformed.

The tiles side by side in an image are a *tile row*. Tile rows are numbered through all images, and
a *block* is some of them in a row::

    image 0    tile row 0   | t | t | t |       outputs of 10 x 12 pixels: 3 tile rows of 3 tiles,
               tile row 1   | t | t | t |       of which the last reaches beyond the image
               tile row 2   | t | t | t |
    image 1    tile row 3   | t | t | t |
               ...

Plane e of the transformed input ``u`` of a block, of its gradient ``z`` or of its output ``m``
begins at ``e * plane`` and is of shape (tiles, channels): a matrix, to be multiplied as one.

To transform them, pixels are copied into a *window* (rows, columns, c) first, with zeros around the
image and the operand's prologue applied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...kernels.numba.compiler import device_function
from ...kernels.numba.kernel import kernel
from ...kernels.numba.prologue import fill
from ...kernels.numba.simd import lanes_of, part
from ...kernels.numba.struct import struct
from ...kernels.numba.tile import ROWS
from .numba_winograd_tile import data_tile, gradient_tile, output_tile

PLANES = 36
BLOCK = 2**16  # entries of the planes of a block
STRIP = 2**13  # entries of a window that takes in several tile rows: it is to stay in the cache
LEAST_BLOCKS = 16  # of a batch that has as many tile rows, for as many threads


@dataclass(frozen=True)
class Tiling:
    """How the output of a convolution is cut into tiles and blocks of them."""

    down: int  # tile rows of an image
    across: int  # tiles of a tile row
    total: int  # tile rows of the batch
    rows: int  # tile rows of a block
    pixels: Any  # of each block
    inverse: Any  # 1 / pixels

    def tables(self, rows: int, c_in: int, c_out: int) -> tuple[Any, Any]:
        """Where each tile of so many tile rows begins in a plane, in whole register tiles."""
        return _table(-(-rows * self.across // ROWS) * ROWS, c_in, c_out)


@lru_cache(maxsize=256)
def _table(tiles: int, c_in: int, c_out: int) -> tuple[Any, Any]:
    return np.arange(tiles) * c_in, np.arange(tiles) * c_out


@lru_cache(maxsize=256)
def tiling_of(n: int, h: int, w: int, channels: int, dtype: Any) -> Tiling:
    """Blocks are whole register tiles, fit the cache, and are many where that is possible."""
    down, across = -(-h // 4), -(-w // 4)
    total = n * down
    # the least number of tile rows whose tiles fill whole register tiles of ROWS
    whole = ROWS // math.gcd(ROWS, across)
    rows = min(BLOCK // (PLANES * channels * across), total // LEAST_BLOCKS)
    rows = max(rows // whole, 1) * whole
    # the pixels before each block (pixels_before, for all blocks), and so the pixels of each
    q = np.minimum(np.arange(-(-total // rows) + 1) * rows, total)
    pixels = np.diff((q // down * h + 4 * (q % down)) * w)
    return Tiling(down, across, total, rows, pixels, (1 / pixels).astype(dtype))


class WinogradStruct(NamedTuple):
    """The sizes of a convolution, as kernels read them (:mod:`minires.kernels.numba.struct`)."""

    h_in: int  # the input (n, h_in, w_in, c_in) and its padding
    w_in: int
    c_in: int
    p_h: int
    p_w: int
    h: int  # the output (n, h, w, c_out)
    w: int
    c_out: int
    down: int  # tile rows of an image, tiles of a tile row
    across: int
    total: int  # tile rows of the batch, and of a block
    rows: int
    plane_u: int  # entries from plane to plane of u, and of m or z
    plane_m: int
    side_u: int  # channels of a slab of u, and of z: all, but in a wide weight gradient
    side_z: int
    slab: int  # entries from slab to slab
    width: int  # columns of a panel of weights
    depth: int  # rows of the sums of a weight gradient
    size: int  # entries of a task's workspace


plan_at = struct(WinogradStruct)  # plan_at(table, 0): the plan, for a kernel


def operations(table: Any, tiles: int | None = None, **_: Any) -> int:
    """Additions and multiplications of the sums that define the convolution of this plan, or so
    many ``tiles`` of it: four times as many as Winograd's formula has."""
    plan = WinogradStruct(*table.tolist())
    whole = plan.total * plan.across
    every = 2 * 9 * (plan.total // plan.down) * plan.h * plan.w * plan.c_in * plan.c_out
    return every if tiles is None else every * tiles // whole


def plane_size(tiles: int, c: int) -> int:
    """Entries from plane to plane: some more than needed, lest all planes meet in the same sets of
    the cache, and for the weight gradient's tile, which may look at rows beyond the last."""
    return tiles * c + 16


def _strip(across: int, c: int) -> int:
    """How many tile rows of an image share a window: each needs six rows of pixels, of which its
    neighbour needs two."""
    return max(1, (STRIP // ((4 * across + 2) * c) - 2) // 4)


_strip_of = device_function(_strip)


def window_size(across: int, c: int) -> int:
    """Entries of the window that :func:`transform_data` and :func:`transform_gradient` need."""
    return (4 * _strip(across, c) + 2) * (4 * across + 2) * c


@device_function
def transform_data(x, y, k, kind, plan, first, last, window, u):
    """u = Bᵀ d B of the tile rows from ``first`` to ``last``.

    A plane is (tiles, c), with ``side_u`` = c and ``slab`` = 0; or, as a wide weight gradient reads
    it, one slab (tiles, side_u) of channels after another, ``slab`` entries apart.

    Tile rows of an image share a window, in *strips*: count tile rows need 4 * count + 2 rows.
    """
    c, h, w, p_h, p_w = plan.c_in, plan.h_in, plan.w_in, plan.p_h, plan.p_w
    down, across, plane, side, slab = plan.down, plan.across, plan.plane_u, plan.side_u, plan.slab
    columns, strip = 4 * across + 2, _strip_of(across, c)
    to, q = 0, first  # the next tile's place in a plane; the next tile row
    while q < last:
        image, top = q // down, q % down
        count = min(strip, min(down - top, last - q))  # tile rows of this window, all of one image
        fill(
            x, y, k, kind, c, h, w, image, 4 * top - p_h, 4 * count + 2, -p_w, columns, window, 0
        )  # fmt: skip
        for i in range(count):
            for j in range(across):
                at = 4 * (i * columns + j) * c  # tile (i, j) begins 4 i rows and 4 j pixels in
                for channel in range(0, c, lanes_of(u)):
                    place = to + channel // side * slab + channel % side
                    data_tile(window, at + channel, columns * c, c, u, place, plane)
                to += side
        q += count


@device_function
def transform_gradient(x, y, k, kind, plan, first, last, window, z):
    """z = A gy Aᵀ of the tile rows from ``first`` to ``last``; gy is 0 outside the image."""
    c, h, w, down, across = plan.c_out, plan.h, plan.w, plan.down, plan.across
    plane, side, slab = plan.plane_m, plan.side_z, plan.slab
    columns = 4 * across
    to = 0
    for q in range(first, last):
        image, i = q // down, q % down
        fill(x, y, k, kind, c, h, w, image, 4 * i, 4, 0, columns, window, 0)
        for j in range(across):
            for channel in range(0, c, lanes_of(z)):
                place = to + channel // side * slab + channel % side
                gradient_tile(window, 4 * j * c + channel, columns * c, c, z, place, plane)
            to += side


@device_function
def transform_output(m, plan, first, last, y):
    """The tile rows from ``first`` to ``last`` of y = Aᵀ m A."""
    c, h, w, down, across, plane = (
        plan.c_out, plan.h, plan.w, plan.down, plan.across, plan.plane_m
    )  # fmt: skip
    at = 0
    for q in range(first, last):
        top = 4 * (q % down)
        begin = (q // down * h + top) * w * c
        for j in range(across):
            rows, columns = min(4, h - top), min(4, w - 4 * j)
            for channel in range(0, c, lanes_of(y)):
                # only as many rows and columns of the tile as the image has
                to = begin + 4 * j * c + channel
                output_tile(m, at + channel, plane, y, to, w * c, c, rows, columns)
            at += c


@device_function
def pixels_before(q, plan):
    """How many pixels of the output lie before tile row q."""
    return (q // plan.down * plan.h + 4 * (q % plan.down)) * plan.w


@kernel
def wide_data(task, x, x2, k, kind, begin, end, u, workspace, table, tasks):
    """u of the tile rows from ``begin`` to ``end``, all threads together."""
    plan, count = plan_at(table, 0), end - begin
    first, last = begin + task * count // tasks, begin + (task + 1) * count // tasks
    transform_data(
        x, x2, k, kind, plan, first, last, part(workspace, task * plan.size),
        part(u, (first - begin) * plan.across * plan.side_u),
    )  # fmt: skip
