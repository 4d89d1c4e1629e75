"""The rectifier on a GPU: one pass over memory."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.packs import IN_FLIGHT, THREADS, pack_of, split
from ...kernels.cuda.source import c_type

_SOURCE = Path(__file__).with_name("kernel_cuda.cu")


@functools.cache
def _kernel(name: str, dtype: Any, pack: int) -> Kernel:
    return Kernel(_SOURCE, f"{name}<{c_type(dtype)}, {pack}>", THREADS)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module may ask for."""
    for name in ("relu_fwd", "relu_bwd_x"):
        for dtype in (np.dtype("float32"), np.dtype("float64")):
            for pack in (1, 16 // dtype.itemsize):
                yield _kernel(name, dtype, pack)


def _launch(name: str, *arrays: Any) -> None:
    """Launch a kernel whose parameters are so many arrays to read, their size, and the result."""
    pack = pack_of(0, *arrays)
    kernel = _kernel(name, arrays[0].dtype, pack)
    for *inputs, result in split(pack, *arrays):
        blocks = -(-result.size // (pack * THREADS * IN_FLIGHT))
        kernel(blocks, *inputs, np.int32(result.size), result)


def relu_fwd(x: Any, y: Any) -> None:
    """Fill y = max(x, 0); NaN stays NaN."""
    _launch("relu_fwd", x, y)


def relu_bwd_x(gy: Any, y: Any, gx: Any) -> None:
    """Fill gx = 0 where y <= 0, else gy."""
    _launch("relu_bwd_x", gy, y, gx)
