"""Arithmetic of large arrays against NumPy."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from minires.kernels.numba.arithmetic import ADD, BLOCK, MUL, SUB, arithmetic

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
