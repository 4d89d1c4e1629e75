"""Sums over any dimensions of an array in any memory order, to the last digit and in parallel.

All is added in float64. The dimensions are sorted from the slowest to the fastest in memory, and
neighbours that lie side by side are taken as one. Then one dimension after another is summed: the
fastest, if it is to be, in *runs* of numbers; else the one next to it, over *columns*. What a task
adds up are blocks that depend on the sizes alone; the sums of the blocks are a small array of
float64, summed in the same way. So the same bits come out for any number of threads, and few
numbers are added to one much larger than they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .allocator import allocate
from .compiler import device_function
from .cpu import lanes
from .kernel import kernel
from .simd import lanes_of, load, store
from .wide import load_wide, sum_of, wide, wide_zeros

ALONE = 1 << 17  # entries, which one thread adds up before another has begun
BLOCK = 1 << 15  # entries that are added up before anything else is
PANEL = 1 << 11  # columns of a block
FEW = 128  # rows that are always one block
CHUNK = 32  # vectors of a run that are added up before the rest
WIDE_ENOUGH = 64  # columns; of fewer, several rows are taken as one
WIDTH = lanes("float64")

Dims = tuple[tuple[int, int, bool], ...]  # size, stride, whether to sum; from the slowest on


@device_function
def _place(line, sizes, strides, dims):
    """Where the line of that number begins: its index in so many dimensions, times the strides."""
    at = 0
    for d in range(dims - 1, -1, -1):
        at += line % sizes[d] * strides[d]
        line //= sizes[d]
    return at


@device_function
def _run(x, at, length):
    """x[at] + ... + x[at + length - 1]"""
    width, whole = lanes_of(x), length - length % lanes_of(x)
    number = np.float64(0)
    if whole:
        total = wide_zeros(x)
        for begin in range(0, whole, CHUNK * width):
            some = wide_zeros(x)
            for i in range(at + begin, at + min(begin + CHUNK * width, whole), width):
                some = some + wide(load(x, i))
            total = total + some
        number += sum_of(total)
    for i in range(at + whole, at + length):
        number += x[i]
    return number


@kernel
def _runs(task, per_task, count, x, sizes, strides, dims, runs, apart, length, block, gap, out):
    """out[i] = the sum of run number i of x. A line has so many ``runs``, which begin ``apart``;
    run j of them has ``block`` numbers, or the ``length - j * gap`` that are left."""
    i, last = task * per_task, min((task + 1) * per_task, count)
    while i < last:
        line = i // runs
        j = i - line * runs
        end = min(last, (line + 1) * runs)
        at = _place(line, sizes, strides, dims) + j * apart
        while i < end:
            out[i] = _run(x, at, min(block, length - j * gap))
            at, i, j = at + apart, i + 1, j + 1


@device_function
def _add_rows(x, begin, end, pitch, first, last, out, to):
    """out[to + j] = x[begin + j] + x[begin + pitch + j] + ... for first <= j < last.

    Rows are read from end to end, four at a time, so that the sums are seldom loaded and stored.
    """
    width, whole = lanes_of(x), last - (last - first) % lanes_of(x)
    for j in range(first, last):
        out[to + j] = 0
    most = end - (end - begin) // pitch % 4 * pitch
    for i in range(begin, most, 4 * pitch):
        for j in range(first, whole, width):
            a, b = wide(load(x, i + j)), wide(load(x, i + pitch + j))
            c, d = wide(load(x, i + 2 * pitch + j)), wide(load(x, i + 3 * pitch + j))
            store(out, to + j, load_wide(out, to + j, a) + ((a + b) + (c + d)))
    for i in range(most, end, pitch):
        for j in range(first, whole, width):
            a = wide(load(x, i + j))
            store(out, to + j, load_wide(out, to + j, a) + a)
    for j in range(whole, last):
        number = np.float64(0)
        for i in range(begin, end, pitch):
            number += x[i + j]
        out[to + j] = number


@kernel
def _columns(
    task, per_task, count, x, sizes, strides, dims, rows, pitch, columns, block, blocks, panel,
    panels, rest, out,
):  # fmt: skip
    """out[line, block, column] = the sum of the column over the block's rows, ``pitch`` apart in x.
    ``rest`` numbers behind the last row of a line count as one more row."""
    for unit in range(task * per_task, min((task + 1) * per_task, count)):
        share, first = unit // panels, unit % panels * panel
        line, b = share // blocks, share % blocks
        at, last = _place(line, sizes, strides, dims), min(first + panel, columns)
        begin, end = at + b * block * pitch, at + min((b + 1) * block, rows) * pitch
        _add_rows(x, begin, end, pitch, first, last, out, share * columns)
        if b == blocks - 1:
            for j in range(first, min(last, rest)):
                out[share * columns + j] += x[at + rows * pitch + j]


class _Pass(NamedTuple):
    """One pass over an array: what kernel sums over one of its dimensions, and what is left."""

    kernel: Any
    tasks: int
    before: tuple[Any, ...]  # the kernel's arguments before x, and those behind it
    behind: tuple[Any, ...]
    size: int  # of the result, which has no gaps
    dims: Dims


def _tasks(units: int, entries: int) -> tuple[int, int]:
    """The tasks that units of so many entries make, and the units of each."""
    if units * entries <= ALONE:
        return 1, units
    per_task = max(1, 2 * BLOCK // max(entries, 1))
    return -(-units // per_task), per_task


def _lines(dims: Dims) -> tuple[Any, Any, int]:
    """Sizes and strides of dimensions as arrays for a kernel, and how many there are."""
    sizes, strides, _ = zip(*dims) if dims else ((), (), ())
    return np.array(sizes, np.int64), np.array(strides, np.int64), len(dims)


def _pass_over_runs(dims: Dims) -> _Pass:
    """Sum over the last dimension, whose entries lie side by side."""
    *outer, (length, _, _) = dims
    sizes = [(n, reduced) for n, _, reduced in outer]
    blocks, block, gap = -(-length // BLOCK), length, 0
    runs, apart = 1, 0
    if blocks > 1:
        runs, apart, block, gap = blocks, BLOCK, BLOCK, BLOCK
        sizes.append((blocks, True))
    elif outer:
        runs, apart, _ = outer.pop()
    count = math.prod(n for n, _ in sizes)
    tasks, per_task = _tasks(count, block)
    behind = (*_lines(tuple(outer)), runs, apart, length, block, gap)
    return _Pass(_runs, tasks, (per_task, count), behind, count, _without_gaps(sizes))


def _pass_over_columns(dims: Dims, width: int) -> _Pass:
    """Sum over the fastest dimension that is to be summed; the very last are its columns."""
    at = max(i for i, (_, _, reduced) in enumerate(dims) if reduced)
    outer, (rows, pitch, _), (columns, _, _) = (*dims[:at], *dims[at + 1 : -1]), dims[at], dims[-1]
    together = 1
    if pitch == columns < WIDE_ENOUGH:  # these rows lie side by side
        together = width // math.gcd(width, columns)
        together *= max(1, WIDE_ENOUGH // (together * columns))
        together = together if rows >= 4 * together else 1
    rest = rows % together * columns
    sizes = [(n, reduced) for n, _, reduced in outer]
    lines = math.prod(n for n, _ in sizes)
    rows, pitch, wider = rows // together, pitch * together, columns * together
    panels = -(-wider // PANEL)
    panel = -(-wider // (panels * width)) * width
    block = rows if rows <= FEW else max(4, BLOCK // panel)
    blocks = -(-rows // block)
    sizes += [(blocks, True), (together, True), (columns, False)]
    count = lines * blocks * panels
    tasks, per_task = _tasks(count, min(block, rows) * panel)
    behind = (*_lines(outer), rows, pitch, wider, block, blocks, panel, panels, rest)
    size = lines * blocks * wider
    return _Pass(_columns, tasks, (per_task, count), behind, size, _without_gaps(sizes))


def _without_gaps(sizes: list[tuple[int, bool]]) -> Dims:
    """Dimensions of these sizes, side by side."""
    dims, stride = [], 1
    for n, reduced in reversed(sizes):
        dims.append((n, stride, reduced))
        stride *= n
    return _merged(dims[::-1])


def _merged(dims: Any) -> Dims:
    """``dims`` without those of size 1, and neighbours taken as one where they can be."""
    merged: list[tuple[int, int, bool]] = []
    for n, stride, reduced in dims:
        if n == 1:
            continue
        if merged and merged[-1][2] == reduced and merged[-1][1] == n * stride:
            n *= merged.pop()[0]
        merged.append((n, stride, reduced))
    return tuple(merged)


class _Plan(NamedTuple):
    """How arrays of one shape and memory order are summed."""

    look: tuple[slice, ...]  # what repeats itself looked at once, what runs backwards turned round
    order: tuple[int, ...]  # the dimensions of that, from the slowest on
    copying: bool  # whether the fastest has gaps
    extent: int  # of the memory to be read
    passes: tuple[_Pass, ...]
    restore: Callable[[Any], Any]


@functools.lru_cache(maxsize=1024)
def _plan(
    shape: tuple[int, ...], strides: tuple[int, ...], axes: tuple[int, ...], size: int, width: int
) -> _Plan:
    repeated = [n > 1 and not stride for n, stride in zip(shape, strides)]
    step = [-1 if stride < 0 else 1 for stride in strides]
    look = tuple([slice(1) if r else slice(None, None, s) for r, s in zip(repeated, step)])
    order = tuple(sorted(range(len(shape)), key=lambda i: (-abs(strides[i]), i)))
    sizes = [1 if repeated[i] else shape[i] for i in order]
    steps = [abs(strides[i]) for i in order]
    real = [s for n, s in zip(sizes, steps) if n > 1]
    copying = any(s % size for s in real) or (bool(real) and real[-1] != size)
    if copying:
        steps = [size * math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    dims = _merged(zip(sizes, [s // size for s in steps], [i in axes for i in order]))
    extent = 1 + sum((n - 1) * stride for n, stride, _ in dims)
    passes: list[_Pass] = []
    while any(reduced for _, _, reduced in dims):
        passes.append(
            _pass_over_runs(dims)
            if dims[-1][2]
            else _pass_over_columns(dims, WIDTH if passes else width)
        )
        dims = passes[-1].dims
    kept = [i for i in order if i not in axes]
    found = [1 if repeated[i] else shape[i] for i in kept]
    back = tuple(sorted(range(len(kept)), key=lambda j: kept[j]))
    turn = tuple([slice(None, None, step[i]) for i in sorted(kept)])
    times = math.prod(n for i, n in enumerate(shape) if repeated[i] and i in axes)
    result = tuple([shape[i] for i in sorted(kept)])

    def restore(total: Any) -> Any:
        total = total.reshape(found).transpose(back)[turn]
        return np.broadcast_to(total * times if times > 1 else total, result)

    return _Plan(look, order, copying, extent, tuple(passes), restore)


def add_up(x: Any, axes: tuple[int, ...]) -> Any:
    """The sum over ``axes`` of an array of float32 or float64, not empty, as float64."""
    if not x.flags.aligned:
        x = x.copy()
    plan = _plan(x.shape, x.strides, axes, x.dtype.itemsize, lanes(x.dtype))
    y = x[plan.look].transpose(plan.order)
    if plan.copying:
        y = y.copy(order="C")  # a kernel reads numbers that lie side by side
    if not plan.passes:
        return plan.restore(y.astype(np.float64))
    total = np.lib.stride_tricks.as_strided(y, (plan.extent,), (y.itemsize,))
    for kernel_, tasks, before, behind, size, _ in plan.passes:
        out = allocate((size,), np.float64)
        kernel_(tasks, *before, total, *behind, out)
        total = out
    return plan.restore(total)
