"""precise(): direct sums, forward and backward, fused, captured, and only where it holds."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from harness import raises

import minires as mr
from minires.errors import ArgumentError
from minires.kernels.numba.vector import INTERPRETED
from minires.nn import functional as F
from minires.ops.conv2d.numba_winograd import suits
from minires.ops.conv2d.op import conv2d_geometry

pytestmark = pytest.mark.skipif(INTERPRETED, reason="shapes for which Winograd's formula is taken")
X, W = (2, 16, 32, 32), (16, 16, 3, 3)


def operands(seed=0):
    rng = np.random.default_rng(seed)
    return [mr.tensor(rng.standard_normal(s).astype(np.float32)) for s in (X, W)]


def trained(seed=0):
    return [t.requires_grad_() for t in operands(seed)]


def convolved(x, w):
    return mr.conv2d(x, w, padding=1)


def by_winograd(modules):
    """Whether a kernel of Winograd's ran since this was asked last."""
    found = any("winograd" in name for name in modules)
    modules.clear()
    return found


@pytest.fixture
def modules(monkeypatch):
    """The modules of the kernels that were launched."""
    from minires.kernels.numba.kernel import Kernel

    found, launch = [], Kernel.__call__

    def spy(kernel, *args):
        found.append(kernel.function.__module__)
        return launch(kernel, *args)

    monkeypatch.setattr(Kernel, "__call__", spy)
    return found


def test_forward_and_backward(modules):
    x, w = trained()
    assert suits(conv2d_geometry(X, W, 1, 1, 1, 1), np.dtype(np.float32))
    mr.grad(convolved(x, w).sum(), [x, w])
    assert by_winograd(modules)
    with mr.precise():
        y = convolved(x, w)
        mr.grad(y.sum(), [x, w])
    assert not by_winograd(modules)


def test_what_was_recorded_inside_goes_back_directly_outside(modules):
    x, w = trained()
    with mr.precise():
        y = convolved(x, w)
    modules.clear()
    gx, gw = mr.grad((y * y).sum(), [x, w], create_graph=True)
    mr.grad((gx * gx).sum() + (gw * gw).sum(), [x, w])
    assert not by_winograd(modules)


def test_what_was_recorded_outside_goes_back_directly_inside(modules):
    x, w = trained()
    y = convolved(x, w).sum()
    _ = y.item()
    assert by_winograd(modules)
    with mr.precise():
        mr.grad(y, [x, w])
    assert not by_winograd(modules)


def test_transposed(modules):
    x, w = trained()
    with mr.precise():
        y = mr.conv_transpose2d(x, w, padding=1)
    mr.grad(y.sum(), [x, w])
    assert not by_winograd(modules)


def test_put_off_inside_and_computed_outside(modules):
    x, w = operands()
    with mr.precise():
        y = convolved(x, w)
    y.numpy()
    assert not by_winograd(modules)


def test_errors_are_those_of_a_direct_sum():
    x, w = operands()
    with mr.precise():
        near = convolved(x, w).numpy()
    right = convolved(x.double(), w.double()).numpy()
    far = convolved(x, w).numpy()
    error, theirs = (np.abs(y - right).max() for y in (near, far))
    assert 4 * error < theirs


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_under_its_window(bad):
    x, w = operands()
    x.data[0, 3, 8, 8] = bad
    spoiled = np.zeros((X[0], 1, *X[2:]), bool)
    spoiled[0, :, 7:10, 7:10] = True
    assert (np.isfinite(convolved(x, w).numpy()) != ~spoiled).any()  # or there is nothing to show
    with mr.precise():
        y = convolved(x, w).numpy()
    np.testing.assert_array_equal(np.isfinite(y), np.broadcast_to(~spoiled, y.shape))
    with mr.backend("numpy"), np.errstate(all="ignore"):
        np.testing.assert_array_equal(np.isnan(convolved(x, w).numpy()), np.isnan(y))


def test_small_beside_large_keeps_its_digits():
    x, w = operands()
    x.data[:, :, 10:] *= 1e6
    right = convolved(x.double(), w.double()).numpy()[:, :, :9]  # rows that see nothing large
    with mr.precise():
        near = convolved(x, w).numpy()[:, :, :9]
    assert np.abs(near - right).max() < 1e-4
    assert np.abs(convolved(x, w).numpy()[:, :, :9] - right).max() > 1e-2


