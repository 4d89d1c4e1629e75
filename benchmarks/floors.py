"""What this machine can do at best: how fast it copies, how fast it multiplies and adds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.kernels.numba.kernel import kernel
from minires.kernels.numba.simd import lanes_of, load, store

BLOCK = 1 << 14  # entries that a task copies, a multiple of any vector


@kernel
def _copy(task, source, target, size, block):  # type: ignore[no-untyped-def]
    width, end = lanes_of(source), min((task + 1) * block, size)
    for i in range(task * block, end - width + 1, width):
        store(target, i, load(source, i))
    for i in range(end - end % width, end):
        target[i] = source[i]


def bandwidth(nbytes: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes per second, read and written, of a parallel copy that moves ``nbytes`` in all.

    The size matters: what fits the caches is copied several times as fast as what does not, and
    a kernel is to be held against the copy that finds its data in the same place.
    """
    size = max(nbytes // 8, 1)  # half of the bytes are read, half written; 4 to a float32
    source, target = np.ones(size, np.float32), np.empty(size, np.float32)
    tasks = -(-size // BLOCK)
    return 8 * size / _best(lambda: _copy(tasks, source, target, size, BLOCK), clock)


def peak(clock: Callable[[], float] = time.perf_counter) -> float:
    """Operations per second of one large float32 np.matmul; a multiply-add is two."""
    size = 1536
    a = np.ones((size, size), np.float32)
    product = np.empty_like(a)
    return 2 * size**3 / _best(lambda: np.matmul(a, a, out=product), clock, 0.5)


def _best(side: Callable[[], Any], clock: Callable[[], float], seconds: float = 0.05) -> float:
    """The fastest of many calls: a floor is what the machine can do undisturbed."""
    side()  # compiles, and touches fresh memory
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start = clock()
        side()
        times.append(clock() - start)
    return min(times)
