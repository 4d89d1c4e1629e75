"""The convolution kernels of a GPU: every geometry, arithmetic, tile, prologue and epilogue."""

from __future__ import annotations

import contextlib
import itertools

import cudasim
import numpy as np
import pytest
from gpu import CUDA, REAL, gpu
from harness import raises

import minires as mr
from minires.device import cupy
from minires.errors import KernelMissing, ShapeError
from minires.kernels.cuda.operand import family_of
from minires.kernels.cuda.statistics import combine_moments
from minires.kernels.epilogue import Epilogue
from minires.kernels.operand import (
    GATED,
    GRADIENT,
    KINDS,
    NORMALISED,
    PASSED,
    PLAIN,
    RECTIFIED,
    Operand,
)
from minires.kernels.packed import PackedWeights
from minires.ops.conv2d import Conv2dGeometry, kernel_cuda, kernel_numpy
from minires.ops.conv2d import cuda_convolve as convolve
from minires.ops.conv2d import cuda_pack as pack
from minires.ops.conv2d import cuda_plan as plan
from minires.ops.conv2d import cuda_tiles as tiles

PRECISION = {"Fp32": "highest", "Fp64": "highest", "Tf32": "high", "Bf16": "medium"}
simulated = pytest.mark.skipif(REAL, reason="of the simulator")

# id: x (n, c, h, w), w, options
GEOMETRIES = {
    "one_of_all": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "3x3": ((2, 3, 5, 7), (4, 3, 3, 3), {"padding": 1}),
    "fours": ((2, 8, 5, 7), (20, 8, 3, 3), {"padding": 1}),
    "above_a_tile": ((2, 4, 6, 11), (67, 4, 3, 3), {"padding": 1}),
    "twos": ((2, 6, 5, 6), (5, 6, 2, 3), {}),
    "strided": ((2, 3, 8, 7), (4, 3, 3, 3), {"stride": 2, "padding": 1}),
    "pointwise": ((2, 5, 4, 3), (7, 5, 1, 1), {}),
    "pointwise_strided": ((2, 36, 5, 4), (20, 36, 1, 1), {"stride": 2}),
    "dilated": ((2, 3, 9, 8), (4, 3, 3, 2), {"dilation": (2, 3), "padding": (2, 1)}),
    "dilated_strided": ((1, 2, 11, 9), (3, 2, 3, 3), {"dilation": 2, "stride": 3, "padding": 3}),
    "stride_above_kernel": ((2, 3, 11, 10), (4, 3, 2, 3), {"stride": (4, 5)}),
    "stride_above_image": ((2, 3, 2, 3), (4, 3, 3, 3), {"stride": 5, "padding": 1}),
    "padding_above_kernel": ((2, 4, 3, 4), (20, 4, 2, 3), {"padding": (3, 4)}),
    "large_kernel": ((1, 2, 19, 18), (3, 2, 17, 18), {"padding": 1}),
    "groups": ((2, 6, 5, 4), (4, 3, 3, 3), {"groups": 2, "padding": 1}),
    "groups_of_twenty": ((2, 16, 5, 4), (40, 8, 3, 3), {"groups": 2, "padding": 1}),
    "empty": ((0, 3, 5, 4), (4, 3, 3, 3), {"padding": 1}),
}
# id: arithmetic, prologue, geometry: on the tiles that ResNets use, for few pixels
PATCH = {"padding": 1}
TILES = {
    "wide": ("Fp32", RECTIFIED, (1, 64, 7, 9), (96, 64, 3, 3), PATCH),
    "wide_gradient": ("Fp32", GATED, (1, 20, 7, 9), (96, 20, 1, 1), {}),
    "narrow": ("Fp32", PLAIN, (2, 20, 9, 8), (40, 20, 3, 3), PATCH),
    "narrow_rows": ("Fp32", RECTIFIED, (1, 20, 13, 12), (40, 20, 3, 3), PATCH),
    "stem": ("Fp32", PLAIN, (1, 3, 20, 20), (40, 3, 7, 7), {"stride": 2, "padding": 3}),
    "patch_16": ("Fp32", RECTIFIED, (1, 16, 8, 40), (16, 16, 3, 3), PATCH),
    "patch_32": ("Fp32", PLAIN, (2, 32, 9, 16), (32, 32, 3, 3), PATCH),
    "patch_64": ("Fp32", GATED, (1, 64, 8, 8), (64, 64, 3, 3), PATCH),
    "tf32_wide": ("Tf32", PLAIN, (1, 64, 9, 8), (96, 64, 3, 3), PATCH),
    "tf32_wide_rectified": ("Tf32", RECTIFIED, (1, 20, 9, 8), (96, 20, 3, 3), PATCH),
    "tf32_narrow": ("Tf32", GRADIENT, (1, 24, 12, 13), (40, 24, 1, 1), {}),
    "tf32_stem": ("Tf32", PLAIN, (1, 3, 12, 12), (16, 3, 3, 3), PATCH),
    "tf32_patch_16": ("Tf32", PLAIN, (1, 16, 10, 32), (16, 16, 3, 3), PATCH),
    "tf32_patch_64": ("Tf32", RECTIFIED, (3, 64, 8, 8), (64, 64, 3, 3), PATCH),
    "bf16_wide": ("Bf16", RECTIFIED, (1, 20, 9, 8), (96, 20, 3, 3), PATCH),
    "bf16_narrow": ("Bf16", PLAIN, (1, 36, 9, 15), (40, 36, 3, 3), PATCH),
    "bf16_patch_32": ("Bf16", GATED, (1, 32, 8, 16), (36, 32, 3, 3), PATCH),
    "fp64": ("Fp64", PASSED, (1, 6, 9, 8), (36, 6, 1, 1), {"stride": 2}),
}


