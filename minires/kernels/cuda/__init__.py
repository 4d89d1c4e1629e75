"""The GPU's backend: kernels of CUDA C++, compiled by NVRTC and launched through CuPy.

What every backend offers is listed in :mod:`minires.kernels.numba`. In :mod:`.kernel` is the class
that makes a kernel of a function in a ``.cu`` file, which is launched by
``kernel(grid, *arguments)``; the headers ``*.cuh`` beside it are what kernels share. Nothing here
imports CuPy before a kernel or memory is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ...device import cupy
from ..epilogue import EPILOGUES
from ..operand import POOLED, PROLOGUES, Operand

fuses = PROLOGUES | EPILOGUES | {POOLED}


def allocate(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array without values on the current device, from CuPy's memory pool."""
    return cupy().empty(shape, dtype)


def workspace(size: int, dtype: Any) -> Any:
    """Memory for one kernel to work in: what comes later on the stream may have it again."""
    return cupy().empty(size, dtype)


@contextlib.contextmanager
def taking_from(pool: Any) -> Iterator[None]:
    """Let what is allocated inside be a pool's; None stands for everybody's memory."""
    with cupy().cuda.using_allocator(None if pool is None else pool.malloc):
        yield


def synchronize() -> None:
    """Wait until all that was launched on the current stream is done."""
    cupy().cuda.get_current_stream().synchronize()


def write(operand: Operand, out: Any) -> None:
    """Fill ``out`` with the values of an operand."""
    from .operand import write

    write(operand, out)
