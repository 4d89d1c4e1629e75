"""Index arrays on a GPU: repeated entries in their order, the same bits each time, and bounds."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import put
from harness import check_gradients, host, raises, tensor

import minires as mr
from minires.errors import BoundsError, ShapeError
from minires.kernels.cuda import scatter


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("count", "rows", "width"), [(1, 1, 1), (7, 3, 5), (300, 4, 2), (1500, 40, 1)]
)
def test_sums_at_positions(count, rows, width, dtype, conditions):
    rng = np.random.default_rng(count)
    positions, x = rng.integers(0, rows, count), rng.standard_normal((count, width)).astype(dtype)
    expected = np.zeros((rows, width))
    np.add.at(expected, positions, x.astype(np.float64))
    found = scatter.add(put(positions), put(x), rows).get()
    np.testing.assert_array_equal(found, expected.astype(dtype))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1024, 1024), (1025, 30), (2100, 9)])
def test_who_comes_last(count, size, conditions):
    positions = np.random.default_rng(0).integers(0, size, count)
    expected = np.full(size, -1)
    expected[positions] = np.arange(count)  # NumPy writes in order
    np.testing.assert_array_equal(scatter.last(put(positions), size).get(), expected)


def test_keys_are_sorted(on_gpu):
    """of every chunk, and across several merges of chunks."""
    for count in (1, 1024, 1025, 5000):
        positions = np.random.default_rng(count).integers(0, 100, count)
        keys = scatter._sorted(put(positions), 100).get()
        assert (keys[count:] == 2**63 - 1).all()
        order = np.argsort(positions, kind="stable")
        np.testing.assert_array_equal(keys[:count] & 0xFFFFFFFF, order)
        np.testing.assert_array_equal(keys[:count] >> 32, positions[order])


def test_nothing(on_gpu):
    none = put(np.zeros(0, np.int64))
    assert scatter.add(none, put(np.zeros((0, 3), np.float32)), 2).get().tolist() == [[0] * 3] * 2
    assert scatter.last(none, 2).get().tolist() == [-1, -1]


def test_too_many(on_gpu, monkeypatch):
    monkeypatch.setattr(scatter, "MOST", 5)
    with pytest.raises(
        ShapeError, match="index: expected at most 5 entries to write at indices, got 6"
    ):
        scatter.last(put(np.zeros(6, np.int64)), 2)


INDICES = {
    "rows": np.array([2, 0, 2, 2, -1]),
    "rows in a matrix": np.array([[1, 1], [0, -3]]),
    "pairs": (np.array([0, 1, 0]), np.array([3, 2, 3])),
    "slice and columns": (slice(None), np.array([1, 1, 3])),
    "columns behind an ellipsis": (..., np.array([0, 0, -1])),
    "mask": np.arange(12).reshape(3, 4) % 2 == 0,
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_reading_and_its_gradients(index, on_gpu):
    x = np.random.default_rng(0).standard_normal((3, 4))
    np.testing.assert_array_equal(host(tensor(x)[index]), x[index])
    check_gradients(lambda t: t[index] * t[index], [x])


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_writing_and_its_gradients(index, on_gpu):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4))
    values = rng.standard_normal(x[index].shape)

    def write(x, values):
        y = x * 1
        y[index] = values
        return y * y

    expected = x.copy()
    expected[index] = values
    np.testing.assert_array_equal(host(write(tensor(x), tensor(values))), expected**2)
    check_gradients(write, [x, values])


def test_what_is_written_is_broadcast(on_gpu):
    x = mr.zeros(3, 4, device="cuda")
    x[[0, 0, 2]] = tensor([[[1.0, 2, 3, 4]]], dtype="float32")
    x[[1, 1]] = 5
    assert x.tolist() == [[1, 2, 3, 4], [5, 5, 5, 5], [1, 2, 3, 4]]
    with raises(ShapeError, "assignment: expected values that fit x[index] of shape (2, 4)"):
        x[[0, 1]] = tensor([1.0, 2, 3], dtype="float32")


def test_views_are_written_through(on_gpu):
    x = mr.zeros(4, 3, device="cuda")
    x.T[[2, 0, 2]] = tensor([[1.0] * 4, [2.0] * 4, [3.0] * 4], dtype="float32")
    assert x.tolist() == [[2, 0, 3]] * 4


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (np.array([0, 3]), "index 3 is out of bounds for axis 0 with size 3"),
        (np.array([[0], [-4]]), "index -4 is out of bounds for axis 0 with size 3"),
        ((slice(None), np.array([1, 9, 8])), "index 9 is out of bounds for axis 1 with size 4"),
        ((..., np.array([5])), "index 5 is out of bounds for axis 1 with size 4"),
        ((None, np.array([0]), np.array([4])), "index 4 is out of bounds for axis 1 with size 4"),
    ],
)
def test_bounds_are_those_of_the_cpu(index, words, device):
    x = mr.zeros(3, 4, device=device)
    for act in (lambda: x[index], lambda: x.__setitem__(index, 1.0)):
        with raises(BoundsError, f"index: {words} (shape (3, 4))"):
            act()
    assert not host(x).any()