@pytest.fixture(autouse=True, params=[CUDA])
def cp():
    with gpu():
        yield cupy()


@pytest.fixture
def many(monkeypatch):
    """Few pixels are enough for the large tiles."""
    monkeypatch.setattr(tiles, "FEW", 0)
    monkeypatch.setattr(tiles, "FEW_PATCHES", 0)
    for memory in (tiles.tile, tiles.applies, convolve.launches):
        memory.cache_clear()
    yield
    for memory in (tiles.tile, tiles.applies, convolve.launches):
        memory.cache_clear()


@contextlib.contextmanager
def arithmetic(math):
    mr.set_float32_matmul_precision(PRECISION[math])
    try:
        yield np.dtype("float64" if math == "Fp64" else "float32")
    finally:
        mr.set_float32_matmul_precision("highest")


def geometry(x, w, options):
    full = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    return Conv2dGeometry.from_shapes(x, w, **full)


def rounded(a, math, truncate=False):
    """What tensor cores see of float32 numbers: the nearest, or for tf32 with its last bits off."""
    a = np.asarray(a)
    if math not in ("Tf32", "Bf16"):
        return a
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    if math == "Tf32":
        return ((bits + (0 if truncate else 0x1000)) & 0xFFFFE000).astype(np.uint32).view("f4")
    even = bits >> 16 & 1
    return ((bits + 0x7FFF + even) & 0xFFFF0000).astype(np.uint32).view("f4")


