"""Convolution of any geometry on a GPU, from tiles of the matrix of windows: cuda_windows.cu."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.operand import FAMILIES
from .cuda_plan import operations
from .cuda_tiles import ODD, SIXTEEN, WINDOWS, Windows, shared_of, whole

_SOURCE = Path(__file__).with_suffix(".cu")


@functools.cache
def kernel(math: str, tile: Windows, vector: int, family: str) -> Kernel:
    """An instance of ``conv2d_windows``."""
    which = FAMILIES.index(family)
    numbers = (*tile[:4], tile.rows[which], vector, family, tile.stages[which])
    name = f"conv2d_windows<{math},{','.join(map(str, numbers))}>"
    return Kernel(_SOURCE, name, tile.block, shared_of(tile, math, family), operations)


def instances() -> Iterator[Kernel]:
    """Every instance that a convolution may ask for."""
    for (math, name), tile in WINDOWS.items():
        for family in FAMILIES[:1] if name == SIXTEEN else FAMILIES:
            yield kernel(math, tile, whole(math), family)
        if math == "Fp64":
            yield kernel(math, tile, 1, FAMILIES[0])
        elif math != "Bf16" and name in ODD:
            yield kernel(math, tile, 2, FAMILIES[0])
            yield kernel(math, tile, 1, FAMILIES[0])
