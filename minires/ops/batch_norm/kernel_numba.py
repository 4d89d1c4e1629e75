"""Batch normalisation on the CPU: one read of every array, one write of every result.

Rows are taken in blocks that depend on the sizes alone. A block's sums are vectors in registers;
the sums of the blocks are added in float64 and in order, so that the result does not depend on the
number of threads. Where a row has fewer channels than a few vectors hold, several rows are taken as
one long row (:func:`minires.kernels.numba.prologue.pixels_together`), and sums over them are added
up in the end.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ...autograd import call
from ...kernels.epilogue import NOTHING, Epilogue
from ...kernels.numba.allocator import allocate
from ...kernels.numba.kernel import kernel
from ...kernels.numba.prologue import clear, normalise, pixels_together, repeated, write
from ...kernels.numba.simd import fma, lanes_of, load, part, relu, store, where_open
from ...kernels.numba.statistics import block_statistics, combine
from ...kernels.numba.wide import wide, wide_zeros
from ...kernels.operand import (
    GRADIENT,
    MEAN,
    NORMALISED,
    SCALE,
    SHARE,
    SHIFT,
    SLOPE,
    Operand,
    as_operand,
)
from ...kernels.packed import contiguous

BLOCK = 1 << 15  # entries in a block, so that a block of an array stays in the cache
FEW = 32  # rows of a gradient that are added up in its dtype; their sums are in float64
ABSENT = -1  # the kind of an operand that is not there
BY_VALUE, BY_SCALE_SHIFT = range(2)  # the kinds of gates
EPS, OLD, NEW, UNBIASED = range(4)  # eps; the weights of old and new statistics; m / (m - 1)


@kernel
def _statistics(task, x, rows, c, block, inverses, moments):
    """moments[task] = the block's mean and its sum of (x - mean)², per channel."""
    count = min(block, rows - task * block)
    inverse = part(inverses, int(count < block))
    block_statistics(x, task * block * c, count, c, inverse, moments, task * 2 * c)


@kernel
def _fwd(task, x, k, residual, kind, residual_k, rectified, rows, c, block, y):
    width = lanes_of(x)
    for row in range(task * block, min((task + 1) * block, rows)):
        at = row * c
        for j in range(0, c - width + 1, width):
            v = normalise(
                load(x, at + j),
                load(k, MEAN * c + j),
                load(k, SCALE * c + j),
                load(k, SHIFT * c + j),
            )
            if kind == NORMALISED:
                v = v + normalise(
                    load(residual, at + j),
                    load(residual_k, MEAN * c + j),
                    load(residual_k, SCALE * c + j),
                    load(residual_k, SHIFT * c + j),
                )
            elif kind != ABSENT:
                v = v + load(residual, at + j)
            if rectified:
                v = relu(v)
            store(y, at + j, v)
        for j in range(c - c % width, c):
            value = normalise(x[at + j], k[MEAN * c + j], k[SCALE * c + j], k[SHIFT * c + j])
            if kind == NORMALISED:
                value += normalise(
                    residual[at + j],
                    residual_k[MEAN * c + j],
                    residual_k[SCALE * c + j],
                    residual_k[SHIFT * c + j],
                )
            elif kind != ABSENT:
                value += residual[at + j]
            if rectified:
                value = relu(value)
            y[at + j] = value


@kernel
def _bwd_affine(task, gy, x, k, second, two, gate, kind, masked, keep, rows, c, block, sums):
    """sums[task] = the block's sums of g * (x - mean) and of g, per channel."""
    width, whole = lanes_of(x), c - c % lanes_of(x)
    sum_w, sum_b = task * 2 * c, task * 2 * c + c
    clear(sums, sum_w, 2 * c)
    for at in range(task * block * c, min((task + 1) * block, rows) * c, c):
        for j in range(0, whole, width):
            g = load(gy, at + j)
            distance = load(x, at + j) - load(k, MEAN * c + j)
            if two:
                g = g + load(second, at + j)
            if kind == BY_VALUE:
                g = where_open(g, load(gate, at + j))
            elif kind == BY_SCALE_SHIFT:
                z = fma(distance, load(k, SCALE * c + j), load(k, SHIFT * c + j))
                g = where_open(g, z)
            if keep:
                store(masked, at + j, g)
            store(sums, sum_w + j, fma(g, distance, load(sums, sum_w + j)))
            store(sums, sum_b + j, g + load(sums, sum_b + j))
        for j in range(whole, c):
            value = gy[at + j]
            away = x[at + j] - k[MEAN * c + j]
            if two:
                value += second[at + j]
            if kind == BY_VALUE:
                value = where_open(value, gate[at + j])
            elif kind == BY_SCALE_SHIFT:
                value = where_open(value, fma(away, k[SCALE * c + j], k[SHIFT * c + j]))
            if keep:
                masked[at + j] = value
            sums[sum_w + j] += value * away
            sums[sum_b + j] += value


