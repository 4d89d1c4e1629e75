"""One convolution on a GPU, of sizes that may be those of a forward pass or of an input gradient:
the kernel that suits it, and what the kernel needs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ...device import cupy
from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.limits import limits
from ...kernels.cuda.operand import family_of
from ...kernels.cuda.statistics import combine_moments
from ...kernels.epilogue import NOTHING, Epilogue
from ...kernels.operand import Operand
from ...memory import allocate
from . import cuda_pack, cuda_patch, cuda_windows
from .cuda_operand import aligned, written
from .cuda_plan import Sizes, parts, struct
from .cuda_tiles import LARGEST, Patch, applies, tile, vector


def read(operand: Operand, z: Sizes, math: str) -> Operand:
    """The operand as the kernel reads it: as it is, or with its values written."""
    if applies(family_of(operand.kind), z, math, shared_memory()):
        return operand
    return written(operand)


def shared_memory() -> int:
    """Bytes of shared memory that a block may have on the current GPU."""
    return limits(cupy().cuda.runtime.getDevice()).shared


def convolve(
    operand: Operand,
    weights: Any,
    bias: Any,
    y: Any,
    z: Sizes,
    math: str,
    epilogue: Epilogue = NOTHING,
) -> None:
    """Fill y (images, y_h, y_w, channels), or the grid of its pixels that ``z`` names.

    Args:
        operand: (images, h_in, w_in, channels), contiguous.
        weights: packed for ``z`` and ``math`` (:mod:`.cuda_pack`).
        bias: (channels of y,), or None.
        epilogue: its residual is an array like y.

    Raises:
        ShapeError: an image is too large for offsets of 32 bits.
    """
    operand = read(operand, z, math)
    residual, statistics = epilogue.residual, epilogue.statistics
    found = launches(z, math, family_of(operand.kind), weights.shape[1], shared_memory())
    moments = None
    if statistics is not None:
        blocks = sum([part.blocks for part in found])
        moments = allocate((blocks, 2 * z.groups * z.c_out + 1), y.dtype, y)
    kind, relu, done = np.int32(operand.kind), np.int32(epilogue.relu), 0
    arrays = [aligned(operand.x), aligned(operand.y), aligned(residual), y]
    coefficients = aligned(operand.coefficients)
    for part in found:
        x, x_y, other, out, own = *arrays, moments
        if len(found) > 1:
            x, x_y, other, out = [None if a is None else a[part.images] for a in arrays]
            own = None if moments is None else moments[done : done + part.blocks]
        part.kernel(
            part.grid, x, x_y, coefficients, weights, bias, other, out, own, part.struct,
            kind, relu,
        )  # fmt: skip
        done += part.blocks
    if moments is not None:
        combine_moments(moments, *statistics)


class Launch(NamedTuple):
    """What is launched for some images of a batch.

    Attributes:
        blocks: of pixels, each of which leaves its moments.
        grid: blocks of threads.
    """

    images: slice
    kernel: Kernel
    blocks: int
    grid: int
    struct: Any


@functools.lru_cache(maxsize=1024)
def launches(z: Sizes, math: str, family: str, pitch: int, shared: int = LARGEST) -> list[Launch]:
    """The launches of a convolution: one, or several where offsets of 32 bits do not reach."""
    chosen, found = tile(z, math, shared), []
    for images in parts(z):
        part = z._replace(images=images.stop - images.start)
        if isinstance(chosen, Patch):
            kernel = cuda_patch.kernel(math, chosen, family)
        else:
            kernel = cuda_windows.kernel(math, chosen, vector(z, math), family)
        blocks, grid = chosen.blocks(part), chosen.grid(part)
        found.append(Launch(images, kernel, blocks, grid, struct(part, pitch)))
    return found


def instances() -> Iterator[Kernel]:
    """Every kernel that a convolution may launch."""
    yield from cuda_windows.instances()
    yield from cuda_patch.instances()
    yield from cuda_pack.instances()
