"""Arithmetic and sums of large arrays against NumPy."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import minires as mr
from minires.kernels.elementwise import (
    ADD,
    BLOCK,
    MUL,
    SUB,
    arithmetic,
    sum_all,
    sum_rows,
)

DTYPES = ["float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (7,), (3, 5, 11), (BLOCK + 1,), (2, BLOCK)], ids=str)
def test_arithmetic(shape, dtype):
    x, y = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    x.flat[:1] = np.nan
    for kind, expected in [(ADD, operator.add), (SUB, operator.sub), (MUL, operator.mul)]:
        np.testing.assert_array_equal(arithmetic(kind, x, y), expected(x, y))
        result = arithmetic(kind, x, 0.7)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected(x, 0.7))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (4096, 16), (3001, 7), (300, 100)], ids=str)
def test_sums(shape, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    rows, total = sum_rows(x), sum_all(x)
    assert rows.dtype == total.dtype == dtype
    exact = x.astype(np.longdouble)
    atol = tolerance * np.abs(x).sum()
    np.testing.assert_allclose(rows, exact.sum(axis=0).astype(dtype), rtol=0, atol=atol)
    np.testing.assert_allclose(total, exact.sum().astype(dtype), rtol=0, atol=atol)


def test_sums_of_nothing():
    assert sum_all(np.empty((0, 3), np.float32)) == 0
    assert sum_rows(np.empty((0, 3), np.float32)).tolist() == [0, 0, 0]


def test_any_number_of_threads_gives_the_same_sums():
    x, limit, results = np.random.default_rng(0).standard_normal((50001, 3)), 1, []
    limit = mr.get_num_threads()
    try:
        for threads in range(1, min(limit, 3) + 1):
            mr.set_num_threads(threads)
            results.append((sum_all(x), *sum_rows(x)))
    finally:
        mr.set_num_threads(limit)
    assert all(result == results[0] for result in results)
