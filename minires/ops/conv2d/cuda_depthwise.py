"""Convolutions with about as many groups as channels on a GPU, forward and both gradients: kernels
that are the definition, for there is nothing else to gain. They are in ``cuda_depthwise.cu``."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.packs import THREADS, pack_of
from ...kernels.cuda.source import c_type
from ...kernels.cuda.statistics import mean_and_variance
from ...kernels.cuda.struct import DIVISOR, divisor, record
from ...kernels.epilogue import NOTHING, Epilogue
from ...kernels.operand import as_operand
from ...kernels.packed import PackedWeights, as_packed, contiguous
from ...memory import allocate, workspace
from .cuda_operand import written
from .cuda_plan import forward_sizes, parts
from .cuda_weight import add_shares, sizes_of
from .op import Conv2dGeometry

_SOURCE = Path(__file__).with_name("cuda_depthwise.cu")
SIZES = np.dtype(
    [
        *[(name, "i4") for name in ("h_in", "w_in", "c_in", "h_out", "w_out", "c_out")],
        *[(name, "i4") for name in ("in", "out", "k_h", "k_w", "s_h", "s_w", "p_h", "p_w")],
        *[(name, "i4") for name in ("d_h", "d_w", "pixels", "share")],
        *[(name, DIVISOR) for name in ("per_image", "per_row", "packs")],
    ]
)
FEW = 2  # channels of a group, up to which tiles of matrices would be nearly empty
CHANNELS = 32  # of a block of the weight gradient


def suits(g: Conv2dGeometry) -> bool:
    """Whether these kernels are better than the products of matrices of the others."""
    return g.groups > 1 and max(g.c_in, g.c_out) <= FEW * g.groups


@functools.cache
def _kernel(name: str, dtype: Any, *pack: int) -> Kernel:
    arguments = ", ".join([c_type(dtype), *map(str, pack)])
    operations = None if name == "depthwise_pack" else _operations
    return Kernel(_SOURCE, f"{name}<{arguments}>", THREADS, operations=operations)


def _operations(*arguments: Any) -> int:
    """Multiply-adds, times two, of a launch, whose last argument is its sizes. (Those of an input
    gradient are less by what falls on the padding, or between the pixels of a stride.)"""
    g = arguments[-1][0]
    y = int(g["pixels"]) // int(g["per_image"]["value"]) * int(g["h_out"]) * int(g["w_out"])
    return 2 * y * int(g["c_out"]) * int(g["in"]) * int(g["k_h"]) * int(g["k_w"])


def instances() -> Iterator[Kernel]:
    """Every kernel that this module may ask for."""
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        for name in ("depthwise_pack", "depthwise_bwd_weight"):
            yield _kernel(name, dtype)
        for name in ("depthwise_fwd", "depthwise_bwd_input"):
            for pack in (1, 16 // dtype.itemsize):
                yield _kernel(name, dtype, pack)


def fwd(x: Any, w: Any, y: Any, g: Conv2dGeometry, epilogue: Epilogue = NOTHING) -> None:
    """Fill y (n, h_out, w_out, c_out) with the epilogue of conv(x, w) + b."""
    kept, x = as_packed(w), written(as_operand(x)).x
    w_t, residual = _transposed(kept, g), epilogue.residual
    bias = None if kept.bias is None else contiguous(kept.bias)
    pack = _pack(g, x, w_t, bias, residual, y)
    kernel = _kernel("depthwise_fwd", y.dtype, pack)
    for part in parts(forward_sizes(g)):
        n = part.stop - part.start
        blocks = -(-n * g.h_out * g.w_out * g.c_out // (pack * THREADS))
        other = None if residual is None else residual[part]
        relu, sizes = np.int32(epilogue.relu), _sizes(g, n, pack, True)
        kernel(blocks, x[part], w_t, bias, other, y[part], relu, sizes)
    if epilogue.statistics is not None:
        mean_and_variance(y.reshape(-1, g.c_out), *epilogue.statistics)


def bwd_input(gy: Any, w: Any, gx: Any, g: Conv2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c_in) from gy (n, h_out, w_out, c_out), an array or an Operand."""
    gy, w_t = written(as_operand(gy)).x, _transposed(as_packed(w), g)
    pack = _pack(g, gy, w_t, gx)
    kernel = _kernel("depthwise_bwd_input", gx.dtype, pack)
    for part in parts(forward_sizes(g)):
        n = part.stop - part.start
        blocks = -(-n * g.h_in * g.w_in * g.c_in // (pack * THREADS))
        if blocks:
            kernel(blocks, gy[part], w_t, gx[part], _sizes(g, n, pack, False))


def bwd_weight(gy: Any, x: Any, gw: Any, g: Conv2dGeometry) -> None:
    """Fill gw (c_out, c_in / groups, k_h, k_w) from gy and x, arrays or Operands."""
    gy, x = written(as_operand(gy)).x, written(as_operand(x)).x
    kernel = _kernel("depthwise_bwd_weight", gw.dtype)
    slabs = -(-g.c_out // CHANNELS) * g.k_h * g.k_w * (g.c_in // g.groups)
    for i, part in enumerate(parts(forward_sizes(g)) or [slice(0, 0)]):
        n = part.stop - part.start
        pixels = n * g.h_out * g.w_out
        share = max(-(-pixels // max(512 // slabs, 1)), 256)  # see cuda_weight.plan
        shares = -(-pixels // share)
        sums = workspace(shares * gw.size, gw.dtype, gw)
        kernel((slabs, shares), gy[part], x[part], sums, _sizes(g, n, 1, True, share))
        add_shares(sums, gw, shares, i, sizes_of(g, n))


def _pack(g: Conv2dGeometry, *arrays: Any) -> int:
    """Channels to a pack: one where groups have several."""
    return pack_of(g.c_in, *arrays) if g.c_in == g.groups == g.c_out else 1


def _transposed(packed: PackedWeights, g: Conv2dGeometry) -> Any:
    """The weights (k_h * k_w * c_in / groups, c_out)."""

    def make() -> Any:
        w = contiguous(packed.array)
        w_t = allocate((w.size,), w.dtype, w)
        _kernel("depthwise_pack", w.dtype)(-(-w.size // THREADS), w, w_t, _sizes(g, g.n, 1, True))
        return w_t

    return packed.form(("cuda", "depthwise"), make)


@functools.lru_cache(maxsize=1024)
def _sizes(g: Conv2dGeometry, n: int, pack: int, of_y: bool, share: int = 0) -> Any:
    """The kernels' sizes for n images; threads have pixels of y, or else of x."""
    rows, columns, c = (g.h_out, g.w_out, g.c_out) if of_y else (g.h_in, g.w_in, g.c_in)
    fields: dict[str, Any] = {"in": g.c_in // g.groups, "out": g.c_out // g.groups}
    return record(
        SIZES, **fields, h_in=g.h_in, w_in=g.w_in, c_in=g.c_in, h_out=g.h_out, w_out=g.w_out,
        c_out=g.c_out, k_h=g.k_h, k_w=g.k_w, s_h=g.stride[0], s_w=g.stride[1], p_h=g.padding[0],
        p_w=g.padding[1], d_h=g.dilation[0], d_w=g.dilation[1], pixels=n * rows * columns,
        share=share, per_image=divisor(rows * columns), per_row=divisor(columns),
        packs=divisor(c // pack),
    )  # fmt: skip
