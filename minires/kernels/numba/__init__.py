"""The CPU's backend: kernels compiled by Numba, and what they are made of.

Every backend offers the same::

    allocate(shape, dtype)  an array to be written, in memory that was used before
    workspace(size, dtype)  memory for one kernel to work in, and nobody else
    taking_from(pool)       arrays allocated inside are a pool's; None stands for everybody's
    release()               give memory that nobody uses back to the system
    memory_pool()           memory that one captured graph keeps for itself
    segment(name)           collects launches, to run them again: calling it does, and
                            .one_by_one() tells of each what it works on, and runs it alone
    allocations()           leads the results of a call to the memory of an earlier one's; or None
    as_one(nodes, pool)     one node of many, which launches them together; or None
    write(operand, out)     fills an array with what an operand stands for
    synchronize()           wait until all that was launched is done
    fuses                   the names of what its kernels take over from their neighbours

In its ``kernel`` module is a decorator that makes a kernel, which is launched by
``kernel(tasks, *arguments)``.
"""

from __future__ import annotations

from typing import Any

from ..epilogue import EPILOGUES
from ..operand import PROLOGUES, Operand
from .allocator import MemoryPool as memory_pool
from .allocator import allocate, release, taking_from, workspace

fuses = PROLOGUES | EPILOGUES
allocations = as_one = None


def segment(name: str) -> Any:
    """An empty row of launches; ``name`` is that of its first kernel, for messages."""
    from .threads import Launches

    return Launches(name)


def write(operand: Operand, out: Any) -> None:
    """Fill ``out`` with the values of an operand."""
    from . import prologue

    prologue.write(operand, out)


def synchronize() -> None:
    """Kernels on the CPU are done when they return."""
