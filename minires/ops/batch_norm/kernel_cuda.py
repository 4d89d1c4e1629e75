"""Batch normalisation on a GPU: one read of every array, one write of every result.

Nothing comes back to the host: a step's statistics, coefficients and sums stay in the GPU's memory.
Sums are taken of strips of rows that depend on the sizes alone, and the strips' sums are added in
float64 and in order, so that the result has the same bits on every GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import call
from ...device import array_module
from ...kernels.cuda import workspace
from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.packs import COLUMNS, MANY, MOST_BLOCKS, TALL, THREADS, cut, pack_of, split
from ...kernels.cuda.source import c_type
from ...kernels.cuda.statistics import mean_and_variance
from ...kernels.cuda.struct import record
from ...kernels.epilogue import NOTHING, Epilogue
from ...kernels.operand import NORMALISED, as_operand
from ...kernels.packed import contiguous

_SOURCE = Path(__file__).with_name("kernel_cuda.cu")
_OF_ROWS = ("batch_norm_fwd", "batch_norm_bwd_sums", "batch_norm_bwd_x")
_OF_CHANNELS = {"batch_norm_affine": THREADS, "batch_norm_bwd_affine": TALL}  # name: block


@functools.cache
def _of_rows(name: str, dtype: Any, pack: int) -> Kernel:
    """A kernel that goes over rows (m, c)."""
    return Kernel(_SOURCE, f"{name}<{c_type(dtype)}, {pack}>", THREADS)


@functools.cache
def _of_channels(name: str, dtype: Any) -> Kernel:
    """A kernel that goes over vectors (c,)."""
    return Kernel(_SOURCE, f"{name}<{c_type(dtype)}>", _OF_CHANNELS[name])


def instances() -> Iterator[Kernel]:
    """Every kernel that this module may ask for."""
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        yield from (_of_channels(name, dtype) for name in _OF_CHANNELS)
        for pack in (1, 16 // dtype.itemsize):
            yield from (_of_rows(name, dtype, pack) for name in _OF_ROWS)


@functools.lru_cache(maxsize=256)
def _numbers(dtype: Any, eps: float, old: float, fresh: float, unbiased: float) -> Any:
    """The struct ``Numbers``."""
    layout = np.dtype([(name, dtype) for name in ("eps", "old", "fresh", "unbiased")])
    return record(layout, eps=eps, old=old, fresh=fresh, unbiased=unbiased)


def batch_norm_statistics(x: Any, mean: Any, var: Any) -> None:
    """Fill mean and the biased variance."""
    mean_and_variance(x, mean, var)


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
    theirs: tuple[Any, ...] = ()
    momentum, unbiased, count = 0.0, 0.0, None
    if running is not None:
        *theirs, momentum, unbiased, count = running
    arrays = [contiguous(array) for array in theirs]
    numbers = _numbers(mean.dtype, eps, 1 - momentum, momentum, unbiased)
    _of_channels("batch_norm_affine", mean.dtype)(
        -(-mean.size // THREADS), contiguous(mean), contiguous(var), contiguous(w), contiguous(b),
        numbers, np.int32(mean.size), own, inv_std, coefficients, *(arrays or (None, None)), count,
    )  # fmt: skip
    for array, original in zip(arrays, theirs):
        if array is not original:
            call(array_module(array).copyto, original, array)


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
    other = k = None
    if epilogue.residual is not None:
        residual = as_operand(epilogue.residual)
        other, k = residual.x, residual.coefficients if residual.kind == NORMALISED else None
    c, rectified = x.shape[1], np.int32(epilogue.relu)
    pack = pack_of(c, x, w, b, mean, inv_std, y, other, k)
    kernel = _of_rows("batch_norm_fwd", x.dtype, pack)
    for some, added, out in split(1, x, other, y):
        way = cut(len(some), c, pack, MANY)
        kernel(way.grid, some, w, b, mean, inv_std, added, k, rectified, way.rows, out)


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
    m, c = x.shape
    k = None if gate is not None else coefficients
    pack = pack_of(c, gy, x, mean, second, gate, k, masked)
    strip = cut(m, c, pack, MOST_BLOCKS).strip
    blocks = -(-m // strip)
    sums = workspace(blocks * 2 * c, x.dtype).reshape(blocks, 2, c)
    kernel, done = _of_rows("batch_norm_bwd_sums", x.dtype, pack), 0
    for gy_, x_, second_, gate_, masked_ in split(strip, gy, x, second, gate, masked):
        way = cut(len(x_), c, pack, MOST_BLOCKS, strip)
        kernel(way.grid, gy_, x_, mean, second_, gate_, k, way.rows, masked_, sums[done:])
        done += way.grid[0]
    _of_channels("batch_norm_bwd_affine", x.dtype)(
        -(-c // COLUMNS), sums, np.int32(blocks), np.int32(c), inv_std,
        x.dtype.type(1 / max(m, 1)), forward, gw, gb, slopes,
    )  # fmt: skip


def batch_norm_bwd_x(
    gy: Any, x: Any, w: Any, mean: Any, inv_std: Any, gw: Any, gb: Any, batch: bool, gx: Any
) -> None:
    """Fill gx; without ``batch`` the statistics do not depend on x."""
    m, c = x.shape
    pack = pack_of(c, gy, x, w, mean, inv_std, gw, gb, gx)
    kernel, inverse = _of_rows("batch_norm_bwd_x", x.dtype, pack), x.dtype.type(1 / max(m, 1))
    for gy_, x_, gx_ in split(1, gy, x if batch else None, gx):
        way = cut(len(gy_), c, pack, MANY)
        kernel(way.grid, gy_, x_, w, mean, inv_std, gw, gb, inverse, way.rows, gx_)
