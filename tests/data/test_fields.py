"""Samples of any number of fields: batches keep every one, as PyTorch's default_collate does."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import minires as mr
from minires import nn, optim
from minires.data import DataLoader, RandomHorizontalFlip, Subset, TensorDataset
from minires.errors import DTypeError, NaNError, ShapeError
from minires.train import evaluate, fit, train_epoch


class Samples:
    def __init__(self, make: Any) -> None:
        self.make = make

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Named(NamedTuple):
    image: Any
    label: int
    name: str


def x(i: int) -> Any:
    return np.full((1, 2, 2), i, np.float32)


MAKES = {
    "two": lambda i: (x(i), i),
    "three": lambda i: (x(i), i, float(i) / 2),
    "one": lambda i: (x(i),),
    "a list": lambda i: [x(i), i, i],
    "alone": x,
    "dict": lambda i: {"image": x(i), "label": i},
    "named": lambda i: Named(x(i), i, f"n{i}"),
    "nested": lambda i: (x(i), (i, {"box": np.full(4, i, np.float32)}), f"n{i}"),
    "flags": lambda i: (x(i), i, i % 2 == 0),
    "tensors": lambda i: (mr.tensor(x(i)), mr.tensor(i), mr.tensor([i, i])),
    "NumPy scalars": lambda i: (x(i), np.int32(i), np.float32(i)),
}


def same(ours: Any, theirs: Any) -> None:
    """One structure; sequences may be tuples here and lists there."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple) and theirs and not isinstance(theirs[0], str):
        assert isinstance(ours, tuple)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            same(one, other)
    elif isinstance(theirs, list | tuple):
        assert list(ours) == list(theirs)
    else:
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", MAKES)
def test_batches_have_the_fields_of_pytorchs(name, workers):
    torch = pytest.importorskip("torch")
    dataset = Samples(MAKES[name])
    plain = Samples(lambda i: _torch(torch, MAKES[name](i)))
    for part, theirs in (
        (dataset, plain),
        (Subset(dataset, [4, 0, 2]), [plain[i] for i in (4, 0, 2)]),
    ):
        ours = list(DataLoader(part, 2, num_workers=workers))
        expected = list(torch.utils.data.DataLoader(theirs, 2))
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected):
            same(one, other)


def _torch(torch: Any, sample: Any) -> Any:
    if isinstance(sample, mr.Tensor):
        return torch.from_numpy(np.array(sample.numpy()))
    if isinstance(sample, tuple | list):
        fields = [_torch(torch, field) for field in sample]
        return type(sample)(*fields) if hasattr(sample, "_fields") else type(sample)(fields)
    return sample


def test_the_third_field_is_there():
    first, second, third = next(iter(DataLoader(Samples(MAKES["three"]), 3)))
    assert first.shape == (3, 1, 2, 2)
    assert second.tolist() == [0, 1, 2]
    assert (third.tolist(), third.dtype) == ([0.0, 0.5, 1.0], np.float64)


def test_named_fields_keep_their_names():
    batch = next(iter(DataLoader(Samples(MAKES["named"]), 2)))
    assert isinstance(batch, Named)
    assert (batch.label.tolist(), batch.name) == ([0, 1], ["n0", "n1"])


def test_tensor_data_sets_of_any_number_of_arrays():
    images, labels = np.zeros((4, 1, 2, 2), np.float32), np.arange(4)
    weights, kept = np.linspace(0, 1, 4), np.arange(4) > 1
    for arrays in ((images,), (images, labels), (images, labels, weights, kept)):
        dataset = TensorDataset(*arrays)
        assert len(dataset[0]) == len(dataset[1:3]) == len(arrays)
        (batch,) = DataLoader(dataset, 4)
        assert len(batch) == len(arrays)
        for ours, given in zip(batch, arrays):
            np.testing.assert_array_equal(ours.numpy(), given)
    assert repr(dataset).endswith("y (4,) int64, (4,) float64, (4,) bool)")
    with pytest.raises(ShapeError, match=r"arrays of equal length, got .* and \(4,\) and \(3,\)"):
        TensorDataset(images, labels, labels[:3])


def test_a_transform_sees_the_images_and_keeps_the_rest():
    loader = DataLoader(Samples(MAKES["three"]), 5, transform=RandomHorizontalFlip(1.0))
    first, second, third = next(iter(loader))
    assert first.shape == (5, 1, 2, 2)
    assert (len(second), len(third)) == (5, 5)
    with pytest.raises(ShapeError, match=r"images \(c, h, w\) for the transform, got dict"):
        next(iter(DataLoader(Samples(MAKES["dict"]), transform=RandomHorizontalFlip())))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda i: (x(i), i, i)[: 2 + i % 2],
            ShapeError,
            "samples alike, as sample 0, .* sample 1",
        ),
        (lambda i: (), ShapeError, "samples of at least one field, got \\(\\) \\(sample 0\\)"),
        (lambda i: {"a": x(i)} if i else {"b": x(i)}, ShapeError, "samples alike, as sample 0"),
        (
            lambda i: (x(i), np.zeros(i + 1)),
            ShapeError,
            r"as \(1,\) float64 \(sample 0\), got \(2,\)",
        ),
        (lambda i: (x(i), object()), DTypeError, "integer labels or float targets, got object"),
        (lambda i: (x(i), [[1], [1, 2]]), DTypeError, "numbers, arrays or Tensors, got "),
        (lambda i: (x(i) * np.float32("nan"), i), NaNError, "finite numbers, got nan"),
    ],
)
def test_samples_that_differ(make, kind, words):
    with pytest.raises(kind, match=words):
        next(iter(DataLoader(Samples(make), 2, num_workers=0)))


def test_a_training_loop_wants_pairs():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    for name, got in (
        ("three", "3 fields"),
        ("one", "1 field"),
        ("dict", "dict"),
        ("alone", "Tensor"),
    ):
        loader = DataLoader(Samples(MAKES[name]), 2)
        words = rf"expected batches \(inputs, labels\) from the loader, got .*{got}"
        with pytest.raises(ShapeError, match=rf"train_epoch: {words}"):
            train_epoch(net, loader, optimizer)
        with pytest.raises(ShapeError, match=rf"evaluate: {words}"):
            evaluate(net, loader)
        with pytest.raises(ShapeError, match=words):
            fit(net, loader, loader, optimizer, epochs=1)
    assert evaluate(net, DataLoader(Samples(MAKES["two"]), 2)).examples == 5
