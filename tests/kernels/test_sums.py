"""Sums over any dimensions in any memory order, against long doubles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import minires as mr
from minires.kernels.numba.sums import BLOCK, FEW, PANEL, add_up

DTYPES = ["float32", "float64"]


def check(x, axes):
    """The sum is that of long doubles, to the last digits of float64."""
    exact = x.astype(np.longdouble).sum(axis=axes)
    size = abs(x).astype(np.float64).sum(axis=axes)
    found = add_up(x, axes)
    assert found.dtype == np.float64
    assert found.shape == exact.shape
    assert (abs(found - exact) <= 4 * np.finfo(np.float64).eps * size).all()


def numbers(shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def subsets(n):
    return itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(n + 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_every_set_of_axes_in_every_memory_order(order, dtype):
    x = numbers((3, 17, 5, 8), dtype).transpose(order)
    for axes in subsets(4):
        check(x, axes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "cut",
    [
        np.s_[::-1], np.s_[:, ::-1, ::2], np.s_[1:, :, 3:-2], np.s_[..., ::-1], np.s_[::2, ..., :9],
        np.s_[:, 4:5], np.s_[..., 2:3],
    ],
    ids=str,
)  # fmt: skip
def test_what_runs_backwards_or_has_gaps(cut, dtype):
    x = numbers((6, 9, 20), dtype)[cut]
    for axes in subsets(3):
        check(x, axes)
        check(x.transpose(1, 2, 0), axes)


def test_what_repeats_itself():
    x = np.broadcast_to(numbers((3, 1, 5)), (3, 4, 5))
    windows = np.lib.stride_tricks.sliding_window_view(numbers((40,)), 7)
    for axes in subsets(3):
        check(x, axes)
        check(np.broadcast_to(np.float32(0.1), (7, 5, 9)), axes)
    for axes in subsets(2):
        check(windows, axes)
        check(windows.T, axes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        (1,), (BLOCK - 1,), (2 * BLOCK + 5,), (BLOCK + 3, 1), (BLOCK + 7, 3), (FEW + 1, PANEL + 9),
        (4 * FEW + 3, 2 * PANEL), (3, 2 * BLOCK + 1), (5000, 2, 7), (1001, 16), (1003, 64),
    ],
    ids=str,
)  # fmt: skip
def test_sizes_around_those_of_blocks(shape, dtype):
    x = numbers(shape, dtype)
    for axes in subsets(len(shape)):
        check(x, axes)


def test_memory_that_is_not_aligned():
    rows = np.zeros(900, [("tag", "u1"), ("x", "f4", (3,))])
    rows["x"] = numbers((900, 3))
    for axes in subsets(2):
        check(rows["x"], axes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_sum(value):
    x = numbers((300, 40))
    x[7, 3] = value
    for axis in range(2):
        found = add_up(x, (axis,))
        at = (3, 7)[axis]
        np.testing.assert_equal(found[at], value)
        assert np.isfinite(np.delete(found, at)).all()


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (0, 2)], ids=str)
def test_any_number_of_threads_gives_the_same_bits(axes):
    x, limit, results = numbers((200, 100, 30), "float64"), mr.get_num_threads(), []
    try:
        for threads in range(1, min(limit, 3) + 1):
            mr.set_num_threads(threads)
            results.append(add_up(x, axes))
    finally:
        mr.set_num_threads(limit)
    for result in results:
        np.testing.assert_array_equal(result, results[0])
