"""Every operation on vectors against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from minires.kernels.numba.cpu import lanes
from minires.kernels.numba.kernel import kernel
from minires.kernels.numba.simd import (
    fma,
    lanes_of,
    load,
    relu,
    spread,
    store,
    times,
    times_plus,
    where_open,
    zeros,
)
from minires.kernels.numba.vector import INTERPRETED


@kernel
def _operations(task, x, y, z, out):
    width = lanes_of(x)
    a, b, c = load(x, 1), load(y, 0), load(z, 3)
    store(out, 0, a)
    store(out, width, a + b)
    store(out, 2 * width, a - b)
    store(out, 3 * width, a * b)
    store(out, 4 * width, fma(a, b, c))
    store(out, 5 * width, times(4, a))
    store(out, 6 * width, times_plus(-5, a, b))
    store(out, 7 * width, relu(a))
    store(out, 8 * width, where_open(a, b))
    store(out, 9 * width, spread(y, 2))
    store(out, 10 * width, zeros(x))


def results(x, y, z):
    """The eleven vectors above, and what follows them in memory."""
    width = lanes(x.dtype)
    out = np.full(11 * width + 1, 77, x.dtype)
    _operations(1, x, y, z, out)
    assert out[-1] == 77
    return out[:-1].reshape(11, width)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operations(dtype):
    width = lanes(dtype)
    x, y, z = np.random.default_rng(0).standard_normal((3, width + 3)).astype(dtype)
    a, b, c = x[1 : width + 1], y[:width], z[3:]
    expected = [a, a + b, a - b, a * b, a * b + c, 4 * a, b - 5 * a, np.maximum(a, 0)]
    expected += [np.where(b > 0, a, 0), np.full(width, y[2]), np.zeros(width)]
    np.testing.assert_allclose(results(x, y, z), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_infinity_and_zero(dtype):
    width = lanes(dtype)
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 1.0], dtype)
    for value in special:
        for chooser in special:
            x = np.full(width + 3, value, dtype)
            y = np.full(width + 3, chooser, dtype)
            with np.errstate(invalid="ignore"):
                found = results(x, y, y)
            with np.errstate(invalid="ignore"):
                np.testing.assert_array_equal(found[1], (x + y)[:width])
                np.testing.assert_array_equal(found[3], (x * y)[:width])
            np.testing.assert_array_equal(found[7], np.where(x <= 0, 0, x)[:width])
            np.testing.assert_array_equal(found[8], np.where(y <= 0, 0, x)[:width])


@pytest.mark.skipif(INTERPRETED, reason="NumPy has no multiply-add that rounds once")
@pytest.mark.parametrize(("dtype", "digits"), [("float32", 12), ("float64", 27)])
def test_fma_rounds_once(dtype, digits):
    size = lanes(dtype) + 3
    near_one = np.full(size, 1 + 2.0**-digits, dtype)
    minus_rounded_square = np.full(size, -(1 + 2.0 ** (1 - digits)), dtype)
    found = results(near_one, near_one, minus_rounded_square)
    np.testing.assert_array_equal(found[4], 2.0 ** (-2 * digits))
