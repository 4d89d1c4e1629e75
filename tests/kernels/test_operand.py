"""Operands that are computed while they are read, against their definition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from minires.kernels.numba import source
from minires.kernels.numba.kernel import kernel
from minires.kernels.operand import GATED, GRADIENT, NORMALISED, PASSED, PLAIN, RECTIFIED, Operand

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
    source.read(x, y, k, kind, c, at, pixels, out, to)


@kernel
def _fill(task, x, y, k, kind, c, height, width, image, top, rows, left, columns, out, to):
    source.fill(
        x, y, k, kind, c, height, width, image, top, rows, left, columns, out, to
    )  # fmt: skip


@kernel
def _clear(task, x, at, size):
    source.clear(x, at, size)


def make(kind, shape, dtype, seed=0):
    """A source of this kind whose ReLU, if it has one, is closed for about half of the entries."""
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


@pytest.mark.parametrize("c", [3, 16])
def test_the_formulas_are_those_of_batch_norm(c):
    """The kinds against a batch norm and a ReLU, forward and backward, written out."""
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 50, c))
    weight, bias = rng.standard_normal((2, c))
    mean, inv_std = x.mean(axis=0), 1 / x.std(axis=0)
    x_hat = (x - mean) * inv_std
    z = x_hat * weight + bias
    gated = np.where(z > 0, g, 0)
    for kind, upstream in ((GRADIENT, g), (GATED, gated)):
        share = upstream.mean(axis=0)
        slope = (upstream * x_hat).mean(axis=0) * inv_std
        expected = weight * inv_std * (upstream - share - (x - mean) * slope)
        k = np.stack([mean, weight * inv_std, bias, share, slope])
        np.testing.assert_allclose(Operand(g, kind, k, x).values(), expected, atol=1e-12)
    k = np.stack([mean, weight * inv_std, bias, 0 * mean, 0 * mean])
    passed = Operand(g, PASSED, k, x).values()
    np.testing.assert_allclose(passed, weight * inv_std * gated, atol=1e-12)
    np.testing.assert_allclose(Operand(x, NORMALISED, k).values(), z, atol=1e-12)
    np.testing.assert_allclose(Operand(x, RECTIFIED, k).values(), np.maximum(z, 0), atol=1e-12)


@pytest.mark.parametrize("kind", [NORMALISED, RECTIFIED, GRADIENT, GATED, PASSED])
def test_nan_is_read_as_nan(kind):
    operand = make(kind, (7, 19), "float32")
    operand.x[3, ::2] = np.nan
    if operand.y is not None:  # where the gate is closed, what came is 0 whatever it was
        operand.coefficients[source.SHIFT] = 1e6
    out = np.empty((7, 19), np.float32)
    _read(1, *operand.arguments, 19, 0, 7, out, 0)
    assert np.isnan(out[3, ::2]).all()
    assert np.isnan(out).sum() == 10


def test_a_gradient_that_does_not_depend_on_y_is_not_spoiled_by_it():
    operand = make(PASSED, (7, 19), "float32")
    operand.y[3, ::2] = np.inf
    operand.coefficients[source.SCALE] = 1  # so that the gate is open there
    out = np.empty((7, 19), np.float32)
    _read(1, *operand.arguments, 19, 0, 7, out, 0)
    np.testing.assert_array_equal(out[3, ::2], operand.x[3, ::2])


@pytest.mark.parametrize("kind", [GATED, PASSED])
def test_nan_opens_the_gate(kind):
    operand = make(kind, (7, 19), "float32")
    operand.coefficients[source.SHIFT] = np.nan
    operand.coefficients[[source.SHARE, source.SLOPE]] = 0
    out = np.empty((7, 19), np.float32)
    _read(1, *operand.arguments, 19, 0, 7, out, 0)
    np.testing.assert_array_equal(out, operand.coefficients[source.SCALE] * operand.x)


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


def test_an_array_is_its_own_source():
    x = np.ones((1, 2, 2, 3))
    assert source.as_operand(x).values() is x
    operand = Operand(x)
    assert source.as_operand(operand) is operand
