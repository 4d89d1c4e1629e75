"""Which arrays the parallel functions take, and that they agree with NumPy."""

import numpy as np
import pytest

import minires as mr
from minires.ops.large import LARGE, arithmetic

SHAPE = (LARGE // (16 * 64), 16, 8, 8)  # as many entries as count as large


def images(dtype="float32", channels_last=False, seed=0):
    n, c, h, w = SHAPE
    shape = (n, h, w, c) if channels_last else SHAPE
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return x.transpose(0, 3, 1, 2) if channels_last else x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_arithmetic_of_large_arrays(dtype, channels_last):
    x, y = (images(dtype, channels_last, seed) for seed in (0, 1))
    for sign, expected in (("+", x + y), ("-", x - y), ("*", x * y)):
        result = arithmetic(sign, x, y)
        np.testing.assert_array_equal(result, expected)
        assert result.strides == x.strides
    np.testing.assert_array_equal(arithmetic("*", x, 0.5), x * np.asarray(0.5, dtype))


def test_what_is_left_to_numpy():
    x = images()
    for other in (x[:-1], x[::2], x.astype(np.int64), x.astype(complex), x.astype(np.float16)):
        assert arithmetic("+", other, other) is None
    for other in (images("float64"), images(channels_last=True), x[:1], x[::-1]):
        assert arithmetic("+", x, other) is None
    with mr.backend("numpy"):
        assert arithmetic("+", x, x) is None
