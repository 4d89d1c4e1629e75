"""Max pooling on a GPU: its kernels against the reference, and the input that it normalises."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import REAL, put
from harness import host, on, raises, tensor

import minires as mr
from minires.errors import KernelMissing, ShapeError
from minires.kernels.cuda import packs
from minires.kernels.cuda.kernel import Kernel
from minires.kernels.operand import GATED, NORMALISED, PLAIN, RECTIFIED, Operand
from minires.ops.max_pool2d import MaxPool2dGeometry, kernel_numpy
from minires.ops.max_pool2d import kernel_cuda as cuda

# id: x (n, c, h, w), kernel, stride, padding, dilation, ceil_mode
CASES = {
    "stem": ((2, 8, 7, 9), 3, 2, 1, 1, False),
    "one_of_all": ((1, 1, 1, 1), 1, 1, 0, 1, False),
    "odd_channels": ((2, 5, 6, 4), 2, None, 0, 1, False),
    "wider_than_high": ((1, 3, 5, 11), (2, 5), (1, 2), (1, 2), 1, True),
    "dilated": ((1, 4, 9, 8), (2, 3), 1, 1, (3, 2), False),
    "stride_above_kernel": ((2, 4, 9, 8), 2, (4, 3), 0, 1, False),
    "large": ((1, 2, 9, 10), (9, 7), 1, (4, 3), 1, False),
    "empty": ((0, 4, 4, 4), 2, None, 0, 1, False),
}


def both(g, x, gy, place=put):
    """(y, index, gx) of the kernels, and of the reference."""
    outputs = []
    for module, there in ((cuda, place), (kernel_numpy, np.asarray)):
        arrays = x if isinstance(x, np.ndarray) else x.x
        y = there(np.full(gy.shape, 7, gy.dtype))
        index, gx = there(np.full(gy.shape, 7, np.int32)), there(np.full_like(arrays, 7))
        operand = there(x) if arrays is x else Operand(there(x.x), x.kind, there(x.coefficients))
        module.max_pool2d_fwd(operand, y, index, g)
        module.max_pool2d_bwd_x(there(gy), index, gx, g)
        outputs.append((y, index, gx))
    return [a.get() for a in outputs[0]], outputs[1]


def drawn(case, dtype, ties=True):
    """A geometry, x with ties and NaN, and gy; as channels-last buffers."""
    shape, *options = CASES[case]
    g, rng = MaxPool2dGeometry.from_shapes(shape, *options), np.random.default_rng(0)
    x = rng.integers(-4, 4, (g.n, g.h_in, g.w_in, g.c)).astype(dtype)
    if not ties:
        x = rng.permutation(x.size).reshape(x.shape).astype(dtype) / 7
    if x.size > 8:
        x.flat[rng.choice(x.size, 4, replace=False)] = np.nan
        x.flat[rng.choice(x.size, 4, replace=False)] = -np.inf
    return g, x, rng.standard_normal((g.n, g.h_out, g.w_out, g.c)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_kernels_are_the_reference(case, dtype, conditions):
    found, expected = both(*drawn(case, dtype))
    for a, b in zip(found, expected, strict=True):  # to the last bit: nothing is rounded but sums
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", [NORMALISED, RECTIFIED])
@pytest.mark.parametrize("case", ["stem", "odd_channels"])
def test_an_input_with_a_prologue(case, kind, conditions):
    g, x, gy = drawn(case, "float32", ties=False)
    k = np.random.default_rng(1).standard_normal((5, g.c)).astype(np.float32)
    found, expected = both(g, Operand(x, kind, k), gy)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[2], expected[2])


def test_a_gradient_is_no_input(on_gpu):
    g, x, gy = drawn("stem", "float32")
    x = put(x)
    operand = Operand(x, GATED, put(np.zeros((5, g.c), np.float32)), x)
    with raises(KernelMissing, "max_pool2d: expected an operand plain, normalised", "got gated"):
        cuda.max_pool2d_fwd(operand, put(gy), put(gy.astype(np.int32)), g)
    assert operand.kind != PLAIN


def test_more_images_than_one_launch_reaches(on_gpu, monkeypatch):
    g, x, gy = drawn("stem", "float32")
    monkeypatch.setattr(packs, "MOST", x[0].size)
    for a, b in zip(*both(g, x, gy), strict=True):
        np.testing.assert_array_equal(a, b)
    monkeypatch.setattr(packs, "MOST", x[0].size - 1)
    with raises(ShapeError, "max_pool2d: expected images of at most 503 entries", "got 504"):
        both(g, x, gy)


# **** batch norm and ReLU in front, as in a ResNet's stem ****


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels that run on the GPU."""
    found, run = [], Kernel.run

    def spy(kernel, grid, arguments):
        found.append(kernel.__name__)
        run(kernel, grid, arguments)

    monkeypatch.setattr(Kernel, "run", spy)
    return found


def stem(training):
    """y and the gradients of weight and bias of a stem on the device of the test."""
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((2, 8, 9, 7)), *rng.standard_normal((2, 8))
    x, weight, bias = (tensor(a.astype(np.float32)) for a in (x, weight, bias))
    weight.requires_grad_()
    bias.requires_grad_()
    running = tensor(np.zeros(8, np.float32)), tensor(np.ones(8, np.float32))
    z = mr.ops.batch_norm(x, *running, weight, bias, training=training)
    y = mr.max_pool2d(mr.relu(z), 3, stride=2, padding=1)
    gy = rng.standard_normal(y.shape).astype(np.float32)
    return [host(t.detach()) for t in (y, *mr.grad(y, [weight, bias], tensor(gy)))]


@pytest.mark.skipif(REAL, reason="counts launches of the stand-in")
@pytest.mark.parametrize("training", [True, False])
def test_pooling_normalises_its_input(training, launches, on_gpu):
    found = stem(training)
    assert "max_pool2d_fwd" in launches
    assert not {"batch_norm_fwd", "relu_fwd", "relu_bwd_x", "write_operand"} & set(launches)
    with on("cpu"), mr.backend("numpy"):
        expected = stem(training)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
