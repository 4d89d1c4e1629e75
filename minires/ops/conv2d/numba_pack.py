"""Packing: weights in the order in which the register tile reads them.

A layer has weights (c_out, c_in / groups, k_h, k_w). The tile multiplies a pixel's entries, one
after another, with a row of ``width`` output channels each, so a *panel* of weights is an array
(taps, channels, width), read from end to end::

    w       filter o: c0 t0, c0 t1, ... c0 t8, c1 t0, ...      a row for each output channel
                             |
                             v  transposed, squares of lanes x lanes entries at a time
    panel   t0 c0: o0 o1 ... o31                               a row for each tap and channel
            t0 c1: o0 o1 ... o31
            ...

The input gradient reads the same weights with c_in and c_out exchanged: its columns are input
channels, its sums run over taps and output channels.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...autograd import call
from ...kernels.numba.allocator import allocate
from ...kernels.numba.cpu import lanes
from ...kernels.numba.kernel import kernel
from ...kernels.numba.prologue import clear
from ...kernels.numba.simd import lanes_of, load, part, store, transpose
from ...kernels.packed import contiguous
from .numba_plan import Plan, plan_at
from .op import Conv2dGeometry


@kernel
def _pack(
    task, tasks, w, size, packed, table, width, per_group, rounds, per_round, length, per_column,
    places, ends,
):  # fmt: skip
    """packed[panel, tap, channel, column] = w, zero in columns that the layer does not have.

    Weights come in squares: some neighbouring columns (of the panel; ``per_column`` entries apart
    in w), of each some of the ``length`` entries that lie side by side. There are ``rounds`` such
    runs of entries for a column, ``per_round`` entries apart. ``places`` leads from the first
    column of a square to the others, ``ends`` from an entry to its row of the panel. The last
    square may reach into the entries behind; their ends are that of its first entry, which
    overwrites them.
    """
    plan = plan_at(table, 0)
    lanes, panels = lanes_of(w), (plan.y_group + width - 1) // width  # panels of a group
    first = task * plan.groups * panels // tasks
    last = (task + 1) * plan.groups * panels // tasks
    panel_size = plan.taps * plan.c_group * width
    if plan.y_group % width:  # the last panel of each group has columns too many
        clear(packed, first * panel_size, (last - first) * panel_size)
    for r in range(rounds):
        for panel in range(first, last):
            column = panel % panels * width
            columns = min(width, plan.y_group - column)
            begin = panel // panels * per_group + column * per_column + r * per_round
            for j in range(0, columns, lanes):
                for e in range(0, length, lanes):
                    # the square of columns j, j + 1, ... and entries e, e + 1, ...
                    at = begin + j * per_column + e
                    to = panel * panel_size + r * width + j
                    if columns - j >= lanes and per_column == 1:  # a 1x1 kernel's: in order already
                        store(packed, to, load(w, at))
                    elif columns - j >= lanes and at + (lanes - 1) * per_column + lanes <= size:
                        transpose(w, at, places, packed, to, part(ends, e))
                    else:  # fewer columns than a vector, or the square reaches beyond w
                        for i in range(min(lanes, columns - j)):
                            for k in range(min(lanes, length - e)):
                                packed[to + ends[e + k] + i] = w[at + i * per_column + k]


def packed(
    w: Any, plan: Plan, width: int, panels: int, g: Conv2dGeometry, role: str, threads: int
) -> Any:
    """The weights as the register tile reads them: (panels, taps * channels, width); those of a
    depthwise convolution (``width`` 0) as (taps, channels)."""
    w = contiguous(w)
    if not width:
        return call(_taps_first, w.reshape(g.c_out, -1), plan.taps)
    taps, c_in, c_out = g.k_h * g.k_w, g.c_in // g.groups, g.c_out // g.groups
    if role == "forward":  # a column's filter (c_in, taps) lies side by side
        c, rounds, per_round, length, per_column = c_in, 1, 0, c_in * taps, c_in * taps
    else:  # the columns are input channels, and of each the taps lie side by side
        c, rounds, per_round, length, per_column = c_out, c_out, c_in * taps, taps, taps
    out = allocate((panels, taps * c, width), w.dtype)
    tasks = min(threads, panels) if out.size > 2**14 else 1
    _pack(
        tasks, tasks, w, w.size, out, plan.table, width, w.size // g.groups, rounds, per_round,
        length, per_column, np.arange(lanes(w.dtype)) * per_column,
        _rows(plan.taps.tobytes(), c, length, lanes(w.dtype)) * width,
    )  # fmt: skip
    return out


def padded(bias: Any, zeros: Any) -> Any:
    """A bias (c_out,), followed by zeros: as wide as the last panel reaches."""
    out = zeros.copy()
    out[: bias.size] = bias
    return out


def _taps_first(w: Any, taps: Any) -> Any:
    """(taps, channels) from w (channels, taps), in the order of ``taps``."""
    return w[:, taps].T.copy()


@functools.lru_cache(maxsize=512)
def _rows(order: bytes, c: int, length: int, square: int) -> Any:
    """The row of a panel (taps, c) in which each of ``length`` entries (channel, tap) ends."""
    place = np.argsort(np.frombuffer(order, np.int64))  # of each tap in the order
    entries = np.arange(-(-length // square) * square)
    entries = np.where(entries < length, entries, entries // square * square)
    return place[entries % place.size] * c + entries // place.size
