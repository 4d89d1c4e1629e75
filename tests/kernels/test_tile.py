"""The register tile and the vector copy against NumPy."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from minires.kernels.tile import (
    ROWS,
    copy,
    lanes,
    pack_panels,
    panel_width,
    tile_outer_1,
    tile_outer_2,
    tile_product_1,
    tile_product_2,
)


@numba.njit
def _product_1(*args):
    tile_product_1(*args)


@numba.njit
def _product_2(*args):
    tile_product_2(*args)


@numba.njit
def _outer_1(*args):
    tile_outer_1(*args)


@numba.njit
def _outer_2(*args):
    tile_outer_2(*args)


@numba.njit
def _copy(*args):
    copy(*args)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("vectors", "tile"), [(1, _product_1), (2, _product_2)])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_product(dtype, vectors, tile, steps):
    rng = np.random.default_rng(0)
    width = vectors * lanes(dtype)
    a = rng.standard_normal((ROWS, steps + 2)).astype(dtype)
    b = rng.standard_normal((steps, width)).astype(dtype)
    c = np.full((ROWS + 2, width + 3), np.nan, dtype)
    flat = c.reshape(-1)
    tile(a.reshape(-1), 0, steps + 2, b.reshape(-1), 0, flat, width + 3, width + 3, steps)
    expected = a[:, :steps].astype("float64") @ b
    np.testing.assert_allclose(c[1 : ROWS + 1, :width], expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(c[0]).all()
    assert np.isnan(c[-1]).all()
    assert np.isnan(c[:, width:]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("vectors", "tile"), [(1, _outer_1), (2, _outer_2)])
def test_outer_adds_to_what_is_there(dtype, vectors, tile):
    rng = np.random.default_rng(0)
    width, steps = vectors * lanes(dtype), 5
    a = rng.standard_normal((steps, ROWS + 1)).astype(dtype)
    b = rng.standard_normal((steps, width)).astype(dtype)
    c = rng.standard_normal((ROWS, width)).astype(dtype)
    expected = c + a[:, 1:].T.astype("float64") @ b
    tile(a.reshape(-1), 1, ROWS + 1, b.reshape(-1), 0, c.reshape(-1), 0, width, steps)
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [0, 1, 3, 8, 16, 17, 48, 61])
def test_copy(dtype, count):
    source = np.arange(80, dtype=dtype)
    target = np.full(80, -1, dtype)
    _copy(target, 5, source, 9, count)
    np.testing.assert_array_equal(target[5 : 5 + count], source[9 : 9 + count])
    assert (target[:5] == -1).all()
    assert (target[5 + count :] == -1).all()


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 33, 70])
def test_panels_hold_every_column_once(columns):
    b = np.random.default_rng(0).standard_normal((2, 3, columns)).astype(np.float32)
    panels = pack_panels(b)
    assert panels.shape[3] == panel_width(columns, b.dtype)
    back = panels.transpose(0, 2, 1, 3).reshape(2, 3, -1)
    np.testing.assert_array_equal(back[:, :, :columns], b)
    assert (back[:, :, columns:] == 0).all()
