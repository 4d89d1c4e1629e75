"""Matrix products on a GPU: shapes, memory orders and batches; what goes to cuBLAS, and how."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from gpu import put
from harness import check_gradients, host, tensor

import minires as mr
from minires.kernels.cuda import matmul

SHAPES = [
    ((1, 1), (1, 1)),
    ((3, 5), (5, 2)),
    ((33, 17), (17, 31)),
    ((65, 40), (40, 66)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((7, 4), (3, 4, 2)),
    ((2, 600), (600, 3)),  # a long sum, in parts
    ((2, 3, 520), (520, 1)),
]
TOLERANCES = {"float32": {"rtol": 1e-4, "atol": 1e-5}, "float64": {"rtol": 1e-12, "atol": 1e-12}}


def operands(shapes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_products_are_numpys(shapes, dtype, conditions):
    x, w = operands(shapes, dtype)
    y = matmul.multiply(put(x), put(w))
    assert y.flags.c_contiguous
    np.testing.assert_allclose(y.get(), x @ w, **TOLERANCES[dtype])


@pytest.mark.parametrize("tile", [32, 64])
def test_either_tile(tile, conditions, monkeypatch):
    monkeypatch.setattr(matmul, "TILES", 1 if tile == 64 else 10**9)
    monkeypatch.setattr(matmul, "PARTS", 1)
    x, w = operands([(70, 35), (35, 67)], np.float32)
    np.testing.assert_allclose(matmul.multiply(put(x), put(w)).get(), x @ w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["CC", "CF", "FC", "FF", "reversed", "every second"])
def test_any_memory_order(order, on_gpu):
    x, w = operands([(18, 20), (20, 34)], np.float32)
    a, b = put(x), put(w)
    if order[0] == "F":
        a = put(x.T.copy()).T
    if order[1] == "F":
        b = put(w.T.copy()).T
    if order == "reversed":
        x, w, a, b = x[::-1], w[:, ::-1], a[::-1], b[:, ::-1]
    if order == "every second":
        x, w, a, b = x[::2, ::2], w[::2], a[::2, ::2], b[::2]
    np.testing.assert_allclose(matmul.multiply(a, b).get(), x @ w, rtol=1e-4, atol=1e-5)


def test_nothing_to_add_or_to_make(on_gpu):
    for shapes in (((3, 0), (0, 4)), ((0, 3), (3, 2)), ((2, 0, 3), (3, 2)), ((0, 2, 3), (3, 1))):
        x, w = operands(shapes, np.float32)
        np.testing.assert_array_equal(matmul.multiply(put(x), put(w)).get(), x @ w)


def test_infinities_and_nan_stay_in_their_rows(on_gpu):
    x, w = np.zeros((40, 20), np.float32), np.ones((20, 40), np.float32)
    x[3, 5], x[7, 2], w[19, 11] = np.inf, np.nan, -np.inf
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(matmul.multiply(put(x), put(w)).get(), x @ w)


def test_the_same_bits_for_parts_and_orders(on_gpu):
    x, w = operands([(5, 2000), (2000, 6)], np.float32)
    found = [matmul.multiply(put(x), put(w)).get() for _ in range(2)]
    np.testing.assert_array_equal(*found)


def test_linear_and_its_gradients(on_gpu):
    x, w, b = operands([(4, 3), (5, 3), (5,)], np.float64)
    y = mr.linear(tensor(x), tensor(w), tensor(b))
    np.testing.assert_allclose(host(y), x @ w.T + b, rtol=1e-12)
    check_gradients(mr.linear, [x, w, b])
    check_gradients(mr.matmul, operands([(2, 3, 4), (4, 2)], np.float64))


class _Blas(SimpleNamespace):
    """cuBLAS's math mode."""

    CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH = 0, 3


@pytest.mark.parametrize(("precision", "mode"), [("highest", 0), ("high", 3), ("medium", 3)])
def test_large_products_are_cublas_own(precision, mode, on_gpu, monkeypatch):
    """in the precision that was chosen, which is put back; float64 is never rounded."""
    import cupy

    now, seen = [7], []
    blas = _Blas(getMathMode=lambda _: now[0], setMathMode=lambda _, to: now.__setitem__(0, to))
    monkeypatch.setitem(vars(cupy.cuda), "cublas", blas)
    monkeypatch.setitem(vars(cupy.cuda), "get_cublas_handle", lambda: 5)
    monkeypatch.setattr(matmul, "LARGE", 10)
    product = cupy.ndarray.__matmul__

    def watched(x, w):
        seen.append(now[0])
        return product(x, w)

    monkeypatch.setattr(cupy.ndarray, "__matmul__", watched)
    mr.set_float32_matmul_precision(precision)
    try:
        for dtype in (np.float32, np.float64):
            x, w = operands([(3, 4), (4, 5)], dtype)
            np.testing.assert_allclose(matmul.multiply(put(x), put(w)).get(), x @ w, rtol=1e-5)
    finally:
        mr.set_float32_matmul_precision("highest")
    assert seen == [mode, 0]
    assert now == [7]
