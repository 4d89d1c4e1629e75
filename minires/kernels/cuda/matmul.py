"""Matrix products on the GPU: up to a size by a kernel of our own, beyond it by cuBLAS.

CuPy refuses to call cuBLAS while a stream is captured, and so a step that ends in a linear layer
could be no CUDA graph. The classifier of a residual network is a small product; :func:`multiply`
computes such ones by ``matmul.cu``, in any memory order and always exactly. From ``LARGE`` on a
product is worth cuBLAS, and the rounding of its factors that
:func:`minires.set_float32_matmul_precision` allows.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import call
from ...device import array_module, cupy
from ...memory import allocate, workspace
from ...precision import float32_matmul_precision
from .kernel import Kernel
from .source import c_type
from .struct import record

_SOURCE = Path(__file__).with_suffix(".cu")
THREADS = 256  # as in the source
LARGE = 1 << 30  # multiply-adds; a product of fewer is our kernel's
TILES = 128  # blocks that a large GPU wants at once: for fewer, tiles are smaller and sums are cut
PART, PARTS = 256, 16  # factors of a part of a sum at least, and parts at most
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_PRODUCT = np.dtype(
    [(name, "u8") for name in ("x", "w")]
    + [(name, "i8") for name in ("x_batch", "w_batch")]
    + [(name, "i4") for name in ("x_row", "x_column", "w_row", "w_column")]
    + [(name, "i4") for name in ("n", "k", "m", "batch", "part")],
    align=True,
)


@functools.cache
def _multiply(dtype: Any, tile: int) -> Kernel:
    return Kernel(_SOURCE, f"matmul_fwd<{c_type(dtype)}, {tile}>", THREADS)


@functools.cache
def _add(dtype: Any) -> Kernel:
    return Kernel(_SOURCE, f"matmul_add<{c_type(dtype)}>", THREADS)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module launches."""
    for dtype in DTYPES:
        yield from (_multiply(dtype, 32), _multiply(dtype, 64), _add(dtype))


def multiply(x: Any, w: Any) -> Any:
    """x @ w (..., n, m) of x (..., n, k) and w (..., k, m), leading dimensions broadcast."""
    lead: tuple[int, ...] = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    (n, k), m, batch = x.shape[-2:], w.shape[-1], math.prod(lead)
    if x.dtype not in DTYPES or not _is_small(x, w, batch * n * m, batch):
        return call(_by_cublas, x, w, float32_matmul_precision())
    y = allocate((*lead, n, m), x.dtype, x)
    if not y.size:
        return y
    x, w = _batched(x, lead), _batched(w, lead)
    blocks = [batch * -(-n // tile) * -(-m // tile) for tile in (64, 32)]
    tile = 64 if blocks[0] >= TILES else 32
    parts = 1
    if blocks[1] < TILES:
        parts = max(1, min(PARTS, TILES // blocks[1], k // PART))
    part = max(-(-k // parts), 1)
    step = x.dtype.itemsize
    product = record(
        _PRODUCT,
        x=x.data.ptr, x_batch=x.strides[0] // step, x_row=x.strides[1] // step,
        x_column=x.strides[2] // step, w=w.data.ptr, w_batch=w.strides[0] // step,
        w_row=w.strides[1] // step, w_column=w.strides[2] // step,
        n=n, k=k, m=m, batch=batch, part=part,
    )  # fmt: skip
    to = y if parts == 1 else workspace(parts * y.size, x.dtype, y)
    grid = -(-n // tile), -(-m // tile), batch * parts
    _multiply(x.dtype, tile)(grid, product, to, reaches=(x, w))
    if parts > 1:
        _add(x.dtype)(-(-y.size // THREADS), to, y, np.int32(y.size), np.int32(parts))
    return y


def _is_small(x: Any, w: Any, size: int, batch: int) -> bool:
    """Whether a product is for our kernel, whose indices have 32 bits and whose grid has limits."""
    entries = max(x.size, w.size, size * PARTS)
    grid = max(batch * PARTS, -(-w.shape[-1] // 32))
    return size * x.shape[-1] < LARGE and entries < 2**31 and grid < 2**16


def _batched(a: Any, lead: tuple[int, ...]) -> Any:
    """Matrices (batch, rows, columns) in the place of leading dimensions that are broadcast."""
    rows, columns = a.shape[-2:]
    if math.prod(a.shape[:-2]) == 1:  # one matrix for all
        return array_module(a).broadcast_to(
            a.reshape(rows, columns), (math.prod(lead), rows, columns)
        )
    if a.shape[:-2] != lead or len(lead) > 1:
        a = call(_in_one_row, a, lead)
    return a


def _in_one_row(a: Any, lead: tuple[int, ...]) -> Any:
    shape = a.shape[-2:]
    wide = array_module(a).broadcast_to(a, (*lead, *shape))
    return array_module(a).ascontiguousarray(wide.reshape(-1, *shape))


def _by_cublas(x: Any, w: Any, precision: str) -> Any:
    with _rounding_factors(precision if x.dtype == np.float32 else "highest"):
        return x @ w


@contextlib.contextmanager
def _rounding_factors(precision: str) -> Iterator[None]:
    """Let cuBLAS multiply float32 as tf32, unless the precision is "highest". (For float32 arrays
    CuPy has no way to bfloat16 products: "medium" gets the more exact tf32.)"""
    cuda = cupy().cuda
    blas = cuda.cublas
    handle = cuda.get_cublas_handle()  # the thread's own
    exact = precision == "highest"
    before = blas.getMathMode(handle)
    blas.setMathMode(handle, blas.CUBLAS_DEFAULT_MATH if exact else blas.CUBLAS_TF32_TENSOR_OP_MATH)
    try:
        yield
    finally:
        blas.setMathMode(handle, before)
