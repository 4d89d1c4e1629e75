"""The kernels of batch norm with everything that can be fused into them, against the reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import minires as mr
from minires.kernels.epilogue import Epilogue
from minires.kernels.operand import NORMALISED, Operand
from minires.ops.batch_norm import kernel_numba, kernel_numpy

SHAPES = [(2, 1), (3, 3), (7, 16), (64, 3), (96, 8), (33, 17), (50, 64), (5000, 5), (1300, 40)]
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


class Given:
    """Rows, parameters and statistics of one shape."""

    def __init__(self, shape, dtype, seed=0):
        rng = np.random.default_rng(seed)
        self.x, self.gy, self.other = rng.standard_normal((3, *shape)).astype(dtype)
        self.x += 2
        self.w, self.b = rng.standard_normal((2, shape[1])).astype(dtype)
        self.mean, self.var = np.empty((2, shape[1]), dtype)
        kernel_numpy.batch_norm_statistics(self.x, self.mean, self.var)
        self.inv_std = 1 / np.sqrt(self.var + np.asarray(1e-5, dtype))
        scale, none = self.w * self.inv_std, np.zeros_like(self.b)
        self.coefficients = np.array([self.mean, scale, self.b, none, none])
        self.y = np.empty_like(self.x)
        given = self.x, self.w, self.b, self.mean, self.inv_std
        kernel_numba.batch_norm_fwd(*given, self.y, Epilogue(relu=True))


def both(name, shapes, dtype, *args, **options):
    """The outputs of the Numba kernel and of the reference; ``masked=True`` asks for that one."""
    sides = []
    for module in (kernel_numba, kernel_numpy):
        outputs = [np.full(shape, np.nan, dtype) for shape in shapes]
        if options.get("masked") is not None:
            options["masked"] = np.full_like(args[0], np.nan)
        getattr(module, name)(*args, *outputs, **options)
        sides.append((*outputs, options.get("masked")))
    return sides


def check(fast, reference, dtype, scale=1.0):
    np.testing.assert_allclose(fast, reference, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_statistics(shape, dtype):
    x = Given(shape, dtype).x
    fast, reference = both("batch_norm_statistics", [shape[1]] * 2, dtype, x)
    check(fast[0], reference[0], dtype, 4)
    check(fast[1], reference[1], dtype, 4)


def test_statistics_of_large_offsets_keep_digits():
    x = (np.random.default_rng(0).standard_normal((4096, 5)) + 1000).astype(np.float32)
    mean, var = np.empty((2, 5), np.float32)
    kernel_numba.batch_norm_statistics(x, mean, var)
    np.testing.assert_allclose(var, x.astype(np.float64).var(axis=0), rtol=1e-4)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_coefficients_and_running_statistics(shape, dtype, strided):
    g, c = Given(shape, dtype), shape[1]
    results = []
    for module in (kernel_numba, kernel_numpy):
        memory = np.random.default_rng(1).standard_normal((2, c, 2)).astype(dtype) + 3
        followers = [a[:, 0] if strided else a[:, 0].copy() for a in memory]
        outputs = [np.full(size, np.nan, dtype) for size in ((2, c), c, (5, c))]
        count = np.array(6)
        running = (*followers, 0.3, shape[0] / (shape[0] - 1), count)
        given = g.mean, g.var, g.w, g.b, 1e-5
        module.batch_norm_affine(*given, *outputs, running)
        assert count == 7
        results.append([*outputs, *followers])
    for fast, reference in zip(*results):
        np.testing.assert_allclose(fast, reference, rtol=4 * TOLERANCE[dtype])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_coefficients_of_the_gradient(shape, dtype):
    g = Given(shape, dtype)
    sides = []
    for module in (kernel_numba, kernel_numpy):
        slopes, *sums = (np.full(size, np.nan, dtype) for size in ((5, shape[1]), *[shape[1]] * 2))
        module.batch_norm_bwd_affine(
            g.gy, g.x, g.mean, g.inv_std, *sums, forward=g.coefficients, slopes=slopes
        )
        sides.append(slopes)
    np.testing.assert_array_equal(sides[0][:3], g.coefficients[:3])
    check(*sides, dtype, 30)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("residual", ["none", "array", "normalised"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape, dtype, residual, rectify):
    g = Given(shape, dtype)
    others = {"none": None, "array": g.other}
    others["normalised"] = Operand(g.other, NORMALISED, g.coefficients)
    options = {"epilogue": Epilogue(others[residual], rectify)}
    given = g.x, g.w, g.b, g.mean, g.inv_std
    fast, reference = both("batch_norm_fwd", [shape], dtype, *given, **options)
    check(fast[0], reference[0], dtype, 10 * max(1, np.abs(g.coefficients[1]).max()))


def test_forward_keeps_nan_and_infinity(dtype):
    g = Given((40, 20), dtype)
    g.x[3, 2], g.x[4, 17], g.x[5, 19] = np.nan, np.inf, -np.inf
    given = g.x, abs(g.w), g.b, g.mean, g.inv_std
    y = both("batch_norm_fwd", [(40, 20)], dtype, *given, epilogue=Epilogue(relu=True))[0][0]
    assert np.isnan(y[3, 2])
    assert y[4, 17] == np.inf
    assert y[5, 19] == 0
    assert np.isfinite(y).sum() == y.size - 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_pending_shortcut_gives_the_bits_of_a_written_one(shape, dtype):
    g = Given(shape, dtype)
    written, y, fused = np.empty_like(g.x), np.empty_like(g.x), np.empty_like(g.x)
    given = g.x, g.w, g.b, g.mean, g.inv_std
    kernel_numba.batch_norm_fwd(g.other, *given[1:], written)
    kernel_numba.batch_norm_fwd(*given, y, Epilogue(written))
    kernel_numba.batch_norm_fwd(
        *given, fused, Epilogue(Operand(g.other, NORMALISED, g.coefficients))
    )
    np.testing.assert_array_equal(y, fused)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_of_the_backward_pass(shape, dtype):
    g = Given(shape, dtype)
    given = g.gy, g.x, g.mean, g.inv_std
    scale = 10 * np.sqrt(shape[0])
    for second, gate, keep in itertools.product((None, g.other), ("none", "y", "x"), (None, True)):
        options = {"second": second, "masked": keep, "gate": g.y if gate == "y" else None}
        options["coefficients"] = g.coefficients if gate == "x" else None
        fast, reference = both("batch_norm_bwd_affine", [shape[1]] * 2, dtype, *given, **options)
        check(fast[0], reference[0], dtype, scale)
        check(fast[1], reference[1], dtype, scale)
        if keep:
            np.testing.assert_array_equal(fast[2], reference[2])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_recomputed_gate_is_shut_where_the_output_was_zero(shape, dtype):
    g = Given(shape, dtype)
    by_output, by_input = np.empty_like(g.x), np.empty_like(g.x)
    sums = np.empty((2, shape[1]), dtype)
    given = g.gy, g.x, g.mean, g.inv_std, *sums
    kernel_numba.batch_norm_bwd_affine(*given, gate=g.y, masked=by_output)
    kernel_numba.batch_norm_bwd_affine(*given, coefficients=g.coefficients, masked=by_input)
    np.testing.assert_array_equal(by_output, by_input)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_input_gradient(shape, dtype, batch):
    g = Given(shape, dtype)
    given = g.gy, g.x, g.mean, g.inv_std
    gw, gb, _ = both("batch_norm_bwd_affine", [shape[1]] * 2, dtype, *given)[1]
    given = g.gy, g.x, g.w, g.mean, g.inv_std, gw, gb, batch
    fast, reference = both("batch_norm_bwd_x", [shape], dtype, *given)
    check(fast[0], reference[0], dtype, 10 * np.abs(g.coefficients[1]).max())


@pytest.mark.parametrize("shape", [(33, 17), (5000, 5), (4096, 16), (700, 64)], ids=str)
def test_the_same_bits_for_any_number_of_threads(shape):
    g, limit, results = Given(shape, "float32"), mr.get_num_threads(), []
    try:
        for threads in range(1, min(limit, 3) + 1):
            mr.set_num_threads(threads)
            mean, var, gw, gb = np.empty((4, shape[1]), np.float32)
            y, gx = np.empty((2, *shape), np.float32)
            kernel_numba.batch_norm_statistics(g.x, mean, var)
            kernel_numba.batch_norm_fwd(g.x, g.w, g.b, mean, g.inv_std, y, Epilogue(relu=True))
            kernel_numba.batch_norm_bwd_affine(g.gy, g.x, mean, g.inv_std, gw, gb, gate=y)
            kernel_numba.batch_norm_bwd_x(g.gy, g.x, g.w, mean, g.inv_std, gw, gb, True, gx)
            results.append((mean, var, y, gw, gb, gx))
    finally:
        mr.set_num_threads(limit)
    for result in results[1:]:
        for a, b in zip(results[0], result):
            np.testing.assert_array_equal(a, b)
