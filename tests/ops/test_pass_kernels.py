"""ReLU, pooling and cross entropy on the CPU: the same bits for any number of threads, channels
beside whole vectors, and the exponential's accuracy."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires.ops.avg_pool2d import AvgPool2dGeometry
from minires.ops.avg_pool2d import kernel_numba as avg
from minires.ops.avg_pool2d import kernel_numpy as avg_reference
from minires.ops.cross_entropy import kernel_numba as ce
from minires.ops.cross_entropy import kernel_numpy as ce_reference
from minires.ops.max_pool2d import MaxPool2dGeometry
from minires.ops.max_pool2d import kernel_numba as pool
from minires.ops.max_pool2d import kernel_numpy as pool_reference
from minires.ops.relu import kernel_numba as rectifier
from minires.ops.relu import kernel_numpy as rectifier_reference

DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


def normal(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def empty(*shape, dtype="float32"):
    return np.full(shape, np.nan, dtype)


@pytest.fixture
def on_threads():
    """Calls a function on 1, 2 and 3 threads and compares what it returns, bit by bit."""
    limit = mr.get_num_threads()

    def compare(function):
        results = []
        for threads in range(1, min(limit, 3) + 1):
            mr.set_num_threads(threads)
            results.append(function())
        for result in results[1:]:
            for a, b in zip(results[0], result):
                np.testing.assert_array_equal(a, b)
        return results[0]

    yield compare
    mr.set_num_threads(limit)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 15, 16, 33, 16384, 50001])
def test_relu(size, dtype, on_threads):
    x, gy = normal(size, dtype=dtype), normal(size, dtype=dtype, seed=1)
    x[1:2], x[2:3] = np.nan, 0

    def run(module=rectifier):
        y, gx = empty(size, dtype=dtype), empty(size, dtype=dtype)
        module.relu_fwd(x, y)
        module.relu_bwd_x(gy, y, gx)
        return y, gx

    for fast, reference in zip(on_threads(run), run(rectifier_reference)):
        np.testing.assert_array_equal(fast, reference)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [1, 3, 16, 21, 64])
@pytest.mark.parametrize(
    "options",
    [(3, 2, 1, 1, False), (2, None, 0, 1, True), (3, 1, 1, 2, False), ((1, 4), (3, 2), 0, 1, True)],
    ids=str,
)
def test_max_pool(options, c, dtype, on_threads):
    g = MaxPool2dGeometry.from_shapes((2, c, 9, 11), *options)
    x = np.round(normal(2, 9, 11, c, dtype=dtype) * 2)  # ties
    x[0, 3, 4], x[1, 2] = np.nan, -np.inf
    gy = normal(2, g.h_out, g.w_out, c, dtype=dtype, seed=1)

    def run(module=pool):
        y, gx, index = empty(*gy.shape, dtype=dtype), empty(*x.shape, dtype=dtype), gy.astype("i4")
        module.max_pool2d_fwd(x, y, index, g)
        module.max_pool2d_bwd_x(gy, index, gx, g)
        return y, index, gx

    y, index, gx = on_threads(run)
    expected = run(pool_reference)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_allclose(gx, expected[2], atol=4 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [1, 3, 16, 21, 64])
@pytest.mark.parametrize("out", [1, 3, (9, 11), (12, 2)], ids=str)
def test_average_pool(out, c, dtype, on_threads):
    g = AvgPool2dGeometry.adaptive((2, c, 9, 11), out)
    x, gy = normal(2, 9, 11, c, dtype=dtype), normal(2, *g.scale.shape, c, dtype=dtype, seed=1)

    def run(module=avg):
        y, gx = empty(*gy.shape, dtype=dtype), empty(*x.shape, dtype=dtype)
        module.avg_pool2d_fwd(x, y, g)
        module.avg_pool2d_bwd_x(gy, gx, g)
        return y, gx

    for fast, reference in zip(on_threads(run), run(avg_reference)):
        np.testing.assert_allclose(fast, reference, rtol=0, atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (130, 10), (300, 100), (70, 1000)], ids=str)
def test_cross_entropy(shape, smoothing, dtype, on_threads):
    n, classes = shape
    x, g = 5 * normal(n, classes, dtype=dtype), normal(n, dtype=dtype, seed=1)
    labels = np.random.default_rng(2).integers(0, classes, n)
    labels[1:2] = -100
    x[2:3] += 1e4

    def run(module=ce):
        losses, gx = empty(n, dtype=dtype), empty(n, classes, dtype=dtype)
        module.cross_entropy_fwd(x, labels, smoothing, -100, losses)
        module.cross_entropy_bwd_x(g, x, labels, smoothing, -100, gx)
        return losses, gx

    fast, reference = on_threads(run), run(ce_reference)
    np.testing.assert_allclose(fast[0], reference[0], rtol=4 * TOLERANCE[dtype], atol=1e-6)
    np.testing.assert_allclose(fast[1], reference[1], rtol=0, atol=4 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exponential(dtype):
    """A row of two logits, 0 and x, has the gradient exp(x) / (1 + exp(x)) at x."""
    lowest = np.log(np.finfo(dtype).tiny)
    x = np.concatenate(
        [np.linspace(lowest * 0.9999, 0, 5000), [lowest * 1.01, -1e30, -np.inf, -1e-9]]
    )
    logits = np.stack([np.zeros_like(x), x], axis=1).astype(dtype)
    gx = np.empty_like(logits)
    labels, g = np.zeros(len(x), np.int64), np.ones(len(x), dtype)
    ce.cross_entropy_bwd_x(g, logits, labels, 0.0, -100, gx)
    e = np.exp(logits[:, 1].astype(np.longdouble))
    expected = np.where(logits[:, 1] < lowest, 0, e / (1 + e))
    np.testing.assert_allclose(
        gx[:, 1], expected.astype(dtype), rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny
    )


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # by interpreted kernels
def test_cross_entropy_nan_and_infinity_stay_in_their_row():
    x = normal(5, 20)
    x[1, 18], x[2, 0], x[3, :] = np.nan, np.inf, -np.inf
    losses, gx = np.empty(5, np.float32), np.empty_like(x)
    labels = np.arange(5)
    ce.cross_entropy_fwd(x, labels, 0.0, -100, losses)
    ce.cross_entropy_bwd_x(losses * 0 + 1, x, labels, 0.0, -100, gx)
    assert np.isnan(losses).tolist() == [False, True, True, True, False]
    ce.cross_entropy_bwd_x(np.ones(5, np.float32), x, labels, 0.0, -100, gx)
    assert np.isnan(gx[[1, 3]]).all()
    assert np.isfinite(gx[[0, 4]]).all()