def test_batch_norm_is_not_multiplied_into_weights(modules):
    x, w = operands()
    c = W[0]
    mean, var = mr.full(c, 0.5), mr.full(c, 2.0)

    def layer():
        y = F.batch_norm(convolved(x, w), mean, var, mr.ones(c), mr.zeros(c))
        return mr.relu(y).numpy()

    with mr.no_grad():
        folded = layer()
        with mr.precise():
            own = layer()
            with mr.no_fusion():
                alone = layer()
    np.testing.assert_array_equal(own, alone)
    assert (own != folded).any()


def test_as_decorator_and_per_thread(modules):
    x, w = operands()

    @mr.precise()
    def called():
        return convolved(x, w).numpy()

    @mr.precise
    def yielding():
        for _ in range(2):
            yield convolved(x, w).numpy()

    called()
    turns = yielding()
    next(turns)
    assert not by_winograd(modules)
    convolved(x, w).numpy()  # between two turns the generator's mode does not hold
    assert by_winograd(modules)
    next(turns)
    assert not by_winograd(modules)
    with mr.precise():
        other = threading.Thread(target=lambda: convolved(x, w).numpy())
        other.start()
        other.join()
    assert by_winograd(modules)


def test_captured():
    """Each mode has its recording, and another mode never gets it."""
    w = trained()[1]
    model = mr.nn.Conv2d(16, 16, 3, padding=1, bias=False)
    with mr.no_grad():
        model.weight.copy_(w)
    step = mr.capture(lambda x: model(x), model)
    x = [operands(seed)[0] for seed in range(4)]
    for _ in range(2):
        for image in x:
            fast = step(image).numpy()
            with mr.precise():
                direct = step(image).numpy()
                expected = model(image).detach().numpy()
            np.testing.assert_array_equal(direct, expected)
            np.testing.assert_array_equal(fast, model(image).detach().numpy())
            assert (fast != direct).any()
    assert "recordings=2" in repr(step)


def test_captured_with_the_mode_inside():
    model = mr.nn.Conv2d(16, 16, 3, padding=1, bias=False)

    def loss(x):
        model.zero_grad()
        with mr.precise():
            y = model(x)
        total = (y * y).sum()
        total.backward()
        return total

    step = mr.capture(loss, model)
    for seed in range(4):
        x = operands(seed)[0]
        step(x)
        found = model.weight.grad.numpy().copy()
        loss(x)
        np.testing.assert_array_equal(found, model.weight.grad.numpy())


# ------------------------------------------------------------------------------ padding by its name


@pytest.mark.parametrize("convolve", [mr.conv2d, F.conv2d])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 5)])
@pytest.mark.parametrize("dilation", [1, np.int64(2), (3, 1)])
def test_same_padding(convolve, kernel, dilation):
    rng = np.random.default_rng(0)
    x, w = (mr.tensor(rng.standard_normal(s)) for s in ((2, 3, 7, 9), (4, 3, *kernel)))
    y = convolve(x, w, stride=np.int64(1), padding="same", dilation=dilation)
    assert y.shape == (2, 4, 7, 9)
    d = np.broadcast_to(dilation, 2)
    down, across = (int(a * (k - 1)) for a, k in zip(d, kernel))
    padded = mr.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
    right = mr.conv2d(padded, w, dilation=tuple(map(int, d)))
    np.testing.assert_allclose(y.numpy(), right.numpy(), rtol=1e-12, atol=1e-12)
    valid = convolve(x, w, padding="valid", stride=2)
    np.testing.assert_array_equal(valid.numpy(), mr.conv2d(x, w, stride=2).numpy())


@pytest.mark.parametrize("convolve", [mr.conv2d, F.conv2d])
def test_padding_errors(convolve):
    x, w = mr.ones(1, 2, 5, 5), mr.ones(3, 2, 3, 3)
    with raises(ArgumentError, 'stride 1 with padding="same"', "got stride (1, 2)"):
        convolve(x, w, padding="same", stride=(1, 2))
    with raises(ArgumentError, "conv2d: expected padding", '"same"', "got 'sam'"):
        convolve(x, w, padding="sam")
    with raises(mr.errors.ShapeError, "x (n, c, h, w)"):
        convolve(mr.ones(5, 5), w, padding="same")
    with raises(ArgumentError, "dilation an integer >= 1"):
        convolve(x, w, padding="same", dilation=0)
