"""Operands written to memory: ``write`` gives what ``values`` defines."""

from __future__ import annotations

import numpy as np
import pytest

from minires.kernels.numba.cpu import lanes
from minires.kernels.numba.prologue import pixels_together, write
from minires.kernels.operand import GATED, GRADIENT, NORMALISED, PASSED, PLAIN, RECTIFIED, Operand


@pytest.mark.parametrize("kind", [PLAIN, NORMALISED, RECTIFIED, GRADIENT, GATED, PASSED])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 3, 5, 3), (2, 4, 4, 8), (3, 40, 40, 17)], ids=str
)
def test_write(shape, dtype, kind):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, *shape)).astype(dtype)
    source = Operand(x, kind, rng.standard_normal((5, shape[-1])).astype(dtype), y)
    out = np.full_like(x, np.nan)
    write(source, out)
    tolerance = 1e-5 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(out, source.values(), rtol=tolerance, atol=tolerance)


def test_write_of_an_array():
    x = np.arange(24, dtype=np.float32).reshape(2, 12)
    out = np.empty_like(x)
    write(Operand(x), out)
    np.testing.assert_array_equal(out, x)
    write(Operand(x[:0]), out[:0])


@pytest.mark.parametrize("c", [1, 3, 16, 17, 64, 100])
def test_pixels_are_taken_together_to_whole_vectors(c):
    width = lanes(np.float32)
    together = pixels_together(1 << 12, c, np.float32)
    assert together * c % width == 0
    assert together * c >= 4 * width
    assert (1 << 12) % together == 0
    assert pixels_together(1, c, np.float32) == 1