@kernel
def _affine(task, mean, var, w, b, numbers, c, own, inv_std, k, running_mean, running_var, follow):
    for j in range(c):  # in float64, for which there is no quick and inexact root
        own[j], own[c + j] = w[j], b[j]
        inv_std[j] = 1 / np.sqrt(np.float64(var[j] + numbers[EPS]))
    for j in range(c):  # from inv_std as it was rounded, which others multiply by w too
        k[MEAN * c + j], k[SCALE * c + j], k[SHIFT * c + j] = mean[j], w[j] * inv_std[j], b[j]
        k[SHARE * c + j] = k[SLOPE * c + j] = 0
        if follow:
            old, new, unbiased = numbers[OLD], numbers[NEW], numbers[UNBIASED]
            running_mean[j] = old * running_mean[j] + new * mean[j]
            running_var[j] = old * running_var[j] + new * (var[j] * unbiased)


@kernel
def _add_up(task, sums, blocks, together, c, inv_std, total, gw, gb):
    """gw and gb from the blocks' sums (blocks, 2, together * c), in float64 ``total`` (2, ...)."""
    size = 2 * together * c
    whole = size - size % lanes_of(sums)
    for i in range(0, whole, lanes_of(sums)):
        added = wide_zeros(sums)
        for at in range(i, blocks * size, size):
            added = added + wide(load(sums, at))
        store(total, i, added)
    for i in range(whole, size):
        total[i] = 0
        for at in range(i, blocks * size, size):
            total[i] += sums[at]
    for j in range(c):
        for i in range(c + j, together * c, c):
            total[j] += total[i]
            total[together * c + j] += total[together * c + i]
        gw[j], gb[j] = total[j] * inv_std[j], total[together * c + j]


@kernel
def _share_and_slope(task, gw, gb, inv_std, inverse, c, forward, k):
    """k (5, c) = mean, scale, shift, share and slope of the gradient; ``inverse[0]`` is 1 / m."""
    for j in range(SHARE * c):
        k[j] = forward[j]
    for j in range(c):
        k[SHARE * c + j], k[SLOPE * c + j] = gb[j] * inverse[0], gw[j] * inverse[0]
    for j in range(c):
        k[SLOPE * c + j] *= inv_std[j]


def _slopes(gw: Any, gb: Any, inv_std: Any, m: int, forward: Any, slopes: Any) -> None:
    inverse = np.array([1 / max(m, 1)], gw.dtype)
    _share_and_slope(1, gw, gb, inv_std, inverse, gw.size, forward, slopes)


