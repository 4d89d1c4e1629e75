"""What the CPU offers: how wide its vector registers are, and how many it has.

The register tile (:mod:`.tile`) must fit the registers: R rows of V vectors of sums, V vectors of
the right factor and one spread entry of the left one, so R * V + V + 1 of them.

================  ==========  =========  =====================
instructions      float32     registers  rows of the product
                  lanes
================  ==========  =========  =====================
AVX-512           16          32         12
AVX2              8           16         6
NEON              4           32         12
================  ==========  =========  =====================

More than 12 rows would need more pointers than there are integer registers.
``MINIRES_SIMD=16``, ``8`` or ``4`` forces one of the three shapes on any CPU (LLVM emulates vectors
that the CPU lacks), so that all of them can be tested on one machine.
"""

from __future__ import annotations

import os
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from ...errors import ArgumentError, message

SHAPES = (16, 8, 4)  # float32 lanes


def _choose() -> int:
    forced = os.environ.get("MINIRES_SIMD")
    if forced is not None:
        if forced not in map(str, SHAPES):
            raise ArgumentError(message("MINIRES_SIMD", "16, 8 or 4", repr(forced)))
        return int(forced)
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") and features.get("fma") else 4


LANES = _choose()  # float32 entries in a vector register; of float64 half as many
REGISTERS = 16 if LANES == 8 else 32


def lanes(dtype: Any) -> int:
    """How many numbers of a dtype one vector register holds."""
    return LANES * 4 // np.dtype(dtype).itemsize


def rows(vectors: int, limit: int) -> int:
    """How many rows a register tile of so many vectors a row may have, up to a limit."""
    return min((REGISTERS - 1) // vectors - 1, limit)


def instructions() -> str:
    """The name of the vector instructions in use, for people."""
    return {16: "AVX-512", 8: "AVX2", 4: "128-bit vectors"}[LANES]
