"""Means and variances from blocks, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from minires.kernels.numba.kernel import kernel
from minires.kernels.numba.statistics import block_statistics, combine


@kernel
def _blocks(task, y, size, pixels, c, inverses, moments):
    begin = task * size
    count = min(size, pixels - begin)
    block_statistics(y, begin * c, count, c, inverses, moments, task * 2 * c)


def statistics(y, size):
    """Mean and variance of each column of y (pixels, c), from blocks of ``size`` rows."""
    pixels, c = y.shape
    full, rest = divmod(pixels, size)
    sizes = [size] * full
    moments = np.full((full + (rest > 0), 2, c), np.nan, y.dtype)
    _blocks(full, y, size, pixels, c, np.array([1 / size], y.dtype), moments)
    if rest:
        sizes.append(rest)
        tail, last = y[full * size :].copy(), np.empty((1, 2, c), y.dtype)
        _blocks(1, tail, rest, rest, c, np.array([1 / rest], y.dtype), last)
        moments[-1] = last[0]
    mean, var = np.empty((2, c), y.dtype)
    combine(moments, np.array(sizes), mean, var)
    return mean, var


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("c", [1, 3, 16, 19, 40])
@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_blocks_of_any_size_give_the_whole(dtype, c, size):
    y = np.random.default_rng(0).standard_normal((100, c)).astype(dtype)
    mean, var = statistics(y, size)
    exact = y.astype("float64")
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-13}
    np.testing.assert_allclose(mean, exact.mean(axis=0), **{"atol": 1e-13, **tolerance})
    np.testing.assert_allclose(var, exact.var(axis=0), **tolerance)


def test_a_large_mean_costs_no_digits():
    """With a mean of 1e4, E[x²] - E[x]² in float32 would have no digit right."""
    rng = np.random.default_rng(0)
    y = (1e4 + rng.standard_normal((4096, 19))).astype(np.float32)
    mean, var = statistics(y, 256)
    exact = y.astype("float64")
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var(axis=0), rtol=1e-3)
    naive = (y * y).mean(axis=0) - y.mean(axis=0) ** 2
    assert np.abs(naive - exact.var(axis=0)).max() > 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_channel(value):
    y = np.random.default_rng(0).standard_normal((40, 19)).astype(np.float32)
    y[7, 2] = y[8, 17] = value
    with np.errstate(invalid="ignore"):
        mean, var = statistics(y, 10)
    strange = [c in (2, 17) for c in range(19)]
    assert (~np.isfinite(mean)).tolist() == strange
    assert np.isnan(var).tolist() == strange


def test_a_constant_has_no_variance():
    mean, var = statistics(np.full((96, 17), 0.1, np.float32), 32)
    np.testing.assert_allclose(mean, 0.1, rtol=1e-6)
    np.testing.assert_allclose(var, 0, atol=1e-14)
