"""The cores of a machine, shared out among its ranks.

Some launchers bind each rank to cores of its own, others let each use all. A rank that ran kernels
on all the cores it may use would then have to wait for the others' threads. So it takes its part:
the number of cores that it may use, divided by the number of ranks that may use some of them too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Whoever sets one of these has decided how many threads BLAS has.
BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")
NUMBA = "NUMBA_NUM_THREADS"


def usable() -> frozenset[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def part(cores: Sequence[frozenset[int]], own: int) -> int:
    """How many threads rank ``own`` of a machine runs, by the cores that each rank there may use.

    >>> part([frozenset({0, 1, 2, 3})] * 2, 0)
    2
    >>> part([frozenset({0}), frozenset({1})], 0)
    1
    """
    sharing = sum(not cores[own].isdisjoint(others) for others in cores)
    return max(1, len(cores[own]) // sharing)


def take(threads: int) -> None:
    """Run the kernels and the matrix products of this process on so many threads, unless the
    environment says how many."""
    if NUMBA not in os.environ:
        if "numba" in sys.modules:
            from minires.kernels.numba.threads import limit

            limit(threads)
        os.environ[NUMBA] = str(threads)  # read as Numba is imported, here or in a child process
    if not any(name in os.environ for name in BLAS):
        from threadpoolctl import ThreadpoolController

        ThreadpoolController().select(user_api="blas").limit(limits=threads)
