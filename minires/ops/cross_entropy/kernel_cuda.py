"""Cross entropy on the GPU, a warp for each row (``kernel_cuda.cu``)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.source import c_type

_SOURCE = Path(__file__).with_suffix(".cu")
ROWS = 4  # of a block, as in the source


@functools.cache
def _kernel(name: str, dtype: Any) -> Kernel:
    return Kernel(_SOURCE, f"{name}<{c_type(dtype)}>", 32 * ROWS)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module launches."""
    dtypes = np.dtype(np.float32), np.dtype(np.float64)
    names = "cross_entropy_fwd", "cross_entropy_bwd_x"
    return (_kernel(name, dtype) for name in names for dtype in dtypes)


def _sizes(x: Any, smoothing: float, ignore: int) -> tuple[int, tuple[Any, ...]]:
    """The number of blocks, and the numbers that both kernels take."""
    n, classes = x.shape
    numbers = x.dtype.type(smoothing), np.int64(ignore), np.int32(n), np.int32(classes)
    return -(-n // ROWS), numbers


def cross_entropy_fwd(x: Any, labels: Any, smoothing: float, ignore: int, losses: Any) -> None:
    """Fill losses = -sum(q * log(softmax(x))); NaN for a label that is no class."""
    blocks, numbers = _sizes(x, smoothing, ignore)
    _kernel("cross_entropy_fwd", x.dtype)(blocks, x, labels, losses, *numbers)


def cross_entropy_bwd_x(
    g: Any, x: Any, labels: Any, smoothing: float, ignore: int, gx: Any
) -> None:
    """Fill gx = (softmax(x) - q) * g, 0 in the rows to ignore; NaN for a label that is no class."""
    blocks, numbers = _sizes(x, smoothing, ignore)
    _kernel("cross_entropy_bwd_x", x.dtype)(blocks, g, x, labels, gx, *numbers)
