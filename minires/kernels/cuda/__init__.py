"""The GPU's backend: kernels of CUDA C++, compiled by NVRTC and launched through CuPy.

What every backend offers is listed in :mod:`minires.kernels.numba`. In :mod:`.kernel` is the class
that makes a kernel of a function in a ``.cu`` file, which is launched by
``kernel(grid, *arguments)``; the headers ``*.cuh`` beside it are what kernels share. Nothing here
imports CuPy before a kernel or memory is asked for.
"""

from __future__ import annotations

from typing import Any

from ...device import cupy
from ..epilogue import EPILOGUES
from ..operand import POOLED, PROLOGUES, Operand
from .graph import CudaGraph as as_one
from .graph import Launches as segment
from .pool import Allocations as allocations
from .pool import MemoryPool as memory_pool
from .pool import allocate, out_of_memory, release, taking_from, workspace

fuses = PROLOGUES | EPILOGUES | {POOLED}


def synchronize() -> None:
    """Wait until all that was launched on the current stream is done."""
    cupy().cuda.get_current_stream().synchronize()


def write(operand: Operand, out: Any) -> None:
    """Fill ``out`` with the values of an operand."""
    from .operand import write

    write(operand, out)
