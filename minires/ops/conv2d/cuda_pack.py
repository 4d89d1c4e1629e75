"""Weights in the order in which the convolution kernels read them: cuda_pack.cu."""

from __future__ import annotations

import functools
from collections.abc import Iterator
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
_STRUCT = np.dtype([(name, "i4") for name in (*_INTS, "pitch")])


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
def _kernel(math: str, transposed: bool) -> Kernel:
    return Kernel(_SOURCE, f"conv2d_pack<{math},{str(transposed).lower()}>", 256)


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
    struct = record(
        _STRUCT, rows=rows, channels=channels, k_h=g.k_h, k_w=g.k_w, pitch=pitch, **taps._asdict()
    )
    _kernel(math, transposed)(
        -(-rows // 32) * -(-channels // 32) * g.groups, contiguous(w), out, struct
    )
    return out


def instances() -> Iterator[Kernel]:
    """Every instance that a convolution may ask for."""
    for math in ENTRY:
        yield _kernel(math, False)
        yield _kernel(math, True)
