"""The convolution kernels of the CPU: every geometry, prologues, epilogues, threads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

import minires as mr
from minires.kernels.epilogue import Epilogue
from minires.kernels.numba import cpu
from minires.kernels.numba.allocator import LINE
from minires.kernels.numba.tile import ROWS
from minires.kernels.numba.vector import INTERPRETED
from minires.kernels.operand import GATED, GRADIENT, NORMALISED, RECTIFIED, Operand
from minires.kernels.packed import PackedWeights
from minires.ops.conv2d import Conv2dGeometry, kernel_numba, kernel_numpy, numba_direct
from minires.ops.conv2d.numba_plan import PHASE_SIZE, PLAN_SIZE, make_plan

L = cpu.LANES

# id: x (n, c, h, w), w, options
SMALL = {
    "one_of_all": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "3x3": ((2, 3, 5, 7), (4, 3, 3, 3), {"padding": 1}),
    "vector": ((2, L, 5, 4), (L, L, 3, 3), {"padding": 1}),
    "above_a_panel": ((1, 3, 4, 4), (2 * L + 1, 3, 3, 3), {"padding": 1}),
    "strided": ((2, 3, 8, 7), (4, 3, 3, 3), {"stride": 2, "padding": 1}),
    "pointwise": ((2, 5, 4, 3), (7, 5, 1, 1), {}),
    "pointwise_vectors": ((3, L, 3, 3), (2 * L, L, 1, 1), {}),
    "pointwise_strided": ((2, 5, 5, 4), (7, 5, 1, 1), {"stride": 2}),
    "unpadded": ((2, 5, 5, 6), (3, 5, 2, 3), {}),
    "dilated": ((2, 3, 9, 8), (4, 3, 3, 2), {"dilation": (2, 3), "padding": (2, 1)}),
    "dilated_strided": ((1, 2, 11, 9), (3, 2, 3, 3), {"dilation": 2, "stride": 3, "padding": 3}),
    "stride_above_kernel": ((2, 3, 11, 10), (4, 3, 2, 3), {"stride": (4, 5)}),
    "stride_above_image": ((2, 3, 2, 3), (4, 3, 3, 3), {"stride": 5, "padding": 1}),
    "padding_above_kernel": ((2, 3, 3, 4), (4, 3, 2, 3), {"padding": (3, 4)}),
    "groups": ((2, 6, 5, 4), (4, 3, 3, 3), {"groups": 2, "padding": 1}),
    "groups_of_nine": ((2, 18, 5, 4), (6, 9, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, L + 1, 6, 4), (L + 1, 1, 3, 3), {"groups": L + 1, "padding": 1}),
    "depthwise_strided": ((2, 3, 6, 4), (3, 1, 3, 3), {"groups": 3, "stride": 2}),
    "depthwise_doubled": ((2, 3, 6, 4), (6, 1, 3, 3), {"groups": 3, "stride": 2}),
    "empty": ((0, 3, 5, 4), (4, 3, 3, 3), {"padding": 1}),
}
# Larger than a block, or than a part of the weights: only in machine code.
LARGE = {
    "many_images": ((40, 32, 15, 13), (32, 32, 3, 3), {"padding": 1, "stride": 2}),
    "bands": ((1, 24, 96, 200), (40, 24, 3, 3), {"padding": 1}),
    "bands_strided": ((2, 64, 57, 57), (96, 64, 3, 3), {"padding": 1, "stride": 2}),
    "stem": ((2, 3, 64, 64), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    "small_stem": ((6, 3, 32, 20), (5 * L, 3, 3, 3), {"padding": 1}),
    "few_pixels": ((1, 256, 5, 5), (256, 256, 3, 3), {"padding": 1}),
    "pixels": ((3, 96, 31, 31), (130, 96, 1, 1), {}),
    "pixels_strided": ((3, 64, 31, 32), (256, 64, 1, 1), {"stride": 2}),
    "groups": ((2, 64, 20, 20), (128, 8, 3, 3), {"padding": 1, "groups": 8}),
    "depthwise": ((2, 72, 30, 30), (72, 1, 5, 5), {"padding": 2, "groups": 72}),
}
CASES = SMALL if INTERPRETED else {**SMALL, **{f"large_{k}": v for k, v in LARGE.items()}}
DTYPES = ("float32", "float64")


@pytest.fixture(params=[numba_direct, kernel_numba], ids=["direct", "chosen"])
def way(request):
    return request.param


def geometry(x, w, options):
    full = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    return Conv2dGeometry.from_shapes(x, w, **full)


def normal(dtype, *shape, seed=0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def operands(g, dtype):
    """x, w, b, gy"""
    return (
        normal(dtype, g.n, g.h_in, g.w_in, g.c_in),
        normal(dtype, g.c_out, g.c_in // g.groups, g.k_h, g.k_w),
        normal(dtype, g.c_out),
        normal(dtype, g.n, g.h_out, g.w_out, g.c_out, seed=1),
    )


def unset(like) -> np.ndarray:
    return np.full(like.shape, np.nan, like.dtype)


def double(operand):
    """The operand as the reference is to read it: an array of float64."""
    values = operand.values() if isinstance(operand, Operand) else operand
    return values.astype(np.float64)


def close(result, reference):
    assert result.shape == reference.shape
    if reference.size:
        tolerance = 1e-4 if result.dtype == np.float32 else 1e-12
        assert np.abs(result - reference).max() <= tolerance * max(1, np.abs(reference).max())


def check_forward(way, x, w, b, g, residual=None, relu=False):
    shape = (g.n, g.h_out, g.w_out, g.c_out)
    reference, y = np.empty(shape), np.full(shape, np.nan, w.dtype)
    expected, found = np.empty((2, g.c_out)), np.full((2, g.c_out), np.nan, w.dtype)
    extra = None if residual is None else double(residual)
    bias = None if b is None else double(b)
    measure = y.size > 0
    kernel_numpy.conv2d_fwd(
        double(x), PackedWeights(double(w), bias), reference, g,
        Epilogue(extra, relu, tuple(expected) if measure else None),
    )  # fmt: skip
    epilogue = Epilogue(residual, relu, tuple(found) if measure else None)
    way.conv2d_fwd(x, PackedWeights(w, b), y, g, epilogue)
    close(y, reference)
    if measure:
        close(found, expected)


def check_gradients(way, x, w, gy, g):
    gx, gw = np.full((g.n, g.h_in, g.w_in, g.c_in), np.nan, w.dtype), unset(w)
    reference_x, reference_w = np.empty(gx.shape), np.empty(gw.shape)
    kernel_numpy.conv2d_bwd_input(double(gy), double(w), reference_x, g)
    kernel_numpy.conv2d_bwd_weight(double(gy), double(x), reference_w, g)
    way.conv2d_bwd_input(gy, w, gx, g)
    way.conv2d_bwd_weight(gy, x, gw, g)
    close(gx, reference_x)
    close(gw, reference_w)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernels_against_the_reference(case, dtype, way):
    g = geometry(*case)
    x, w, b, gy = operands(g, dtype)
    check_forward(way, x, w, b, g)
    check_gradients(way, x, w, gy, g)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sources_and_finishing(case, dtype, way):
    g = geometry(*case)
    x, w, b, gy = operands(g, dtype)
    residual = normal(dtype, *gy.shape, seed=2)
    of_x, of_gy = normal(dtype, 5, g.c_in, seed=3), normal(dtype, 5, g.c_out, seed=4)
    rectified = Operand(x, RECTIFIED, of_x)
    check_forward(way, Operand(x, NORMALISED, of_x), w, None, g, residual)
    check_forward(way, rectified, w, b, g, residual, relu=True)
    for kind in (GRADIENT, GATED):
        check_gradients(way, rectified, w, Operand(gy, kind, of_gy, residual), g)


@pytest.mark.parametrize("name", ["3x3", "pointwise", "depthwise", "strided"])
def test_weights_of_any_strides(name, way):
    g = geometry(*SMALL[name])
    x, w, b, gy = operands(g, "float64")
    apart = np.full((*w.shape[::-1], 2), np.nan).transpose(3, 2, 1, 0, 4)[..., 0]
    apart[...] = w
    check_forward(way, x, apart, b, g)
    gx, gw = np.empty(x.shape), apart.copy(order="K")
    gw = np.full((*w.shape[::-1], 2), np.nan).transpose(3, 2, 1, 0, 4)[..., 0]
    way.conv2d_bwd_input(gy, apart, gx, g)
    way.conv2d_bwd_weight(gy, x, gw, g)
    expected = np.empty(x.shape), np.empty(w.shape)
    kernel_numpy.conv2d_bwd_input(gy, w, expected[0], g)
    kernel_numpy.conv2d_bwd_weight(gy, x, expected[1], g)
    close(gx, expected[0])
    close(gw, expected[1])


def test_statistics_of_a_large_mean():
    # a thousand times as far from 0 as the values are from each other
    g = geometry((8, L, 8, 8), (L, L, 3, 3), {"padding": 1})
    x, w, _, gy = operands(g, "float32")
    y, mean, var = unset(gy), np.empty(g.c_out, "float32"), np.empty(g.c_out, "float32")
    b = np.full(g.c_out, 1e4, "float32")
    numba_direct.conv2d_fwd(x, PackedWeights(w, b), y, g, Epilogue(statistics=(mean, var)))
    np.testing.assert_allclose(mean, y.mean((0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var, y.var((0, 1, 2), dtype=np.float64), rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["3x3", "pointwise", "above_a_panel", "depthwise", "strided"])
def test_bad_numbers_stay_where_they_belong(name, bad):
    """A bad pixel shows in every output that it is part of, and in no other."""
    g = geometry(*SMALL[name])
    x, w, b, gy = operands(g, "float32")
    x[0, 1, 2, 0] = gy[0, 1, 1, 0] = bad
    y, expected = unset(gy), np.empty(gy.shape, "float32")
    with np.errstate(invalid="ignore"):
        numba_direct.conv2d_fwd(x, PackedWeights(w, b), y, g, Epilogue(relu=True))
        kernel_numpy.conv2d_fwd(x, PackedWeights(w, b), expected, g, Epilogue(relu=True))
        assert np.array_equal(np.isfinite(y), np.isfinite(expected))
        gx, expected = unset(x), np.empty(x.shape, "float32")
        numba_direct.conv2d_bwd_input(gy, w, gx, g)
        kernel_numpy.conv2d_bwd_input(gy, w, expected, g)
    # 0 * inf is NaN: the reference leaves out taps in the padding, the kernel multiplies zeros
    assert np.array_equal(np.isfinite(gx), np.isfinite(expected))


def all_results(case) -> Iterator[np.ndarray]:
    g = geometry(*case)
    x, w, b, gy = operands(g, "float32")
    y, gx, gw, statistics = unset(gy), unset(x), unset(w), np.empty((2, g.c_out), "float32")
    source = Operand(x, RECTIFIED, normal("float32", 5, g.c_in))
    epilogue = Epilogue(gy, True, statistics)
    kernel_numba.conv2d_fwd(source, PackedWeights(w, b), y, g, epilogue)
    kernel_numba.conv2d_bwd_input(gy, w, gx, g)
    kernel_numba.conv2d_bwd_weight(gy, source, gw, g)
    yield from (y, statistics, gx, gw)


@pytest.mark.skipif(INTERPRETED, reason="one thread")
@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_threads_do_not_show(case):
    limit = mr.get_num_threads()
    try:
        results = []
        for threads in range(1, limit + 1):
            mr.set_num_threads(threads)
            results.append(list(all_results(case)))
    finally:
        mr.set_num_threads(limit)
    for result in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], result))


SHAPES = [
    ((1, 3, 4, 4), (4, 3, 3, 3), {"padding": 1}),
    ((128, 16, 32, 32), (16, 16, 3, 3), {"padding": 1}),
    ((3, 64, 29, 31), (64, 64, 3, 3), {"padding": 1, "stride": 2}),
    ((1, 8, 500, 3), (8, 8, 3, 3), {"padding": 1}),
    ((200, 512, 1, 1), (512, 512, 3, 3), {"padding": 1, "stride": 2}),
    ((8, 2048, 7, 7), (512, 2048, 1, 1), {}),
    ((2, 3, 2000, 2000), (8, 3, 7, 7), {"stride": 4, "padding": 3}),
]


@pytest.mark.parametrize(("shape", "role"), list(itertools.product(SHAPES, ("forward", "input"))))
def test_blocks_cover_the_result_in_whole_tiles(shape, role):
    """A position is in one block; a block has a tile's worth of them, or there is but one block."""
    g = geometry(*shape)
    p = make_plan(g, role, False, 4)
    if role == "forward":
        assert p.pixels.sum() == g.n * g.h_out * g.w_out
    assert p.blocks == p.pixels.size
    assert p.blocks == 1 or p.pixels.min() >= ROWS


