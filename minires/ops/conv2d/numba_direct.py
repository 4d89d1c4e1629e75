"""Direct convolution on the CPU: sums of products, from the cache into the registers.

The batch is cut into blocks of output pixels (:mod:`.numba_plan`). For each, the source pixels that
it needs, its window, are copied into a scratch memory that stays in the cache, with the zeros of
the padding around them; on that way batch norm and ReLU may be applied
(:mod:`minires.kernels.operand`). The register tile (:mod:`minires.kernels.numba.tile`) then
multiplies the windows of ROWS positions with a *panel*, the weights of as many output channels as
one or two vectors hold. What a ResNet does to the result next is done to the block while it is
still in the cache: adding the residual, ReLU, and the statistics of the batch norm that follows.

The input gradient is the same computation with another plan. The weight gradient is in
:mod:`.numba_weight`. With as many groups as channels (depthwise), there is nothing to multiply as
matrices, and vectors run along the channels instead.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from ...autograd import call
from ...kernels.epilogue import NOTHING, Epilogue
from ...kernels.numba.allocator import allocate, workspace
from ...kernels.numba.compiler import device_function
from ...kernels.numba.cpu import lanes
from ...kernels.numba.kernel import kernel
from ...kernels.numba.prologue import clear
from ...kernels.numba.simd import fma, lanes_of, load, part, spread, store, transpose
from ...kernels.numba.simd import relu as positive
from ...kernels.numba.statistics import block_statistics, combine
from ...kernels.numba.threads import get_num_threads
from ...kernels.numba.tile import ROWS, product_1, product_2
from ...kernels.operand import PLAIN, Operand, as_operand, nothing_of
from ...kernels.packed import as_packed, contiguous
from . import numba_plan as S  # the names of the sizes in a plan's table
from .numba_plan import (
    Plan,
    all_inside,
    depthwise,
    extent,
    fill_window,
    finite,
    inside,
    panel_width,
    place_of_tap,
    plan,
    source_pixel,
    window_begin,
)
from .numba_weight import conv2d_bwd_weight
from .op import Conv2dGeometry

__all__ = ["conv2d_bwd_input", "conv2d_bwd_weight", "conv2d_fwd"]

TOGETHER = 4 * ROWS  # positions that meet all panels while their windows are in the nearest cache
TINY = 2**17  # multiply-adds that are done before a second thread has begun
ADD, RECTIFY, MEASURE = 1, 2, 4  # what is done to a finished block


@kernel
def _pack(
    task, tasks, w, size, packed, t, width, per_group, rounds, per_round, length, per_column,
    places, ends,
):  # fmt: skip
    """packed[panel, tap, channel, column] = w, zero in columns that the layer does not have.

    Weights come in squares: some neighbouring columns (of the panel; ``per_column`` entries apart
    in w), of each some of the ``length`` entries that lie side by side. The last square may reach
    into the entries behind; their ends are that of its first entry, which overwrites them.
    """
    lanes, panels = lanes_of(w), (t[S.Y_GROUP] + width - 1) // width
    first, last = task * t[S.GROUPS] * panels // tasks, (task + 1) * t[S.GROUPS] * panels // tasks
    panel_size = t[S.TAPS] * t[S.GROUP] * width
    if t[S.Y_GROUP] % width:
        clear(packed, first * panel_size, (last - first) * panel_size)
    for r in range(rounds):
        for panel in range(first, last):
            column = panel % panels * width
            columns = min(width, t[S.Y_GROUP] - column)
            begin = panel // panels * per_group + column * per_column + r * per_round
            for j in range(0, columns, lanes):
                for e in range(0, length, lanes):
                    at = begin + j * per_column + e
                    to = panel * panel_size + r * width + j
                    if columns - j >= lanes and per_column == 1:
                        store(packed, to, load(w, at))
                    elif columns - j >= lanes and at + (lanes - 1) * per_column + lanes <= size:
                        transpose(w, at, places, packed, to, part(ends, e))
                    else:
                        for i in range(min(lanes, columns - j)):
                            for k in range(min(lanes, length - e)):
                                packed[to + ends[e + k] + i] = w[at + i * per_column + k]


@device_function
def _multiply(a, weights, width, bias, y, y_at, tile, t, p, positions, first, last):
    """y = a * weights + bias for the phase at t[p] of a block and the panels first to last - 1."""
    panels, size = (t[S.Y_GROUP] + width - 1) // width, t[S.TAPS] * t[S.GROUP] * width
    starts, ends, offsets = (
        part(t, t[p + S.STARTS]),
        part(t, t[p + S.ENDS]),
        part(t, t[p + S.OFFSETS]),
    )
    segments, run = t[p + S.SEGMENTS], t[p + S.RUN]
    for base in range(0, positions, TOGETHER):
        for panel in range(first, last):
            column = panel % panels * width
            channel = panel // panels * t[S.Y_GROUP] + column
            columns = min(width, t[S.Y_GROUP] - column)
            left = part(a, panel // panels * t[S.GROUP])
            b_at = panel * size + t[p + S.FIRST_TAP] * t[S.GROUP] * width
            for top in range(base, min(base + TOGETHER, positions), ROWS):
                # The last tile ends with the last position: some are computed twice, to the same.
                at = max(min(top, positions - ROWS), 0)
                if columns == width:
                    c, c_ends, c_at = y, part(ends, at), y_at + channel
                else:
                    c, c_ends, c_at = tile, part(t, t[S.TILE]), 0
                if width == lanes_of(y):
                    product_1(
                        left, part(starts, at), 0, offsets, segments, run, weights, b_at, bias,
                        channel, c, c_ends, c_at,
                    )  # fmt: skip
                else:
                    product_2(
                        left, part(starts, at), 0, offsets, segments, run, weights, b_at, bias,
                        channel, c, c_ends, c_at,
                    )  # fmt: skip
                if columns < width:
                    for r in range(ROWS):
                        for j in range(columns):
                            y[y_at + ends[at + r] + channel + j] = tile[r * S.TILE_ROW + j]


@device_function
def _multiply_channels(a, weights, bias, y, y_at, t, p, positions):
    """The same for a depthwise convolution: weights (taps, channels)."""
    c, width = t[S.CHANNELS], lanes_of(y)
    starts, ends, offsets = (
        part(t, t[p + S.STARTS]),
        part(t, t[p + S.ENDS]),
        part(t, t[p + S.OFFSETS]),
    )
    weights = part(weights, t[p + S.FIRST_TAP] * c)
    for i in range(positions):
        for channel in range(0, c - width + 1, width):
            v = load(bias, channel)
            for q in range(t[p + S.SEGMENTS]):
                v = fma(
                    load(a, starts[i] + offsets[q] + channel), load(weights, q * c + channel), v
                )
            store(y, y_at + ends[i] + channel, v)
        for channel in range(c - c % width, c):
            total = bias[channel]
            for q in range(t[p + S.SEGMENTS]):
                total += a[starts[i] + offsets[q] + channel] * weights[q * c + channel]
            y[y_at + ends[i] + channel] = total


@device_function
def _skip_padding(
    a, weights, width, bias, y, y_at, tile, t, p, positions, images, row, first, last
):  # fmt: skip
    """Where weights are NaN or infinite, take what they made of the padding's zeros out of y.

    Such a weight meets every position of its panel, so that the first one tells. The positions that
    see padding are then computed again, of the taps inside the image: the same sums in the same
    order, and the same bits where the weights are finite.
    """
    panels, lanes = (t[S.Y_GROUP] + width - 1) // width, lanes_of(y)
    ends, starts = part(t, t[p + S.ENDS]), part(t, t[p + S.STARTS])
    for panel in range(first, last):
        column = panel % panels * width
        channel = panel // panels * t[S.Y_GROUP] + column
        columns = min(width, t[S.Y_GROUP] - column)
        if finite(y, y_at + ends[0] + channel, columns):
            continue
        size, left = t[S.GROUP] * width, part(a, panel // panels * t[S.GROUP])
        b_at = (panel * t[S.TAPS] + t[p + S.FIRST_TAP]) * size
        for i in range(positions):
            h, w = source_pixel(t, p, i, positions, images, row)
            if all_inside(t, p, h, w):
                continue
            for j in range(0, columns, lanes):
                v = load(bias, channel + j)
                for q in range(t[p + S.TAP_ROWS] * t[p + S.TAP_COLUMNS]):
                    u_, v_ = q // t[p + S.TAP_COLUMNS], q % t[p + S.TAP_COLUMNS]
                    if inside(t, p, h, w, u_, v_):
                        at = starts[i] + place_of_tap(t, p, u_, v_)
                        for c in range(t[S.GROUP]):
                            weight = load(weights, b_at + q * size + c * width + j)
                            v = fma(spread(left, at + c), weight, v)
                store(tile, 0, v)
                for k in range(min(lanes, columns - j)):
                    y[y_at + ends[i] + channel + j + k] = tile[k]


@device_function
def _skip_padding_of_channels(a, weights, bias, y, y_at, t, p, positions, images, row):
    """The same for a depthwise convolution."""
    c, ends, starts = t[S.CHANNELS], part(t, t[p + S.ENDS]), part(t, t[p + S.STARTS])
    if finite(y, y_at + ends[0], c):
        return
    weights = part(weights, t[p + S.FIRST_TAP] * c)
    for i in range(positions):
        h, w = source_pixel(t, p, i, positions, images, row)
        if all_inside(t, p, h, w):
            continue
        for channel in range(c):
            total = bias[channel]
            for q in range(t[p + S.TAP_ROWS] * t[p + S.TAP_COLUMNS]):
                u_, v_ = q // t[p + S.TAP_COLUMNS], q % t[p + S.TAP_COLUMNS]
                if inside(t, p, h, w, u_, v_):
                    at = starts[i] + place_of_tap(t, p, u_, v_) + channel
                    total = fma(a[at], weights[q * c + channel], total)
            y[y_at + ends[i] + channel] = total


@device_function
def _finish(y, residual, todo, moments, inverse, block, t):
    """What is left to do for a block of the result: residual, ReLU, statistics."""
    image, images, row, rows = extent(t, block)
    at, width = image * t[S.Y_IMAGE] + row * t[S.Y_ROW], lanes_of(y)
    pixels = images * rows * t[t[S.FIRST_PHASE] + S.P_COLUMNS]
    end = at + pixels * t[S.Y_PIXEL]
    if todo & (ADD | RECTIFY):
        for i in range(at, end - width + 1, width):
            v = load(y, i)
            if todo & ADD:
                v = v + load(residual, i)
            if todo & RECTIFY:
                v = positive(v)
            store(y, i, v)
        for i in range(end - (end - at) % width, end):
            if todo & ADD:
                y[i] += residual[i]
            if todo & RECTIFY and y[i] <= 0:
                y[i] = 0
    if todo & MEASURE:
        to = 2 * block * t[S.Y_PIXEL]
        block_statistics(y, at, pixels, t[S.Y_PIXEL], part(inverse, block), moments, to)


@kernel
def _finish_blocks(task, tasks, blocks, y, residual, todo, moments, inverse, t):
    for block in range(task * blocks // tasks, (task + 1) * blocks // tasks):
        _finish(y, residual, todo, moments, inverse, block, t)


@kernel
def _convolve(
    task, tasks, cuts, blocks, panels, x, x2, k, kind, window, weights, width, bias, y, residual,
    todo, moments, inverse, scratch, t,
):  # fmt: skip
    """Task (share, cut): a share of the blocks, and of those a cut of the panels.

    ``width`` is a panel's, or 0 for a depthwise convolution; ``window`` the size of a window in
    scratch, or 0 to read x in place.
    """
    share, cut, shares = task // cuts, task % cuts, tasks // cuts
    scratch = part(scratch, task * (window + ROWS * S.TILE_ROW))
    tile = part(scratch, window)
    for block in range(share * blocks // shares, (share + 1) * blocks // shares):
        image, images, row, rows = extent(t, block)
        if window:
            fill_window(x, x2, k, kind, t, image, images, row, rows, scratch)
            a = scratch
        else:
            a = part(x, window_begin(t, image, row))
        y_at = image * t[S.Y_IMAGE] + row * t[S.Y_ROW]
        for phase in range(t[S.PHASES]):
            p = t[S.FIRST_PHASE] + phase * S.PHASE_SIZE
            positions = images * (min(row + rows, t[p + S.P_ROWS]) - row) * t[p + S.P_COLUMNS]
            if width:
                first, last = cut * panels // cuts, (cut + 1) * panels // cuts
                _multiply(
                    a, weights, width, bias, y, y_at, tile, t, p, positions, first, last
                )  # fmt: skip
                if t[S.RIMMED] and positions > 0:
                    _skip_padding(
                        a, weights, width, bias, y, y_at, tile, t, p, positions, images, row,
                        first, last,
                    )  # fmt: skip
            else:
                _multiply_channels(a, weights, bias, y, y_at, t, p, positions)
                if t[S.RIMMED] and positions > 0:
                    _skip_padding_of_channels(
                        a, weights, bias, y, y_at, t, p, positions, images, row
                    )  # fmt: skip
        if cuts == 1:
            _finish(y, residual, todo, moments, inverse, block, t)


class _Job(NamedTuple):
    """What follows from the sizes of a convolution, and from the number of threads."""

    plan: Plan
    width: int  # of a panel of weights, or 0 for a depthwise convolution
    panels: int
    form: Hashable  # the name of the weights' form
    bias: Any  # as wide as the last panel reaches, and 0
    shares: int
    cuts: int
    scratch: int
    inverse: Any  # 1 / pixels of each block


@functools.lru_cache(maxsize=1024)
def _job(g: Conv2dGeometry, role: str, plain: bool, kind: str, threads: int) -> _Job:
    dtype = np.dtype(kind)
    if g.multiply_adds < TINY:
        threads = 1
    p = plan(g, role, plain, dtype.itemsize)
    c = g.c_out if role == "forward" else g.c_in
    width, panels = 0, 1
    if not depthwise(g):
        width = panel_width(c // g.groups, dtype)
        panels = g.groups * -(-c // g.groups // width)
    shares = min(threads, p.blocks)
    # Blocks are shared out if that occupies the threads as well as sharing out the panels.
    cuts = threads if -(-p.blocks // shares) * panels > p.blocks * -(-panels // threads) else 1
    tasks = cuts if cuts > 1 else shares
    return _Job(
        p, width, panels, ("direct", role, p.taps.tobytes(), width),
        np.zeros(c + 2 * lanes(dtype), dtype), shares, cuts,
        tasks * (p.window + ROWS * S.TILE_ROW), (1 / p.pixels).astype(dtype),
    )  # fmt: skip


def _run(source: Operand, w: Any, y: Any, g: Conv2dGeometry, role: str, epilogue: Epilogue) -> None:
    """Forward (role "forward", x -> y) or input gradient (role "input", gy -> gx)."""
    dtype, kept, threads = y.dtype, as_packed(w), get_num_threads()
    job = _job(g, role, source.kind == PLAIN, dtype.char, threads)
    p, nothing = job.plan, nothing_of(dtype)
    weights = kept.form(job.form, lambda: _packed(kept.array, job, g, role, threads))
    bias = job.bias
    if kept.bias is not None:
        bias = kept.form("direct bias", lambda: call(_padded, kept.bias, job.bias))

    residual, statistics = epilogue.residual, epilogue.statistics
    todo = ADD * (residual is not None) + RECTIFY * epilogue.relu
    todo += MEASURE * (statistics is not None)
    moments = nothing
    if statistics is not None:
        moments = allocate((p.blocks, 2, y.shape[3]), dtype)
    residual = nothing if residual is None else residual
    tasks = job.cuts if job.cuts > 1 else job.shares
    x, x2, k, kind = source.arguments
    _convolve(
        tasks, tasks, job.cuts, p.blocks, job.panels, x, x2, k, kind, p.window, weights, job.width,
        bias, y, residual, todo, moments, job.inverse, workspace(job.scratch, dtype), p.table,
    )  # fmt: skip
    if job.cuts > 1 and todo:
        _finish_blocks(
            job.shares, job.shares, p.blocks, y, residual, todo, moments, job.inverse, p.table
        )
    if statistics is not None:
        combine(moments, p.pixels, *statistics)


def _padded(b: Any, zeros: Any) -> Any:
    """A bias, followed by zeros."""
    bias = zeros.copy()
    bias[: b.size] = b
    return bias


def _packed(w: Any, job: _Job, g: Conv2dGeometry, role: str, threads: int) -> Any:
    """The weights as the register tile reads them: (panels, taps * channels, width)."""
    w, p, width, panels = contiguous(w), job.plan, job.width, job.panels
    if not width:
        return call(_taps_first, w.reshape(g.c_out, -1), p.taps)
    taps, c_in, c_out = g.k_h * g.k_w, g.c_in // g.groups, g.c_out // g.groups
    if role == "forward":  # a column's filter (c_in, taps) lies side by side
        c, rounds, per_round, length, per_column = c_in, 1, 0, c_in * taps, c_in * taps
    else:  # the columns are input channels, and of each the taps lie side by side
        c, rounds, per_round, length, per_column = c_out, c_out, c_in * taps, taps, taps
    packed = allocate((panels, taps * c, width), w.dtype)
    tasks = min(threads, panels) if packed.size > 2**14 else 1
    _pack(
        tasks, tasks, w, w.size, packed, p.table, width, w.size // g.groups, rounds, per_round,
        length, per_column, np.arange(lanes(w.dtype)) * per_column,
        _rows(p.taps.tobytes(), c, length, lanes(w.dtype)) * width,
    )  # fmt: skip
    return packed


def _taps_first(w: Any, taps: Any) -> Any:
    return w[:, taps].T.copy()


@functools.lru_cache(maxsize=512)
def _rows(order: bytes, c: int, length: int, square: int) -> Any:
    """The row of a panel (taps, c) in which each of ``length`` entries (channel, tap) ends."""
    place = np.argsort(np.frombuffer(order, np.int64))  # of each tap in the order
    entries = np.arange(-(-length // square) * square)
    entries = np.where(entries < length, entries, entries // square * square)
    return place[entries % place.size] * c + entries // place.size


def conv2d_fwd(x: Any, w: Any, y: Any, g: Conv2dGeometry, epilogue: Epilogue = NOTHING) -> None:
    """Fill y (n, h_out, w_out, c_out) with the epilogue of conv(x, w) + b.

    Args:
        x: array (n, h_in, w_in, c_in), or an Operand.
        w: (c_out, c_in / groups, k_h, k_w), any strides; or PackedWeights, which have a bias.
        epilogue: its residual is an array like y.
    """
    if y.size == 0:
        return
    _run(as_operand(x), w, y, g, "forward", epilogue)


def conv2d_bwd_input(gy: Any, w: Any, gx: Any, g: Conv2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c_in) from gy (n, h_out, w_out, c_out), an array or an Operand."""
    if gx.size == 0:
        return
    _run(as_operand(gy), w, gx, g, "input", NOTHING)
