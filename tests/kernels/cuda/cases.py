"""Small cases that between them meet every barrier, wait and bounds check of the CUDA kernels.

Each runs an operation on a device and returns its results. The fewest instances, since compiling
is what costs, and sizes that no tile divides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import convolutions
import numpy as np
from philox import philox

import minires as mr
from minires.device import Device, kernels, move
from minires.kernels.cuda import draws
from minires.kernels.operand import GATED, RECTIFIED, Operand
from minires.ops.conv2d import Conv2dGeometry, cuda_weight, cuda_weight_rows


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


def cross_entropy(classes):
    def run(device):
        x = normal(device, 7, classes, scale=3)
        labels = mr.tensor([0, classes - 1, 2, -100, 3, 1, 1], device=device)
        losses = mr.cross_entropy(x, labels, label_smoothing=0.1, reduction="none")
        losses.backward(normal(device, 7, seed=1, grad=False))
        return values(losses, x.grad)

    return run


def labels_around(device):
    """Labels from -1 to 5, of 5 classes: the first and the last are none, and their rows NaN."""
    labels, x = np.arange(-1, 6), np.random.default_rng(0).standard_normal((7, 5))
    none = (labels < 0) | (labels >= 5)
    read = np.where(none, 0, labels) if device == "cpu" else labels
    x, g, read, losses, gx = (
        move(a, Device(device)) for a in (x, np.arange(1.0, 8), read, np.ones(7), np.ones((7, 5)))
    )
    kernels("cross_entropy", x).cross_entropy_fwd(x, read, 0.1, -100, losses)
    kernels("cross_entropy", x).cross_entropy_bwd_x(g, x, read, 0.1, -100, gx)
    if device == "cpu":
        losses[none] = gx[none] = np.nan
    return values(losses, gx)


def dropout_mask(size, dtype):
    """The mask of one call, at a probability that is one of the draws; on the CPU in Python."""

    def run(device):
        groups = [philox((k, 0, 7, 0), 5) for k in range(-(-size // 4))]
        uniform = np.array(groups).ravel()[:size] // 256 / 2.0**24
        if device == "cpu":
            return [np.where(uniform >= uniform[0], 2, 0).astype(dtype)]
        state, mask = (
            move(a, Device(device)) for a in (np.array([5, 7], "u8"), np.ones(size, dtype))
        )
        draws.draw_mask(state, float(uniform[0]), 2, mask)
        return values(mask)

    return run


def optimizer(make, dtype):
    """Steps over more parameters than one launch takes, of sizes around those of a block."""

    def run(device):
        sizes = [4099, 4096, 3, 2052, *[5] * 64]
        ps = [normal(device, size, dtype=dtype, seed=size) for size in sizes]
        rule = make(ps)
        for seed in (1, 2):
            for p in ps:
                p.grad = normal(device, p.numel(), dtype=dtype, seed=seed, grad=False)
            rule.step()
        kept = [a for state in rule.state.values() for name, a in state.items() if name != "step"]
        rule.zero_grad(set_to_none=False)
        return values(*ps, *[p.grad for p in ps], *kept)

    return run


def matmul(x, w):
    def run(device):
        a, b = normal(device, *x), normal(device, *w, seed=1)
        y = a @ b
        y.backward(normal(device, *y.shape, seed=2, grad=False))
        return values(y, a.grad, b.grad)

    return run


def index(count):
    """Repeated entries."""

    def run(device):
        x = normal(device, 50, 3, dtype="float64")
        many = mr.tensor(np.random.default_rng(0).integers(0, 50, count), device=device)
        weights = normal(device, count, 3, dtype="float64", seed=1, grad=False)
        (x[many] * weights).sum().backward()
        y = mr.zeros(50, dtype="float64", device=device)
        y[many] = weights[:, 0]
        return values(x.grad, y)

    return run


def sgd(parameters):
    return mr.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)


def adam(parameters):
    return mr.optim.Adam(parameters, 0.1, weight_decay=0.01, amsgrad=True)


def rmsprop(parameters):
    return mr.optim.RMSprop(parameters, 0.1, weight_decay=0.01, momentum=0.9, centered=True)


def conv2d(x, w, precision="highest", **options):
    """A convolution of an image of shape ``x`` (n, c, h, w), and its gradients."""

    def run(device):
        before = mr.get_float32_matmul_precision()
        mr.set_float32_matmul_precision(precision)
        try:
            image, weight = normal(device, *x), normal(device, *w, seed=1, scale=0.2)
            y = mr.conv2d(image, weight, normal(device, w[0], seed=2), **options)
            y.backward(normal(device, *y.shape, seed=3, grad=False))
            return values(y, image.grad, weight.grad)
        finally:
            mr.set_float32_matmul_precision(before)

    return run


def rows_of_weight_gradient(device):
    """The gradient of a weight of 3 x 3 taps and few channels, where a share of the pixels has
    several tiles: of operands that are read through prologues, and of arrays."""
    g = Conv2dGeometry.from_shapes((1, 16, 9, 29), (20, 16, 3, 3), 1, 1, 1, 1)
    gy, y, x = (
        normal(device, 1, 9, 29, c, seed=seed, grad=False)._array
        for seed, c in enumerate((20, 20, 16))
    )
    of_gy, of_x = (normal(device, 5, c, seed=c, grad=False)._array for c in (20, 16))
    results = [normal(device, 20, 16, 3, 3, grad=False)._array for _ in range(2)]
    before, cuda_weight_rows.BLOCKS = cuda_weight_rows.BLOCKS, 1
    try:
        cuda_weight.plan.cache_clear()
        bwd_weight = kernels("conv2d", x).conv2d_bwd_weight
        bwd_weight(Operand(gy, GATED, of_gy, y), Operand(x, RECTIFIED, of_x), results[0], g)
        bwd_weight(gy, x, results[1], g)
    finally:
        cuda_weight_rows.BLOCKS = before
        cuda_weight.plan.cache_clear()
    return values(*results)


def infinite_gradient(device):
    """The gradient of a weight where the image has an infinite entry: padding adds no NaN."""
    draws = np.random.default_rng(0).standard_normal((1, 6, 5, 4)).astype("float32")
    draws[0, 2, 2, 1] = np.inf
    image = mr.tensor(draws, device=device)
    weight = normal(device, 5, 6, 3, 3, seed=1)
    with np.errstate(invalid="ignore"):
        y = mr.conv2d(image, weight, padding=1)
        y.backward(normal(device, *y.shape, seed=3, grad=False))
    return values(weight.grad)


def block(x, channels, k):
    """relu(bn(conv(relu(bn(conv(x))))) + x) in training, where batch norms become prologues and
    epilogues of the convolutions."""

    def run(device):
        image = normal(device, *x)
        first = normal(device, channels, x[1], k, k, seed=1, scale=0.3)
        second = normal(device, x[1], channels, k, k, seed=2, scale=0.3)
        h, vectors = image, []
        for i, w in enumerate((first, second)):
            vectors += [normal(device, w.shape[0], seed=seed) for seed in (3 + i, 5 + i)]
            h = mr.conv2d(h, w, None, padding=k // 2)
            h = mr.batch_norm(h, None, None, *vectors[-2:], training=True)
            h = mr.relu(h if i == 0 else h + image)
        h.backward(normal(device, *h.shape, seed=7, grad=False))
        return values(h, *[t.grad for t in (image, first, second, *vectors)])

    return run


CROSS_ENTROPY = "ops/cross_entropy/kernel_cuda.cu"
UPDATE, CUDA, CONV = "ops/update/kernel_cuda.cu", "kernels/cuda/", "ops/conv2d/cuda_"
CASES = [
    Case("cross entropy, 5 classes", (CROSS_ENTROPY,), cross_entropy(5)),
    Case("cross entropy, 37 classes", (CROSS_ENTROPY,), cross_entropy(37)),
    Case("cross entropy, labels of no class", (CROSS_ENTROPY,), labels_around),
    Case("a mask of dropout", (f"{CUDA}draws.cu",), dropout_mask(1028, "float32")),
    Case("a mask of dropout, float64", (f"{CUDA}draws.cu",), dropout_mask(2, "float64")),
    Case("SGD", (UPDATE,), optimizer(sgd, "float32")),
    Case("Adam", (UPDATE,), optimizer(adam, "float32")),
    Case("RMSprop", (UPDATE,), optimizer(rmsprop, "float32")),
    Case("matmul", (f"{CUDA}matmul.cu",), matmul((33, 35), (35, 34))),
    Case("matmul, a long sum", (f"{CUDA}matmul.cu",), matmul((3, 530), (530, 2))),
    Case("matmul, a batch", (f"{CUDA}matmul.cu",), matmul((2, 3, 5), (5, 4))),
    Case("index arrays, a whole block", (f"{CUDA}scatter.cu",), index(1024)),
    Case("index arrays, more than that", (f"{CUDA}scatter.cu",), index(1100)),
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
        "conv2d, depthwise",
        (f"{CONV}depthwise.cu",),
        conv2d((2, 8, 9, 7), (8, 1, 3, 3), padding=1, groups=8),
    ),
    Case(
        "conv2d, two channels of a group",
        (f"{CONV}depthwise.cu",),
        conv2d((1, 6, 9, 7), (3, 2, 3, 3), padding=1, stride=2, groups=3),
    ),
    Case(
        "conv2d, gradients, packs of two",
        (f"{CONV}weight.cu",),
        conv2d((2, 6, 9, 8), (5, 6, 3, 3), stride=2, padding=1),
    ),
    Case(
        "conv2d, gradients, a stem",
        (f"{CONV}weight.cu",),
        conv2d((1, 3, 9, 11), (36, 3, 5, 5), stride=2, padding=2),
    ),
    Case(
        "conv2d, gradients, tf32",
        (f"{CONV}weight.cu",),
        conv2d((2, 20, 5, 7), (24, 20, 3, 3), "high", padding=1),
        0.02,
    ),
    Case(
        "a residual block, 1x1",
        (f"{CONV}weight.cu", f"{CONV}windows.cu", *BATCH_NORM, WRITE),
        block((3, 8, 5, 9), 36, 1),
    ),
    Case(
        "a residual block, 3x3",
        (f"{CONV}weight_rows.cu", f"{CONV}patch.cu"),
        block((1, 16, 9, 29), 16, 3),
    ),
    Case(
        "conv2d, rows of a weight gradient",
        (f"{CONV}weight_rows.cu",),
        rows_of_weight_gradient,
        1e-3,
    ),
    Case("conv2d, gradients, infinite", (f"{CONV}weight.cu",), infinite_gradient),
    *[Case(f"conv2d, {name}", files, run) for name, files, run in convolutions.CASES],
]
