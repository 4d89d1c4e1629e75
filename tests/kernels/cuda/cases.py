"""Small cases that between them meet every barrier, wait and bounds check of the CUDA kernels.

Each runs an operation on a device and returns its results. The fewest instances, since compiling
is what costs, and sizes that no tile divides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import minires as mr


@dataclass(frozen=True)
class Case:
    """One small case.

    Args:
        name: for people.
        files: the ``.cu`` files, within the package, whose kernels it launches.
        run: gets a device and returns results.
        tolerance: relative and absolute.
    """

    name: str
    files: tuple[str, ...]
    run: Callable[[str], list[np.ndarray]]
    tolerance: float = 1e-4


def normal(device, *shape, dtype="float32", seed=0, scale=1.0, grad=True):
    """A tensor of normal draws."""
    draws = scale * np.random.default_rng(seed).standard_normal(shape)
    return mr.tensor(draws.astype(dtype), device=device, requires_grad=grad)


def values(*tensors):
    """Their values, on the host."""
    arrays = [t._array if isinstance(t, mr.Tensor) else t for t in tensors]
    return [a if isinstance(a, np.ndarray) else a.get() for a in arrays]


def relu(dtype):
    def run(device):
        x = normal(device, 13, 79, dtype=dtype)
        y = mr.relu(x)
        y.backward(normal(device, 13, 79, dtype=dtype, seed=1, grad=False))
        return values(y, x.grad)

    return run


BATCH_NORM = ("ops/batch_norm/kernel_cuda.cu", "kernels/cuda/statistics.cu")
WRITE = "kernels/cuda/operand.cu"


def batch_norm(*shape, training=True, fused=True):
    """A batch norm of x and of a shortcut, their sum through a ReLU, and all gradients."""

    def run(device):
        x, other = (normal(device, *shape, seed=i, scale=2) for i in (0, 1))
        vectors = [normal(device, shape[1], seed=i) for i in (2, 3, 4, 5)]
        running = [mr.zeros(shape[1], device=device), mr.ones(shape[1], device=device)]
        with contextlib.nullcontext() if fused else mr.no_fusion():
            y = mr.ops.batch_norm(x, *running, *vectors[:2], training=training)
            shortcut = mr.ops.batch_norm(other, None, None, *vectors[2:], training=True)
            y = mr.relu(y + shortcut)
            z = mr.relu(mr.ops.batch_norm(y, None, None, *vectors[:2], training=True))
            z.backward(normal(device, *shape, seed=6, grad=False))
        return values(y.detach(), z.detach(), *running, *(t.grad for t in (x, other, *vectors)))

    return run


def pooled(pool, *shape):
    """A pooling of a normalised x through a ReLU, of x itself, and its gradient."""

    def run(device):
        draws = np.random.default_rng(0).integers(-3, 3, shape).astype("float32")  # with ties
        x = mr.tensor(draws, device=device, requires_grad=True)
        running = [mr.zeros(shape[1], device=device), mr.ones(shape[1], device=device)]
        bias = normal(device, shape[1], seed=1, grad=False)
        with mr.no_grad():
            read = pool(mr.relu(mr.ops.batch_norm(x.detach(), *running, None, bias)))
        y = pool(x)
        y.backward(normal(device, *y.shape, seed=2, grad=False))
        return values(read, y.detach(), x.grad)

    return run


CONV = "ops/conv2d/cuda_"


def conv2d(x, w, dtype="float32", precision="highest", **options):
    """A convolution of an image of shape ``x`` (n, c, h, w)."""

    def run(device):
        before = mr.get_float32_matmul_precision()
        mr.set_float32_matmul_precision(precision)
        try:
            with mr.no_grad():
                image = normal(device, *x, dtype=dtype)
                weight = normal(device, *w, dtype=dtype, seed=1, scale=0.2)
                bias = normal(device, w[0], dtype=dtype, seed=2)
                return values(mr.conv2d(image, weight, bias, **options))
        finally:
            mr.set_float32_matmul_precision(before)

    return run


CASES = [
    Case("relu, float32", ("ops/relu/kernel_cuda.cu",), relu("float32")),
    Case("batch_norm, odd channels", (*BATCH_NORM, WRITE), batch_norm(3, 5, 11, 12)),
    Case("batch_norm, several slabs", (*BATCH_NORM, WRITE), batch_norm(2, 136, 3, 7)),
    Case(
        "batch_norm, one operation at a time",
        BATCH_NORM,
        batch_norm(3, 5, 5, 12, training=False, fused=False),
    ),
    Case(
        "max_pool2d",
        ("ops/max_pool2d/kernel_cuda.cu",),
        pooled(lambda x: mr.max_pool2d(x, (3, 5), stride=2, padding=(1, 2)), 2, 3, 11, 9),
    ),
    Case(
        "avg_pool2d",
        ("ops/avg_pool2d/kernel_cuda.cu",),
        pooled(lambda x: mr.avg_pool2d(x, (3, 2), stride=2, padding=1), 2, 3, 7, 9),
    ),
    Case(
        "adaptive_avg_pool2d",
        ("ops/avg_pool2d/kernel_cuda.cu",),
        pooled(lambda x: mr.adaptive_avg_pool2d(x, (2, 1)), 2, 8, 9, 7),
    ),
    Case(
        "conv2d, windows, copies of 8 bytes",
        (f"{CONV}windows.cu", f"{CONV}pack.cu"),
        conv2d((2, 6, 7, 5), (5, 6, 3, 3), padding=1),
    ),
    Case(
        "conv2d, windows, stride",
        (f"{CONV}windows.cu", f"{CONV}pack.cu"),
        conv2d((1, 8, 9, 8), (20, 8, 3, 3), stride=2, padding=1),
    ),
    Case(
        "conv2d, patch",
        (f"{CONV}patch.cu", f"{CONV}pack.cu"),
        conv2d((1, 16, 9, 29), (20, 16, 3, 3), padding=1),
    ),
]
