"""Gradient of a convolution's input on a GPU: convolutions of stride 1, one for each phase.

Row h of x was under tap u for row i of y where i s + u d - p = h: stride s, dilation d, padding p.
Rows with the same rest, h = s P + a, are a phase: they meet the same taps, those with a + p - u d
divisible by s. These are every s / gcd(s, d)-th tap, from some first u0 on. Tap number m of them is
over row i = P + (a + p - u0 d) / s - m d / gcd(s, d) of gy, which is a convolution of gy with these
taps from the last to the first. For k = 3, s = 2, p = 1, d = 1::

    x    0   1   2   3   4        phase 0: rows 0, 2, 4 of x: tap 1 over rows 0, 1, 2 of gy
         |\\ /|   |\\ /|   |        phase 1: rows 1, 3: tap 2 over rows 0, 1; tap 0 over rows 1, 2
    gy   0 . . . 1 . . . 2

The same holds for columns: with stride 1 there is one phase, with stride 2 there are four. Nothing
is multiplied by a zero that a stride would put between pixels, and each phase writes its own pixels
of gx, zeros where it has no taps.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from ...kernels.cuda.operand import family_of
from ...kernels.operand import Operand, as_operand
from ...kernels.packed import as_packed
from . import cuda_convolve
from .cuda_operand import written
from .cuda_pack import Taps, packed
from .cuda_plan import Sizes, arithmetic, forward_sizes
from .cuda_tiles import applies
from .op import Conv2dGeometry


class Axis(NamedTuple):
    """A phase along one axis.

    Attributes:
        first: its first row of x; the others follow ``stride`` apart.
        size: its rows.
        tap, step, taps: its taps, from the last to the first: so many, from ``tap`` on.
        dilation, padding: of the convolution of gy; negative padding leaves rows out.
    """

    first: int
    size: int
    tap: int
    step: int
    taps: int
    dilation: int
    padding: int


def axis_phases(size: int, k: int, s: int, p: int, d: int) -> list[Axis]:
    """The phases along an axis of x of so many rows, for k taps."""
    common = math.gcd(s, d)
    step, dilation = s // common, d // common
    found = []
    for first in range(min(s, size)):
        rows = -(-(size - first) // s)
        u0 = next((u for u in range(min(step, k)) if (first + p - u * d) % s == 0), None)
        if u0 is None:
            found.append(Axis(first, rows, 0, 1, 0, 1, 0))
            continue
        taps = -(-(k - u0) // step)
        last = u0 + (taps - 1) * step
        padding = (taps - 1) * dilation - (first + p - u0 * d) // s
        found.append(Axis(first, rows, last, -step, taps, dilation, padding))
    return found


@functools.lru_cache(maxsize=1024)
def phases(g: Conv2dGeometry) -> list[tuple[Sizes, Taps]]:
    """The convolutions of gy whose results are gx."""
    f = forward_sizes(g)
    found = []
    for h in axis_phases(g.h_in, g.k_h, f.s_h, f.p_h, f.d_h):
        for w in axis_phases(g.w_in, g.k_w, f.s_w, f.p_w, f.d_w):
            sizes = Sizes(
                f.images, f.h_out, f.w_out, f.c_out, h.size, w.size, f.c_in, f.groups,
                h.taps, w.taps, 1, 1, h.padding, w.padding, h.dilation, w.dilation,
                g.h_in, g.w_in, h.first, w.first, f.s_h, f.s_w,
            )  # fmt: skip
            found.append((sizes, Taps(h.tap, h.step, h.taps, w.tap, w.step, w.taps)))
    return found


def bwd_input(gy: Any, w: Any, gx: Any, g: Conv2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c_in) from gy (n, h_out, w_out, c_out), an array or an Operand."""
    gy, kept = as_operand(gy), as_packed(w)
    arith = arithmetic(g, gx.dtype, g.c_out // g.groups)
    family, shared = family_of(gy.kind), cuda_convolve.shared_memory()
    if not all(applies(family, z, arith, shared) for z, _ in phases(g) if z.k_h and z.k_w):
        gy = written(gy)
    for z, taps in phases(g):
        read = gy if z.k_h and z.k_w else Operand(gy.x)  # of which nothing is read
        weights = packed(kept, g, taps, True, arith)
        cuda_convolve.convolve(read, weights, None, gx, z, arith)
