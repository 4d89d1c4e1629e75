"""Operands written out on a GPU, against their definition, ``Operand.values``."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import put

from minires.kernels.cuda import packs, write
from minires.kernels.operand import GRADIENT, KINDS, PLAIN, Operand

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 4), (3, 7, 5, 3), (2, 3, 3, 136), (0, 2, 2, 8)]
TOLERANCE = {"float32": 1e-5, "float64": 1e-14}


def check(kind, shape, dtype):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, *shape)).astype(dtype)
    k = rng.standard_normal((5, shape[-1])).astype(dtype)
    if x.size > 20:
        x.flat[3], x.flat[7], y.flat[9], y.flat[13] = np.nan, np.inf, np.nan, -np.inf
    arrays = [x, None if kind == PLAIN else k, y if kind >= GRADIENT else None]
    there = [None if a is None else put(a) for a in arrays]
    out = put(np.full(shape, 7, dtype))
    write(Operand(there[0], kind, *there[1:]), out)
    with np.errstate(all="ignore"):
        expected = Operand(arrays[0], kind, *arrays[1:]).values()
    np.testing.assert_allclose(out.get(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_every_kind(kind, shape, dtype, conditions):
    check(kind, shape, dtype)


def test_more_rows_than_one_launch_reaches(on_gpu, monkeypatch):
    monkeypatch.setattr(packs, "MOST", 50)
    check(GRADIENT, (3, 7, 5, 3), "float32")
