"""The weight gradient of a direct convolution: outer products of windows with pixels of gy.

For every output position, the products of all entries of its window with all channels of gy are
added to the sums::

    gw[o, c, u, v] = sum over positions i of x[i, (u, v), c] * gy[i, o]

                     window of position i             channels of gy at i
                     (tap, channel) = row of sums     = columns of sums, in panels of ``width``

    sums (panels, segments, rows, width)   +=   a[starts[i] + offsets[segment] + r] * b[i, column]

Neighbouring taps and their channels lie side by side in the window: such a run is a *segment*, of
``run`` entries, and has ``rows`` rows of sums, which is ``run`` in whole tiles. The register tile
keeps a few rows of the window by a panel of channels of gy, and goes through the positions of a
block. Blocks and windows are those of the forward pass (:mod:`.numba_plan`). The batch is cut into
*parts*, as many as the sizes alone say, each with sums of its own, which are then added in order;
where gy has many channels, panels are shared out, too.

Windows have zeros where taps fall outside the image. They add nothing, unless gy is NaN or
infinite. A part whose sums show that, all in the row of the first tap, is gone through once more,
and where gy is not finite the taps outside are left out one by one.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ...autograd import call
from ...kernels.numba.allocator import allocate, workspace
from ...kernels.numba.compiler import device_function
from ...kernels.numba.cpu import lanes
from ...kernels.numba.kernel import kernel, large_kernel
from ...kernels.numba.prologue import clear, read
from ...kernels.numba.simd import fma, lanes_of, load, part, spread, store, transpose
from ...kernels.numba.threads import get_num_threads
from ...kernels.numba.tile import (
    LOW_ROWS,
    OUTER_ROWS,
    WINDOW_LINES,
    WINDOW_ROWS,
    outer_1,
    outer_2,
    outer_low,
    outer_window,
)
from ...kernels.operand import PLAIN, as_operand
from .numba_plan import Plan, depthwise, make_plan, operations, phase_of, plan_at
from .numba_window import extent, fill_window, finite, inside, place_of_tap, source_pixel
from .op import Conv2dGeometry

ROWS_2 = OUTER_ROWS[2]
# Register tiles: vectors, rows, and what a product costs in them, relative to the best, measured.
TILES = ((1, OUTER_ROWS[1], 1.1), (2, ROWS_2, 1.0), (2, LOW_ROWS, 1.03))
WINDOW = (1, WINDOW_ROWS, 1.1)  # for windows of just such rows
CHUNK = 96  # positions whose outer products are added up at a time: they fit the nearest cache
MANY = 4  # panels for which it pays to copy the rows of a tile
HIGH = 16  # entries from one position of such a copy to the next
_STEPS = np.arange(CHUNK) * HIGH
PARTS = 8  # of a weight gradient, fewer where each would be large:
PARTS_SIZE = 2**21  # entries of all parts together


@device_function
def _copy_panel(b, stride, count, columns, width, panel):
    """panel (count, width) = the first columns of b (count, stride)."""
    lanes = lanes_of(b)
    for i in range(count):
        for j in range(0, columns - lanes + 1, lanes):
            store(panel, i * width + j, load(b, i * stride + j))
        for j in range(columns - columns % lanes, columns):
            panel[i * width + j] = b[i * stride + j]


@device_function
def _take_panels(
    gy, gy2, k, kind, at, count, gradients, width, panels, first, last, c, group, panel_of_b
):  # fmt: skip
    """panel_of_b (last - first, CHUNK, width) = some panels of ``count`` positions of gy."""
    b, whole = part(gy, at), c == group == width  # such rows are a panel already
    # a prologue is applied into the workspace; of a single panel, right into the panel
    if whole or kind != PLAIN:
        b = panel_of_b if whole else gradients
        read(gy, gy2, k, kind, c, at, count, b, 0)
    if whole:
        return
    for panel in range(first, last):
        column = panel % panels * width
        channel = panel // panels * group + column
        to = part(panel_of_b, (panel - first) * CHUNK * width)
        _copy_panel(part(b, channel), c, count, min(width, group - column), width, to)


@device_function
def _copy_rows(a, starts, count, rows, copied):
    """copied (count, HIGH) = the first rows of each position of a, and what comes after.

    The rows of a tile lie ``starts`` apart, which may be far. Where many panels use them, it pays
    to have them side by side first.
    """
    for i in range(count):
        for r in range(0, rows, lanes_of(a)):
            store(copied, i * HIGH + r, load(a, starts[i] + r))


@device_function
def _panels_finite(panel_of_b, count, width, panels):
    """Whether ``count`` positions of the panels (panels, CHUNK, width) have neither NaN nor
    infinity."""
    whole = 0
    for panel in range(panels):
        whole += finite(panel_of_b, panel * CHUNK * width, count * width)
    return whole == panels


@device_function
def _add_inside(
    a, panel_of_b, sums, width, plan, rows, at, count, positions, images, image_row, first, last
):  # fmt: skip
    """The products of ``count`` positions of a block from ``at`` on, of taps inside the image."""
    phase = phase_of(plan, 0)  # a forward convolution has one
    panels, segments, run = (plan.y_group + width - 1) // width, phase.segments, phase.run
    for i in range(count):
        h, w = source_pixel(plan, phase, at + i, positions, images, image_row)
        start = phase.starts[at + i]
        for q in range(phase.tap_rows * phase.tap_columns):
            u_, v_ = q // phase.tap_columns, q % phase.tap_columns
            if not inside(plan, phase, h, w, u_, v_):
                continue
            for panel in range(first, last):
                group = start + place_of_tap(phase, u_, v_) + panel // panels * plan.c_group
                b_at = ((panel - first) * CHUNK + i) * width
                for c in range(plan.c_group):
                    # which segment, and which row of it, this tap and channel are
                    entry = q * plan.c_group + c  # of a filter (tap, channel)
                    row = entry // run * rows + entry % run
                    to = (panel * segments * rows + row) * width
                    for j in range(0, width, lanes_of(a)):
                        v = fma(
                            spread(a, group + c), load(panel_of_b, b_at + j), load(sums, to + j)
                        )
                        store(sums, to + j, v)


@device_function
def _add_products(
    a, gy, gy2, kg, kind, y_at, copied, panel_of_b, gradients, sums, width, tile, plan, rows,
    positions, images, image_row, first, last, steps, careful,
):  # fmt: skip
    """sums[panel, segment, row, column] += a[position, segment, row] * b[position, column].

    Some positions at a time: the columns of each panel are copied side by side, and so are, where
    they serve many panels, the rows of a tile.
    """
    phase = phase_of(plan, 0)
    starts, offsets = phase.starts, phase.offsets
    panels, segments, run = (plan.y_group + width - 1) // width, phase.segments, phase.run
    # a first layer's window, three lines of nine entries, is taken in one tile of 27 rows
    lines = WINDOW_LINES if tile == WINDOW_ROWS else 1
    copying = plan.groups == 1 and last - first >= MANY and tile != WINDOW_ROWS
    chunks = (positions + CHUNK - 1) // CHUNK
    for chunk in range(chunks):
        # positions at ... at + count - 1, and their panels of gy
        at = chunk * positions // chunks
        count = (chunk + 1) * positions // chunks - at
        _take_panels(
            gy, gy2, kg, kind, y_at + at * plan.y_pixel, count, gradients, width, panels, first,
            last, plan.y_pixel, plan.y_group, panel_of_b,
        )  # fmt: skip
        if careful and not _panels_finite(panel_of_b, count, width, last - first):
            _add_inside(
                a, panel_of_b, sums, width, plan, rows, at, count, positions, images, image_row,
                first, last,
            )  # fmt: skip
            continue
        # all tiles of the sums, each of which goes through the positions of the chunk
        for q in range(0, segments, lines):
            for r in range(0, run, tile):
                left, left_starts, row = a, part(starts, at), offsets[q] + r
                if copying:
                    _copy_rows(part(a, row), left_starts, count, tile, copied)
                    left, left_starts, row = copied, steps, 0
                for panel in range(first, last):
                    group_row = row + panel // panels * plan.c_group
                    right = part(panel_of_b, (panel - first) * CHUNK * width)
                    to = ((panel * segments + q) * rows + r) * width
                    if tile == WINDOW_ROWS:
                        outer_window(
                            part(a, group_row - offsets[q]), left_starts, 0, count,
                            part(offsets, q), right, 0, width, sums, to, width
                        )  # fmt: skip
                    elif width == lanes_of(a):
                        outer_1(
                            left, left_starts, 0, count, group_row, right, 0, width, sums, to, width
                        )  # fmt: skip
                    elif tile == ROWS_2:
                        outer_2(
                            left, left_starts, 0, count, group_row, right, 0, width, sums, to, width
                        )  # fmt: skip
                    else:
                        outer_low(
                            left, left_starts, 0, count, group_row, right, 0, width, sums, to, width
                        )  # fmt: skip


@device_function
def _add_products_of_channels(a, b, sums, plan, positions, images, image_row, careful):
    """The same for a depthwise convolution: sums (taps, channels) += a * b, entry by entry."""
    phase, c, width = phase_of(plan, 0), plan.channels, lanes_of(a)
    starts, offsets = phase.starts, phase.offsets
    if careful:
        for i in range(positions):
            h, w = source_pixel(plan, phase, i, positions, images, image_row)
            for q in range(phase.segments):
                if inside(plan, phase, h, w, q // phase.tap_columns, q % phase.tap_columns):
                    at = starts[i] + offsets[q]
                    for j in range(c):
                        sums[q * c + j] = fma(a[at + j], b[i * c + j], sums[q * c + j])
        return
    for q in range(phase.segments):
        for channel in range(0, c - width + 1, width):
            at = offsets[q] + channel
            v = load(sums, q * c + channel)
            for i in range(positions):
                v = fma(load(a, starts[i] + at), load(b, i * c + channel), v)
            store(sums, q * c + channel, v)
        for channel in range(c - c % width, c):
            for i in range(positions):
                sums[q * c + channel] += a[starts[i] + offsets[q] + channel] * b[i * c + channel]


@device_function
def _first_rows_finite(sums, width, size, first, last, plan):
    """Whether the sums of the first tap and channel are finite, in which every gy had a part."""
    if not width:
        return finite(sums, 0, plan.channels)
    whole = 0
    for panel in range(first, last):
        whole += finite(sums, panel * size, width)
    return whole == last - first


@large_kernel
def _correlate(
    task, parts, cuts, blocks, panels, x, x2, kx, kind_x, window, gy, gy2, kg, kind_gy, gradient,
    width, tile, sums, size, rows, workspace, steps, table,
):  # fmt: skip
    """Task (part, cut): the sums over a part of the blocks, and of those a cut of the panels.

    ``window`` and ``gradient`` are the sizes of a block's x and gy in the workspace, the latter 0
    if gy is read in place; ``size`` is how many sums each panel has, in ``rows`` rows for each
    segment.
    """
    plan = plan_at(table, 0)
    share, cut = task // cuts, task % cuts
    first, last = cut * panels // cuts, (cut + 1) * panels // cuts
    sums = part(sums, share * panels * size)
    most = (panels + cuts - 1) // cuts
    # of this task: window | gradient | copied rows (CHUNK, HIGH) | panels (most, CHUNK, width)
    own = part(workspace, task * (window + gradient + CHUNK * (HIGH + most * width)))
    gradients = part(own, window)
    copied = part(gradients, gradient)
    panel_of_b = part(copied, CHUNK * HIGH)
    clear(panel_of_b, 0, CHUNK * most * width)  # columns that no channel fills stay 0
    # The second time, if the first shows that gy has NaN or infinity, and there is padding which
    # they must not meet.
    careful = again = 0
    while again <= careful:  # once, or twice
        clear(sums, first * size, (last - first) * size)
        for block in range(share * blocks // parts, (share + 1) * blocks // parts):
            image, images, row, lines = extent(plan, block)
            positions = images * lines * phase_of(plan, 0).columns
            fill_window(x, x2, kx, kind_x, plan, image, images, row, lines, own)
            y_at = image * plan.y_image + row * plan.y_row
            if width:
                _add_products(
                    own, gy, gy2, kg, kind_gy, y_at, copied, panel_of_b, gradients, sums, width,
                    tile, plan, rows, positions, images, row, first, last, steps, careful,
                )  # fmt: skip
                continue
            b = part(gy, y_at)
            if gradient:
                read(gy, gy2, kg, kind_gy, plan.y_pixel, y_at, positions, gradients, 0)
                b = gradients
            _add_products_of_channels(own, b, sums, plan, positions, images, row, careful)
        if (
            again == 0
            and plan.padded
            and not _first_rows_finite(sums, width, size, first, last, plan)
        ):
            careful = 1
        again += 1


_correlate.operations(operations)


@kernel
def _sum_parts(task, tasks, parts, sums, size, gw, width, table, places, filter_, ends):
    """gw[column, entry] = the sum of all parts' sums[panel, places[entry], column].

    ``filter_``: how many entries (channel, tap) a filter has; ``ends``: multiples of that.
    """
    plan = plan_at(table, 0)
    lanes, panels = lanes_of(gw), (plan.y_group + width - 1) // width
    units = plan.groups * panels
    for unit in range(task * units // tasks, (task + 1) * units // tasks):
        # the sums of all parts, added in order, into those of the first
        for i in range(unit * size, (unit + 1) * size, lanes):
            v = load(sums, i)
            for other in range(1, parts):
                v = v + load(sums, other * units * size + i)
            store(sums, i, v)
        # transposed into gw, in squares of lanes columns (channels of gy) by lanes entries
        column = unit % panels * width
        columns = min(width, plan.y_group - column)
        to = (unit // panels * plan.y_group + column) * filter_
        for j in range(0, columns, lanes):
            at = unit * size + j
            for e in range(0, filter_, lanes):
                if columns - j >= lanes and filter_ >= lanes:
                    e = min(e, filter_ - lanes)  # the last square ends with the filter
                    transpose(sums, at, part(places, e), gw, to + j * filter_ + e, ends)
                else:
                    for i in range(min(lanes, columns - j)):
                        for k in range(e, min(e + lanes, filter_)):
                            gw[to + (j + i) * filter_ + k] = sums[at + places[k] + i]


def _sum_rows(segments: int, run: int, rows: int, c: int) -> Any:
    """Which row of a panel of sums (segments, rows) each entry (channel, tap) of a filter is."""
    segment, r = np.divmod(np.arange(segments * run), run)  # in the order (tap, channel)
    return (segment * rows + r).reshape(-1, c).T.ravel()


def _sums_shape(columns: int, segments: int, run: int, dtype: Any) -> tuple[int, int, int]:
    """The width of the panels of sums, the rows of a tile and those of all: whole tiles, and as
    little work as can be."""
    tiles = [*TILES]
    if run == WINDOW_ROWS and segments % WINDOW_LINES == 0:
        tiles.append(WINDOW)
    shapes = [(v * lanes(dtype), tile, -(-run // tile) * tile, price) for v, tile, price in tiles]
    width, tile, rows, _ = min(shapes, key=lambda s: -(-columns // s[0]) * s[0] * s[2] * s[3])
    return width, tile, rows


class _Job(NamedTuple):
    """What follows from the sizes of a convolution."""

    plan: Plan
    width: int  # of a panel of sums, or 0 for a depthwise convolution
    tile: int  # rows of a register tile
    rows: int  # of sums for each segment: whole tiles
    panels: int
    size: int  # sums of a panel
    parts: int  # of the batch
    cuts: int  # of the panels
    window: int  # entries of a window, and what a tile may read behind it
    read_at_once: int  # positions of gy whose prologue is applied at a time
    places: Any  # (channels * taps,): where each entry of a filter stands in a panel of sums


@functools.lru_cache(maxsize=1024)
def _job(g: Conv2dGeometry, kind: str) -> _Job:
    dtype = np.dtype(kind)
    p = make_plan(g, "weight", False, dtype.itemsize)
    segments, run = p.phases[0].segments, p.phases[0].run
    c_out = g.c_out // g.groups
    if depthwise(g):
        width, tile, rows, panels, size, places = 0, 0, 0, 1, p.taps.size * g.c_in, None
    else:
        width, tile, rows = _sums_shape(c_out, segments, run, dtype)
        panels = g.groups * -(-c_out // width)
        size = segments * rows * width
        places = _sum_rows(segments, run, rows, g.c_in // g.groups) * width
    parts = min(max(PARTS_SIZE // (panels * size), 1), PARTS, p.blocks)
    cuts = min(max(PARTS // parts, 1), panels)
    read_at_once = CHUNK if width else int(p.pixels.max())
    window = p.window + 2 * OUTER_ROWS[1]
    return _Job(p, width, tile, rows, panels, size, parts, cuts, window, read_at_once, places)


def conv2d_bwd_weight(gy: Any, x: Any, gw: Any, g: Conv2dGeometry) -> None:
    """Fill gw (c_out, c_in / groups, k_h, k_w) from gy and x, arrays or Operands."""
    x, gy, dtype = as_operand(x), as_operand(gy), gw.dtype
    if x.x.size == 0:
        call(gw.fill, 0)
        return
    p, width, tile, rows, panels, size, parts, cuts, window, read_at_once, places = _job(
        g, dtype.char
    )
    gradient = 0 if gy.kind == PLAIN else read_at_once * g.c_out
    sums = allocate((parts * panels * size,), dtype)
    room = window + gradient + CHUNK * (HIGH + -(-panels // cuts) * width)
    _correlate(
        parts * cuts, parts, cuts, p.blocks, panels, *x.arguments, window, *gy.arguments, gradient,
        width, tile, sums, size, rows, workspace(parts * cuts * room, dtype), _STEPS, p.table,
    )  # fmt: skip
    if not width:
        call(_add_up, sums.reshape(parts, -1, g.c_in), gw)
        return
    out = gw if gw.flags.c_contiguous else np.empty(gw.shape, dtype)
    tasks, filter_ = get_num_threads(), gw[0].size
    _sum_parts(
        tasks, tasks, parts, sums, size, out, width, p.table, places, filter_,
        np.arange(lanes(dtype)) * filter_,
    )  # fmt: skip
    if out is not gw:
        call(np.copyto, gw, out)


def _add_up(sums: Any, gw: Any) -> None:
    gw[...] = sums.sum(axis=0).T.reshape(gw.shape)
