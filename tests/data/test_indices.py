"""What may stand in brackets behind a data set: one rule for all of them."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires.data import Dataset, ImageDataset, Subset, TensorDataset, load
from minires.errors import ArgumentError, BoundsError, DTypeError

N = 7


class Alone(Dataset):
    """One sample at a time, and no ``batch``."""

    def __len__(self) -> int:
        return 2 * N

    def __getitem__(self, index: int):
        return np.full((1, 2, 2), index, np.float32), index


def tensors() -> TensorDataset:
    return TensorDataset(np.arange(N * 4, dtype=np.float32).reshape(N, 1, 2, 2), np.arange(N))


MAKE = {
    "images": lambda: load("digits").limit(N),
    "tensors": tensors,
    "part of images": lambda: Subset(load("digits"), range(3, 3 + N)),
    "part of tensors": lambda: Subset(tensors(), [6, 5, 4, 3, 2, 1, 0]),
    "part of a part": lambda: Subset(Subset(load("digits"), range(20)), np.arange(N)),
    "part of one's own": lambda: Subset(Alone(), list(range(0, 2 * N, 2))),
}
ONE = [2, -1, np.int64(3), np.uint8(3), np.array(4), mr.tensor(5), -N]
MANY = [
    slice(0, 2),
    slice(None, None, -1),
    slice(np.int64(1), None, np.int64(2)),
    slice(2, 2),
    slice(-100, 100),
    [0, 2],
    [-1, np.int32(1)],
    [],
    np.array([1, 1, 3], np.uint8),
    mr.tensor([5, 0, -2]),
    range(1, 6, 2),
]
NONE = [True, np.True_, 1.0, np.float32(1), None, "a", (0, 1), [0.5], [True, False], ..., {1}]


@pytest.fixture(params=MAKE)
def dataset(request):
    return MAKE[request.param]()


@pytest.mark.parametrize("index", ONE, ids=repr)
def test_an_integer_is_one_sample(dataset, index):
    x, y = dataset[index]
    expected_x, expected_y = dataset[range(N)[int(index)]]
    np.testing.assert_array_equal(x, expected_x)
    assert int(y) == int(expected_y)


@pytest.mark.parametrize("index", MANY, ids=repr)
def test_a_slice_or_a_list_is_a_batch(dataset, index):
    where = np.arange(N)[
        np.asarray(index, int) if isinstance(index, list | range) else _host(index)
    ]
    if not len(where) and isinstance(getattr(dataset, "dataset", None), Alone):
        with pytest.raises(ArgumentError, match="batch: expected at least one sample, got none"):
            dataset[index]
        return
    x, y = dataset[index]
    assert (len(x), len(y)) == (len(where), len(where))
    for row, label, i in zip(x, y, where):
        np.testing.assert_array_equal(row, dataset[int(i)][0])
        assert int(label) == int(dataset[int(i)][1])
    if not isinstance(index, slice) or len(where):
        again = dataset.batch(where)
        np.testing.assert_array_equal(x, again[0])
        np.testing.assert_array_equal(y, again[1])


def _host(index):
    return index.numpy() if isinstance(index, mr.Tensor) else index


@pytest.mark.parametrize("index", NONE, ids=repr)
def test_what_is_no_index(dataset, index):
    with pytest.raises(DTypeError, match="expected an integer, a slice, or a list or an array of"):
        dataset[index]


def test_a_mask_is_told_from_indices(dataset):
    with pytest.raises(DTypeError, match=r"Turn a mask into indices: numpy\.flatnonzero"):
        dataset[np.ones(N, bool)]


@pytest.mark.parametrize("index", [N, -N - 1, 2**70, [0, N], np.array([-N - 1])], ids=repr)
def test_places_that_there_are_not(dataset, index):
    with pytest.raises(BoundsError, match=f"expected an index into {N} samples, got"):
        dataset[index]
    with pytest.raises(IndexError):
        dataset[index]


def test_a_loop_over_a_data_set_ends(dataset):
    assert sum(1 for _ in dataset) == N


def test_images_are_made_once_only_for_the_chosen():
    images = load("digits")
    assert isinstance(images, ImageDataset)
    x, y = images[10:13]
    assert x.shape == (3, 1, 8, 8)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
