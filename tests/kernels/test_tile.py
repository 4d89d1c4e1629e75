"""The register tiles against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from minires.kernels.numba.cpu import lanes
from minires.kernels.numba.kernel import kernel
from minires.kernels.numba.tile import (
    LOW_ROWS,
    OUTER_ROWS,
    ROWS,
    WINDOW_LINES,
    WINDOW_ROWS,
    outer_1,
    outer_2,
    outer_low,
    outer_window,
    product_1,
    product_2,
)


@kernel
def _product_1(task, a, starts, offsets, segments, run, b, bias, c, ends, c_at):
    product_1(a, starts, 2, offsets, segments, run, b, 3, bias, 1, c, ends, c_at)


@kernel
def _product_2(task, a, starts, offsets, segments, run, b, bias, c, ends, c_at):
    product_2(a, starts, 2, offsets, segments, run, b, 3, bias, 1, c, ends, c_at)


@kernel
def _outer_1(task, a, starts, count, offset, b, b_stride, c, c_stride):
    outer_1(a, starts, 2, count, offset, b, 3, b_stride, c, 1, c_stride)


@kernel
def _outer_2(task, a, starts, count, offset, b, b_stride, c, c_stride):
    outer_2(a, starts, 2, count, offset, b, 3, b_stride, c, 1, c_stride)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("vectors", "tile"), [(1, _product_1), (2, _product_2)])
@pytest.mark.parametrize(
    ("segments", "run"), [(0, 5), (1, 0), (1, 1), (1, 4), (3, 7), (2, 9)], ids=str
)
def test_product(dtype, vectors, tile, segments, run):
    rng = np.random.default_rng(0)
    width = vectors * lanes(dtype)
    a = rng.standard_normal(500).astype(dtype)
    starts = rng.integers(0, 200, ROWS + 2)
    offsets = rng.integers(0, 200, max(segments, 1))
    b = rng.standard_normal(3 + segments * run * width).astype(dtype)
    bias = rng.standard_normal(1 + width).astype(dtype)
    pitch = width + 3
    ends = rng.permutation(ROWS + 2) * pitch  # rows in any order
    c = np.full((ROWS + 2, pitch), np.nan, dtype)
    tile(1, a, starts, offsets, segments, run, b, bias, c, ends, 2)

    panel = b[3:].reshape(segments * run, width).astype("float64")
    expected = np.full(c.shape, np.nan)
    for r in range(2, ROWS + 2):
        parts = [a[starts[r] + o : starts[r] + o + run] for o in offsets[:segments]]
        left = np.concatenate(parts) if parts else np.empty(0)
        expected[ends[r] // pitch, 2 : width + 2] = bias[1:] + left.astype("float64") @ panel
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-5)  # and nothing else is written


@kernel
def _outer_low(task, a, starts, count, offset, b, b_stride, c, c_stride):
    outer_low(a, starts, 2, count, offset, b, 3, b_stride, c, 1, c_stride)


@kernel
def _outer_window(task, a, starts, count, offsets, b, b_stride, c, c_stride):
    outer_window(a, starts, 2, count, offsets, b, 3, b_stride, c, 1, c_stride)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("vectors", "lines", "high", "tile"),
    [
        (1, [9], OUTER_ROWS[1], _outer_1),
        (2, [9], OUTER_ROWS[2], _outer_2),
        (2, [9], LOW_ROWS, _outer_low),
        (1, [9, 40, 71][:WINDOW_LINES], WINDOW_ROWS, _outer_window),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_outer_adds_to_what_is_there(dtype, vectors, lines, high, tile, count):
    rng, rows = np.random.default_rng(0), high * len(lines)
    width = vectors * lanes(dtype)
    a = rng.standard_normal(300).astype(dtype)
    starts = rng.integers(0, 200, count + 2)
    pitch = width + 5
    b = rng.standard_normal(3 + count * pitch + width).astype(dtype)
    c = rng.standard_normal((rows + 1, width + 2)).astype(dtype)
    expected = c.reshape(-1).astype("float64")
    for p in range(count):
        parts = [a[starts[2 + p] + line :][:high] for line in lines]
        left = np.concatenate(parts).astype("float64")
        right = b[3 + p * pitch :][:width]
        for r in range(rows):
            expected[1 + r * (width + 2) :][:width] += left[r] * right
    offset = np.array(lines) if tile is _outer_window else lines[0]
    tile(1, a, starts, count, offset, b, pitch, c, width + 2)
    np.testing.assert_allclose(c.reshape(-1), expected, rtol=1e-4, atol=1e-5)


def test_nan_reaches_its_own_row_only():
    width = lanes("float32")
    a = np.ones(ROWS + 2, np.float32)
    a[4] = np.nan
    one = np.arange(ROWS + 2)
    c = np.zeros((ROWS + 2, width), np.float32)
    b, bias = np.ones(3 + width, np.float32), np.zeros(1 + width, np.float32)
    _product_1(1, a, one, np.zeros(1, np.int64), 1, 1, b, bias, c, one * width, 0)
    assert np.isnan(c).all(axis=1).tolist() == [r == 4 for r in range(ROWS + 2)]
