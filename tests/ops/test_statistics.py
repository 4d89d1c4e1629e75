"""Batch statistics of values far from zero, and their gradients, against long doubles.

An error is counted in units: what the resolution of x makes of y, eps * |x| / deviation.
"""

from __future__ import annotations

import numpy as np
import pytest
from harness import host, ones, place, tensor, zeros

import minires as mr
from minires import nn
from minires.nn import functional as F

DTYPES = ["float32", "float64"]
SHAPES = [(64, 16, 16, 16), (64, 3, 15, 15), (64, 1, 15, 15), (7, 19, 15, 15), (300, 70), (2, 5)]


pytestmark = pytest.mark.usefixtures("anywhere")


def numbers(shape, dtype, offset=0.0, seed=0):
    return (offset + np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def exact(x, eps=1e-5):
    """x normalised, mean, variance and inv_std, in long doubles."""
    x = x.astype(np.longdouble)
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axes, keepdims=True)
    inv_std = 1 / np.sqrt(var + np.longdouble(eps))
    return (x - mean) * inv_std, mean.ravel(), var.ravel(), inv_std


def normalised(x):
    c, dtype = x.shape[1], x.dtype
    mean, var = zeros(c, dtype=dtype), zeros(c, dtype=dtype)
    y = mr.ops.batch_norm(tensor(x), mean, var, training=True, momentum=1.0)
    return host(y), host(mean), host(var)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [97.3, 0.1, 1e3, -3e6, 1e37])
@pytest.mark.parametrize("shape", [(128, 16, 8, 8), *SHAPES], ids=str)
def test_a_constant_channel_is_zero(shape, number, dtype):
    x = np.full(shape, number, dtype)
    y, mean, var = normalised(x)
    assert (mean == x.flat[0]).all()
    assert not var.any()
    assert not y.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 100, 1e4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_far_from_zero(shape, offset, dtype):
    x = numbers(shape, dtype, offset)
    y, mean, var = normalised(x)
    expected, exact_mean, exact_var, _ = exact(x)
    eps, n = np.finfo(dtype).eps, x.size // x.shape[1]
    unit = eps * np.abs(x).max() / np.sqrt(exact_var.min())
    assert abs(y - expected).max() <= 3 * unit
    assert (abs(mean - exact_mean) <= eps * np.abs(x).max()).all()
    assert (abs(var / (exact_var * n / (n - 1)) - 1) <= 8 * eps + unit / 8).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("c_out", [16, 19])
def test_statistics_of_a_convolution(c_out, k, dtype):
    """Those that are taken on the way out are those of the result."""
    x, w = numbers((16, 4, 16, 16), dtype), 0.1 * numbers((c_out, 4, k, k), dtype, seed=1)
    for offset in (97.3, 1e4):
        for scale in (0, 1):
            bias = mr.full((c_out,), offset, dtype=dtype).to(place())
            z = F.conv2d(tensor(scale * x), tensor(w), bias, padding=k // 2)
            y = (
                nn.BatchNorm2d(c_out).to(dtype).to(place())(z)
                if dtype == "float64"
                else nn.BatchNorm2d(c_out).to(place())(z)
            )
            if scale:
                expected, _, var, _ = exact(host(z))
                unit = np.finfo(dtype).eps * offset / np.sqrt(var.min())
                assert abs(host(y) - expected).max() <= 3 * unit
            else:
                assert not host(y).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1000])
def test_what_is_not_finite_stays_in_its_channel(place, value):
    x = numbers((16, 19, 9, 9), "float32")
    x.transpose(1, 0, 2, 3)[3].flat[place] = value
    _, mean, var = normalised(x)
    strange = [c == 3 for c in range(19)]
    np.testing.assert_equal(mean[3], np.float32(value))
    assert (~np.isfinite(mean)).tolist() == strange
    assert np.isnan(var).tolist() == strange


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_gradients_are_sums_without_loss(shape, dtype):
    x, gy = numbers(shape, dtype, 100), 0.1 + 0.01 * numbers(shape, dtype, seed=1)
    c = x.shape[1]
    t = tensor(x, requires_grad=True)
    w, b = (f(c, dtype=dtype, requires_grad=True) for f in (ones, zeros))
    mr.ops.batch_norm(t, None, None, w, b, training=True).backward(tensor(gy))
    x_hat, _, _, inv_std = exact(x)
    axes, eps = (0, *range(2, x.ndim)), np.finfo(dtype).eps
    terms = gy * x_hat
    gb, gw = gy.sum(axes, dtype=np.longdouble), terms.sum(axes)
    assert (abs(host(b.grad) - gb) <= (1 if dtype == "float32" else 16) * eps * abs(gb)).all()
    unit = eps * 104  # of x_hat
    assert (abs(host(w.grad) - gw) <= 2 * unit * abs(gy).sum(axes)).all()
    shaped = [a.reshape(inv_std.shape) / (x.size // c) for a in (gb, gw)]
    gx = inv_std * (gy - shaped[0] - x_hat * shaped[1])
    assert abs(host(t.grad) - gx).max() <= 16 * unit * abs(gy).max()
