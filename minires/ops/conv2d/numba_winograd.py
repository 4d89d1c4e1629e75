"""Winograd's convolution: 36 multiplications for 16 outputs of a 3x3 kernel, in place of 144.

:mod:`.numba_winograd_tile` has the formula. With all channels it has three steps: transform the
tiles of the input to ``u``, 36 planes of shape (tiles, c_in); multiply each plane by its weights,
``m[e] = u[e] @ v[e]``, which is what the register tile is for; transform ``m`` to pixels::

    x (n, h, w, c_in)                                                   w (c_out, c_in, 3, 3)
      | Bᵀ d B                                                            | G g Gᵀ
      v                                                                   v
    u (36, tiles, c_in)     ----- 36 matrix products: m[e] = u[e] @ v[e]  v (36, c_in, c_out)
                                            |
                                            v
                              m (36, tiles, c_out)
                                            | Aᵀ m A
                                            v
                              y (n, h, w, c_out)

Tiles come in *tile rows*, the tiles side by side in an image, numbered through all images. There
are two schedules, which give the same bits:

- a *narrow* layer takes the three steps block after block, a block being some tile rows, so few
  that its planes stay in the second-level cache between the steps;
- a *wide* one has weights that would have to be fetched anew for each block. It takes each step
  for all tile rows at once, and cuts the products over output channels. So does a batch that is
  one block, of which only one thread would have work.

The input gradient is the convolution of gy with the weights flipped. The weight gradient sums
``u[e].T @ z[e]`` over tiles, where ``z`` are the planes of gy: narrow layers over blocks, in a few
parts that are added up at the end; wide ones over all tiles, cut over channels.

Rounding: float32 outputs are off by about 5e-6 of the largest one (1e-5 with 512 channels), ten
times as much as in a direct convolution. NaN and infinity: an input that is not finite may make NaN
of all 16 pixels of every tile that looks at it, even those that its own 3x3 window does not reach,
since the transforms add and subtract what the definition keeps apart; and what would be infinite
becomes NaN. The same holds for the gradients.
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
from ...kernels.numba.simd import lanes_of, load, part, store
from ...kernels.numba.simd import relu as rectify
from ...kernels.numba.statistics import block_statistics, combine
from ...kernels.numba.threads import get_num_threads
from ...kernels.numba.tile import ROWS, product_1, product_2
from ...kernels.operand import Operand, as_operand, nothing_of
from ...kernels.packed import as_packed, contiguous
from .numba_winograd_rows import (
    PLANES,
    Tiling,
    WinogradStruct,
    operations,
    pixels_before,
    plan_at,
    plane_size,
    tiling_of,
    transform_data,
    transform_output,
    wide_data,
    window_size,
)
from .numba_winograd_tile import matrix_of, weight_planes
from .numba_winograd_weight import conv2d_bwd_weight
from .op import Conv2dGeometry

__all__ = ["conv2d_bwd_input", "conv2d_bwd_weight", "conv2d_fwd", "suits", "suits_weight"]

ONES = 7  # the plane (1, 1), of which Aᵀ m A adds 1 to every output: the bias goes there
# (column 1 of Aᵀ holds nothing but ones)

LEAST_TILES = 4
LEAST_WORK = 2**22  # multiply-adds of a layer below which one launch is better than three
WIDE = 2**15  # c_in * c_out from which on a layer is wide
CHUNK = 2**23  # entries of u, at most, that a wide layer makes at a time


@functools.lru_cache(maxsize=1024)
def suits(g: Conv2dGeometry, dtype: Any) -> bool:
    """Whether forward and input gradient of a geometry are faster this way, measured by shape.

    That is where Winograd's formula applies, channels fill vectors, and the tiles are at least
    half full (3x3 outputs are, 5x5 are not) and some, and there is enough to do.
    """
    kind = (g.k_h, g.k_w, *g.stride, *g.dilation, g.groups)
    if kind != (3, 3, 1, 1, 1, 1, 1) or max(g.padding) > 2 or np.dtype(dtype) != np.float32:
        return False
    tiles = -(-g.h_out // 4) * -(-g.w_out // 4)
    full = g.h_out * g.w_out >= 8 * tiles and g.n * tiles >= LEAST_TILES
    full = full and g.multiply_adds >= LEAST_WORK
    return full and g.c_in % lanes(dtype) == 0 and g.c_out % lanes(dtype) == 0


def suits_weight(g: Conv2dGeometry, dtype: Any) -> bool:
    """The same for the weight gradient."""
    return suits(g, dtype)


# ------------------------------------------------------------------------ products and what follows


@device_function
def _multiply(u, starts, tiles, c_in, v, at, width, bias, bias_at, m, ends, to):
    """A plane of m = a plane of u times a panel (c_in, width) of weights at v[at], plus bias.

    The last register tile may take in some tiles too many, whatever they hold: there is room for
    them, and nobody reads what becomes of them.
    """
    for t in range(0, tiles, ROWS):
        # Tile t begins at starts[t] in a plane of u, at ends[t] in m. Its entries are one segment
        # of c_in; the table of offsets, whose only entry is 0, is ``starts`` itself.
        if width == lanes_of(u):
            product_1(u, starts, t, starts, 1, c_in, v, at, bias, bias_at, m, ends, to)
        else:
            product_2(u, starts, t, starts, 1, c_in, v, at, bias, bias_at, m, ends, to)


@device_function
def _epilogue(
    y, plan, first, last, residual, added, rectified, measured, inverse, moments, block
):  # fmt: skip
    """The epilogue of a block of y: residual, ReLU and statistics, each if wanted."""
    begin, c = pixels_before(first, plan), plan.c_out
    pixels = pixels_before(last, plan) - begin
    if added or rectified:
        for i in range(begin * c, (begin + pixels) * c, lanes_of(y)):
            v = load(y, i)
            if added:
                v = v + load(residual, i)
            if rectified:
                v = rectify(v)
            store(y, i, v)
    if measured:
        block_statistics(y, begin * c, pixels, c, part(inverse, block), moments, block * 2 * c)


# ------------------------------------------------------------------------------------- the weights


@device_function
def _take_taps(w, out, into, first, step, panel, width, c_in, taps):
    """taps (9, c_in, width) = a panel of ``width`` output channels of w.

    Tap t from input i to output o is w[o * out + i * into + first + t * step].
    """
    for i in range(c_in):
        for j in range(width):
            at = (panel * width + j) * out + i * into + first
            for t in range(9):
                taps[(t * c_in + i) * width + j] = w[at + t * step]


@device_function
def _transform_taps(taps, size, matrix, r, v, to):
    """v (6, c_in, width) = row r of the planes G g Gᵀ; ``size`` is c_in * width.

    A tap of taps (9, c_in, width) is ``size`` entries behind the one before, and so is a plane.
    """
    for i in range(0, size, lanes_of(taps)):
        weight_planes(taps, i, size, matrix, r, v, to + i, size)


@kernel
def _transform_weights(
    task, w, out, into, first, step, matrix, v, workspace, width, c_in, panels, tasks
):
    """v (panels, planes, c_in, width) = G g Gᵀ."""
    size = c_in * width
    taps = part(workspace, task * 9 * size)
    for panel in range(task * panels // tasks, (task + 1) * panels // tasks):
        _take_taps(w, out, into, first, step, panel, width, c_in, taps)
        for r in range(6):
            _transform_taps(taps, size, matrix, r, v, (panel * PLANES + 6 * r) * size)


# ------------------------------------------------------------------------- forward, input gradient


@kernel
def _convolve(
    task, x, x2, k, kind, v, bias, biased, residual, added, rectified, y, inverse, measured,
    moments, starts, ends, workspace, table, tasks,
):  # fmt: skip
    """Narrow: the three steps, block after block.

    Each task has a workspace: u (36, plane_u), m (36, plane_m) and a window.
    """
    plan = plan_at(table, 0)
    c_in, c_out, width, total, rows = plan.c_in, plan.c_out, plan.width, plan.total, plan.rows
    plane_u, plane_m, blocks = plan.plane_u, plan.plane_m, (total + rows - 1) // rows
    u = part(workspace, task * plan.size)
    m = part(u, PLANES * plane_u)
    window = part(m, PLANES * plane_m)
    for block in range(task * blocks // tasks, (task + 1) * blocks // tasks):
        # 1. pixels to planes
        first, last = block * rows, min((block + 1) * rows, total)
        transform_data(x, x2, k, kind, plan, first, last, window, u)
        # 2. products, plane by plane, one panel of ``width`` output channels after another:
        #    v is (panels, 36, c_in, width)
        tiles = (last - first) * plan.across
        for e in range(PLANES):
            for o in range(0, c_out, width):
                at = (o * PLANES + e * width) * c_in
                # bias (2, c_out): zeros, and what the plane ONES begins with
                bias_at = o + c_out if biased and e == ONES else o
                _multiply(
                    part(u, e * plane_u), starts, tiles, c_in, v, at, width, bias, bias_at,
                    m, ends, e * plane_m + o,
                )  # fmt: skip
        # 3. planes to pixels, and the epilogue while they are in the cache
        transform_output(m, plan, first, last, y)
        _epilogue(
            y, plan, first, last, residual, added, rectified, measured, inverse, moments, block
        )


@kernel
def _wide_products(
    task, w, out, into, first, step, matrix, u, starts, tiles, bias, biased, m, ends, workspace,
    table, tasks,
):  # fmt: skip
    """Wide, second step: m, one panel of output channels after another.

    The weights of a panel are transformed on the way, six planes at a time, because all planes of
    all panels would be four times the weights, and go to memory and back.
    """
    plan = plan_at(table, 0)
    c_in, c_out, width, plane_u, plane_m = (
        plan.c_in, plan.c_out, plan.width, plan.plane_u, plan.plane_m
    )  # fmt: skip
    size, panels = c_in * width, c_out // width
    taps = part(workspace, task * 15 * size)  # (9, c_in, width)
    v = part(taps, 9 * size)  # (6, c_in, width): a row of planes
    for panel in range(task * panels // tasks, (task + 1) * panels // tasks):
        _take_taps(w, out, into, first, step, panel, width, c_in, taps)
        for r in range(6):
            _transform_taps(taps, size, matrix, r, v, 0)
            for s in range(6):
                e, o = 6 * r + s, panel * width
                bias_at = o + c_out if biased and e == ONES else o
                _multiply(
                    part(u, e * plane_u), starts, tiles, c_in, v, s * size, width, bias, bias_at,
                    m, ends, e * plane_m + o,
                )  # fmt: skip


@kernel
def _wide_output(
    task, m, begin, end, y, residual, added, rectified, inverse, measured, moments, table, tasks
):
    """Wide, third step: y of the tile rows from ``begin`` to ``end``, by blocks."""
    plan = plan_at(table, 0)
    rows, c = plan.rows, plan.c_out
    low, high = begin // rows, (end + rows - 1) // rows  # blocks
    count = high - low
    for block in range(low + task * count // tasks, low + (task + 1) * count // tasks):
        first, last = block * rows, min((block + 1) * rows, end)
        own = part(m, (first - begin) * plan.across * c)  # this block's tiles, in each plane
        transform_output(own, plan, first, last, y)
        _epilogue(
            y, plan, first, last, residual, added, rectified, measured, inverse, moments, block
        )


# ---------------------------------------------------------------------------------- the entrances


def conv2d_fwd(x: Any, w: Any, y: Any, g: Conv2dGeometry, epilogue: Epilogue = NOTHING) -> None:
    """Fill y (n, h_out, w_out, c_out) with the epilogue of conv(x, w) + b; the arguments are those
    of :func:`.kernel_numba.conv2d_fwd`."""
    # in w (c_out, c_in, 3, 3): entries from output channel to output channel, from input to input,
    # where tap 0 is, and from tap to tap
    taps = (9 * g.c_in, 9, 0, 1)
    _run(as_operand(x), w, taps, y, g.padding, epilogue)


def conv2d_bwd_input(gy: Any, w: Any, gx: Any, g: Conv2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c_in)."""
    # inputs and outputs exchanged, and taps from the last to the first: the weights flipped
    taps = (9, 9 * g.c_in, 8, -1)
    padding = (2 - g.padding[0], 2 - g.padding[1])
    _run(as_operand(gy), w, taps, gx, padding, NOTHING)


