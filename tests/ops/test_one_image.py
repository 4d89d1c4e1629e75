"""One image (c, h, w) is a batch of one: the same bits and gradients; where maxima stand."""

from __future__ import annotations

import numpy as np
import pytest
from harness import LAYOUTS, check_gradients, distinct, host, ones, raises, tensor

import minires as mr
from minires import nn
from minires.errors import ArgumentError, ShapeError

X, W, V = (3, 7, 5), (4, 3, 3, 2), (3, 2, 2, 3)
OPS = {
    "conv2d": lambda x, w, v: mr.conv2d(x, w, stride=(2, 1), padding=1),
    "same": lambda x, w, v: mr.conv2d(x, w, padding="same"),
    "groups": lambda x, w, v: mr.conv2d(x, v[:, :1], groups=3),
    "conv_transpose2d": lambda x, w, v: mr.conv_transpose2d(x, v, None, 2, 1, 1),
    "max_pool2d": lambda x, w, v: mr.max_pool2d(x, 3, 2, 1),
    "avg_pool2d": lambda x, w, v: mr.avg_pool2d(x, (3, 2), 2, 1, True, False),
    "adaptive": lambda x, w, v: mr.adaptive_avg_pool2d(x, (2, None)),
    "chain": lambda x, w, v: mr.max_pool2d(mr.conv2d(x, w, padding=1).relu(), 2),
    "dropout2d": lambda x, w, v: mr.dropout2d(x, 1.0),
}


@pytest.mark.parametrize("name", OPS)
def test_it_is_a_batch_of_one(name, backend):
    values = distinct(X, W, V)
    one, w, v = (tensor(a, dtype="float32", requires_grad=True) for a in values)
    batch = tensor(values[0][None], dtype="float32", requires_grad=True)
    y, other = OPS[name](one, w, v), OPS[name](batch, w, v)
    assert y.ndim == 3
    np.testing.assert_array_equal(host(y), host(other)[0])
    upstream = mr.randn(*y.shape)
    y.backward(upstream)
    grads = [w.grad, v.grad]
    w.grad = v.grad = None
    other.backward(upstream.unsqueeze(0))
    np.testing.assert_array_equal(host(one.grad), host(batch.grad)[0])
    for mine, expected in zip(grads, (w.grad, v.grad)):
        assert (mine is None) == (expected is None)
        if mine is not None:
            np.testing.assert_array_equal(host(mine), host(expected))


@pytest.mark.parametrize("layout", ["every_second", "reversed", "transposed"])
def test_of_any_strides(layout):
    (x,) = distinct((1, *X))
    laid_out = mr.from_numpy(LAYOUTS[layout](x)[0])
    for pool in (lambda x: mr.max_pool2d(x, 2), lambda x: mr.avg_pool2d(x, 2)):
        np.testing.assert_array_equal(host(pool(laid_out)), host(pool(mr.tensor(x)))[0])


def test_dropout2d_zeroes_whole_maps():
    y = host(mr.dropout2d(ones(40, 3, 5), 0.5))
    assert set(np.unique(y)) == {0, 2}
    assert (y == y[:, :1, :1]).all()


def test_layers_take_one_image():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d((2, 1)))
    x = mr.randn(2, 3, 11, 7)
    together = net(x)
    for i in range(2):
        np.testing.assert_allclose(host(net(x[i])), host(together[i]), rtol=0, atol=1e-6)


def test_batch_norm2d_takes_no_single_image():
    """Whose (c, h, w) it would take for (n, c, length)."""
    with raises(ShapeError, "BatchNorm2d(3): expected x of shape (n, 3, h, w)", "(3, 3, 5)"):
        nn.BatchNorm2d(3)(mr.ones(3, 3, 5))


@pytest.mark.parametrize("shape", [(4,), (4, 4), (1, 1, 1, 4, 4)])
def test_other_dimensions_are_refused(shape):
    for op in (mr.max_pool2d, mr.avg_pool2d, mr.adaptive_avg_pool2d, mr.dropout2d):
        with raises(ShapeError, "x of shape (n, c, h, w) or (c, h, w), got", str(shape)):
            op(mr.ones(*shape), 1)


