"""Long sums are right to the last digits: along any axes, in any memory order, on both backends."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minires as mr
from minires.nn import functional as F
from minires.ops.sums import KERNEL_FROM

BACKENDS = ["auto", "numpy"]
DTYPES = ["float32", "float64"]
ULPS = {"float32": 1, "float64": 16}  # float32 is added in float64, that in blocks


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request):
    with mr.backend(request.param):
        yield request.param


def within(found, exact, ulps=1, size=None):
    """``found`` is ``exact`` to so many units in the last place (of ``size``, if given)."""
    found = np.asarray(found)
    exact = np.asarray(exact, np.longdouble)
    unit = np.finfo(found.dtype).eps * (abs(exact) if size is None else size)
    worst = np.max(abs(found - exact) / np.maximum(unit, np.finfo(found.dtype).tiny))
    assert worst <= ulps, f"{float(worst):.1f} units in the last place"


def numbers(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# **** sums ****


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1000, 1_000_000])
def test_tenths(rows, dtype):
    x = mr.full((rows, 2), 0.1, dtype=dtype)
    tenth = x.data[0, 0]
    assert (x.mean(0).data == tenth).all()
    assert x.mean() == tenth
    within(x.sum(0).data, np.longdouble(tenth) * rows, ULPS[dtype])
    within(x.T.contiguous().T.sum(0).data, np.longdouble(tenth) * rows, ULPS[dtype])


@pytest.mark.slow
def test_ones_are_counted_beyond_what_float32_counts():
    rows = 2**24 + 100
    assert mr.ones(rows, 2).sum(0).tolist() == [rows, rows]
    assert mr.ones(1).expand(rows).sum() == rows


@pytest.mark.slow
def test_ten_million_numbers():
    x = numbers((10_000_000,))
    within(mr.tensor(x).sum().data, math.fsum(x), 0.5)
    within(mr.tensor(x.reshape(-1, 5)).sum(0).data, x.reshape(-1, 5).sum(0, dtype=np.longdouble))


@pytest.mark.parametrize("size", [KERNEL_FROM - 1, KERNEL_FROM, KERNEL_FROM + 1])
def test_numbers_that_cancel(size):
    x = np.resize(np.array([1e8, 1, -1e8], np.float32), 3 * size)
    for one in (x, x[:, None], np.stack([x, x], 1)):
        assert (mr.tensor(one).sum(0).data == size).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2, 3), (2, 3), (0, 1), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("layout", ["row-major", "channels-last", "reversed", "cut"])
def test_images_in_any_memory_order(layout, axes, dtype):
    x = 1 + numbers((60, 8, 13, 17), dtype)
    if layout == "channels-last":
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    elif layout == "reversed":
        x = x[::-1, ::-1]
    elif layout == "cut":
        x = x[:, 1:7, ::2, 3:-1]
    exact = x.astype(np.longdouble)
    t = mr.tensor(x)
    t._array = x  # as it is laid out
    within(t.sum(axes).data, exact.sum(axes), ULPS[dtype], abs(exact).sum(axes))
    within(t.mean(axes).data, exact.mean(axes), ULPS[dtype], abs(exact).mean(axes))
    within(t.var(axes, correction=0).data, exact.var(axes), 8)
    within(t.std(axes, correction=0).data, exact.std(axes), 8)
    within(t.norm(dim=axes).data, np.sqrt((exact**2).sum(axes)), 8)


def test_a_data_set_s_mean_and_deviation():
    x = np.random.default_rng(0).integers(0, 256, (60000, 49)).astype(np.float32) / 255
    exact = x.astype(np.float64)
    within(mr.tensor(x).mean(0).data, exact.mean(0), 1)
    within(mr.tensor(x).std(0).data, exact.std(0, ddof=1), 2)


# **** gradients that are sums ****


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_what_was_broadcast(dtype):
    b = mr.zeros(3, requires_grad=True, dtype=dtype)
    scalar = mr.ones((), requires_grad=True, dtype=dtype)
    gy = 0.1 + 0.01 * numbers((60000, 3), dtype)
    y = (mr.zeros(60000, 3, dtype=dtype) + b) * scalar + b.expand(60000, 3)
    y.backward(mr.tensor(gy))
    within(b.grad.data, 2 * gy.sum(0, dtype=np.longdouble), ULPS[dtype])
    ones = mr.zeros(2**24 + 2, 1)
    scalar = mr.zeros(1, requires_grad=True)
    (ones + scalar).sum().backward()
    assert scalar.grad.item() == 2**24 + 2


def test_the_bias_of_a_linear_layer():
    b = mr.zeros(10, requires_grad=True)
    gy = 0.1 + 0.01 * numbers((60000, 10))
    F.linear(mr.ones(60000, 4), mr.ones(10, 4), b).backward(mr.tensor(gy))
    within(b.grad.data, gy.sum(0, dtype=np.longdouble), 1)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_bias_of_a_convolution(channels_last, transposed):
    b = mr.zeros(5, requires_grad=True)
    gy = 0.1 + 0.01 * numbers((64, 5, 32, 32))
    given = gy
    if channels_last:
        given = np.ascontiguousarray(gy.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    gradient = mr.tensor(given)
    gradient._array = given
    function = F.conv_transpose2d if transposed else F.conv2d
    function(
        mr.ones(64, 2, 32, 32), mr.ones(2, 5, 1, 1) if transposed else mr.ones(5, 2, 1, 1), b
    ).backward(gradient)
    within(b.grad.data, gy.sum((0, 2, 3), dtype=np.longdouble), 1)


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_the_weights_of_norms(kind):
    x, gy = numbers((20000, 8)), 0.1 + 0.01 * numbers((20000, 8), seed=1)
    w, b = mr.ones(8, requires_grad=True), mr.zeros(8, requires_grad=True)
    y = (
        F.layer_norm(mr.tensor(x), 8, w, b)
        if kind == "layer"
        else F.group_norm(mr.tensor(x), 2, w, b)
    )
    y.backward(mr.tensor(gy))
    groups = x.astype(np.float64).reshape(20000, -1, 8 if kind == "layer" else 4)
    x_hat = groups - groups.mean(-1, keepdims=True)
    x_hat /= np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    terms = gy * x_hat.reshape(x.shape)
    within(b.grad.data, gy.sum(0, dtype=np.longdouble), 1)
    within(w.grad.data, terms.sum(0), 2, abs(terms).sum(0))


def test_an_entry_that_is_named_many_times():
    table = mr.zeros(3, requires_grad=True)
    table[np.zeros(200_000, np.int64)].backward(mr.full((200_000,), 0.1))
    within(table.grad.data[0], np.longdouble(np.float32(0.1)) * 200_000, 1)


@pytest.mark.slow
def test_ties():
    x = mr.zeros(2**24 + 3, 1, requires_grad=True)
    x.amax(0).sum().backward()
    within(x.grad.data[0, 0], 1 / (2**24 + 3), 1)


# **** means ****


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_of_equal_numbers_is_that_number(dtype):
    for n in [*range(1, 200), 1001, KERNEL_FROM - 1, KERNEL_FROM + 1]:
        for number in (1, 0.1, 97.3, 1e-30, -3e7):
            x = mr.full((n,), number, dtype=dtype)
            assert x.mean().data == x.data[0], f"{n} times {number}"
    x = mr.full((41, 7, 3), 0.1, dtype=dtype)
    for dim in range(3):
        assert (x.mean(dim).data == x.data[0, 0, 0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_of_infinities_is_infinite(dtype):
    x = mr.tensor(np.array([[np.inf, 1, 2], [1, -np.inf, 2], [np.inf, -np.inf, 2]], dtype))
    np.testing.assert_equal(x.mean(1).data, np.array([np.inf, -np.inf, np.nan], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [97.3, 1e3, 0.1, 3e6])
def test_norms_of_equal_numbers_are_zero(number, dtype):
    for n in (2, 41, 49, 1000):
        x = mr.full((2, n), number, dtype=dtype)
        assert not F.layer_norm(x, n).data.any()
        assert not F.group_norm(x, 1).data.any()
        assert not x.var(1).data.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 100, 1e4])
def test_norms_of_numbers_far_from_zero(offset, dtype):
    """The error is one unit in the last place of x, over its deviation of 1."""
    x = (offset + numbers((60, 500), dtype)).astype(dtype)
    exact = x.astype(np.longdouble)
    exact = exact - exact.mean(1, keepdims=True)
    exact /= np.sqrt((exact**2).mean(1, keepdims=True) + np.longdouble(1e-5))
    unit = np.finfo(dtype).eps * (offset + 4)
    assert abs(F.layer_norm(mr.tensor(x), 500).data - exact).max() <= 8 * unit
    assert abs(F.group_norm(mr.tensor(x), 1).data - exact).max() <= 8 * unit
    within(mr.tensor(x).var(1, correction=0).data, x.astype(np.longdouble).var(1), 8)


# **** the deviation of equal numbers ****


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_deviation_of_equal_numbers_has_no_gradient(dtype):
    x = numbers((4, 41), dtype)
    x[1], x[3] = 97.3, 0
    t = mr.tensor(x, requires_grad=True)
    t.std(1).sum().backward()
    assert not t.grad.data[[1, 3]].any()
    exact = x.astype(np.float64)
    exact -= exact.mean(1, keepdims=True)
    for row in (0, 2):
        within(t.grad.data[row], exact[row] / (40 * x[row].astype(np.float64).std(ddof=1)), 8, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_standardising_equal_numbers_trains(dtype):
    x = mr.full((3, 7), 97.3, dtype=dtype, requires_grad=True)
    y = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
    (first,) = mr.grad((y * y + y).sum(), [x], create_graph=True)
    assert np.isfinite(first.data).all()
    (second,) = mr.grad((first * first).sum(), [x])
    assert np.isfinite(second.data).all()


@pytest.mark.parametrize("p", [1, 2, 3, math.inf])
def test_the_length_of_zeros_has_no_gradient(p):
    x = np.ones((3, 5), np.float32)
    x[1] = 0
    t = mr.tensor(x, requires_grad=True)
    (first,) = mr.grad(t.norm(p, 1).sum(), [t], create_graph=True)
    assert not first.data[1].any()
    assert np.isfinite(first.data).all()
    if 1 < p < math.inf:  # else the first is made of constants
        (second,) = mr.grad((first * first).sum(), [t])
        assert np.isfinite(second.data).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [1, 3, 16, 19])
def test_the_mean_of_large_windows(c, dtype):
    x = 1 + numbers((2, c, 224, 100), dtype)
    exact = x.astype(np.longdouble).mean((2, 3))
    within(mr.adaptive_avg_pool2d(mr.tensor(x), 1).data[:, :, 0, 0], exact, 4 * ULPS[dtype])
    for h, w in [(7, 7), (41, 1), (1, 49), (3, 5), (224, 100)]:
        for number in (1, 0.1, 97.3) if dtype == "float32" else (1, 1000):
            y = mr.avg_pool2d(mr.full((1, c, h, w), number, dtype=dtype), (h, w))
            assert (y.data == np.asarray(number, dtype)).all()
    x[1, 0, 5, 5] = np.inf
    assert mr.adaptive_avg_pool2d(mr.tensor(x), 1).data[1, 0, 0, 0] == np.inf
