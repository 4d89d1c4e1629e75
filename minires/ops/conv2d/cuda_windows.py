"""Convolution of any geometry on a GPU, from tiles of the matrix of windows: cuda_windows.cu."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from ...kernels.cuda.kernel import Kernel
from .cuda_plan import Sizes, operations
from .cuda_tiles import ODD, SIXTEEN, WINDOWS, Windows, shared_of, whole

_SOURCE = Path(__file__).with_suffix(".cu")


@functools.cache
def kernel(math: str, tile: Windows, vector: int, family: str) -> Kernel:
    """An instance of ``conv2d_windows``."""
    stages = tile.stages[family != "AS_IS"]
    numbers = (*tile[:5], vector, family, stages)
    name = f"conv2d_windows<{math},{','.join(map(str, numbers))}>"
    return Kernel(_SOURCE, name, tile.block, shared_of(tile, math, family), operations)


def blocks(z: Sizes, tile: Windows) -> int:
    """Blocks of pixels."""
    return -(-z.images * z.h_out * z.w_out // tile.bm)


def grid(z: Sizes, tile: Windows) -> int:
    return blocks(z, tile) * -(-z.c_out // tile.bn) * z.groups


def instances() -> Iterator[Kernel]:
    """Every instance that a convolution may ask for."""
    for (math, name), tile in WINDOWS.items():
        for family in ("AS_IS",) if name == SIXTEEN else ("AS_IS", "AFFINE", "BACKWARD"):
            yield kernel(math, tile, whole(math), family)
    for (math, _), tile in ODD.items():
        for vector in (1,) if math == "Fp64" else (2, 1):
            yield kernel(math, tile, vector, "AS_IS")