def test_where_no_block_fits_the_cache_images_are_taken_one_by_one():
    """And not all at once, which takes as large a workspace as the batch."""
    g = geometry((8, 512, 14, 14), (512, 512, 3, 3), {"padding": 1, "stride": 2})
    p = make_plan(g, "weight", False, 4)
    assert p.blocks >= 8
    assert p.window < 2**18


@pytest.mark.parametrize(("shape", "role"), list(itertools.product(SHAPES, ("forward", "input"))))
def test_tables_stay_inside_the_window(shape, role):
    g = geometry(*shape)
    p = make_plan(g, role, False, 4)
    assert p.window * 4 % LINE == 0  # what lies behind it in the workspace begins with a line
    taps = 0
    for number, phase in enumerate(p.phases):
        begin = PLAN_SIZE + number * PHASE_SIZE
        assert p.table[begin : begin + PHASE_SIZE].tolist() == list(phase)
        starts = p.table[begin + phase.starts : begin + phase.ends]
        offsets = p.table[begin + phase.offsets :][: phase.segments]
        taps += phase.segments * phase.run
        assert starts.min() == 0
        if offsets.size:
            assert offsets.min() >= 0
            assert starts.max() + offsets.max() + phase.run <= p.window
    c = g.c_in if role == "forward" else g.c_out
    assert taps <= g.k_h * g.k_w * c
