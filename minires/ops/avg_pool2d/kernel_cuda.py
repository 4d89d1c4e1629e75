"""Average pooling on a GPU: one or several threads for each pack of channels of each pixel."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...device import Device, device_of, move
from ...kernels.cuda import taking_from
from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.packs import THREADS, pack_of, split_images
from ...kernels.cuda.source import c_type
from ...kernels.cuda.struct import DIVISOR, divisor, record
from .op import AvgPool2dGeometry

_SOURCE = Path(__file__).with_name("kernel_cuda.cu")
_SIZES = ("h_in", "w_in", "h_out", "w_out", "c", "packs", "split")
_POOL = np.dtype(
    [(name, "i4") for name in _SIZES]
    + [(name, DIVISOR) for name in ("by_packs", "by_width", "by_height")]
)
MOST_SPLIT = 16  # threads that share a window; two packs side by side are left, 32 bytes
FEWEST = 4  # pixels of a window for each of them


@functools.cache
def _kernel(name: str, dtype: Any, pack: int) -> Kernel:
    return Kernel(_SOURCE, f"{name}<{c_type(dtype)}, {pack}>", THREADS)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module may ask for."""
    for name in ("avg_pool2d_fwd", "avg_pool2d_bwd_x"):
        for dtype in (np.dtype("float32"), np.dtype("float64")):
            yield from (_kernel(name, dtype, pack) for pack in (1, 16 // dtype.itemsize))


def _split(g: AvgPool2dGeometry) -> int:
    """How many threads share a window, by the size of the largest."""
    area = int((g.h_high - g.h_low).max() * (g.w_high - g.w_low).max())
    split = 1
    while split < MOST_SPLIT and 2 * split * FEWEST <= area:
        split *= 2
    return split


@functools.lru_cache(maxsize=256)
def _pool(g: AvgPool2dGeometry, n: int, pack: int, back: bool) -> tuple[int, Any]:
    """The blocks and the struct ``Pool`` for n images; ``back``: x is written, else y."""
    h_out, w_out = g.scale.shape
    height, width = (g.h_in, g.w_in) if back else (h_out, w_out)
    packs, split = n * height * width * (g.c // pack), 1 if back else _split(g)
    pool = record(
        _POOL,
        h_in=g.h_in, w_in=g.w_in, h_out=h_out, w_out=w_out, c=g.c, packs=packs, split=split,
        by_packs=divisor(max(g.c // pack, 1)), by_width=divisor(width), by_height=divisor(height),
    )  # fmt: skip
    return -(-packs * split // THREADS), pool


def _kept(table: Any, device: Device) -> Any:
    """A table in the GPU's memory; in everybody's, for it outlives the graph that asks first."""
    with taking_from(None):
        return move(table, device)


@functools.lru_cache(maxsize=256)
def _windows(g: AvgPool2dGeometry, device: Device) -> Any:
    """Where windows lie, and how many pixels each has, in the GPU's memory."""
    parts = (g.h_low, g.h_high, g.w_low, g.w_high, g.count.reshape(-1))
    return _kept(np.concatenate(parts).astype(np.int32), device)


@functools.lru_cache(maxsize=256)
def _holders(g: AvgPool2dGeometry, dtype: Any, device: Device) -> tuple[Any, Any]:
    """Which windows hold each row and column of x, and each window's scale, in the GPU's memory."""
    table = np.concatenate([part.reshape(-1) for part in g.holders]).astype(np.int32)
    return _kept(table, device), _kept(g.scale.astype(dtype), device)


def avg_pool2d_fwd(x: Any, y: Any, g: AvgPool2dGeometry) -> None:
    """Fill y (n, h_out, w_out, c)."""
    pack, table = pack_of(g.c, x, y), _windows(g, device_of(y))
    kernel = _kernel("avg_pool2d_fwd", x.dtype, pack)
    for x_, y_ in split_images("avg_pool2d", x, y):
        blocks, pool = _pool(g, len(y_), pack, False)
        kernel(blocks, x_, table, pool, y_)


def avg_pool2d_bwd_x(gy: Any, gx: Any, g: AvgPool2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c)."""
    pack, (table, scale) = pack_of(g.c, gy, gx), _holders(g, gx.dtype, device_of(gx))
    kernel = _kernel("avg_pool2d_bwd_x", gx.dtype, pack)
    for gy_, gx_ in split_images("avg_pool2d", gy, gx):
        blocks, pool = _pool(g, len(gx_), pack, True)
        kernel(blocks, gy_, table, scale, pool, gx_)
