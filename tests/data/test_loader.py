"""The loader: order, epochs, layouts, threads that end, errors that surface."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from minires.data import (
    Compose,
    DataLoader,
    ImageDataset,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    TensorDataset,
    load,
)
from minires.data.transforms import augmentation, permutation
from minires.errors import ArgumentError, DTypeError, NaNError, ShapeError
from minires.tensor import Tensor, from_numpy


@pytest.fixture
def images() -> ImageDataset:
    """53 images whose label is their own place modulo 10."""
    pixels = np.random.default_rng(0).integers(0, 256, (53, 6, 5, 3), dtype=np.uint8)
    return ImageDataset("test", "train", pixels, np.arange(53) % 10, tuple("abcdefghij"), 255)


def augment() -> Compose:
    return Compose([Normalize([0.5] * 3, [0.25] * 3), RandomCrop(2), RandomHorizontalFlip()])


def arrays(loader: DataLoader) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x.numpy(), y.numpy()) for x, y in loader]


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("minires-loader")]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


def assert_threads_end() -> None:
    wait_until(lambda: not loader_threads())
    assert loader_threads() == []


def test_batches_of_a_dataset(images: ImageDataset):
    loader = DataLoader(images, 10)
    batches = list(loader)
    assert len(batches) == len(loader) == 6
    x, y = batches[0]
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((10, 3, 6, 5), np.float32, (10,), np.int64)
    assert not x.requires_grad
    assert x.data.transpose(0, 2, 3, 1).flags.c_contiguous
    assert batches[-1][0].shape == (3, 3, 6, 5)
    expected = images.images.transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(np.concatenate([x.numpy() for x, _ in batches]), expected)
    np.testing.assert_array_equal(np.concatenate([y.numpy() for _, y in batches]), images.labels)


def test_drop_last(images: ImageDataset):
    loader = DataLoader(images, 10, drop_last=True)
    assert len(loader) == 5
    assert [x.shape[0] for x, _ in loader] == [10] * 5
    assert len(DataLoader(images, 53, drop_last=True)) == 1
    assert len(DataLoader(images, 100)) == 1


def test_shuffle_and_transform_by_hand(images: ImageDataset):
    loader = DataLoader(images, 8, shuffle=True, transform=augment(), seed=5)
    loader.set_epoch(3)
    order = permutation(53, 5, 3)
    buffer = images.images[order].astype(np.float32) / np.float32(255)
    expected = augment()(buffer, augmentation(5, 3, order))
    got = arrays(loader)
    np.testing.assert_array_equal(
        np.concatenate([x for x, _ in got]), expected.transpose(0, 3, 1, 2)
    )
    np.testing.assert_array_equal(np.concatenate([y for _, y in got]), images.labels[order])


@pytest.mark.parametrize("prefetch", [1, 2, 100])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_the_same_batches_for_any_workers(images: ImageDataset, num_workers: int, prefetch: int):
    def epochs(num_workers: int, prefetch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        loader = DataLoader(
            images, 8, True, transform=augment(), seed=1, num_workers=num_workers, prefetch=prefetch
        )
        return arrays(loader) + arrays(loader)

    for (x, y), (x0, y0) in zip(epochs(num_workers, prefetch), epochs(0, 2), strict=True):
        np.testing.assert_array_equal(x, x0)
        np.testing.assert_array_equal(y, y0)


def test_order_holds_when_later_batches_are_ready_first(images: ImageDataset):
    def slow_first(x, draws):
        if 0 in draws.indices:
            time.sleep(0.1)
        return x

    loader = DataLoader(images, 4, transform=slow_first, num_workers=3)
    labels = np.concatenate([y.numpy() for _, y in loader])
    np.testing.assert_array_equal(labels, images.labels)


def test_epochs_count_on_and_can_be_set(images: ImageDataset):
    loader = DataLoader(images, 53, shuffle=True, seed=2)
    assert loader.epoch == 0
    orders = [arrays(loader)[0][1] for _ in range(3)]
    assert loader.epoch == 3
    assert not np.array_equal(orders[0], orders[1])
    loader.set_epoch(1)
    np.testing.assert_array_equal(arrays(loader)[0][1], orders[1])
    np.testing.assert_array_equal(arrays(loader)[0][1], orders[2])
    other = DataLoader(images, 53, shuffle=True, seed=3)
    assert not np.array_equal(arrays(other)[0][1], orders[0])
    # The epoch is taken by iter(), so two iterations side by side are two epochs.
    loader.set_epoch(0)
    one, two = iter(loader), iter(loader)
    np.testing.assert_array_equal(next(two)[1].numpy(), orders[1])
    np.testing.assert_array_equal(next(one)[1].numpy(), orders[0])


def test_augmentation_of_an_image_does_not_depend_on_batch_size_or_order(images: ImageDataset):
    def by_label(**kwargs) -> np.ndarray:
        loader = DataLoader(images.limit(10), transform=augment(), **kwargs)
        got = arrays(loader)
        x, y = np.concatenate([x for x, _ in got]), np.concatenate([y for _, y in got])
        return x[np.argsort(y)]

    expected = by_label(batch_size=10)
    np.testing.assert_array_equal(by_label(batch_size=3), expected)
    np.testing.assert_array_equal(by_label(batch_size=4, shuffle=True), expected)
    assert not np.array_equal(by_label(batch_size=10, seed=1), expected)


def test_threads_end_with_the_iteration(images: ImageDataset):
    for _ in DataLoader(images, 4, num_workers=3):
        assert loader_threads()
    assert_threads_end()


def test_threads_end_after_break(images: ImageDataset):
    for _ in DataLoader(images, 4, num_workers=3):
        break
    assert_threads_end()


def test_threads_end_after_an_error_of_the_consumer(images: ImageDataset):
    def consume() -> None:
        for _ in DataLoader(images, 4, num_workers=3):
            raise KeyError("consumer")

    with pytest.raises(KeyError):
        consume()
    assert_threads_end()


def test_threads_end_when_the_iterator_is_collected(images: ImageDataset):
    iterator = iter(DataLoader(images, 4, num_workers=2))
    next(iterator)
    cycle = [iterator]
    cycle.append(cycle)  # only the cycle collector finds it
    del iterator, cycle
    gc.collect()
    assert_threads_end()


def test_no_more_batches_are_prepared_than_asked_for(images: ImageDataset):
    prepared: list[int] = []

    def note(x, draws):
        prepared.append(int(draws.indices[0]))
        return x

    iterator = iter(DataLoader(images, 1, transform=note, num_workers=2, prefetch=3))
    assert prepared == []  # nothing starts before the first next()
    next(iterator)
    wait_until(lambda: len(prepared) >= 7)
    time.sleep(0.05)
    assert len(prepared) == 7  # the one that was taken, and 2 * 3 ahead


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_an_error_in_a_worker_surfaces_with_its_own_text(images: ImageDataset, num_workers: int):
    def fail(x, draws):
        if 21 in draws.indices:
            raise ZeroDivisionError("image 21 is cursed")
        return x

    batches = iter(DataLoader(images, 10, transform=fail, num_workers=num_workers))
    assert next(batches)[1].shape == next(batches)[1].shape == (10,)
    with pytest.raises(ZeroDivisionError) as caught:
        next(batches)
    assert str(caught.value) == "image 21 is cursed"
    assert_threads_end()


class Samples:
    """A data set of one's own, one sample at a time."""

    def __init__(self, x, y) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int):
        if not isinstance(index, int):
            raise TypeError("plain ints only")
        return self.x[index], self.y[index]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_are_collated(images: ImageDataset, num_workers: int):
    x, y = images.batch(np.arange(53))
    kinds = [
        Samples(list(x), [int(label) for label in y]),
        Samples([from_numpy(image) for image in x], [from_numpy(np.asarray(v)) for v in y]),
        TensorDataset(x, y),
        TensorDataset(from_numpy(np.ascontiguousarray(x)), y.astype(np.int32)),
    ]
    options = {"batch_size": 9, "shuffle": True, "transform": augment(), "num_workers": num_workers}
    expected = arrays(DataLoader(images, **options))
    for dataset in kinds:
        loader = DataLoader(dataset, **options)
        for got, wanted in zip(arrays(loader), expected, strict=True):
            np.testing.assert_array_equal(got[0], wanted[0])
            np.testing.assert_array_equal(got[1], wanted[1])
            assert got[1].dtype == np.int64
        assert next(iter(loader))[0].data.transpose(0, 2, 3, 1).flags.c_contiguous


