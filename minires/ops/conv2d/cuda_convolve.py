"""One convolution on a GPU, of sizes that may be those of a forward pass or of an input gradient:
the kernel that suits it, and what the kernel needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...device import backend_of
from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.statistics import combine_moments
from ...kernels.epilogue import NOTHING, Epilogue
from ...kernels.operand import Operand
from ...memory import allocate
from . import cuda_pack, cuda_patch, cuda_windows
from .cuda_plan import FAMILIES, Sizes, parts, struct
from .cuda_tiles import Patch, applies, tile, vector


def read(operand: Operand, z: Sizes, math: str) -> Operand:
    """The operand as the kernel reads it: as it is, or with its values written."""
    if applies(FAMILIES[operand.kind], z, math):
        return operand
    values = allocate(operand.x.shape, operand.x.dtype, operand.x)
    backend_of(values).write(operand, values)
    return Operand(values)


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
    x, second, coefficients, kind = operand.x, operand.y, operand.coefficients, operand.kind
    residual, statistics = epilogue.residual, epilogue.statistics
    chosen = tile(z, math)
    slices = parts(z)
    counts = [_blocks(z._replace(images=s.stop - s.start), chosen) for s in slices]
    channels = z.groups * z.c_out
    moments = None
    if statistics is not None:
        moments = allocate((sum(counts), 2 * channels + 1), y.dtype, y)
    done = 0
    for images, count in zip(slices, counts):
        part = z._replace(images=images.stop - images.start)
        kernel, grid = _kernel(part, chosen, math, FAMILIES[kind])
        arrays = [_cut(a, images, len(slices)) for a in (x, second, residual, y)]
        own = _cut(moments, slice(done, done + count), len(slices))
        kernel(
            grid, arrays[0], arrays[1], coefficients, weights, bias, arrays[2], arrays[3], own,
            struct(part, weights.shape[1]), np.int32(kind), np.int32(epilogue.relu),
        )  # fmt: skip
        done += count
    if moments is not None:
        combine_moments(moments, *statistics)


def _cut(array: Any, images: slice, parts: int) -> Any:
    """These images of an array, if the batch is cut into parts at all."""
    return array if array is None or parts == 1 else array[images]


def _blocks(z: Sizes, chosen: Any) -> int:
    module: Any = cuda_patch if isinstance(chosen, Patch) else cuda_windows
    return int(module.blocks(z, chosen))


def _kernel(z: Sizes, chosen: Any, math: str, family: str) -> tuple[Kernel, int]:
    """The kernel, and how many blocks of threads it takes."""
    if isinstance(chosen, Patch):
        return cuda_patch.kernel(math, chosen, family), cuda_patch.grid(z, chosen)
    kernel = cuda_windows.kernel(math, chosen, vector(z, math), family)
    return kernel, cuda_windows.grid(z, chosen)


def instances() -> Iterator[Kernel]:
    """Every kernel that a convolution may launch."""
    yield from cuda_windows.instances()
    yield from cuda_patch.instances()
    yield from cuda_pack.instances()
