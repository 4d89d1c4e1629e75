"""Max pooling on a GPU: a thread for each pack of channels of each pixel."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import KernelMissing, message
from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.operand import family_of
from ...kernels.cuda.packs import THREADS, pack_of, split_images
from ...kernels.cuda.source import c_type
from ...kernels.cuda.struct import DIVISOR, divisor, record
from ...kernels.operand import KINDS, RECTIFIED, as_operand
from .op import MaxPool2dGeometry

_SOURCE = Path(__file__).with_name("kernel_cuda.cu")
_SIZES = "h_in w_in h_out w_out c k_h k_w s_h s_w p_h p_w d_h d_w threads"
_DIVISORS = "by_packs by_width by_height by_s_h by_s_w"
_POOL = np.dtype([*((name, "i4") for name in _SIZES.split()),
                  *((name, DIVISOR) for name in _DIVISORS.split())])  # fmt: skip


@functools.cache
def _fwd(dtype: Any, family: str, pack: int) -> Kernel:
    return Kernel(_SOURCE, f"max_pool2d_fwd<{c_type(dtype)}, {family}, {pack}>", THREADS)


@functools.cache
def _bwd_x(dtype: Any, pack: int) -> Kernel:
    return Kernel(_SOURCE, f"max_pool2d_bwd_x<{c_type(dtype)}, {pack}>", THREADS)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module may ask for."""
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        for pack in (1, 16 // dtype.itemsize):
            yield from (_fwd(dtype, family, pack) for family in ("AS_IS", "AFFINE"))
            yield _bwd_x(dtype, pack)


@functools.lru_cache(maxsize=256)
def _pool(g: MaxPool2dGeometry, n: int, pack: int, back: bool) -> tuple[int, Any]:
    """The blocks and the struct ``Pool`` for n images; ``back``: x is written, else y."""
    height, width = (g.h_in, g.w_in) if back else (g.h_out, g.w_out)
    threads = n * height * width * (g.c // pack)
    pairs = zip(("k", "s", "p", "d"), (g.kernel, g.stride, g.padding, g.dilation))
    numbers = {f"{key}_{axis}": v for key, pair in pairs for axis, v in zip("hw", pair)}
    pool = record(
        _POOL,
        **numbers, h_in=g.h_in, w_in=g.w_in, h_out=g.h_out, w_out=g.w_out, c=g.c, threads=threads,
        by_packs=divisor(max(g.c // pack, 1)), by_width=divisor(width), by_height=divisor(height),
        by_s_h=divisor(g.stride[0]), by_s_w=divisor(g.stride[1]),
    )  # fmt: skip
    return -(-threads // THREADS), pool


def max_pool2d_fwd(x: Any, y: Any, index: Any, g: MaxPool2dGeometry) -> None:
    """Fill y (n, h_out, w_out, c) and index, the places h * w_in + w of the maxima. x is an array,
    or an Operand of the kinds of a forward pass: PLAIN, NORMALISED or RECTIFIED."""
    operand = as_operand(x)
    if operand.kind > RECTIFIED:
        expected = "an operand plain, normalised or rectified"
        raise KernelMissing(message("max_pool2d", expected, KINDS[operand.kind]))
    k, kind = operand.coefficients, np.int32(operand.kind)
    pack = pack_of(g.c, operand.x, k, y, index)
    kernel = _fwd(y.dtype, family_of(operand.kind), pack)
    for x_, y_, index_ in split_images("max_pool2d", operand.x, y, index):
        blocks, pool = _pool(g, len(y_), pack, False)
        kernel(blocks, x_, k, kind, pool, y_, index_)


def max_pool2d_bwd_x(gy: Any, index: Any, gx: Any, g: MaxPool2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c): each gy added at its place."""
    pack = pack_of(g.c, gx, gy, index)
    kernel = _bwd_x(gx.dtype, pack)
    for gx_, gy_, index_ in split_images("max_pool2d", gx, gy, index):
        blocks, pool = _pool(g, len(gx_), pack, True)
        kernel(blocks, gy_, index_, pool, gx_)
