"""Random draws on the GPU (``draws.cu``), from a state in its memory: uint64 (key, calls so far).

:meth:`minires.random.Generator.on` keeps the state. The same key and number of calls give the same
draws, whatever was drawn on the host meanwhile.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .kernel import Kernel
from .source import c_type

_SOURCE = Path(__file__).with_suffix(".cu")
THREADS = 256  # as in the source
LARGEST = 1 << 30  # entries of a launch, a multiple of 4: indices have 32 bits


@functools.cache
def _mask(dtype: Any) -> Kernel:
    return Kernel(_SOURCE, f"draw_mask<{c_type(dtype)}>", THREADS)


_done = Kernel(_SOURCE, "draws_done", 1)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module launches."""
    return iter((_mask(np.dtype(np.float32)), _mask(np.dtype(np.float64)), _done))


def draw_mask(state: Any, p: float, scale: float, mask: Any) -> None:
    """Fill a contiguous ``mask`` with 0 with probability p, else with ``scale``; one call of the
    generator whose ``state`` is given."""
    flat, number = mask.reshape(-1), mask.dtype.type
    for begin in range(0, flat.size, LARGEST):
        part = flat[begin : begin + LARGEST]
        sizes = np.int32(begin // 4), np.int32(part.size)
        blocks = -(-part.size // (4 * THREADS))
        _mask(mask.dtype)(blocks, state, part, np.float32(p), number(scale), *sizes)
    _done(1, state)
