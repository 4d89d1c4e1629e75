"""Weights in the order in which the convolution kernels read them: cuda_pack.cu."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import ShapeError, message
from ...kernels.cuda.kernel import Kernel
from ...kernels.cuda.struct import record
from ...kernels.packed import PackedWeights, contiguous
from ...memory import allocate
from .cuda_plan import ENTRY, LIMIT, pitch_of
from .op import Conv2dGeometry

_SOURCE = Path(__file__).with_suffix(".cu")
_INTS = ("rows", "channels", "k_h", "k_w", "taps_h", "taps_w", "u0", "v0", "u_step", "v_step")
MOST = 48  # packs of a launch, as in the source
_PACK = np.dtype(
    [("w", "u8"), ("packed", "u8"), *[(name, "i4") for name in ("transposed", *_INTS, "pitch")]],
    align=True,
)
_PACKS = np.dtype([("of", _PACK, MOST), ("first", "i4", MOST + 1), ("count", "i4")], align=True)


class Taps(NamedTuple):
    """Taps of a kernel, in the order of the packed weights: rows u0, u0 + u_step, ... (``taps_h``
    of them), and of each the columns v0, v0 + v_step, ..."""

    u0: int
    u_step: int
    taps_h: int
    v0: int
    v_step: int
    taps_w: int


def forward_taps(g: Conv2dGeometry) -> Taps:
    """All taps, from the first to the last."""
    return Taps(0, 1, g.k_h, 0, 1, g.k_w)


@functools.cache
def _kernel(math: str) -> Kernel:
    return Kernel(_SOURCE, f"conv2d_pack<{math}>", 256, together=_together)


def _table(packs: Any, blocks: Any) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Grid and argument of a launch that does these packs, of so many blocks each."""
    table, count = np.zeros(1, _PACKS), len(packs)
    table["of"][0, :count] = packs
    table["first"][0, 1 : count + 1] = np.cumsum(blocks)
    table["count"] = count
    return (int(table["first"][0, count]),), (table,)


def _together(launches: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, Any]]:
    """The launches with these arguments as few: what one packs, no other one reads."""
    tables = [table[0] for (table,) in launches]
    packs = np.concatenate([table["of"][: table["count"]] for table in tables])
    blocks = np.concatenate([np.diff(table["first"][: table["count"] + 1]) for table in tables])
    for begin in range(0, len(packs), MOST):
        yield _table(packs[begin : begin + MOST], blocks[begin : begin + MOST])


def packed(kept: PackedWeights, g: Conv2dGeometry, taps: Taps, transposed: bool, math: str) -> Any:
    """The weights (rows, pitch), kept as a form of ``kept``.

    Args:
        transposed: a row for each input channel, summed over output channels: for the input
            gradient; else a row for each output channel.
    """
    key = ("cuda", math, transposed, taps)
    return kept.form(key, lambda: _pack(kept.array, g, taps, transposed, math))


def _pack(w: Any, g: Conv2dGeometry, taps: Taps, transposed: bool, math: str) -> Any:
    rows, channels = g.c_out // g.groups, g.c_in // g.groups
    if transposed:
        rows, channels = channels, rows
    pitch = pitch_of(taps.taps_h * taps.taps_w, channels, math)
    if g.groups * rows * pitch > LIMIT or w.size > LIMIT:
        expected, got = f"at most {LIMIT} weights on a GPU", f"{g.groups * rows * pitch} packed"
        raise ShapeError(message("conv2d", expected, got))
    out = allocate((g.groups * rows, pitch), np.dtype(ENTRY[math]), w)
    read = contiguous(w)
    grid, blank = _alone(g, taps, transposed, rows, channels, pitch)
    table = blank.copy()
    one = table["of"][0, 0]
    one["w"], one["packed"] = read.data.ptr, out.data.ptr
    _kernel(math)(grid, table, reaches=(read, out))
    return out


@functools.lru_cache(maxsize=1024)
def _alone(
    g: Conv2dGeometry, taps: Taps, transposed: bool, rows: int, channels: int, pitch: int
) -> tuple[tuple[int, ...], Any]:
    """Grid and argument of a launch that does one pack, without addresses."""
    one = record(
        _PACK, w=0, packed=0, transposed=transposed, rows=rows, channels=channels, k_h=g.k_h,
        k_w=g.k_w, pitch=pitch, **taps._asdict(),
    )  # fmt: skip
    grid, (table,) = _table(one, [-(-rows // 32) * -(-channels // 32) * g.groups])
    return grid, table


def instances() -> Iterator[Kernel]:
    """Every instance that a convolution may ask for."""
    for math in ENTRY:
        yield _kernel(math)