def _cut(x: Any) -> tuple[int, int, int, int, int]:
    """How rows (m, c) are gone through: how many are taken as one, the rows and channels that this
    makes, the rows of a block, and the blocks."""
    m, c = x.shape
    together = pixels_together(m, c, x.dtype)
    rows, c = m // together, c * together
    block = max(1, BLOCK // max(c, 1))
    return together, rows, c, block, -(-rows // block)


def batch_norm_statistics(x: Any, mean: Any, var: Any) -> None:
    """Fill mean and the biased variance."""
    _, rows, c, block, blocks = _cut(x)
    moments = allocate((blocks, 2, c), x.dtype)
    sizes = np.minimum(rows - np.arange(blocks) * block, block)
    inverses = (1 / np.array([block, sizes[-1]])).astype(x.dtype)
    _statistics(blocks, x, rows, c, block, inverses, moments)
    combine(moments, sizes, mean, var)


def batch_norm_affine(
    mean: Any,
    var: Any,
    w: Any,
    b: Any,
    eps: float,
    own: Any,
    inv_std: Any,
    coefficients: Any,
    running: Any = None,
) -> None:
    """Fill ``own`` (2, c) = w and b, inv_std = 1 / sqrt(var + eps), and the coefficients (5, c) of
    an Operand: mean, w * inv_std and b, then zeros.

    ``running`` is None, or (running_mean, running_var, momentum, m / (m - 1), count): the first two
    then move towards mean and the unbiased variance, and the count of batches (), int64, or None,
    is raised by one.
    """
    numbers, theirs, count = [eps, 0, 0, 0], (mean, var), None
    if running is not None:
        *theirs, momentum, unbiased, count = running
        numbers = [eps, 1 - momentum, momentum, unbiased]
    arrays = [contiguous(array) for array in theirs]
    _affine(
        1, mean, contiguous(var), contiguous(w), contiguous(b), np.array(numbers, mean.dtype),
        mean.size, own, inv_std, coefficients, *arrays, int(running is not None),
    )  # fmt: skip
    for array, original in zip(arrays, theirs):
        if array is not original and running is not None:
            call(np.copyto, original, array)
    if count is not None:
        call(operator.iadd, count, 1)


def _scale_shift_rows(dtype: Any, mean: Any, scale: Any, shift: Any, w: Any = 1) -> Any:
    """(5, c) as in an Operand: share and slope are 0."""
    k = np.zeros((5, mean.size), dtype)
    k[MEAN], k[SCALE], k[SHIFT] = mean, w * scale, shift
    return k


def batch_norm_fwd(
    x: Any,
    w: Any,
    b: Any,
    mean: Any,
    inv_std: Any,
    y: Any,
    epilogue: Epilogue = NOTHING,
) -> None:
    """Fill y with the epilogue of w * (x - mean) * inv_std + b.

    Its residual is an array (m, c), or an Operand of the kinds PLAIN or NORMALISED over one: a
    shortcut whose own batch norm is applied here.
    """
    together, rows, c, block, blocks = _cut(x)
    k = repeated(call(_scale_shift_rows, x.dtype, mean, inv_std, b, w), together)
    other, kind, other_k = x, ABSENT, k
    if epilogue.residual is not None:
        residual = as_operand(epilogue.residual)
        other, kind = residual.x, residual.kind
        if kind == NORMALISED:
            other_k = repeated(residual.coefficients, together)
    _fwd(blocks, x, k, other, kind, other_k, int(epilogue.relu), rows, c, block, y)


def batch_norm_bwd_affine(
    gy: Any,
    x: Any,
    mean: Any,
    inv_std: Any,
    gw: Any,
    gb: Any,
    *,
    second: Any = None,
    gate: Any = None,
    coefficients: Any = None,
    masked: Any = None,
    forward: Any = None,
    slopes: Any = None,
) -> None:
    """Fill gw = sum(g * x_hat) and gb = sum(g), where g = gy + ``second``, set to 0 where the ReLU
    behind the batch norm was shut.

    That is where ``gate`` (m, c), the ReLU's output, is at most 0; or, with the ``coefficients``
    (5, c) of an Operand in its place, where x normalised by them is not. ``masked`` receives g.
    ``slopes`` (5, c) is filled with the coefficients of gx, given those of y in ``forward``: their
    mean, scale and shift, share = gb / m and slope = gw / m * inv_std.
    """
    together, rows, c, block, blocks = _cut(x)
    kind = ABSENT
    if gate is not None:
        kind = BY_VALUE
    elif coefficients is not None:
        kind = BY_SCALE_SHIFT
    if coefficients is None:  # only the mean is wanted of them
        coefficients = forward
    if coefficients is None:
        coefficients = call(_scale_shift_rows, x.dtype, mean, inv_std, inv_std)
    block = min(block, FEW)
    blocks = -(-rows // block)
    sums = allocate((blocks, 2, c), x.dtype)
    _bwd_affine(
        blocks,
        gy,
        x,
        repeated(coefficients, together),
        gy if second is None else second,
        int(second is not None),
        gy if gate is None else gate,
        kind,
        gy if masked is None else masked,
        int(masked is not None),
        rows,
        c,
        block,
        sums,
    )
    c //= together
    total = np.empty(2 * together * c)
    _add_up(1, sums, blocks, together, c, inv_std, total, gw, gb)
    if slopes is not None:
        _slopes(gw, gb, inv_std, x.shape[0], forward, slopes)


def batch_norm_bwd_x(
    gy: Any, x: Any, w: Any, mean: Any, inv_std: Any, gw: Any, gb: Any, batch: bool, gx: Any
) -> None:
    """Fill gx; without ``batch`` the statistics do not depend on x."""
    if batch:
        k = _scale_shift_rows(x.dtype, mean, inv_std, np.zeros_like(gb), w)
        _slopes(gw, gb, inv_std, x.shape[0], k, k)
        write(Operand(gy, GRADIENT, k, x), gx)
    else:
        k = _scale_shift_rows(x.dtype, np.zeros_like(mean), inv_std, np.zeros_like(gb), w)
        write(Operand(gy, NORMALISED, k), gx)  # gy * scale, whatever x is
