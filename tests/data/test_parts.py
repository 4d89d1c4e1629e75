"""Subset, random_split, Dataset, and the names of ``utils.data``."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires import data
from minires.data import DataLoader, Dataset, ImageDataset, Subset, TensorDataset, random_split
from minires.errors import ArgumentError, BoundsError, DTypeError


@pytest.fixture
def numbers() -> TensorDataset:
    return TensorDataset(np.arange(10, dtype=np.float32), np.arange(10) * 2)


class Squares(Dataset):
    """A data set as PyTorch code writes them: one sample at a time."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int):
        return np.full((1, 2, 3), index, np.float32), index * index


def test_pytorchs_path_leads_here():
    import minires.utils.data as theirs

    assert mr.utils.data is theirs
    for name in theirs.__all__:
        assert getattr(theirs, name) is getattr(data, name)
    torch = pytest.importorskip("torch.utils.data")
    assert all(hasattr(torch, name) for name in theirs.__all__)


def test_every_data_set_is_one():
    assert issubclass(ImageDataset, Dataset)
    assert issubclass(TensorDataset, Dataset)
    assert issubclass(Subset, Dataset)


def test_a_data_set_of_ones_own():
    x, y = next(iter(DataLoader(Squares(), batch_size=4, pin_memory=True)))
    assert x.shape == (4, 1, 2, 3)
    assert y.tolist() == [0, 1, 4, 9]

    class Empty(Dataset):
        pass

    with pytest.raises(NotImplementedError, match="Empty does not define __getitem__"):
        Empty()[0]
    with pytest.raises(ArgumentError, match="a data set with __len__ and __getitem__, got Empty"):
        DataLoader(Empty())


def test_a_subset_in_its_own_order(numbers: TensorDataset):
    part = Subset(numbers, [7, 2, 2])
    assert len(part) == 3
    assert part[0] == (7, 14)
    x, y = part.batch(np.array([2, 0]))
    assert (x.tolist(), y.tolist()) == ([2, 7], [4, 14])
    of_part = Subset(part, range(1))
    assert of_part[0] == (7, 14)
    assert repr(of_part) == f"Subset(1 of Subset(3 of {numbers!r}))"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_over_parts(numbers: TensorDataset, num_workers: int):
    for dataset in (numbers, Squares()):
        loader = DataLoader(Subset(dataset, [3, 1, 8]), 2, num_workers=num_workers)
        y = [int(label) for _, labels in loader for label in labels.tolist()]
        assert y == [int(dataset[i][1]) for i in (3, 1, 8)]


def test_parts_are_disjoint_and_complete(numbers: TensorDataset):
    parts = random_split(numbers, [5, 0, 3, 2])
    assert [len(part) for part in parts] == [5, 0, 3, 2]
    assert sorted(int(i) for part in parts for i in part.indices) == [*range(10)]
    assert list(parts[0].indices) != [*range(5)]


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [([0.5, 0.5], [5, 5]), ([0.79, 0.21], [8, 2]), ([0.33, 0.33, 0.34], [4, 3, 3]), ([1.0], [10])],
)
def test_shares_give_what_is_left_to_the_first(numbers: TensorDataset, shares, sizes):
    assert [len(part) for part in random_split(numbers, shares)] == sizes
    torch = pytest.importorskip("torch")
    theirs = torch.utils.data.random_split(range(10), shares)
    assert [len(part) for part in theirs] == sizes


def test_the_seed_decides(numbers: TensorDataset):
    def split(**options):
        return [part.indices.tolist() for part in random_split(numbers, [6, 4], **options)]

    one, other = (split(generator=mr.Generator().manual_seed(5)) for _ in range(2))
    assert one == other
    mr.manual_seed(5)
    assert split() == one
    assert split() != one


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda d: Subset(d, [0, 10]), BoundsError, "an index into 10 samples, got 10"),
        (lambda d: Subset(d, [-11]), BoundsError, "an index into 10 samples, got -11"),
        (lambda d: Subset(d, [0.5]), DTypeError, r"an array of integers, as index, got \[0.5\]"),
        (lambda d: Subset(d, 3), DTypeError, "many indices, as a list or an array, got 3"),
        (lambda d: Subset({0: 1}, [0]), ArgumentError, "a data set with .*, got dict"),
        (lambda d: random_split(d, [0.5, "x"]), ArgumentError, "each share a number >= 0"),
        (lambda d: random_split(d, 5), ArgumentError, "sizes that add up to 10, or shares.* got 5"),
        (lambda d: random_split(d, [9, 1], 3), ArgumentError, "generator a minires.Generator, got"),
        (lambda d: random_split(d, [5, 4]), ArgumentError, r"add up to 10, got \[5, 4\], which is"),
        (lambda d: random_split(d, [11, -1]), ArgumentError, "sizes >= 0 that add up to 10"),
        (lambda d: random_split(d, [0.5, 0.4]), ArgumentError, "or shares >= 0 that add up to 1"),
        (
            lambda d: random_split(d, [1.5, -0.5]),
            ArgumentError,
            "each share a finite number >= 0 and <= 1, got 1.5",
        ),
    ],
)
def test_errors(numbers: TensorDataset, call, kind, words: str):
    with pytest.raises(kind, match=words):
        call(numbers)