class Case:
    """A convolution of normal draws, on the reference and on a GPU."""

    def __init__(self, x, w, options, math="Fp32", kind=PLAIN):
        self.math, self.kind, self.g = math, kind, geometry(x, w, options)
        self.dtype = np.dtype("float64" if math == "Fp64" else "float32")
        rng, g = np.random.default_rng([*x, *w]), self.g
        draw = lambda *shape: rng.standard_normal(shape).astype(self.dtype)  # noqa: E731
        self.x, self.w, self.b = draw(g.n, g.h_in, g.w_in, g.c_in), draw(*w), draw(g.c_out)
        self.w /= np.sqrt(self.w[0].size).astype(self.dtype)
        self.y2, self.k = draw(*self.x.shape), draw(5, g.c_in) / 2
        self.shape = (g.n, g.h_out, g.w_out, g.c_out)
        self.residual = draw(*self.shape)

    def operand(self, to):
        y2 = to(self.y2) if self.kind >= GRADIENT else None
        return Operand(to(self.x), self.kind, to(self.k) if self.kind else None, y2)

    def reference(self, **epilogue):
        """(y, mean, var) in float64, of rounded operands."""
        values = self.operand(np.asarray).values()
        x = rounded(values, self.math, truncate=self.kind == PLAIN).astype("f8")
        w = rounded(self.w, self.math).astype("f8")
        y, mean, var = np.empty(self.shape), np.empty(self.g.c_out), np.empty(self.g.c_out)
        statistics = (mean, var) if y.size else None
        epilogue.setdefault("statistics", statistics)
        kernel_numpy.conv2d_fwd(
            x, PackedWeights(w, self.b.astype("f8")), y, self.g, Epilogue(**epilogue)
        )
        return y, mean, var

    def run(self, cp, **epilogue):
        """(y, mean, var) on a GPU, as arrays of NumPy."""
        y, mean, var = (cp.empty(s, self.dtype) for s in (self.shape, *2 * [(self.g.c_out,)]))
        statistics = (mean, var) if y.size else None
        epilogue.setdefault("statistics", statistics)
        weights = PackedWeights(cp.asarray(self.w), cp.asarray(self.b))
        with arithmetic(self.math):
            kernel_cuda.conv2d_fwd(
                self.operand(cp.asarray), weights, y, self.g, Epilogue(**epilogue)
            )
        return cp.asnumpy(y), cp.asnumpy(mean), cp.asnumpy(var)

    def check(self, cp, residual=False, relu=False):
        extra = self.residual if residual else None
        expected = self.reference(residual=extra, relu=relu)
        found = self.run(cp, residual=None if extra is None else cp.asarray(extra), relu=relu)
        # A prologue in float32 may end on the other side of what tf32 and bfloat16 round at.
        coarse = self.kind != PLAIN and self.math in ("Tf32", "Bf16")
        tolerance = 1e-12 if self.math == "Fp64" else 2e-3 if coarse else 2e-5
        for one, other in zip(found[: 3 if one_has(self.shape) else 1], expected):
            scale = max(1, np.abs(other).max(initial=0))
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)
        return found


def one_has(shape):
    return min(shape) > 0


# **** values ****


@pytest.mark.parametrize("case", GEOMETRIES.values(), ids=GEOMETRIES)
def test_geometries(cp, case):
    Case(*case).check(cp)


@pytest.mark.parametrize("name", ["3x3", "twos", "groups", "padding_above_kernel", "strided"])
def test_geometries_in_float64(cp, name):
    Case(*GEOMETRIES[name], "Fp64").check(cp, residual=True, relu=True)


@pytest.mark.parametrize("case", TILES.values(), ids=TILES)
def test_tiles(cp, many, case):
    math, kind, *sizes = case
    Case(*sizes, math, kind).check(cp, residual=True)


@pytest.mark.parametrize("math", ["Fp32", "Tf32", "Bf16"])
@pytest.mark.parametrize("c", [16, 32, 64])
def test_patches_of_few_pixels(cp, c, math):
    """Their sums are split among groups of warps."""
    kind = RECTIFIED if math == "Fp32" else PLAIN
    Case((1, c, 5, 8), (c + 4, c, 3, 3), {"padding": 1}, math, kind).check(cp, residual=True)


@pytest.mark.parametrize("kind", range(1, 6), ids=KINDS[1:])
def test_prologues(cp, kind):
    """Of a kernel of one tap, which applies them all while it reads."""
    Case((2, 20, 5, 7), (36, 20, 1, 1), {}, kind=kind).check(cp)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("channels", [5, 20])
