"""Convolution of 3 x 3 taps and few channels on a GPU, from patches of the image: cuda_patch.cu."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from ...kernels.cuda.kernel import Kernel
from .cuda_plan import Sizes, operations
from .cuda_tiles import ORDER, PATCHES, Patch, shared_of

_SOURCE = Path(__file__).with_suffix(".cu")


@functools.cache
def kernel(math: str, tile: Patch, family: str) -> Kernel:
    """An instance of ``conv2d_patch``."""
    name = f"conv2d_patch<{math},{','.join(map(str, tile))},{family}>"
    return Kernel(_SOURCE, name, tile.block, shared_of(tile, math, family), operations)


def blocks(z: Sizes, tile: Patch) -> int:
    """Blocks of pixels."""
    return -(-z.images // tile.images) * -(-z.h_out // tile.h) * -(-z.w_out // tile.w)


def grid(z: Sizes, tile: Patch) -> int:
    return blocks(z, tile) * -(-z.c_out // tile.bn)


def instances() -> Iterator[Kernel]:
    """Every instance that a convolution may ask for."""
    for (math, _), tile in PATCHES.items():
        for family in ORDER:
            yield kernel(math, tile, family)
