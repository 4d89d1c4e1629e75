"""Direct convolution on the CPU: sums of products, from the cache into the registers.

The batch is cut into blocks of output pixels (:mod:`.numba_plan`). For each, the source pixels that
it needs, its window, are copied into a workspace that stays in the cache, with the zeros of
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
from ...kernels.numba.simd import fma, lanes_of, load, part, spread, store
from ...kernels.numba.simd import relu as positive
from ...kernels.numba.statistics import block_statistics, combine
from ...kernels.numba.threads import get_num_threads
from ...kernels.numba.tile import ROWS, product_1, product_2
from ...kernels.operand import PLAIN, Operand, as_operand, nothing_of
from ...kernels.packed import as_packed
from .numba_pack import packed, padded
from .numba_plan import (
    TILE_ROW,
    Plan,
    depthwise,
    make_plan,
    operations,
    panel_width,
    phase_of,
    plan_at,
)
from .numba_weight import conv2d_bwd_weight
from .numba_window import (
    all_inside,
    extent,
    fill_window,
    finite,
    inside,
    place_of_tap,
    source_pixel,
    window_begin,
)
from .op import Conv2dGeometry

__all__ = ["conv2d_bwd_input", "conv2d_bwd_weight", "conv2d_fwd"]

TOGETHER = 4 * ROWS  # positions that meet all panels while their windows are in the nearest cache
TINY = 2**17  # multiply-adds that are done before a second thread has begun
ADD, RECTIFY, MEASURE = 1, 2, 4  # the parts of an epilogue


@device_function
def _multiply(a, weights, width, bias, y, y_at, tile, plan, phase, positions, first, last):
    """y = a * weights + bias for a phase of a block and the panels ``first`` to ``last`` - 1.

    ::

                      panel 0   panel 1   ...     width channels each
        position 0   +--------+---------+
             ...     | tile   |                   ROWS positions by one panel: a register tile
                     +--------+
             ...

    TOGETHER positions meet all panels before the next positions do: their windows stay in the
    nearest cache, and a panel that was fetched serves several tiles.
    """
    panels, size = (plan.y_group + width - 1) // width, plan.taps * plan.c_group * width
    starts, ends, offsets = phase.starts, phase.ends, phase.offsets
    segments, run = phase.segments, phase.run
    for base in range(0, positions, TOGETHER):
        for panel in range(first, last):
            # The panel's columns are the channels of y from ``channel`` on. Their group of input
            # channels begins at ``left``, their weights (taps, c_group, width) at ``b_at``.
            column = panel % panels * width
            channel = panel // panels * plan.y_group + column
            columns = min(width, plan.y_group - column)
            left = part(a, panel // panels * plan.c_group)
            b_at = panel * size + phase.first_tap * plan.c_group * width
            for top in range(base, min(base + TOGETHER, positions), ROWS):
                # The last tile ends with the last position: some are computed twice, to the same.
                at = max(min(top, positions - ROWS), 0)
                # A tile stores whole vectors. Where the panel has fewer columns, they go into
                # ``tile`` first, and the columns that exist are copied from there.
                if columns == width:
                    c, c_ends, c_at = y, part(ends, at), y_at + channel
                else:
                    c, c_ends, c_at = tile, plan.tile, 0
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
                            y[y_at + ends[at + r] + channel + j] = tile[r * TILE_ROW + j]


@device_function
def _multiply_channels(a, weights, bias, y, y_at, plan, phase, positions):
    """The same for a depthwise convolution: weights (taps, channels).

    y[i, channel] = bias[channel] + sum over taps q of
        a[starts[i] + offsets[q] + channel] * weights[q, channel], a vector of channels at a time.
    """
    c, width = plan.channels, lanes_of(y)
    starts, ends, offsets = phase.starts, phase.ends, phase.offsets
    weights = part(weights, phase.first_tap * c)
    for i in range(positions):
        for channel in range(0, c - width + 1, width):
            v = load(bias, channel)
            for q in range(phase.segments):  # a segment is a tap here
                v = fma(
                    load(a, starts[i] + offsets[q] + channel), load(weights, q * c + channel), v
                )
            store(y, y_at + ends[i] + channel, v)
        for channel in range(c - c % width, c):
            total = bias[channel]
            for q in range(phase.segments):
                total += a[starts[i] + offsets[q] + channel] * weights[q * c + channel]
            y[y_at + ends[i] + channel] = total


# -------------------------------------------------------------- weights that are NaN or infinite


@device_function
def _skip_padding(
    a, weights, width, bias, y, y_at, tile, plan, phase, positions, images, row, first, last
):  # fmt: skip
    """Where weights are NaN or infinite, take what they made of the padding's zeros out of y.

    Such a weight meets every position of its panel, so that the first one tells. The positions that
    see padding are then computed again, of the taps inside the image: the same sums in the same
    order, and the same bits where the weights are finite.
    """
    panels, lanes = (plan.y_group + width - 1) // width, lanes_of(y)
    ends, starts = phase.ends, phase.starts
    for panel in range(first, last):
        column = panel % panels * width
        channel = panel // panels * plan.y_group + column
        columns = min(width, plan.y_group - column)
        if finite(y, y_at + ends[0] + channel, columns):
            continue
        # ``size`` entries of weights for each tap: (c_group, width)
        size, left = plan.c_group * width, part(a, panel // panels * plan.c_group)
        b_at = (panel * plan.taps + phase.first_tap) * size
        for i in range(positions):
            h, w = source_pixel(plan, phase, i, positions, images, row)
            if all_inside(plan, phase, h, w):
                continue
            for j in range(0, columns, lanes):
                v = load(bias, channel + j)
                for q in range(phase.tap_rows * phase.tap_columns):
                    u_, v_ = q // phase.tap_columns, q % phase.tap_columns
                    if inside(plan, phase, h, w, u_, v_):
                        at = starts[i] + place_of_tap(phase, u_, v_)
                        for c in range(plan.c_group):
                            weight = load(weights, b_at + q * size + c * width + j)
                            v = fma(spread(left, at + c), weight, v)
                store(tile, 0, v)  # a whole vector, of which y has room for some columns
                for k in range(min(lanes, columns - j)):
                    y[y_at + ends[i] + channel + j + k] = tile[k]


@device_function
def _skip_padding_of_channels(a, weights, bias, y, y_at, plan, phase, positions, images, row):
    """The same for a depthwise convolution: weights (taps, channels)."""
    c, ends, starts = plan.channels, phase.ends, phase.starts
    if finite(y, y_at + ends[0], c):
        return
    weights = part(weights, phase.first_tap * c)
    for i in range(positions):
        h, w = source_pixel(plan, phase, i, positions, images, row)
        if all_inside(plan, phase, h, w):
            continue
        for channel in range(c):
            total = bias[channel]
            for q in range(phase.tap_rows * phase.tap_columns):
                u_, v_ = q // phase.tap_columns, q % phase.tap_columns
                if inside(plan, phase, h, w, u_, v_):
                    at = starts[i] + place_of_tap(phase, u_, v_) + channel
                    total = fma(a[at], weights[q * c + channel], total)
            y[y_at + ends[i] + channel] = total


# -------------------------------------------------------------------------------- whole blocks


@device_function
def _epilogue(y, residual, todo, moments, inverse, block, plan):
    """The epilogue of a block of the result: residual, ReLU, and the statistics of each channel.

    moments[block] (2, c_out) = mean and sum of squared distances from the mean, of the block alone.
    """
    image, images, row, rows = extent(plan, block)
    at, width = image * plan.y_image + row * plan.y_row, lanes_of(y)
    pixels = images * rows * phase_of(plan, 0).columns
    end = at + pixels * plan.y_pixel
    if todo & (ADD | RECTIFY):
        for i in range(at, end - width + 1, width):
            v = load(y, i)
            if todo & ADD:
                v = v + load(residual, i)
            if todo & RECTIFY:
                v = positive(v)
            store(y, i, v)
        for i in range(end - (end - at) % width, end):  # behind the last whole vector
            if todo & ADD:
                y[i] += residual[i]
            if todo & RECTIFY and y[i] <= 0:
                y[i] = 0
    if todo & MEASURE:
        to = 2 * block * plan.y_pixel
        block_statistics(y, at, pixels, plan.y_pixel, part(inverse, block), moments, to)


@kernel
def _epilogue_of_blocks(task, tasks, blocks, y, residual, todo, moments, inverse, table):
    """The epilogue alone, where several tasks computed the channels of a block."""
    plan = plan_at(table, 0)
    for block in range(task * blocks // tasks, (task + 1) * blocks // tasks):
        _epilogue(y, residual, todo, moments, inverse, block, plan)


@kernel
def _convolve(
    task, tasks, cuts, blocks, panels, x, x2, k, kind, window, weights, width, bias, y, residual,
    todo, moments, inverse, workspace, table,
):  # fmt: skip
    """Task (share, cut): a share of the blocks, and of those a cut of the panels.

    ``width`` is a panel's, or 0 for a depthwise convolution; ``window`` the size of a window in the
    workspace, or 0 to read x in place.
    """
    plan = plan_at(table, 0)
    share, cut, shares = task // cuts, task % cuts, tasks // cuts
    own = part(workspace, task * (window + ROWS * TILE_ROW))  # of this task: window, tile
    tile = part(own, window)  # (ROWS, TILE_ROW)
    for block in range(share * blocks // shares, (share + 1) * blocks // shares):
        image, images, row, rows = extent(plan, block)
        if window:  # copy the block's source pixels, zeros around them, prologue applied
            fill_window(x, x2, k, kind, plan, image, images, row, rows, own)
            a = own
        else:
            a = part(x, window_begin(plan, image, row))
        y_at = image * plan.y_image + row * plan.y_row
        for number in range(plan.phases):  # of an input gradient there are several
            phase = phase_of(plan, number)
            positions = images * (min(row + rows, phase.rows) - row) * phase.columns
            if width:
                first, last = cut * panels // cuts, (cut + 1) * panels // cuts
                _multiply(
                    a, weights, width, bias, y, y_at, tile, plan, phase, positions, first, last
                )  # fmt: skip
                if plan.padded and positions > 0:
                    _skip_padding(
                        a, weights, width, bias, y, y_at, tile, plan, phase, positions, images, row,
                        first, last,
                    )  # fmt: skip
            else:
                _multiply_channels(a, weights, bias, y, y_at, plan, phase, positions)
                if plan.padded and positions > 0:
                    _skip_padding_of_channels(
                        a, weights, bias, y, y_at, plan, phase, positions, images, row
                    )  # fmt: skip
        if cuts == 1:  # all channels of the block are there, and still in the cache
            _epilogue(y, residual, todo, moments, inverse, block, plan)


_convolve.operations(operations)


class _Job(NamedTuple):
    """What follows from the sizes of a convolution, and from the number of threads."""

    plan: Plan
    width: int  # of a panel of weights, or 0 for a depthwise convolution
    panels: int
    form: Hashable  # the name of the weights' form
    bias: Any  # as wide as the last panel reaches, and 0
    shares: int  # into so many the blocks are shared out, or into so many ...
    cuts: int  # ... the panels; one of both is 1
    workspace: int  # entries, of all tasks
    inverse: Any  # (blocks,): 1 / pixels of each block


@functools.lru_cache(maxsize=1024)
def _job(g: Conv2dGeometry, role: str, plain: bool, kind: str, threads: int) -> _Job:
    dtype = np.dtype(kind)
    if g.multiply_adds < TINY:
        threads = 1
    p = make_plan(g, role, plain, dtype.itemsize)
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
        tasks * (p.window + ROWS * TILE_ROW), (1 / p.pixels).astype(dtype),
    )  # fmt: skip


def _run(
    operand: Operand, w: Any, y: Any, g: Conv2dGeometry, role: str, epilogue: Epilogue
) -> None:
    """Forward (role "forward", x -> y) or input gradient (role "input", gy -> gx)."""
    dtype, kept, threads = y.dtype, as_packed(w), get_num_threads()
    job = _job(g, role, operand.kind == PLAIN, dtype.char, threads)
    p, nothing = job.plan, nothing_of(dtype)
    weights = kept.form(
        job.form, lambda: packed(kept.array, p, job.width, job.panels, g, role, threads)
    )
    bias = job.bias
    if kept.bias is not None:
        bias = kept.form("direct bias", lambda: call(padded, kept.bias, job.bias))

    residual, statistics = epilogue.residual, epilogue.statistics
    todo = ADD * (residual is not None) + RECTIFY * epilogue.relu
    todo += MEASURE * (statistics is not None)
    moments = nothing
    if statistics is not None:
        moments = allocate((p.blocks, 2, y.shape[3]), dtype)
    residual = nothing if residual is None else residual
    tasks = job.cuts if job.cuts > 1 else job.shares
    x, x2, k, kind = operand.arguments
    _convolve(
        tasks, tasks, job.cuts, p.blocks, job.panels, x, x2, k, kind, p.window, weights, job.width,
        bias, y, residual, todo, moments, job.inverse, workspace(job.workspace, dtype), p.table,
    )  # fmt: skip
    if job.cuts > 1 and todo:
        _epilogue_of_blocks(
            job.shares, job.shares, p.blocks, y, residual, todo, moments, job.inverse, p.table
        )
    if statistics is not None:
        combine(moments, p.pixels, *statistics)


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
