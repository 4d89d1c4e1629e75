"""Winograd's convolution against the reference in float64, both schedules, and its matrices."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires.kernels.epilogue import Epilogue
from minires.kernels.numba.compiler import config
from minires.kernels.numba.cpu import LANES
from minires.kernels.operand import GATED, GRADIENT, RECTIFIED, Operand
from minires.kernels.packed import PackedWeights
from minires.ops.conv2d import kernel_numpy, numba_winograd_weight
from minires.ops.conv2d import numba_winograd as winograd
from minires.ops.conv2d.numba_winograd_tile import G
from minires.ops.conv2d.op import Conv2dGeometry

# Register tiles compute some rows that nobody reads, from memory that nobody wrote; interpreted
# kernels warn of what they find there.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning") if config.DISABLE_JIT else []

L = LANES
NARROW, WIDE = (2**62, 2**62), (0, 0)  # bounds of c_in * c_out that make every layer the one

# n, c_in, c_out, h, w, padding
CASES = [
    (1, L, L, 4, 4, 1),  # one tile
    (2, L, 2 * L, 9, 7, 1),  # partial tiles both ways
    (3, 2 * L, L, 5, 13, 0),
    (2, 3 * L, 2 * L, 3, 3, 2),  # padding as wide as it may be
    (5, L, 3 * L, 6, 6, (0, 2)),
    (4, L, L, 1, 1, 1),  # one pixel
    (1, 2 * L, 2 * L, 3, 40, (2, 1)),  # one image, a long row of tiles
    (33, L, L, 5, 4, 1),  # blocks that span images, and a last one that is short
]


@pytest.fixture(params=["narrow", "wide"], autouse=True)
def schedule(request, monkeypatch):
    bounds = NARROW if request.param == "narrow" else WIDE
    monkeypatch.setattr(winograd, "WIDE", bounds[0])
    monkeypatch.setattr(numba_winograd_weight, "WIDE", bounds[1])
    monkeypatch.setattr(winograd, "CHUNK", 36 * 8 * L * 4)  # so that a batch is several chunks
    return request.param


def problem(n, c_in, c_out, h, w, padding, seed=0):
    rng = np.random.default_rng(seed)
    g = Conv2dGeometry.from_shapes((n, c_in, h, w), (c_out, c_in, 3, 3), 1, padding, 1, 1)
    x = rng.standard_normal((n, h, w, c_in))
    weights = rng.standard_normal((c_out, c_in, 3, 3))
    gy = rng.standard_normal((n, g.h_out, g.w_out, c_out))
    return g, x, weights, gy, rng


def float32(*arrays):
    return [np.asarray(a, np.float32) for a in arrays]


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def near(value, reference, tolerance=1e-5):
    """The error, as a share of the largest value, is that of float32."""
    assert value.dtype == np.float32
    error = np.abs(value - reference).max() / np.abs(reference).max()
    assert error < tolerance, f"off by {error:.1e} of the largest value"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case):
    g, x, w, gy, rng = problem(*case)
    b = rng.standard_normal(g.c_out)
    y, reference = poisoned(gy.shape), np.empty(gy.shape)
    kernel_numpy.conv2d_fwd(x, PackedWeights(w, b), reference, g)
    x_, w_, b_ = float32(x, w, b)
    winograd.conv2d_fwd(x_, PackedWeights(w_, b_), y, g)
    near(y, reference)
    kernel_numpy.conv2d_fwd(x, w, reference, g)
    winograd.conv2d_fwd(*float32(x, w), y, g)
    near(y, reference)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_residual_relu_and_statistics(case):
    g, x, w, gy, rng = problem(*case)
    residual = rng.standard_normal(gy.shape)
    y, reference = poisoned(gy.shape), np.empty(gy.shape)
    kernel_numpy.conv2d_fwd(x, w, reference, g)
    reference = np.maximum(reference + residual, 0)
    mean, var = poisoned(g.c_out), poisoned(g.c_out)
    x, w, residual = float32(x, w, residual)
    winograd.conv2d_fwd(x, w, y, g, Epilogue(residual, True, (mean, var)))
    near(y, reference, 2e-5)
    near(mean, y.astype(np.float64).mean(axis=(0, 1, 2)), 1e-6)
    near(var, y.astype(np.float64).var(axis=(0, 1, 2)) + 1e-30, 1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case):
    g, x, w, gy, _ = problem(*case)
    gx, gw = poisoned(x.shape), poisoned(w.shape)
    gx_reference, gw_reference = np.empty(x.shape), np.empty(w.shape)
    kernel_numpy.conv2d_bwd_input(gy, w, gx_reference, g)
    kernel_numpy.conv2d_bwd_weight(gy, x, gw_reference, g)
    x, w, gy = float32(x, w, gy)
    winograd.conv2d_bwd_input(gy, w, gx, g)
    winograd.conv2d_bwd_weight(gy, x, gw, g)
    near(gx, gx_reference)
    near(gw, gw_reference)


def test_weights_of_any_strides():
    g, x, w, gy, _ = problem(2, L, 2 * L, 6, 6, 1)
    reference = np.empty(gy.shape)
    kernel_numpy.conv2d_fwd(x, w, reference, g)
    x, gy = float32(x, gy)
    turned = np.asfortranarray(w.astype(np.float32))
    y = poisoned(gy.shape)
    winograd.conv2d_fwd(x, turned, y, g)
    near(y, reference)
    gw, plain = np.asfortranarray(poisoned(w.shape)), poisoned(w.shape)
    winograd.conv2d_bwd_weight(gy, x, gw, g)
    winograd.conv2d_bwd_weight(gy, x, plain, g)
    np.testing.assert_array_equal(gw, plain)


def test_sources():
    g, x, w, gy, rng = problem(3, L, 2 * L, 7, 9, 1)
    x, w, gy = float32(x, w, gy)
    saved = rng.standard_normal(gy.shape).astype(np.float32)

    def coefficients(c):
        return rng.uniform(0.5, 1.5, (5, c)).astype(np.float32)

    source = Operand(x, RECTIFIED, coefficients(g.c_in))
    y, reference = poisoned(gy.shape), np.empty(gy.shape)
    winograd.conv2d_fwd(source, w, y, g)
    kernel_numpy.conv2d_fwd(source.values().astype(np.float64), w, reference, g)
    near(y, reference)
    for kind in (GRADIENT, GATED):
        upstream = Operand(gy, kind, coefficients(g.c_out), saved)
        gx, gw = poisoned(x.shape), poisoned(w.shape)
        gx_reference, gw_reference = np.empty(x.shape), np.empty(w.shape)
        winograd.conv2d_bwd_input(upstream, w, gx, g)
        winograd.conv2d_bwd_weight(upstream, source, gw, g)
        values = upstream.values().astype(np.float64)
        kernel_numpy.conv2d_bwd_input(values, w, gx_reference, g)
        kernel_numpy.conv2d_bwd_weight(values, source.values(), gw_reference, g)
        near(gx, gx_reference)
        near(gw, gw_reference)


def everything(case):
    g, x, w, gy, _ = problem(*case)
    x, w, gy = float32(x, w, gy)
    y, gx, gw = poisoned(gy.shape), poisoned(x.shape), poisoned(w.shape)
    statistics = poisoned(g.c_out), poisoned(g.c_out)
    winograd.conv2d_fwd(x, w, y, g, Epilogue(statistics=statistics))
    winograd.conv2d_bwd_input(gy, w, gx, g)
    winograd.conv2d_bwd_weight(gy, x, gw, g)
    return y, *statistics, gx, gw


@pytest.mark.skipif(config.DISABLE_JIT, reason="interpreted kernels have one thread")
def test_same_bits_for_any_number_of_threads():
    threads = mr.get_num_threads()
    results = []
    try:
        for n in range(1, min(3, config.NUMBA_NUM_THREADS) + 1):
            mr.set_num_threads(n)
            results.append([a.copy() for a in everything((9, 2 * L, 2 * L, 7, 6, 1))])
    finally:
        mr.set_num_threads(threads)
    for other in results[1:]:
        for first, second in zip(results[0], other):
            np.testing.assert_array_equal(first, second)


def test_both_schedules_give_the_same_bits(monkeypatch):
    outputs = []
    for bounds in (NARROW, WIDE):
        monkeypatch.setattr(winograd, "WIDE", bounds[0])
        outputs.append([a.copy() for a in everything((5, 2 * L, L, 7, 6, 1))[:4]])
    for first, second in zip(*outputs):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_spoils_its_tiles_and_no_others(value):
    g, x, w, gy, _ = problem(2, L, L, 12, 12, 1)
    x, w = float32(x, w)
    clean, y = poisoned(gy.shape), poisoned(gy.shape)
    winograd.conv2d_fwd(x, w, clean, g)
    x[1, 5, 5, 3] = value  # inside the 6x6 inputs of the middle tile alone
    winograd.conv2d_fwd(x, w, y, g)
    spoiled = np.zeros(y.shape[:3], bool)
    spoiled[1, 4:8, 4:8] = True
    assert not np.isfinite(y[1, 4:7, 4:7]).any()  # those its windows reach
    np.testing.assert_array_equal(y[~spoiled], clean[~spoiled])


def test_a_batch_of_nothing():
    g, x, w, gy, _ = problem(0, L, L, 4, 4, 1)
    x, w, gy = float32(x, w, gy)
    gw = poisoned(w.shape)
    winograd.conv2d_fwd(x, w, gy, g)
    winograd.conv2d_bwd_input(gy, w, x, g)
    winograd.conv2d_bwd_weight(gy, x, gw, g)
    np.testing.assert_array_equal(gw, 0)


def test_matrices_compute_convolutions():
    """F(4, 3) in one dimension: Aᵀ [(G g) * (Bᵀ d)] is the correlation of d with g."""
    a = np.array(
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    )
    b = np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    )
    d, g = np.random.default_rng(0).standard_normal((2, 6))
    np.testing.assert_allclose(
        a @ ((G @ g[:3]) * (b @ d)), np.correlate(d, g[:3], "valid"), rtol=1e-12, atol=1e-12
    )


def geometry(n, c_in, c_out, size, k=3, stride=1, padding=1, dilation=1, groups=1):
    return Conv2dGeometry.from_shapes(
        (n, c_in, size, size), (c_out, c_in // groups, k, k), stride, padding, dilation, groups
    )


def test_what_it_is_for():
    assert winograd.suits(geometry(128, 64, 64, 8), np.float32)
    assert winograd.suits_weight(geometry(128, 64, 64, 8), np.float32)
    for g in (
        geometry(128, 64, 64, 8, k=1, padding=0),
        geometry(128, 64, 64, 8, stride=2),
        geometry(128, 64, 64, 8, dilation=2),
        geometry(128, 64, 64, 8, groups=2),
        geometry(128, 64, 64, 8, padding=3),
        geometry(128, 3, 64, 8),
        geometry(128, 64, 63, 8),
        geometry(128, 64, 64, 5),
        geometry(1, 64, 64, 3),
    ):
        assert not winograd.suits(g, np.float32)
        assert not winograd.suits_weight(g, np.float32)
    assert not winograd.suits(geometry(128, 64, 64, 8), np.float64)