# **** where the maxima stand ****


def test_indices_by_hand(anywhere):
    x = tensor([[[[1.0, 5.0, 2.0], [4.0, 3.0, 0.0]]]], requires_grad=True)
    y, index = mr.max_pool2d(x, (2, 1), return_indices=True)
    assert index.dtype == np.int64
    assert y.tolist() == [[[[4.0, 5.0, 2.0]]]]
    assert index.tolist() == [[[[3, 1, 2]]]]
    y.backward(tensor([[[[1.0, 2.0, 4.0]]]]))
    assert x.grad.tolist() == [[[[0.0, 2.0, 4.0], [1.0, 0.0, 0.0]]]]
    assert not index.requires_grad


CASES = {
    "overlapping": ((2, 3, 7, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "ceil": ((2, 3, 7, 6), {"kernel_size": (3, 2), "stride": 2, "ceil_mode": True}),
    "dilated": ((1, 2, 9, 7), {"kernel_size": (3, 2), "dilation": (2, 3), "stride": 1}),
    "one": ((3, 7, 5), {"kernel_size": 2}),
    "empty_batch": ((0, 3, 4, 4), {"kernel_size": 2}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_maxima_stand_there(case, backend):
    shape, options = case
    x = mr.tensor(distinct(shape)[0])
    values, index = mr.max_pool2d(x, return_indices=True, **options)
    np.testing.assert_array_equal(host(values), host(mr.max_pool2d(x, **options)))
    pixels = host(x).reshape(*shape[:-2], shape[-2] * shape[-1])
    places = host(index).reshape(*shape[:-2], index.shape[-2] * index.shape[-1])
    found = np.take_along_axis(pixels, places, -1).reshape(values.shape)
    np.testing.assert_array_equal(found, host(values))


def test_gradients_beside_the_indices(backend):
    check_gradients(
        lambda x: mr.max_pool2d(x, 3, 2, 1, return_indices=True)[0] ** 2, distinct((1, 2, 5, 4))
    )


def test_indices_in_a_captured_step():
    net = nn.Conv2d(2, 3, 3, padding=1)

    def step(x):
        y, index = mr.max_pool2d(net(x).relu(), 2, return_indices=True)
        loss = (y * y).sum()
        loss.backward()
        return loss, index

    captured = mr.capture(step, net)
    for _ in range(4):  # the first calls are recorded, the others replayed
        x = mr.randn(2, 2, 6, 4)
        net.zero_grad()
        loss, index = captured(x)
        got = float(loss), host(index).copy(), [host(p.grad).copy() for p in net.parameters()]
        net.zero_grad()
        loss, index = step(x)
        assert got[0] == float(loss)
        np.testing.assert_array_equal(got[1], host(index))
        for mine, p in zip(got[2], net.parameters()):
            np.testing.assert_array_equal(mine, host(p.grad))


def test_one_image_in_a_captured_step():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    captured = mr.capture(lambda x: net(x).sum(), net)
    for _ in range(3):
        x = mr.randn(2, 6, 4)
        assert float(captured(x)) == float(net(x).sum())


def test_errors():
    with raises(ArgumentError, "max_pool2d: expected return_indices True or False, got 1"):
        mr.max_pool2d(mr.ones(1, 2, 2), 2, return_indices=1)
    for wrong in (0, 1.5, "2", 2**40):
        with raises(ArgumentError, "expected divisor_override an integer other than 0"):
            mr.avg_pool2d(mr.ones(1, 2, 2), 2, divisor_override=wrong)
    with raises(ArgumentError, "AvgPool2d: expected divisor_override an integer other than 0"):
        nn.AvgPool2d(2, divisor_override=0)


def test_a_divisor_of_ones_own(anywhere):
    x = tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]], requires_grad=True)
    y = mr.avg_pool2d(x, 2, 1, divisor_override=-3)
    assert host(y).ravel().tolist() == [-4.0, np.float32(-16 / 3)]
    y.sum().backward()
    np.testing.assert_allclose(host(x.grad)[0, 0], -np.array([[1, 2, 1], [1, 2, 1]]) / 3, rtol=1e-6)