_convolve.operations(operations)
_wide_products.operations(operations)


class _Job(NamedTuple):
    """What follows from the sizes of a convolution."""

    t: Tiling
    table: Any  # a WinogradStruct, for the kernels
    width: int  # of a panel of weights
    form: Hashable  # the name of the weights' form
    bias: Any  # (2, c_out) zeros
    wide: bool
    chunk: int  # tile rows that are done at a time
    starts: Any
    ends: Any
    plane_u: int
    plane_m: int
    size: int  # of a thread's workspace


@functools.lru_cache(maxsize=1024)
def _job(
    shape: tuple[int, ...], shape_in: tuple[int, ...], padding: tuple[int, int], dtype: Any,
    taps: tuple[int, ...],
) -> _Job:  # fmt: skip
    (n, h_out, w_out, c_out), (_, h_in, w_in, c_in) = shape, shape_in
    t = tiling_of(n, h_out, w_out, c_in + c_out, dtype)
    width = lanes(dtype) * (2 if c_out % (2 * lanes(dtype)) == 0 else 1)
    wide = c_in * c_out >= WIDE or (len(t.pixels) == 1 and c_out > width)
    chunk = t.rows
    if wide:
        chunk = min(max(CHUNK // (PLANES * c_in * t.across * t.rows), 1) * t.rows, t.total)
    starts, ends = t.tables(chunk, c_in, c_out)
    plane_u, plane_m = plane_size(starts.size, c_in), plane_size(ends.size, c_out)
    window = window_size(t.across, c_in)
    size = max(window, 15 * c_in * width) if wide else PLANES * (plane_u + plane_m) + window
    sizes = WinogradStruct(
        h_in, w_in, c_in, *padding, h_out, w_out, c_out, t.down, t.across, t.total, t.rows,
        plane_u, plane_m, side_u=c_in, side_z=c_out, slab=0, width=width, depth=0, size=size,
    )  # fmt: skip
    return _Job(
        t, np.array(sizes, np.int64), width, ("winograd", taps, width),
        np.zeros((2, c_out), dtype), wide, chunk, starts, ends, plane_u, plane_m, size,
    )  # fmt: skip


def _run(
    operand: Operand,
    w: Any,
    taps: tuple[int, int, int, int],
    y: Any,
    padding: tuple[int, int],
    epilogue: Epilogue,
) -> None:
    """y = the epilogue of conv(operand, w) + b, the weights read with the steps of ``taps``."""
    if y.size == 0:
        return
    c_in, c_out = operand.x.shape[3], y.shape[3]
    dtype, tasks, kept = y.dtype, get_num_threads(), as_packed(w)
    job = _job(y.shape, operand.x.shape, padding, dtype, taps)
    t, table, width, starts, ends = job.t, job.table, job.width, job.starts, job.ends
    bias, biased = job.bias, int(kept.bias is not None)
    if biased:
        bias = kept.form("winograd bias", lambda: call(_below, bias[0], kept.bias))
    nothing = nothing_of(dtype)
    residual, statistics = epilogue.residual, epilogue.statistics
    added, has_residual = (nothing, 0) if residual is None else (residual, 1)
    wanted = (added, has_residual, int(epilogue.relu))
    measured = int(statistics is not None)
    moments = allocate((len(t.pixels), 2, c_out), dtype) if measured else nothing
    if not job.wide:
        v = kept.form(job.form, lambda: _transformed(kept.array, taps, c_in, c_out, width, tasks))
        _convolve(
            tasks, *operand.arguments, v, bias, biased, *wanted, y, t.inverse, measured, moments,
            starts, ends, workspace(tasks * job.size, dtype), table, tasks,
        )  # fmt: skip
    else:
        w, matrix = contiguous(kept.array), matrix_of(dtype)
        u, m = (allocate((PLANES, plane), dtype) for plane in (job.plane_u, job.plane_m))
        memory = workspace(tasks * job.size, dtype)
        for begin in range(0, t.total, job.chunk):
            end = min(begin + job.chunk, t.total)
            wide_data(tasks, *operand.arguments, begin, end, u, memory, table, tasks)
            _wide_products(
                tasks, w, *taps, matrix, u, starts, (end - begin) * t.across, bias, biased, m,
                ends, memory, table, tasks,
            )  # fmt: skip
            _wide_output(
                tasks, m, begin, end, y, *wanted, t.inverse, measured, moments, table, tasks
            )
    if statistics is not None:
        combine(moments, t.pixels, *statistics)


def _below(zeros: Any, bias: Any) -> Any:
    return np.stack([zeros, bias])


def _transformed(
    w: Any, taps: tuple[int, int, int, int], c_in: int, c_out: int, width: int, tasks: int
) -> Any:
    """The weights as planes (panels, planes, c_in, width)."""
    w, dtype, panels = contiguous(w), w.dtype, c_out // width
    v = allocate((panels, PLANES, c_in, width), dtype)
    memory = workspace(tasks * 9 * c_in * width, dtype)
    _transform_weights(
        tasks, w, *taps, matrix_of(dtype), v, memory, width, c_in, panels, tasks
    )  # fmt: skip
    return v
