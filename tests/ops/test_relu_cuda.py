"""The rectifier on a GPU: sizes around a pack and a block, views, arrays of several parts."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import put

from minires.kernels.cuda import packs
from minires.ops.relu import kernel_cuda as cuda
from minires.ops.relu import kernel_numpy as reference

SIZES = [0, 1, 3, 4, 5, 4095, 4096, 4097]


def check(size, dtype, first=0):
    """Both kernels on arrays that begin ``first`` entries behind the memory they are a part of."""
    x, gy = np.random.default_rng(size).standard_normal((2, first + size)).astype(dtype)
    x[first : first + 3] = np.array([np.nan, np.inf, -np.inf], dtype)[:size]
    y, gx = np.full((2, size), 7, dtype)
    reference.relu_fwd(x[first:], y)
    reference.relu_bwd_x(gy[first:], y, gx)
    found = put(np.full((2, first + size), 7, dtype))
    cuda.relu_fwd(put(x)[first:], found[0, first:])
    cuda.relu_bwd_x(put(gy)[first:], found[0, first:], found[1, first:])
    np.testing.assert_array_equal(found.get()[:, first:], [y, gx])
    assert (found.get()[:, :first] == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
def test_kernels_are_the_reference(size, dtype, conditions):
    check(size, dtype)


@pytest.mark.parametrize("size", [1, 66])
def test_a_view_that_begins_within_a_pack(size, on_gpu):
    check(size, "float32", first=1)


def test_more_entries_than_one_launch_reaches(on_gpu, monkeypatch):
    monkeypatch.setattr(packs, "MOST", 20)
    check(67, "float32")
