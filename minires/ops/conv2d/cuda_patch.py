"""Convolution of 3 x 3 taps and few channels on a GPU, from patches of the image: cuda_patch.cu."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.operand import FAMILIES
from .cuda_plan import operations
from .cuda_tiles import PATCHES, Patch, shared_of

_SOURCE = Path(__file__).with_suffix(".cu")


@functools.cache
def kernel(math: str, tile: Patch, family: str) -> Kernel:
    """An instance of ``conv2d_patch``."""
    name = f"conv2d_patch<{math},{','.join(map(str, tile))},{family}>"
    return Kernel(_SOURCE, name, tile.block, shared_of(tile, math, family), operations)


def instances() -> Iterator[Kernel]:
    """Every instance that a convolution may ask for."""
    for (math, _), found in PATCHES.items():
        for tile in found:
            for family in FAMILIES if tile.split == 1 else FAMILIES[:2]:
                yield kernel(math, tile, family)
