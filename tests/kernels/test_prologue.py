"""Operands that kernels read or write to memory, against their definition, ``Operand.values``."""

from __future__ import annotations

import numpy as np
import pytest

from minires.kernels.numba import prologue
from minires.kernels.numba.cpu import lanes
from minires.kernels.numba.kernel import kernel
from minires.kernels.operand import (
    GATED,
    GRADIENT,
    NORMALISED,
    PASSED,
    PLAIN,
    RECTIFIED,
    SCALE,
    SHARE,
    SHIFT,
    SLOPE,
    Operand,
)

KINDS = {
    "plain": PLAIN,
    "normalised": NORMALISED,
    "rectified": RECTIFIED,
    "gradient": GRADIENT,
    "gated": GATED,
    "passed": PASSED,
}


@kernel
def _read(task, x, y, k, kind, c, at, pixels, out, to):
    prologue.read(x, y, k, kind, c, at, pixels, out, to)


@kernel
def _fill(task, x, y, k, kind, c, height, width, image, top, rows, left, columns, out, to):
    prologue.fill(
        x, y, k, kind, c, height, width, image, top, rows, left, columns, out, to
    )  # fmt: skip


@kernel
def _clear(task, x, at, size):
    prologue.clear(x, at, size)


def make(kind, shape, dtype, seed=0):
    """An operand of this kind; its ReLU, if any, is closed for about half of the entries."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, *shape)).astype(dtype)
    coefficients = rng.standard_normal((5, shape[-1])).astype(dtype)
    if kind == PLAIN:
        return Operand(x)
    return Operand(x, kind, coefficients, y if kind >= GRADIENT else None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("c", [1, 3, 8, 16, 19, 35])
def test_read(dtype, kind, c):
    operand = make(kind, (2, 3, 5, c), dtype)
    out = np.full(30 * c + 4, 77, dtype)
    _read(1, *operand.arguments, c, 4 * c, 20, out, 3)
    expected = operand.values().reshape(-1)[4 * c : 24 * c]
    np.testing.assert_allclose(out[3 : 20 * c + 3], expected, rtol=1e-5, atol=1e-5)
    assert (out[:3] == 77).all()
    assert (out[20 * c + 3 :] == 77).all()
    if kind == RECTIFIED:
        assert (expected == 0).any()
        assert (expected > 0).any()


@pytest.mark.parametrize("kind", [NORMALISED, RECTIFIED, GRADIENT, GATED, PASSED])
def test_nan_is_read_as_nan(kind):
    operand = make(kind, (7, 19), "float32")
    operand.x[3, ::2] = np.nan
    if operand.y is not None:  # where the gate is closed, what came is 0 whatever it was
        operand.coefficients[SHIFT] = 1e6
    out = np.empty((7, 19), np.float32)
    _read(1, *operand.arguments, 19, 0, 7, out, 0)
    assert np.isnan(out[3, ::2]).all()
    assert np.isnan(out).sum() == 10


def test_a_gradient_that_does_not_depend_on_y_is_not_spoiled_by_it():
    operand = make(PASSED, (7, 19), "float32")
    operand.y[3, ::2] = np.inf
    operand.coefficients[SCALE] = 1  # so that the gate is open there
    out = np.empty((7, 19), np.float32)
    _read(1, *operand.arguments, 19, 0, 7, out, 0)
    np.testing.assert_array_equal(out[3, ::2], operand.x[3, ::2])


@pytest.mark.parametrize("kind", [GATED, PASSED])
def test_nan_opens_the_gate(kind):
    operand = make(kind, (7, 19), "float32")
    operand.coefficients[SHIFT] = np.nan
    operand.coefficients[[SHARE, SLOPE]] = 0
    out = np.empty((7, 19), np.float32)
    _read(1, *operand.arguments, 19, 0, 7, out, 0)
    np.testing.assert_array_equal(out, operand.coefficients[SCALE] * operand.x)


WINDOWS = {
    "inside": (1, 2, 1, 3),
    "around": (-2, 9, -1, 8),
    "above left": (-3, 4, -2, 3),
    "below right": (3, 4, 4, 5),
    "all above": (-4, 3, 0, 6),
    "all right": (0, 3, 7, 2),
    "all left": (0, 3, -5, 4),
}


@pytest.mark.parametrize("kind", [PLAIN, RECTIFIED])
@pytest.mark.parametrize("c", [3, 16, 17])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_fill_surrounds_images_with_zeros(kind, c, window):
    top, rows, left, columns = window
    operand = make(kind, (2, 5, 6, c), "float32")
    out = np.full(rows * columns * c + 5, 77, np.float32)
    _fill(1, *operand.arguments, c, 5, 6, 1, *window, out, 2)
    padded = np.pad(operand.values()[1], ((10, 10), (10, 10), (0, 0)))
    expected = padded[10 + top :][:rows, 10 + left :][:, :columns]
    found = out[2:-3].reshape(rows, columns, c)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert (out[:2] == 77).all()
    assert (out[-3:] == 77).all()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 40])
def test_clear(size):
    x = np.ones(50, np.float32)
    _clear(1, x, 5, size)
    assert x.tolist() == [1] * 5 + [0] * size + [1] * (45 - size)


@pytest.mark.parametrize("kind", [PLAIN, NORMALISED, RECTIFIED, GRADIENT, GATED, PASSED])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 3, 5, 3), (2, 4, 4, 8), (3, 40, 40, 17)], ids=str
)
def test_write(shape, dtype, kind):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, *shape)).astype(dtype)
    operand = Operand(x, kind, rng.standard_normal((5, shape[-1])).astype(dtype), y)
    out = np.full_like(x, np.nan)
    prologue.write(operand, out)
    tolerance = 1e-5 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(out, operand.values(), rtol=tolerance, atol=tolerance)


def test_write_of_an_array():
    x = np.arange(24, dtype=np.float32).reshape(2, 12)
    out = np.empty_like(x)
    prologue.write(Operand(x), out)
    np.testing.assert_array_equal(out, x)
    prologue.write(Operand(x[:0]), out[:0])


@pytest.mark.parametrize("c", [1, 3, 16, 17, 64, 100])
def test_pixels_are_taken_together_to_whole_vectors(c):
    width = lanes(np.float32)
    together = prologue.pixels_together(1 << 12, c, np.float32)
    assert together * c % width == 0
    assert together * c >= 4 * width
    assert (1 << 12) % together == 0
    assert prologue.pixels_together(1, c, np.float32) == 1
