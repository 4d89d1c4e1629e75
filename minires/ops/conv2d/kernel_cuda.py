"""Convolution on a GPU: the entrance.

:mod:`.cuda_convolve` computes any convolution by one of two kernels (:mod:`.cuda_windows`,
:mod:`.cuda_patch`; :mod:`.cuda_tiles` chooses): the forward pass, and the input gradient, which is
one such convolution, or with a stride several (:mod:`.cuda_input`). The weight gradient is a
product of another kind (:mod:`.cuda_weight`). With about as many groups as channels there is
nothing to multiply as matrices, and all three follow their definition (:mod:`.cuda_depthwise`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...kernels.cuda.kernel import Kernel
from ...kernels.epilogue import NOTHING, Epilogue
from ...kernels.operand import as_operand
from ...kernels.packed import as_packed, contiguous
from . import cuda_convolve, cuda_depthwise, cuda_input, cuda_weight
from .cuda_pack import forward_taps, packed
from .cuda_plan import arithmetic, forward_sizes
from .cuda_tiles import Patch, tile
from .op import Conv2dGeometry


def conv2d_way(g: Conv2dGeometry, dtype: Any) -> str:
    """How the forward pass of a geometry is computed: "windows fp32", "patch tf32", "depthwise"."""
    if cuda_depthwise.suits(g):
        return "depthwise"
    z, math = forward_sizes(g), arithmetic(g, dtype, g.c_in // g.groups)
    way = "patch" if isinstance(tile(z, math, cuda_convolve.shared_memory()), Patch) else "windows"
    return f"{way} {math.lower()}"


def conv2d_fwd(x: Any, w: Any, y: Any, g: Conv2dGeometry, epilogue: Epilogue = NOTHING) -> None:
    """Fill y (n, h_out, w_out, c_out) with the epilogue of conv(x, w) + b.

    Args:
        x: array (n, h_in, w_in, c_in), or an Operand.
        w: (c_out, c_in / groups, k_h, k_w), any strides; or PackedWeights, which have a bias.
        epilogue: its residual is an array like y.

    Raises:
        ShapeError: an image, or a kernel, of more than 2^31 entries.
        KernelMissing: a dtype other than float32 and float64.
    """
    if y.size == 0:
        return
    if cuda_depthwise.suits(g):
        cuda_depthwise.fwd(x, w, y, g, epilogue)
        return
    kept, z, math = as_packed(w), forward_sizes(g), arithmetic(g, y.dtype, g.c_in // g.groups)
    weights = packed(kept, g, forward_taps(g), False, math)
    bias = None if kept.bias is None else contiguous(kept.bias)
    cuda_convolve.convolve(as_operand(x), weights, bias, y, z, math, epilogue)


def conv2d_bwd_input(gy: Any, w: Any, gx: Any, g: Conv2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c_in) from gy (n, h_out, w_out, c_out), an array or an Operand.

    Raises:
        ShapeError, KernelMissing: as for :func:`conv2d_fwd`.
    """
    if gx.size == 0:
        return
    way = cuda_depthwise if cuda_depthwise.suits(g) else cuda_input
    way.bwd_input(gy, w, gx, g)


def conv2d_bwd_weight(gy: Any, x: Any, gw: Any, g: Conv2dGeometry) -> None:
    """Fill gw (c_out, c_in / groups, k_h, k_w) from gy and x, arrays or Operands.

    Raises:
        ShapeError, KernelMissing: as for :func:`conv2d_fwd`.
    """
    way = cuda_depthwise if cuda_depthwise.suits(g) else cuda_weight
    way.bwd_weight(gy, x, gw, g)


def instances() -> Iterator[Kernel]:
    """Every kernel that a convolution may launch."""
    yield from cuda_convolve.instances()
    yield from cuda_weight.instances()
    yield from cuda_depthwise.instances()