def test_samples_that_are_no_images():
    x = np.random.default_rng(0).standard_normal((6, 4))
    targets = np.linspace(0, 1, 6, dtype=np.float32)
    for dataset in (TensorDataset(x, targets), Samples(x, targets)):
        (xb, yb), _ = arrays(DataLoader(dataset, 4))
        np.testing.assert_array_equal(xb, x[:4])
        assert (xb.dtype, yb.dtype) == (np.float64, np.float32)
        with pytest.raises(ShapeError, match=r"expected images \(c, h, w\).* got samples \(4,\)"):
            list(DataLoader(dataset, 4, transform=RandomCrop()))


def test_tensor_dataset():
    dataset = TensorDataset(np.zeros((3, 1, 2, 2), np.float32), [0, 1, 2])
    assert len(dataset) == 3
    assert dataset[2][0].shape == (1, 2, 2)
    assert dataset[2][1] == 2
    assert repr(dataset) == "TensorDataset(x (3, 1, 2, 2) float32, y (3,) int64)"


@pytest.mark.parametrize(
    ("x", "y", "kind", "words"),
    [
        (np.zeros((3, 2)), np.zeros(4, int), ShapeError, "equal length, got (3, 2) and (4,)"),
        (np.float64(1), np.zeros(1, int), ShapeError, "equal length, got () and (1,)"),
        (np.zeros((3, 2), np.uint8), np.zeros(3, int), DTypeError, "float32 or float64, got uint8"),
        (np.zeros((3, 2)), np.array(list("abc")), DTypeError, "integer labels or float targets"),
        (
            np.array([[0, 1], [2, np.nan]]),
            np.zeros(2, int),
            NaNError,
            "expected finite numbers, got nan (sample 1, position (1,))",
        ),
    ],
)
def test_bad_tensor_datasets(x, y, kind, words: str):
    with pytest.raises(kind) as caught:
        TensorDataset(x, y)
    assert words in str(caught.value)