def test_epilogues(cp, residual, relu, channels):
    """With whole groups of channels, which are stored together, and without."""
    case = Case((2, 4, 5, 7), (channels, 4, 3, 3), {"padding": 1})
    y, _, _ = case.check(cp, residual=residual, relu=relu)
    assert not relu or (y == 0).any()


def test_without_bias_and_without_statistics(cp):
    case = Case(*GEOMETRIES["fours"])
    y = cp.empty(case.shape, "float32")
    kernel_cuda.conv2d_fwd(cp.asarray(case.x), cp.asarray(case.w), y, case.g)
    case.b[:] = 0
    np.testing.assert_allclose(cp.asnumpy(y), case.reference()[0], atol=2e-5)


def test_weights_of_any_strides(cp):
    case = Case(*GEOMETRIES["fours"])
    turned = cp.asarray(case.w.transpose(3, 2, 1, 0).copy()).transpose(3, 2, 1, 0)
    y = cp.empty(case.shape, "float32")
    kernel_cuda.conv2d_fwd(cp.asarray(case.x), PackedWeights(turned), y, case.g)
    case.b[:] = 0
    np.testing.assert_allclose(cp.asnumpy(y), case.reference()[0], atol=2e-5)


def test_views_into_the_middle_of_memory(cp):
    """Arrays that do not begin at multiples of 16 bytes, from where packs are read."""

    def shifted(values):
        memory = cp.empty(values.size + 1, "float32")
        memory[1:] = cp.asarray(values.reshape(-1))
        return memory[1:].reshape(values.shape)

    case = Case((2, 20, 5, 7), (36, 20, 1, 1), {}, kind=GATED)
    expected = case.reference(residual=case.residual)
    whole = case.operand
    case.operand = lambda to: whole(shifted)
    with cudasim.running(checked=True):
        found = case.run(cp, residual=shifted(case.residual))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)


def test_precise_sums_are_exact_products(cp):
    """Also where products may be rounded."""
    case = Case(*GEOMETRIES["fours"])
    y = cp.empty(case.shape, "float32")
    with mr.precise(), arithmetic("Tf32"):
        assert kernel_cuda.conv2d_way(case.g, y.dtype) == "windows fp32"
        kernel_cuda.conv2d_fwd(cp.asarray(case.x), cp.asarray(case.w), y, case.g)
    assert kernel_cuda.conv2d_way(case.g, y.dtype) == "windows fp32"
    case.b[:] = 0
    np.testing.assert_allclose(cp.asnumpy(y), case.reference()[0], atol=2e-5)


def test_ways(cp):
    g = geometry((128, 16, 32, 32), (16, 16, 3, 3), {"padding": 1})
    for math, precision in (("Fp32", "fp32"), ("Tf32", "tf32"), ("Bf16", "bf16")):
        with arithmetic(math) as dtype:
            assert kernel_cuda.conv2d_way(g, dtype) == f"patch {precision}"
    assert kernel_cuda.conv2d_way(g, np.dtype("float64")) == "windows fp64"
    with arithmetic("Bf16") as dtype:  # three channels are not rounded as far
        stem = geometry((128, 3, 32, 32), (16, 3, 3, 3), {"padding": 1})
        assert kernel_cuda.conv2d_way(stem, dtype) == "windows tf32"


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (GATED, ((1, 20, 5, 7), (36, 20, 3, 3), {"padding": 1})),  # nine taps would gate it
        (PASSED, ((1, 3, 5, 7), (36, 3, 1, 1), {})),  # channels that are read one by one
        (RECTIFIED, ((1, 8, 5, 7), (8, 8, 3, 3), {"padding": 1})),
    ],
)
def test_what_a_kernel_does_not_apply_is_written_first(cp, kind, sizes):
    Case(*sizes, kind=kind).check(cp)


# **** statistics ****


