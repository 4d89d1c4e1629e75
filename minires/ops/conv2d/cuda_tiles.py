"""The table of tiles: sizes in, tile out. What is measured on a GPU is written here, and only here.

A tile is a kernel's template arguments. A block of threads computes BM pixels by BN channels, each
of its warps WM by WN of them; large tiles do more products for each number that they read, small
ones share out few pixels among more blocks. Tiles depend on sizes alone, and so do the order of all
sums and the last bits of the results. The one thing of the GPU that is asked for is how much shared
memory a block may have: 227 KiB on data-centre GPUs from sm_90 on, 163 KiB on sm_80, 99 KiB on
others, for which the largest patches are too large.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...kernels.cuda.operand import FAMILIES
from .cuda_plan import ENTRY, Sizes

FEW = 264  # blocks that occupy a large GPU twice over: with fewer, tiles become smaller
FEW_PATCHES = 132  # the same of patches: blocks that occupy it once
LARGEST = 227 * 1024  # bytes of shared memory that a block may have, on the largest GPUs
WASTE = 1.6  # a patch may do so many times the pixels that there are


class Windows(NamedTuple):
    """A tile of :mod:`.cuda_windows`: BM, BN, WM, WN; by family bytes of a row, and stages."""

    bm: int
    bn: int
    wm: int
    wn: int
    rows: tuple[int, int, int] = (64, 64, 64)
    stages: tuple[int, int, int] = (2, 2, 2)

    @property
    def block(self) -> int:
        return self.bm // self.wm * (self.bn // self.wn) * 32

    def blocks(self, z: Sizes) -> int:
        """Blocks of pixels."""
        return -(-z.images * z.h_out * z.w_out // self.bm)

    def grid(self, z: Sizes) -> int:
        """Blocks of threads."""
        return self.blocks(z) * -(-z.c_out // self.bn) * z.groups


class Patch(NamedTuple):
    """A tile of :mod:`.cuda_patch`: C input channels, BN, IMAGES x H x W pixels, WM, WN, and groups
    of warps that split the sums."""

    c: int
    bn: int
    images: int
    h: int
    w: int
    wm: int
    wn: int
    split: int = 1

    @property
    def bm(self) -> int:
        return self.images * self.h * self.w

    @property
    def block(self) -> int:
        return self.bm // self.wm * (self.bn // self.wn) * 32 * self.split

    def blocks(self, z: Sizes) -> int:
        """Blocks of pixels."""
        return -(-z.images // self.images) * -(-z.h_out // self.h) * -(-z.w_out // self.w)

    def grid(self, z: Sizes) -> int:
        """Blocks of threads."""
        return self.blocks(z) * -(-z.c_out // self.bn)


WIDE, NARROW, SMALL, SIXTEEN = "wide", "narrow", "small", "sixteen"
WINDOWS = {
    ("Fp32", WIDE): Windows(128, 128, 64, 32),
    ("Fp32", NARROW): Windows(128, 64, 64, 32, (64, 128, 64)),
    ("Fp32", SMALL): Windows(64, 64, 32, 32, (128, 128, 128), (3, 2, 2)),
    ("Fp32", SIXTEEN): Windows(128, 16, 32, 16),
    ("Tf32", WIDE): Windows(128, 128, 64, 64, stages=(3, 2, 2)),
    ("Tf32", NARROW): Windows(128, 64, 64, 32, stages=(3, 2, 2)),
    ("Tf32", SMALL): Windows(64, 64, 32, 32, (128, 128, 128), (3, 2, 2)),
    ("Tf32", SIXTEEN): Windows(128, 16, 32, 16, stages=(3, 2, 2)),
    ("Bf16", WIDE): Windows(128, 128, 64, 32),
    ("Bf16", NARROW): Windows(128, 64, 64, 32),
    ("Bf16", SMALL): Windows(64, 64, 32, 32),
    ("Bf16", SIXTEEN): Windows(128, 16, 32, 16),
    ("Fp64", SMALL): Windows(64, 32, 32, 16),
}
ODD = (NARROW, SIXTEEN)  # for channels that do not come in fours, which are copied in smaller packs
# Of each the largest first: of those with enough blocks the first one is taken, else the last.
_FEW = {c: Patch(c, 16, 1, 2 if c == 64 else 4, 8, 16, 16, 3) for c in (16, 32, 64)}
_TENSOR = {
    16: (Patch(16, 16, 1, 8, 32, 64, 16), _FEW[16]),
    32: (Patch(32, 32, 1, 8, 16, 32, 32), _FEW[32]),
    64: (Patch(64, 64, 2, 8, 8, 64, 32), Patch(64, 32, 1, 8, 8, 32, 16), _FEW[64]),
}
PATCHES = {
    ("Fp32", 16): (Patch(16, 16, 1, 8, 32, 128, 16), _FEW[16]),
    ("Fp32", 32): (Patch(32, 32, 1, 8, 16, 64, 32), _FEW[32]),
    ("Fp32", 64): (Patch(64, 32, 1, 8, 8, 32, 32), _FEW[64]),
    **{("Tf32", c): found for c, found in _TENSOR.items()},
    **{("Bf16", c): found for c, found in _TENSOR.items()},
}


def vector(z: Sizes, math: str) -> int:
    """Entries that are copied at a time: up to 16 bytes of an array, as many as divide c_in."""
    return next(v for v in ((2, 1) if math == "Fp64" else (4, 2, 1)) if z.c_in % v == 0)


def whole(math: str) -> int:
    """Entries of 16 bytes of an array."""
    return 2 if math == "Fp64" else 4


def patch_tile(z: Sizes, math: str, shared: int = LARGEST) -> Patch | None:
    """The patch for a convolution: 3 x 3 taps that lie side by side, of 16, 32 or 64 channels, and
    images that it divides well; else None. ``shared`` is what a block may have of shared memory."""
    options = (z.groups, z.k_h, z.k_w, z.s_h, z.s_w, z.d_h, z.d_w)
    if options != (1, 3, 3, 1, 1, 1, 1) or z.c_out > 2 * max(z.c_in, 32):
        return None  # each block of channels copies the patch again: not for many of them
    found = PATCHES.get((math, z.c_in), ())
    for patch in found:
        done = -(-z.h_out // patch.h) * patch.h * -(-z.w_out // patch.w) * patch.w
        enough = patch.grid(z) >= FEW_PATCHES or patch is found[-1]
        fits = shared_of(patch, math, "AS_IS") <= shared
        if fits and enough and done <= WASTE * z.h_out * z.w_out:
            return patch
    return None


def windows_name(z: Sizes, math: str) -> str:
    """Which tile of :data:`WINDOWS` a convolution takes."""
    if math == "Fp64":
        return SMALL
    if z.c_out <= 16:
        return SIXTEEN
    pixels = -(-z.images * z.h_out * z.w_out // 128)
    if vector(z, math) < whole(math):
        return NARROW
    if z.c_out <= 64:
        return SMALL if pixels * z.groups < FEW else NARROW
    return SMALL if pixels * -(-z.c_out // 128) * z.groups < FEW else WIDE


@functools.lru_cache(maxsize=1024)
def tile(z: Sizes, math: str, shared: int = LARGEST) -> Windows | Patch:
    """The tile of a convolution, on a GPU whose blocks may have so much shared memory."""
    patch = patch_tile(z, math, shared)
    if patch is not None:
        return patch
    return WINDOWS[math, windows_name(z, math)]


@functools.lru_cache(maxsize=1024)
def applies(family: str, z: Sizes, math: str, shared: int = LARGEST) -> bool:
    """Whether the kernel applies a family of prologues while it reads, or wants its values written
    first. It pays where a number is read once, or a few times: what a batch norm makes of an image
    everywhere but in the tiles for odd sizes; its gradient, which reads two arrays, for kernels of
    one tap and in a patch of many pixels."""
    patch = patch_tile(z, math, shared)
    if family == "AS_IS" or patch is not None:
        return family != "BACKWARD" or patch is None or patch.split == 1
    if vector(z, math) < whole(math) or windows_name(z, math) == SIXTEEN:
        return False
    return family == "AFFINE" or z.k_h * z.k_w == 1


def shared_of(t: Windows | Patch, math: str, family: str) -> int:
    """Bytes of shared memory of a block."""
    if isinstance(t, Windows):
        which = FAMILIES.index(family)
        return t.stages[which] * (t.bm + t.bn) * t.rows[which]
    pitch = t.c * np.dtype(ENTRY[math]).itemsize + 16
    return (t.images * (t.h + 2) * (t.w + 2) + 9 * t.bn) * pitch