def test_bad_samples():
    good = np.zeros((1, 4, 4), np.float32)
    bad = good.copy()
    bad[0, 3, 1] = np.inf
    order = {"batch_size": 2, "num_workers": 0}
    with pytest.raises(NaNError, match=r"got inf \(sample 3, position \(0, 3, 1\)\)"):
        list(DataLoader(Samples([good, good, good, bad], [0] * 4), **order))
    with pytest.raises(ShapeError, match=r"as \(1, 4, 4\) float32 \(sample 0\), got \(1, 4, 3\)"):
        list(DataLoader(Samples([good, good[..., :3]], [0] * 2), **order))
    with pytest.raises(DTypeError, match=r"got uint8\. Scale images"):
        list(DataLoader(Samples([good.astype(np.uint8)] * 2, [0] * 2), **order))


@pytest.mark.parametrize(
    ("transform", "kind", "words"),
    [
        (lambda x, d: x.astype(np.float64), DTypeError, "got float64"),
        (lambda x, d: x[:1], ShapeError, r"got shape \(1, 6, 5, 3\)"),
        (lambda x, d: x[..., 0], ShapeError, r"got shape \(4, 6, 5\)"),
        (lambda x, d: None, ArgumentError, "got NoneType"),
    ],
)
def test_transforms_that_break_the_contract(images: ImageDataset, transform, kind, words: str):
    with pytest.raises(kind, match=words):
        next(iter(DataLoader(images, 4, transform=transform)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size an integer >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size an integer >= 1, got 2.0"),
        ({"batch_size": True}, "batch_size an integer >= 1, got True"),
        ({"num_workers": -1}, "num_workers an integer >= 0 and <= 1024, got -1"),
        ({"prefetch": 0}, "prefetch an integer >= 1, got 0"),
        ({"seed": -1}, "seed an integer >= 0 and <= 18446744073709551615, got -1"),
        ({"transform": 3}, "transform(x, draws) a function of 2 arguments, got 3"),
        ({"batch_size": 54, "drop_last": True}, "batch_size = 54 samples, with drop_last, got 53"),
        ({"dataset": []}, "a data set with samples, got an empty one"),
        ({"dataset": 5}, "a data set with __len__ and __getitem__, got int"),
    ],
)
def test_bad_arguments(images: ImageDataset, arguments, words: str):
    with pytest.raises(ArgumentError) as caught:
        DataLoader(**({"dataset": images} | arguments))
    assert words in str(caught.value)


def test_bad_epoch(images: ImageDataset):
    with pytest.raises(
        ArgumentError, match=r"set_epoch: expected epoch an integer >= 0 and <= \d+, got -1"
    ):
        DataLoader(images).set_epoch(-1)


def test_repr():
    text = repr(DataLoader(load("digits"), 128, True, transform=RandomHorizontalFlip()))
    assert text == (
        "DataLoader(ImageDataset(digits, train: 1500 images of (1, 8, 8), 10 classes), "
        "batch_size=128, shuffle=True, transform=RandomHorizontalFlip(p=0.5), seed=0, "
        "drop_last=False, num_workers=1, prefetch=2)"
    )


def test_an_open_iteration_does_not_keep_python_from_ending():
    code = (
        "from minires.data import DataLoader, load\n"
        "iterator = iter(DataLoader(load('digits'), 10, num_workers=3))\n"
        "next(iterator)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
