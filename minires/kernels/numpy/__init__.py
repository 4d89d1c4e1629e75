"""The references' backend: plain NumPy, on the CPU; see :mod:`minires.kernels.numba`.

References take every prologue and epilogue when they are called with one, as the oracles of fused
kernels, but nothing is deferred for them: with references, what is read is what runs.
"""

from __future__ import annotations

from typing import Any

from ..numba.allocator import allocate, workspace
from ..operand import Operand

fuses: frozenset[str] = frozenset()


def write(operand: Operand, out: Any) -> None:
    """Fill ``out`` with the values of an operand."""
    out[...] = operand.values()


def synchronize() -> None:
    """Results are there when NumPy returns."""
