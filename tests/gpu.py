"""``device="cuda"`` in tests: a GPU where there is one, else a stand-in for CuPy and a simulator.

``pytest -m gpu`` runs on the GPU what else runs on the stand-in; without a GPU it finds no tests.
"""

from __future__ import annotations

import contextlib

import cudasim
import pytest
from cupy_stand_in import cupy_installed

from minires.device import Device, available, move

REAL = len(available()) > 1
CUDA = pytest.param("cuda", marks=[pytest.mark.gpu] if REAL else [])


@contextlib.contextmanager
def gpu():
    """Inside, there is a GPU."""
    if REAL:
        yield
        return
    if reason := cudasim.missing():
        pytest.skip(reason)
    with cupy_installed():
        yield


def other_order():
    """Inside, the simulator runs threads in another order, and asynchronous copies early."""
    return cudasim.running(order="shuffled", late=False)


def put(array):
    """An array of NumPy's on the GPU."""
    return move(array, Device("cuda"))
