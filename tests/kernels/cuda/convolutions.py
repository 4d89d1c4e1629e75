"""Convolutions that between them meet every barrier, wait and bounds check of their kernels."""

from __future__ import annotations

import contextlib

import numpy as np

import minires as mr
from minires.captured.recorder import Graph
from minires.device import Device, kernels, move
from minires.kernels.epilogue import Epilogue
from minires.kernels.operand import GATED, PLAIN, RECTIFIED, Operand
from minires.kernels.packed import PackedWeights
from minires.memory import allocate
from minires.ops.conv2d import Conv2dGeometry, cuda_pack, cuda_plan
from minires.ops.conv2d import cuda_convolve as convolve
from minires.ops.conv2d import cuda_tiles as tiles


@contextlib.contextmanager
def many_pixels(there):
    """Inside, tiles are chosen as if there were many pixels, if ``there`` are to be."""
    before = tiles.FEW, tiles.FEW_PATCHES
    if there:
        tiles.FEW = tiles.FEW_PATCHES = 0
    kept = tiles.tile, tiles.applies, convolve.launches
    try:
        for memory in kept:
            memory.cache_clear()
        yield
    finally:
        tiles.FEW, tiles.FEW_PATCHES = before
        for memory in kept:
            memory.cache_clear()


def forward(x, w, kind=PLAIN, precision="highest", many=False, odd="", **options):
    """A convolution of an operand, with a residual and the statistics of the result.

    Args:
        many: with the tiles for many pixels.
        odd: "weight" for one that is infinite, "image" for a NaN in its middle.
    """
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    g = Conv2dGeometry.from_shapes(x, w, **options)

    def run(device):
        rng = np.random.default_rng(0)

        def draw(*shape):
            return rng.standard_normal(shape).astype("float32")

        image, weights, shape = draw(g.n, g.h_in, g.w_in, g.c_in), draw(*w), draw(*shape_of(g))
        if odd == "image":
            image[0, g.h_in // 2, g.w_in // 2, 1] = np.nan
        if odd == "weight":
            weights[1, 0, 0, 0] = np.inf
        if precision != "highest":  # numbers that are not rounded
            image, weights = np.round(8 * image) / 8, np.round(8 * weights) / 8
        arrays = [image, weights, draw(g.c_out), draw(5, g.c_in), draw(*image.shape), shape]
        arrays[3][2, 0], arrays[4][..., 0] = 0, arrays[3][0, 0]  # the edge of a ReLU
        image, weights, bias, k, other, residual = (
            move(a.astype("float32"), Device.parse(device)) for a in arrays
        )
        y, mean, var = (
            allocate(s, np.dtype("float32"), image) for s in (shape_of(g), (g.c_out,), (g.c_out,))
        )
        operand = image if kind == PLAIN else Operand(image, kind, k, other)
        before = mr.get_float32_matmul_precision()
        mr.set_float32_matmul_precision(precision)
        try:
            with many_pixels(many), np.errstate(invalid="ignore"):
                kernels("conv2d", image).conv2d_fwd(
                    operand, PackedWeights(weights, bias), y, g,
                    Epilogue(residual, False, (mean, var)),
                )  # fmt: skip
        finally:
            mr.set_float32_matmul_precision(before)
        return [a if isinstance(a, np.ndarray) else a.get() for a in (y, mean, var)]

    return run


def input_gradient(x, w, **options):
    """The gradient of a convolution's input, which packs weights transposed."""
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    g = Conv2dGeometry.from_shapes(x, w, **options)

    def run(device):
        rng = np.random.default_rng(0)
        gy, weights = (
            move(rng.standard_normal(s).astype("float32"), Device.parse(device))
            for s in (shape_of(g), w)
        )
        gx = allocate((g.n, g.h_in, g.w_in, g.c_in), np.dtype("float32"), gy)
        kernels("conv2d", gy).conv2d_bwd_input(gy, weights, gx, g)
        return [gx if isinstance(gx, np.ndarray) else gx.get()]

    return run


def packs(device):
    """Weights of three layers, packed by one launch of a graph."""
    rng, place, shapes = np.random.default_rng(0), Device.parse(device), [(33, 3), (5, 4), (9, 2)]
    weights = [rng.standard_normal((*shape, 1, 1)).astype("float32") for shape in shapes]
    pitches = [cuda_plan.pitch_of(1, c, "Fp32") for _, c in shapes]
    if place.type == "cpu":
        return [
            np.pad(w[:, :, 0, 0], ((0, 0), (0, pitch - w.shape[1])))
            for w, pitch in zip(weights, pitches)
        ]
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    graph, results = Graph(place), []
    kept = [PackedWeights(move(w, place)) for w in weights]
    with graph.recorded():
        for w, one in zip(weights, kept):
            g = Conv2dGeometry.from_shapes((1, w.shape[1], 9, 9), w.shape, **options)
            results.append(cuda_pack.packed(one, g, cuda_pack.forward_taps(g), False, "Fp32"))
    graph.join()
    for result in results:
        result[...] = 7
    graph.replay()
    return [result.get() for result in results]


def shape_of(g):
    return g.n, g.h_out, g.w_out, g.c_out


WINDOWS = tuple(
    f"{file}.cu"
    for file in ("ops/conv2d/cuda_windows", "ops/conv2d/cuda_pack", "kernels/cuda/statistics")
)
PATCH = ("ops/conv2d/cuda_patch.cu", *WINDOWS[1:])
ONE = {"padding": 1}
# name, files, run
CASES = [
    ("packs of two", WINDOWS, forward((2, 6, 7, 5), (5, 6, 3, 3), **ONE)),
    ("prologue", WINDOWS, forward((1, 8, 9, 8), (20, 8, 3, 3), RECTIFIED, stride=2, **ONE)),
    ("a gradient", WINDOWS, forward((2, 20, 5, 7), (36, 20, 1, 1), GATED)),
    ("a tap of a whole row", WINDOWS, forward((1, 32, 5, 6), (20, 32, 3, 3), RECTIFIED, **ONE)),
    ("fewer steps than stages", WINDOWS, forward((1, 8, 6, 7), (20, 8, 1, 1), precision="high")),
    ("infinite", WINDOWS, forward((1, 32, 4, 3), (20, 32, 3, 3), odd="weight", **ONE)),
    ("not a number", WINDOWS, forward((1, 8, 7, 6), (20, 8, 3, 3), odd="image", **ONE)),
    ("input gradient", WINDOWS[:2], input_gradient((1, 36, 3, 4), (37, 36, 2, 1))),
    ("packs of three layers", WINDOWS[1:2], packs),
    ("groups", WINDOWS, forward((1, 66, 3, 4), (70, 33, 1, 1), groups=2)),
    ("patch", PATCH, forward((1, 16, 9, 29), (20, 16, 3, 3), RECTIFIED, **ONE)),
    (
        "patch of two images", PATCH,
        forward((3, 64, 7, 7), (20, 64, 3, 3), precision="high", many=True, **ONE),
    ),
]  # fmt: skip
