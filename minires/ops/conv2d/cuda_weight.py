"""Gradient of a convolution's weight on a GPU: which tile, how many shares of the pixels, and the
two launches that it takes. The kernels are in ``cuda_weight.cu``; 3 x 3 taps with few channels have
another one (:mod:`.cuda_weight_rows`)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.operand import family_of
from ...kernels.cuda.packs import pack_of
from ...kernels.cuda.source import c_type
from ...kernels.cuda.struct import DIVISOR, divisor, record
from ...kernels.operand import as_operand
from ...memory import workspace
from . import cuda_weight_rows
from .cuda_operand import images, written
from .cuda_plan import arithmetic, forward_sizes, parts
from .op import Conv2dGeometry

_SOURCE = Path(__file__).with_name("cuda_weight.cu")
SIZES = np.dtype(
    [
        *[(name, "i4") for name in ("h_in", "w_in", "c_in", "c_out", "groups", "k_h", "k_w")],
        *[(name, "i4") for name in ("s_h", "s_w", "p_h", "p_w", "d_h", "d_w", "h_out", "w_out")],
        *[("pixels", "i4"), ("share", "i4"), ("per_image", DIVISOR), ("per_row", DIVISOR)],
        *[(name, "i4") for name in ("gy_kind", "x_kind", "by_w", "by_h", "by_entries")],
    ]
)
SLICES = 16  # of the shares, in the kernel that adds them
ENTRIES = 32  # of the gradient, that a block of it adds


class Tile(NamedTuple):
    """What a block of threads computes: template arguments of ``conv2d_bwd_weight``.

    Attributes:
        bm, bn: output channels and filter entries of a block.
        wm, wn: the same of a warp.
        slices: warps that have the same of both, and share the pixels of a step.
        bk: pixels of a step.
    """

    bm: int
    bn: int
    wm: int
    wn: int
    slices: int
    bk: int

    @property
    def threads(self) -> int:
        return self.bm // self.wm * (self.bn // self.wn) * self.slices * 32

    def shared(self, itemsize: int) -> int:
        """Bytes of shared memory: two stages of both operands and the coefficients of their
        prologues; in the end the sums of all slices but the first."""
        row = (self.bm + self.bn) * itemsize + 64
        same = 4 if self.wm == 16 else 1  # lanes with the same sums (cuda_outer.cuh)
        sums = (self.slices - 1) * self.bm * self.bn * itemsize * same
        return max(2 * self.bk * row + 5 * (self.bm + self.bn) * itemsize, sums)


# The tiles by arithmetic. A product of few output channels has few sums, so that several warps
# share the pixels of a step. "odd" is for channels that are copied one by one.
_TILES = {
    "Fp32": {
        "odd": Tile(16, 48, 16, 48, 4, 32),
        "16": Tile(16, 48, 16, 48, 4, 64),
        "32": Tile(32, 96, 32, 96, 4, 32),
        "64": Tile(64, 64, 64, 32, 1, 16),
        "wide": Tile(128, 128, 64, 32, 1, 16),
    },
    "Tf32": {
        "odd": Tile(16, 48, 16, 48, 4, 32),
        "16": Tile(16, 48, 16, 48, 4, 64),
        "32": Tile(32, 96, 32, 96, 4, 32),
        "64": Tile(64, 64, 64, 32, 1, 16),
        "wide": Tile(128, 128, 64, 64, 1, 16),
    },
    "Bf16": {  # tensor cores sum over 16 pixels at a time
        "16": Tile(16, 48, 16, 48, 4, 64),
        "32": Tile(32, 48, 32, 48, 2, 32),
        "64": Tile(64, 64, 64, 32, 1, 16),
        "wide": Tile(128, 128, 64, 64, 1, 16),
    },
    "Fp64": {"64": Tile(32, 32, 32, 16, 2, 16)},
}


def tile_of(math: str, packs: tuple[int, int], c_out: int, entries: int) -> str:
    """The name of the tile for so many output channels and filter entries of a group."""
    if math == "Fp64":
        return "64"
    if c_out <= 16 or entries <= 48:  # few entries: a first layer of 3 channels, or a single tap
        return "16" if packs[1] > 1 else "odd"
    if c_out <= 32 and packs[1] > 1:
        return "32"
    return "wide" if c_out > 64 and entries > 64 and packs[1] > 1 else "64"


@functools.cache
def _kernel(math: str, tile: str, pack_gy: int, pack_x: int, gy: str, x: str) -> Kernel:
    t = _TILES[math][tile]
    name = f"conv2d_bwd_weight<{math}, {t.bm}, {t.bn}, {t.wm}, {t.wn}, {t.slices}, {t.bk}, "
    name += f"{pack_gy}, {pack_x}, {gy}, {x}>"
    return Kernel(_SOURCE, name, t.threads, t.shared(8 if math == "Fp64" else 4), _operations)


@functools.cache
def _add_shares(kind: str) -> Kernel:
    return Kernel(_SOURCE, f"add_shares<{kind}, {SLICES}>", SLICES * ENTRIES)


def _operations(*arguments: Any) -> int:
    """Multiply-adds, times two, of a launch, whose last argument is its sizes."""
    factors = ("pixels", "groups", "c_out", "k_h", "k_w", "c_in")
    return 2 * prod(int(arguments[-1][name][0]) for name in factors)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module may ask for."""
    for math, tiles in _TILES.items():
        whole = 2 if math == "Fp64" else 4
        for tile in tiles:
            for gy, x in itertools.product(("AS_IS", "BACKWARD"), ("AS_IS", "AFFINE")):
                if tile != "odd":
                    yield _kernel(math, tile, whole, whole, gy, x)
            if tile in ("odd", "64") and math != "Bf16":  # see cuda_plan.arithmetic
                for pack in (1, whole):
                    yield _kernel(math, tile, pack, 1, "AS_IS", "AS_IS")
    yield from (_add_shares(kind) for kind in ("float", "double"))
    yield from cuda_weight_rows.instances()


