"""The references' backend: plain NumPy, on the CPU; of :mod:`minires.kernels.numba`'s offer what
references need.

References take every prologue and epilogue when they are called with one, as the oracles of fused
kernels, but nothing is deferred for them: with references, what is read is what runs. Nor are they
captured, so that there are no pools and no segments.
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
