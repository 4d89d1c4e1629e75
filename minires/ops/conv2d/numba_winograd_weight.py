"""The weight gradient of Winograd's convolution: ``gw = Gᵀ [ sum of u[e].T @ z[e] ] G``.

``u`` are the planes of the input and ``z`` those of gy; the sum is over all tiles. A narrow layer
sums over blocks, in a few parts that are added up at the end. A wide one, whose sums do not fit
the cache, makes all planes first, and then sums some channels by some channels at a time.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ...autograd import call
from ...kernels.numba.allocator import allocate, workspace
from ...kernels.numba.compiler import device_function
from ...kernels.numba.cpu import lanes
from ...kernels.numba.kernel import large_kernel
from ...kernels.numba.prologue import clear
from ...kernels.numba.simd import lanes_of, part, prefetch
from ...kernels.numba.threads import get_num_threads
from ...kernels.numba.tile import LOW_ROWS, OUTER_ROWS, outer_1, outer_low
from ...kernels.operand import GRADIENT, as_operand
from .numba_winograd_rows import (
    PLANES,
    WinogradStruct,
    operations,
    plan_at,
    plane_size,
    tiling_of,
    transform_data,
    transform_gradient,
    wide_data,
    window_size,
)
from .numba_winograd_tile import matrix_of, weight_gradient
from .op import Conv2dGeometry

ROWS_1 = OUTER_ROWS[1]
WIDE = 2**14  # c_in * c_out from which on a layer is wide
PARTS = 8  # of a narrow layer,
PARTS_SIZE = 2**20  # or half or a quarter as many, to have no more entries in all
SIDE = 64  # channels by channels of a wide layer that are summed at a time


@device_function
def _add_products(u, starts, rows, z, stride, columns, tiles, sums):
    """sums (rows, columns) += uᵀ z of a plane, for so many channels of u and of z.

    A register tile is some channels of u by one or two vectors of channels of z, and goes through
    all tiles; ``starts`` is where each begins in u, ``stride`` leads from one to the next in z.
    """
    lanes = lanes_of(u)
    if columns % (2 * lanes) == 0:
        for b in range(0, columns, 2 * lanes):
            for a in range(0, rows, LOW_ROWS):
                to = a * columns + b
                outer_low(u, starts, 0, tiles, a, z, b, stride, sums, to, columns)
    else:
        for b in range(0, columns, lanes):
            for a in range(0, rows, ROWS_1):
                to = a * columns + b
                outer_1(u, starts, 0, tiles, a, z, b, stride, sums, to, columns)


def _depth(rows: int, columns: int, dtype: Any) -> int:
    """So many rows in whole register tiles."""
    high = LOW_ROWS if columns % (2 * lanes(dtype)) == 0 else ROWS_1
    return -(-rows // high) * high


@device_function
def _fetch_share(x, at, size, e):
    """Begin to bring a 36th of ``size`` entries at x[at] near, while plane e is computed with."""
    share = size // PLANES
    for i in range(at + e * share, at + (e + 1) * share, lanes_of(x)):
        prefetch(x, i)


@device_function
def _put_gradient(sums, a, size, parts, depth, columns, matrix, taps, gw, i, o, c_in):
    """gw[o : o + columns, i] = Gᵀ s G of row a of the summed parts of ``size`` entries.

    The planes give the nine taps of a vector of output channels, (9, lanes); gw has the taps of a
    channel side by side.
    """
    lanes = lanes_of(gw)
    for b in range(0, columns, lanes):
        weight_gradient(sums, a * columns + b, depth * columns, size, parts, matrix, taps)
        for j in range(lanes):
            to = ((o + b + j) * c_in + i) * 9
            for t in range(9):
                gw[to + t] = taps[t * lanes + j]


@large_kernel
def _sum_parts(task, gy, gy2, gy_k, gy_kind, x, x2, k, kind, sums, starts, workspace, table, parts):
    """Narrow: sums[part] (planes, depth, c_out) = uᵀ z of the part's blocks.

    A part has a workspace: u (36, plane_u), z (36, plane_m) and a window.
    """
    plan = plan_at(table, 0)
    c_in, c_out, total, rows, depth = plan.c_in, plan.c_out, plan.total, plan.rows, plan.depth
    plane_u, plane_z, blocks = plan.plane_u, plan.plane_m, (total + rows - 1) // rows
    u = part(workspace, task * plan.size)
    z = part(u, PLANES * plane_u)
    window = part(z, PLANES * plane_z)
    own = part(sums, task * PLANES * depth * c_out)
    clear(own, 0, PLANES * depth * c_out)
    for block in range(task * blocks // parts, (task + 1) * blocks // parts):
        first, last = block * rows, min((block + 1) * rows, total)
        transform_data(x, x2, k, kind, plan, first, last, window, u)
        transform_gradient(gy, gy2, gy_k, gy_kind, plan, first, last, window, z)
        # While the products of this block are taken, which need no memory, the pixels of the next
        # one are fetched: a 36th of them beside each plane.
        image, top = last // plan.down, 4 * (last % plan.down)
        x_at = (image * plan.h_in + top) * plan.w_in * c_in
        gy_at = (image * plan.h + top) * plan.w * c_out
        x_size, gy_size = 4 * rows * plan.w_in * c_in, 4 * rows * plan.w * c_out
        for e in range(PLANES):
            _fetch_share(x, x_at, x_size, e)
            _fetch_share(gy, gy_at, gy_size, e)
            if gy_kind >= GRADIENT:
                _fetch_share(gy2, gy_at, gy_size, e)
            _add_products(
                part(u, e * plane_u), starts, c_in, part(z, e * plane_z), c_out, c_out,
                (last - first) * plan.across, part(own, e * depth * c_out),
            )  # fmt: skip


@large_kernel
def _add_parts(task, sums, parts, matrix, gw, workspace, table, tasks):
    """Narrow: gw of the sums of all parts, added in order."""
    plan = plan_at(table, 0)
    c_in, c_out, depth = plan.c_in, plan.c_out, plan.depth
    taps = part(workspace, task * 9 * lanes_of(gw))
    size = PLANES * depth * c_out
    for i in range(task * c_in // tasks, (task + 1) * c_in // tasks):
        _put_gradient(sums, i, size, parts, depth, c_out, matrix, taps, gw, i, 0, c_in)


@large_kernel
def _wide_gradient(task, gy, gy2, k, kind, z, workspace, table, tasks):
    """Wide: z of all tile rows."""
    plan = plan_at(table, 0)
    first, last = task * plan.total // tasks, (task + 1) * plan.total // tasks
    transform_gradient(
        gy, gy2, k, kind, plan, first, last, part(workspace, task * plan.size),
        part(z, first * plan.across * plan.side_z),
    )  # fmt: skip


@large_kernel
def _wide_sums(task, u, z, starts, matrix, gw, workspace, table, tasks):
    """Wide: gw, ``side`` by ``side`` channels after another."""
    plan = plan_at(table, 0)
    c_in, c_out, side, depth = plan.c_in, plan.c_out, plan.side_u, plan.depth
    plane_u, plane_z, tiles = plan.plane_u, plan.plane_m, plan.total * plan.across
    sums = part(workspace, task * plan.size)
    taps = part(sums, PLANES * depth * side)
    wide = (c_out + side - 1) // side  # squares of channels: so many side by side
    count = (c_in + side - 1) // side * wide
    for index in range(task * count // tasks, (task + 1) * count // tasks):
        i, o = index // wide * side, index % wide * side
        rows, columns = min(side, c_in - i), min(side, c_out - o)
        clear(sums, 0, PLANES * depth * columns)
        # channel i of u begins i * tiles entries into each plane: slabs (tiles, side) of channels
        for e in range(PLANES):
            _add_products(
                part(u, i * tiles + e * plane_u), starts, rows, part(z, o * tiles + e * plane_z),
                side, columns, tiles, part(sums, e * depth * columns),
            )  # fmt: skip
        for a in range(rows):
            _put_gradient(sums, a, 0, 1, depth, columns, matrix, taps, gw, i + a, o, c_in)


_sum_parts.operations(operations)
_wide_sums.operations(operations)


class _Job(NamedTuple):
    """What follows from the sizes of a convolution."""

    wide: bool
    table: Any  # a WinogradStruct, for the kernels
    starts: Any  # where each tile begins in a plane of u
    plane_u: int
    plane_z: int
    depth: int  # rows of the sums: c_in, or SIDE, in whole register tiles
    parts: int
    size: int  # of a task's workspace


@functools.lru_cache(maxsize=1024)
def _job(g: Conv2dGeometry, kind: str) -> _Job:
    dtype = np.dtype(kind)
    t = tiling_of(g.n, g.h_out, g.w_out, g.c_in + g.c_out, dtype)
    window = max(window_size(t.across, c) for c in (g.c_in, g.c_out))
    wide = g.c_in * g.c_out >= WIDE
    if wide:
        tiles, slabs = t.total * t.across, [-(-c // SIDE) * SIDE for c in (g.c_in, g.c_out)]
        starts, _ = t.tables(t.total, SIDE, SIDE)
        plane_u, plane_z = (plane_size(tiles, c) for c in slabs)
        depth = max(_depth(SIDE, lanes(dtype) * v, dtype) for v in (1, 2))
        size = max(window, PLANES * depth * SIDE + 9 * lanes(dtype))
        side_u, side_z, slab, parts = SIDE, SIDE, tiles * SIDE, 1
    else:
        starts, _ = t.tables(t.rows, g.c_in, g.c_out)
        plane_u, plane_z = plane_size(starts.size, g.c_in), plane_size(starts.size, g.c_out)
        depth, parts = _depth(g.c_in, g.c_out, dtype), PARTS
        while parts > 2 and parts * PLANES * depth * g.c_out > PARTS_SIZE:
            parts //= 2
        parts = min(parts, len(t.pixels))
        size = PLANES * (plane_u + plane_z) + window
        side_u, side_z, slab = g.c_in, g.c_out, 0
    sizes = WinogradStruct(
        g.h_in, g.w_in, g.c_in, *g.padding, g.h_out, g.w_out, g.c_out, t.down, t.across, t.total,
        t.rows, plane_u, plane_z, side_u, side_z, slab, width=0, depth=depth, size=size,
    )  # fmt: skip
    return _Job(wide, np.array(sizes, np.int64), starts, plane_u, plane_z, depth, parts, size)


def conv2d_bwd_weight(gy: Any, x: Any, gw: Any, g: Conv2dGeometry) -> None:
    """Fill gw (c_out, c_in, 3, 3)."""
    gy, x = as_operand(gy), as_operand(x)
    if gy.x.size == 0:
        call(gw.fill, 0)
        return
    dtype, tasks, matrix = gw.dtype, get_num_threads(), matrix_of(gw.dtype)
    result = gw if gw.flags.c_contiguous else np.empty(gw.shape, dtype)
    wide, table, starts, plane_u, plane_z, depth, parts, size = _job(g, dtype.char)
    if wide:
        u, z = (allocate((PLANES, plane), dtype) for plane in (plane_u, plane_z))
        memory, tile_rows = workspace(tasks * size, dtype), g.n * -(-g.h_out // 4)
        wide_data(tasks, *x.arguments, 0, tile_rows, u, memory, table, tasks)
        _wide_gradient(tasks, *gy.arguments, z, memory, table, tasks)
        _wide_sums(tasks, u, z, starts, matrix, result, memory, table, tasks)
    else:
        sums, memory = (
            allocate((parts, PLANES, depth, g.c_out), dtype),
            workspace(parts * size, dtype),
        )
        _sum_parts(parts, *gy.arguments, *x.arguments, sums, starts, memory, table, parts)
        memory = workspace(tasks * 9 * lanes(dtype), dtype)
        _add_parts(tasks, sums, parts, matrix, result, memory, table, tasks)
    if result is not gw:
        call(np.copyto, gw, result)
