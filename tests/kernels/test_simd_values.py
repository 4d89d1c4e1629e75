"""Operations on vectors that the passes over memory use, and the same ones on plain numbers."""

from __future__ import annotations

import numpy as np
import pytest

from minires.kernels.numba.cpu import lanes
from minires.kernels.numba.kernel import kernel
from minires.kernels.numba.simd import (
    at_address,
    fma,
    lanes_of,
    load,
    nearest,
    power_of_two,
    relu,
    sqrt,
    store,
    store_int32,
    where_above,
    where_equal,
    where_open,
    whole,
)

DTYPES = ["float32", "float64"]


@kernel
def _vectors(task, x, y, out):
    width = lanes_of(x)
    a, b = load(x, 0), load(y, 0)
    store(out, 0, a / b)
    store(out, width, sqrt(a * a))
    store(out, 2 * width, nearest(a))
    store(out, 3 * width, power_of_two(nearest(a)))
    store(out, 4 * width, where_above(a, b, a, b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors(dtype):
    width = lanes(dtype)
    x, y = (8 * np.random.default_rng(0).standard_normal((2, width))).astype(dtype)
    out = np.empty((5, width), dtype)
    _vectors(1, x, y, out)
    expected = [x / y, abs(x), np.rint(x), 2 ** np.rint(x), np.maximum(x, y)]
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_above_means_above_or_nan(dtype):
    width = lanes(dtype)
    x, y = np.full(width, 1, dtype), np.full(width, 1, dtype)
    for value, limit, chosen in [(np.nan, 1, np.nan), (1, np.nan, np.nan), (2, 1, 2), (1, 2, 2)]:
        out = np.empty((5, width), dtype)
        x[:], y[:] = value, limit
        _vectors(1, x, y, out)
        np.testing.assert_array_equal(out[4], np.full(width, chosen))


@kernel
def _numbers(task, x, out):
    out[0] = fma(x[0], x[1], x[2])
    out[1] = relu(x[0])
    out[2] = relu(x[1])
    out[3] = where_open(x[0], x[1])
    out[4] = where_open(x[1], x[0])
    out[5] = sqrt(x[2])
    out[6] = where_above(x[0], x[1], x[0], x[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers(dtype):
    x, out = np.array([3, -2, 16], dtype), np.empty(7, dtype)
    _numbers(1, x, out)
    assert out.tolist() == [10, 3, 0, 0, -2, 4, 3]


@kernel
def _places(task, x, index, number, out):
    store_int32(index, 1, whole(x, number))
    store(out, 0, where_equal(load(x, 0), index, 0, number))
    index[0] = -7


@pytest.mark.parametrize("dtype", DTYPES)
def test_integers(dtype):
    width = lanes(dtype)
    x, out = np.arange(1, width + 1, dtype=dtype), np.empty(width, dtype)
    index = np.zeros(width + 2, np.int32)
    _places(1, x, index, 2**31 - 1, out)
    assert index.tolist() == [-7] + [2**31 - 1] * width + [0]
    assert out.tolist() == [0, *range(2, width + 1)]


@kernel
def _through_addresses(task, table, size, like):
    x, y = at_address(table[2 * task], size, like), at_address(table[2 * task + 1], size, like)
    for i in range(size):
        y[i] = 2 * x[i]


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_by_their_addresses(dtype):
    arrays = [np.arange(5, dtype=dtype) + k for k in range(4)]
    table = np.array([a.ctypes.data for a in arrays])
    _through_addresses(2, table, 5, np.empty(1, dtype))
    np.testing.assert_array_equal(arrays[1], 2 * arrays[0])
    np.testing.assert_array_equal(arrays[3], 2 * arrays[2])