def bwd_weight(gy: Any, x: Any, gw: Any, g: Conv2dGeometry) -> None:
    """Fill gw (c_out, c_in / groups, k_h, k_w) from gy and x, arrays or Operands."""
    gy, x = as_operand(gy), as_operand(x)
    packs = pack_of(g.c_out // g.groups, gy.x, gy.y), pack_of(g.c_in // g.groups, x.x)
    if packs[0] == 1:
        packs = 1, 1
    if packs[1] == 1 or family_of(x.kind) == "BACKWARD":
        x = written(x)
    if packs[1] == 1 or family_of(gy.kind) == "AFFINE" or not pays(g):
        gy = written(gy)
    math = arithmetic(g, gw.dtype, min(packs))
    slices = parts(forward_sizes(g)) or [slice(0, 0)]  # without images gw is 0
    for i, part in enumerate(slices):
        gy_part, x_part = images(gy, part, slices), images(x, part, slices)
        way = plan(g, part.stop - part.start, math, packs, gy.kind, x.kind)
        sums = workspace(way.grid[1] * gw.size, gw.dtype, gw)
        operands = gy_part.x, gy_part.y, gy_part.coefficients, x_part.x, x_part.coefficients
        way.kernel(way.grid, *operands, sums, way.sizes)
        add_shares(sums, gw, way.grid[1], i, way.whole, operands if way.careful else ())


def pays(g: Conv2dGeometry) -> bool:
    """Whether to apply gy's prologue while gy is read, or to write its values first.

    gy is read once for every BN filter entries. With many channels and several taps that is often,
    and costs more than to write the values, three passes over memory. (:mod:`.cuda_tiles` has the
    same rule for the input gradient, which then finds them written.)
    """
    return g.k_h * g.k_w == 1 or g.c_out // g.groups <= 64


def add_shares(
    sums: Any, gw: Any, shares: int, part: int, sizes: Any, operands: Sequence[Any] = ()
) -> None:
    """gw (c_out, c_in / groups, k_h, k_w) = the sum of so many shares, each (c_out, k_h, k_w,
    c_in / groups); or gw + that sum for any part of the batch but number 0. With the operands (gy,
    its y and coefficients, x and its coefficients), sums that are not finite are computed again
    without padding."""
    numbers = np.int32(shares), np.int32(part > 0), np.int32(bool(operands))
    arrays = operands or (None,) * 5
    _add_shares(c_type(gw.dtype))(-(-gw.size // ENTRIES), sums, gw, *numbers, *arrays, sizes)


class Plan(NamedTuple):
    """How the weight gradient of some images is computed.

    Attributes:
        kernel, grid, sizes: what is launched, on how many tiles of the product and shares of the
            pixels, with which struct.
        whole: the sizes for ``add_shares``.
        careful: whether zeros are multiplied that have no part in the definition.
    """

    kernel: Kernel
    grid: tuple[int, int]
    sizes: Any
    whole: Any
    careful: bool


@functools.lru_cache(maxsize=1024)
def plan(
    g: Conv2dGeometry, n: int, math: str, packs: tuple[int, int], gy_kind: int, x_kind: int
) -> Plan:
    """The plan for n images. A share is no less than four steps."""
    families, whole = (family_of(gy_kind), family_of(x_kind)), sizes_of(g, n, 1, 0, gy_kind, x_kind)
    rows = cuda_weight_rows.tile_of(g, math, *families)
    if rows is not None and min(packs) > 1:
        sizes, grid = cuda_weight_rows.plan(g, n, rows, gy_kind, x_kind)
        kernel = cuda_weight_rows.kernel(math, rows, *families)
        careful = any(g.padding) or cuda_weight_rows.overhangs(g, rows)
        return Plan(kernel, grid, sizes, whole, careful)
    c_out, entries = g.c_out // g.groups, g.k_h * g.k_w * g.c_in // g.groups
    name, pixels = tile_of(math, packs, c_out, entries), n * g.h_out * g.w_out
    tile = _TILES[math][name]
    blocks = -(-c_out // tile.bm) * -(-entries // tile.bn) * g.groups
    steps = -(-pixels // tile.bk)
    shares = shares_of(name, blocks, steps, c_out * entries * g.groups)
    share = max(-(-steps // shares), 4) * tile.bk
    sizes = sizes_of(g, n, tile.bk, share, gy_kind, x_kind)
    kernel, grid = _kernel(math, name, *packs, *families), (blocks, -(-pixels // share))
    return Plan(kernel, grid, sizes, whole, any(g.padding))


def shares_of(name: str, blocks: int, steps: int, size: int) -> int:
    """How many shares the steps fall into, for so many tiles of a product of ``size`` sums.

    Small blocks of threads: some 512 keep any GPU busy. Of large ones a multiprocessor runs one at
    a time, and one block more than there are multiprocessors makes all take twice as long. Taking
    128 of these for the GPU, whichever it is, the shares are chosen that take the fewest steps one
    after the other, and to write and add a share's sums counts as a step for each 2^17 of them.
    """
    if name != "wide":
        return max(1, 512 // blocks)

    def cost(shares: int) -> float:
        return -(-blocks * shares // 128) * -(-steps // shares) + shares * size / (1 << 17)

    return min(range(1, max(512 // blocks, 8) + 1), key=cost)


def sizes_of(
    g: Conv2dGeometry, n: int, bk: int = 1, share: int = 0, gy_kind: int = 0, x_kind: int = 0
) -> Any:
    """The kernels' sizes for n images, in steps of ``bk`` pixels."""
    (s_h, s_w), (p_h, p_w), (d_h, d_w) = g.stride, g.padding, g.dilation
    rows, across = divmod(bk, g.w_out)  # a step: whole rows, and pixels more
    whole, down = divmod(rows, g.h_out)
    row = g.w_in * g.c_in
    return record(
        SIZES, h_in=g.h_in, w_in=g.w_in, c_in=g.c_in // g.groups, c_out=g.c_out // g.groups,
        groups=g.groups, k_h=g.k_h, k_w=g.k_w, s_h=s_h, s_w=s_w, p_h=p_h, p_w=p_w, d_h=d_h,
        d_w=d_w, h_out=g.h_out, w_out=g.w_out, pixels=n * g.h_out * g.w_out, share=share,
        per_image=divisor(g.h_out * g.w_out), per_row=divisor(g.w_out), gy_kind=gy_kind,
        x_kind=x_kind, by_w=across * s_w, by_h=down * s_h,
        by_entries=whole * g.h_in * row + down * s_h * row + across * s_w * g.c_in,
    )  # fmt: skip