def test_values_far_from_zero_keep_their_variance(cp):
    case = Case((2, 8, 9, 9), (8, 8, 1, 1), {})
    case.b[:] = 1e4
    y, mean, var = case.run(cp)
    flat = y.reshape(-1, 8).astype("f8")
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, flat.var(0), rtol=1e-3)  # E[y^2] - E[y]^2 would be 8 off


@pytest.mark.parametrize("blocks", [1, 300, 1100])
def test_blocks_of_different_sizes_are_put_together(cp, blocks):
    """1100 in two stages."""
    rng = np.random.default_rng(0)
    values = [rng.normal(1e3, 1, (int(n), 11)).astype("f4") for n in rng.integers(1, 9, blocks)]
    moments = [[*v.mean(0), *((v - v.mean(0)) ** 2).sum(0), len(v)] for v in values]
    mean, var = cp.empty(11, "float32"), cp.empty(11, "float32")
    combine_moments(cp.asarray(np.array(moments, "f4")), mean, var)
    flat = np.concatenate(values).astype("f8")
    np.testing.assert_allclose(cp.asnumpy(mean), flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(cp.asnumpy(var), flat.var(0), rtol=1e-3)


# **** what is not finite ****


def test_padding_adds_nothing_even_to_an_infinite_weight(cp, many):
    """In windows and in a patch: the same values as the reference, NaN and infinities included."""
    for sizes, kind in (
        (((1, 3, 4, 5), (5, 3, 3, 3), {"padding": 1}), PLAIN),
        (((1, 4, 5, 4), (36, 4, 3, 3), {"padding": 2, "stride": 2}), RECTIFIED),
        (((1, 16, 8, 32), (16, 16, 3, 3), {"padding": 1}), RECTIFIED),
    ):
        case = Case(*sizes, kind=kind)
        case.w[1, 0, 0, 1], case.w[3, 2, 2, 2], case.w[4, 1, 1, 1] = np.inf, np.nan, -np.inf
        with np.errstate(invalid="ignore"):
            expected = case.reference(statistics=None)[0]
        assert np.isinf(expected).any()
        assert np.isfinite(expected[..., 1]).any()  # where this tap is outside
        found = case.run(cp, statistics=None)[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_nan_reaches_the_windows_that_hold_it_and_no_others(cp):
    case = Case((1, 8, 6, 6), (20, 8, 3, 3), {"padding": 1}, kind=RECTIFIED)
    case.x[0, 0, 0, 3], case.x[0, 3, 3, 5], case.x[0, 5, 5, 2] = np.nan, np.nan, np.inf
    case.k[:3] = [[0], [1], [1]]  # padding would be 1, were a prologue applied to it
    with np.errstate(invalid="ignore"):
        expected = case.reference(statistics=None)[0]
    found = case.run(cp, statistics=None)[0]
    assert np.isnan(expected).any(axis=-1).sum() == 4 + 9
    np.testing.assert_allclose(found, expected, atol=1e-4)


# **** large arrays ****


def test_a_batch_that_is_too_large_for_offsets_is_cut_into_parts(cp, monkeypatch):
    case = Case((5, 4, 6, 7), (20, 4, 3, 3), {"padding": 1}, kind=RECTIFIED)
    whole = case.run(cp, residual=cp.asarray(case.residual))
    monkeypatch.setattr(plan, "LIMIT", 2 * 6 * 7 * 20)
    convolve.launches.cache_clear()
    assert plan.parts(plan.forward_sizes(case.g)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    cut = case.check(cp, residual=True)
    np.testing.assert_array_equal(cut[0], whole[0])
    convolve.launches.cache_clear()


def test_an_image_that_is_too_large_is_refused():
    g = geometry((1, 64, 2**13, 2**13), (4, 64, 1, 1), {})
    expected = "conv2d: expected images of at most 2147482624 entries on a GPU, got 4294967296"
    with raises(ShapeError, expected, "Cut the image into tiles that overlap."):
        plan.parts(plan.forward_sizes(g))


def test_padding_that_is_too_large_is_refused():
    g = geometry((1, 1, 1, 1), (1, 1, 1, 1), {"padding": (2**29, 0), "stride": 2**20})
    with raises(ShapeError, "padded images of fewer than 1073741824 rows", "got 1073741825"):
        plan.forward_sizes(g)


def test_weights_that_are_too_many_are_refused(cp, monkeypatch):
    case = Case(*GEOMETRIES["fours"])
    monkeypatch.setattr(pack, "LIMIT", 20 * 96 - 1)
    with raises(ShapeError, "conv2d: expected at most 1919 weights on a GPU, got 1920 packed"):
        case.run(cp)


def test_other_dtypes_have_no_kernels(cp):
    g = geometry(*GEOMETRIES["fours"])
    with raises(KernelMissing, "cuda: expected one of float, double", "got float16"):
        kernel_cuda.conv2d_way(g, np.dtype("float16"))


# **** packed weights ****


@pytest.mark.parametrize("math", ["Fp32", "Tf32", "Bf16", "Fp64"])
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "input"])
def test_packed_weights(cp, math, transposed):
    g = geometry((1, 66, 9, 9), (74, 33, 3, 2), {"groups": 2})
    w = np.random.default_rng(0).standard_normal((74, 33, 3, 2))
    w = w.astype("float64" if math == "Fp64" else "float32")
    taps = pack.Taps(2, -2, 2, 1, -1, 2) if transposed else pack.forward_taps(g)
    kept = PackedWeights(cp.asarray(w))
    found = cp.asnumpy(pack.packed(kept, g, taps, transposed, math))
    assert pack.packed(kept, g, taps, transposed, math) is pack.packed(
        kept, g, taps, transposed, math
    )
    split = w.reshape(2, 37, 33, 3, 2)
    if transposed:
        split = split[..., ::-2, ::-1].transpose(0, 2, 3, 4, 1)  # group, c_in, u, v, c_out
    else:
        split = split.transpose(0, 1, 3, 4, 2)
    expected = rounded(split.reshape(split.shape[0] * split.shape[1], -1), math)
    if math == "Bf16":
        found = (found.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    assert found.shape[1] - expected.shape[1] < 128
    assert not found[:, expected.shape[1] :].any()


def test_a_grid_of_pixels_is_written_and_no_others(cp):
    """Of an image of 9 x 8, every second row and every third column, from (1, 2) on."""
    case = Case((2, 8, 4, 2), (20, 8, 3, 3), {"padding": 1})
    z = plan.forward_sizes(case.g)
    z = z._replace(y_h=9, y_w=8, first_h=1, first_w=2, step_h=2, step_w=3)
    weights = pack.packed(
        PackedWeights(cp.asarray(case.w)), case.g, pack.forward_taps(case.g), False, "Fp32"
    )
    y = cp.full((2, 9, 8, 20), 7.0, "float32")
    convolve.convolve(case.operand(cp.asarray), weights, cp.asarray(case.b), y, z, "Fp32")
    y = cp.asnumpy(y)
    np.testing.assert_allclose(y[:, 1::2, 2::3], case.reference()[0], atol=2e-5)
    y[:, 1::2, 2::3] = 7
    assert (y == 7).all()


# **** how threads run ****

# two stages by way of registers, three by copies of their own, a patch; all that sums
ORDERS = {
    "windows": ("Fp32", RECTIFIED, (1, 8, 6, 7), (20, 8, 3, 3), {"padding": 1}),
    "stages": ("Tf32", PLAIN, (1, 36, 6, 7), (20, 36, 3, 3), {"padding": 1}),
    "fewer_steps_than_stages": ("Tf32", PLAIN, (1, 8, 6, 7), (20, 8, 1, 1), {}),
    "stem": ("Fp32", PLAIN, (1, 3, 8, 9), (16, 3, 3, 3), {"padding": 1}),
    "patch_few": ("Fp32", RECTIFIED, (1, 16, 8, 8), (16, 16, 3, 3), {"padding": 1}),
}
MANY_ORDERS = {
    "patch": ("Bf16", RECTIFIED, (1, 16, 8, 32), (16, 16, 3, 3), {"padding": 1}),
    "patch_copies": ("Tf32", PLAIN, (1, 16, 8, 32), (16, 16, 3, 3), {"padding": 1}),
    "patch_of_two_images": ("Tf32", RECTIFIED, (3, 64, 7, 7), (20, 64, 3, 3), {"padding": 1}),
}


@simulated
@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_threads_and_the_moment_of_copies_do_not_show(cp, name):
    """Nor do races, or accesses outside of arrays, happen."""
    check_orders(cp, ORDERS[name])


@simulated
@pytest.mark.parametrize("name", MANY_ORDERS)
def test_nor_do_they_in_patches(cp, many, name):
    check_orders(cp, MANY_ORDERS[name])


def check_orders(cp, case):
    math, kind, *sizes = case
    case = Case(*sizes, math, kind)
    results = []
    for conditions in cudasim.ALL_CONDITIONS:
        with cudasim.running(conditions):
            results.append(case.check(cp, residual=True, relu=True))
    for result in results[1:]:
        for one, other in zip(results[0], result):
            assert one.tobytes() == other.tobytes()


BANKS = {
    **{name: TILES[name] for name in ("wide", "narrow_rows", "tf32_wide", "bf16_wide")},
    **{name: TILES[name] for name in ("patch_32", "patch_64", "tf32_patch_64", "bf16_patch_32")},
    "small": ORDERS["windows"],
    "patch_16": TILES["patch_16"],
    "tf32_patch_16": MANY_ORDERS["patch_copies"],
    "bf16_patch_16": MANY_ORDERS["patch"],
}


@simulated
@pytest.mark.parametrize("name", BANKS)
def test_shared_memory_has_no_conflicts(cp, many, name):
    """And global memory is read and written in whole sectors."""
    check_banks(cp, BANKS[name])


@simulated
@pytest.mark.parametrize("c", [16, 32, 64])
@pytest.mark.parametrize("math", ["Fp32", "Tf32", "Bf16"])
def test_nor_has_it_where_pixels_are_few(cp, c, math):
    check_banks(cp, (math, RECTIFIED, (1, c, 8, 8), (c, c, 3, 3), {"padding": 1}))


def check_banks(cp, case):
    math, kind, x, w, options = case
    c_in, c_out = -(-x[1] // 16) * 16, -(-w[0] // 16) * 16  # whole lines of memory
    case = Case((x[0], c_in, *x[2:]), (c_out, c_in, *w[2:]), options, math, kind)
    with cudasim.counting() as counts:
        case.run(cp, statistics=None)
    kinds = ("shared load", "shared store", "ldmatrix", "async to shared")
    shared = {kind: counts[kind] for kind in kinds if kind in counts}
    assert sum(c.instructions for c in shared.values()) > 50
    assert {kind: c.excess for kind, c in shared.items()} == dict.fromkeys(shared, 1.0)
    for kind in ("async from global", "global store"):
        assert counts[kind].excess <= 1.1


# **** the table ****


def some_sizes():
    """Sizes of many kinds of convolution."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        groups = int(rng.choice([1, 1, 1, 2, 32]))
        c_in, c_out = (int(rng.choice([1, 2, 3, 4, 6, 16, 24, 32, 64, 70, 256])) for _ in range(2))
        k = int(rng.choice([1, 1, 3, 3, 3, 5, 7]))
        size, stride = int(rng.choice([7, 8, 14, 28, 32, 56, 224])), int(rng.choice([1, 1, 2]))
        n = int(rng.choice([1, 8, 64, 256]))
        x, w = (n, c_in * groups, size, size), (c_out * groups, c_in, k, k)
        options = {"stride": stride, "padding": k // 2, "groups": groups}
        yield plan.forward_sizes(geometry(x, w, options))


def test_every_kernel_that_is_chosen_is_listed():
    """And every one of the list is chosen somewhere."""
    listed = {kernel.name for kernel in convolve.instances()}
    found = set()
    for z, math, kind in itertools.product(some_sizes(), PRECISION, (PLAIN, NORMALISED, GATED)):
        if math == "Bf16" and z.c_in % 4:
            continue
        family = family_of(kind)
        if not tiles.applies(family, z, math):
            family = "AS_IS"
        for launch in convolve.launches(z, math, family, 0):
            assert 0 < launch.grid < 2**31
            found.add(launch.kernel.name)
    assert found <= listed
    assert {name.partition("<")[0] for name in listed - found} == {"conv2d_pack"}


@pytest.mark.parametrize("shared", [99, 163, 227])  # KiB of a block, on GPUs of different kinds
def test_blocks_cover_the_pixels(shared):
    for z, math in itertools.product(some_sizes(), ("Fp32", "Tf32", "Bf16")):
        if math == "Bf16" and z.c_in % 4:
            continue
        chosen = tiles.tile(z, math, shared * 1024)
        launches = convolve.launches(z, math, "AS_IS", 0, shared * 1024)
        blocks = sum(launch.blocks for launch in launches)
        assert blocks * chosen.bm >= z.images * z.h_out * z.w_out
        assert chosen.block <= 256
        for family in tiles.FAMILIES:
            assert tiles.shared_of(chosen, math, family) <= shared * 1024


@pytest.mark.parametrize(
    ("x", "w", "options", "fp32", "tf32"),
    [  # of ResNet-20 and of ResNet-50
        ((128, 16, 32, 32), (16, 16, 3, 3), {"padding": 1}, "patch", "patch"),
        ((128, 16, 32, 32), (32, 16, 3, 3), {"padding": 1, "stride": 2}, "small", "small"),
        ((64, 64, 56, 56), (256, 64, 1, 1), {}, "wide", "wide"),
        ((64, 256, 56, 56), (64, 256, 1, 1), {}, "narrow", "narrow"),
        ((128, 64, 8, 8), (64, 64, 3, 3), {"padding": 1}, "patch", "patch"),
        ((1, 64, 8, 8), (64, 64, 3, 3), {"padding": 1}, "few", "few"),
        ((64, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}, "patch", "patch"),
        ((64, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}, "small", "small"),
        ((64, 3, 224, 224), (64, 3, 7, 7), {"padding": 3, "stride": 2}, "narrow", "narrow"),
    ],
)
def test_the_table(x, w, options, fp32, tf32):
    z = plan.forward_sizes(geometry(x, w, options))
    for math, expected in (("Fp32", fp32), ("Tf32", tf32)):
        chosen = tiles.tile(z, math)
        name = "few" if getattr(chosen, "split", 1) > 1 else "patch"
        name = next((n for (m, n), t in tiles.WINDOWS.items() if (m, t) == (math, chosen)), name)
        assert name == expected


def test_a_gpu_of_little_shared_memory_takes_smaller_patches(cp, monkeypatch):
    g = geometry((64, 64, 56, 56), (64, 64, 3, 3), {"padding": 1})
    found = []
    for shared in (99, 163, 227):
        monkeypatch.setattr(convolve, "shared_memory", lambda shared=shared: shared * 1024)
        with arithmetic("Tf32") as dtype:
            assert kernel_cuda.conv2d_way(g, dtype) == "patch tf32"
        found.append(tiles.tile(plan.forward_sizes(g), "Tf32", shared * 1024))
    assert len(set(found)) == 3


def test_a_launch_says_how_much_it_computes(cp):
    case = Case(*GEOMETRIES["strided"])
    with mr.profile() as p:
        case.run(cp, statistics=None)
    (row,) = [row for row in p.rows if row.name == "conv2d.conv2d_windows"]
    assert row.operations == 2 * case.g.multiply_adds
