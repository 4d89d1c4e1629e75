"""Samplers, collate_fn, joined data sets: which samples come, in which order, how often."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, namedtuple

import numpy as np
import pytest

import minires as mr
from minires import data
from minires.data import DataLoader, TensorDataset
from minires.errors import ArgumentError, BoundsError, DataError, DTypeError, ShapeError
from minires.utils.data import (
    BatchSampler,
    ConcatDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

N = 23
WEIGHTS = [*[1.0] * 20, 0.0, 30.0, 50.0]
DRAWN = {
    "RandomSampler": lambda s, g=None: RandomSampler(s, generator=g),
    "replacement": lambda s, g=None: RandomSampler(s, True, 31, g),
    "fewer": lambda s, g=None: RandomSampler(s, num_samples=7, generator=g),
    "more": lambda s, g=None: RandomSampler(s, num_samples=50, generator=g),
    "SubsetRandomSampler": lambda s, g=None: SubsetRandomSampler([3, 5, 8, 13, 21], g),
    "WeightedRandomSampler": lambda s, g=None: WeightedRandomSampler(WEIGHTS, 200, generator=g),
    "without": lambda s, g=None: WeightedRandomSampler(np.array(WEIGHTS), 22, False, g),
}


def numbers(n=N):
    """Sample i is i."""
    return TensorDataset(np.arange(n, dtype=np.float32)[:, None], np.arange(n))


def visited(loader):
    return [y.tolist() for _, y in loader]


def flat(batches):
    return [int(index) for batch in batches for index in batch]


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_depends_on_seed_and_epoch_alone(name):
    """So a run that is resumed in epoch 2 visits what it would have visited."""
    dataset = numbers()
    first = DataLoader(dataset, 4, sampler=DRAWN[name](dataset), seed=5, num_workers=2)
    epochs = [visited(first) for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    again = DataLoader(dataset, 4, sampler=DRAWN[name](dataset), seed=5, num_workers=0)
    again.set_epoch(2)
    mr.rand(3)  # the global generator has no part in it
    assert visited(again) == epochs[2]
    other = DataLoader(dataset, 4, sampler=DRAWN[name](dataset), seed=6)
    assert visited(other) != epochs[0]
    sampler = DRAWN[name](dataset)
    assert len(flat(epochs[0])) == len(sampler)
    assert len(first) == len(epochs[0]) == -(-len(sampler) // 4)


@pytest.mark.parametrize("name", DRAWN)
def test_iterated_alone_it_draws_from_the_global_generator_or_its_own(name):
    sampler = DRAWN[name](numbers())
    mr.manual_seed(1)
    one, two = list(sampler), list(sampler)
    mr.manual_seed(1)
    assert list(sampler) == one != two
    assert all(type(index) is int for index in one)
    own = [DRAWN[name](numbers(), mr.Generator().manual_seed(3)) for _ in range(2)]
    assert list(own[0]) == list(own[1])
    loader = DataLoader(numbers(), 4, sampler=own[0], seed=5)
    other = DataLoader(numbers(), 4, sampler=own[1], seed=6)
    assert flat(visited(loader)) == flat(visited(other))
    assert flat(visited(loader)) == list(own[1])


def test_what_each_gives():
    dataset = numbers()
    assert list(SequentialSampler(dataset)) == [*range(N)]
    assert sorted(RandomSampler(dataset)) == [*range(N)]
    assert sorted(RandomSampler(dataset, num_samples=50))[:2] == [0, 0]
    more = Counter(RandomSampler(dataset, num_samples=46))
    assert set(more.values()) == {2}
    assert len({*RandomSampler(dataset, num_samples=7)}) == 7
    assert sorted(SubsetRandomSampler([3, 5, 5])) == [3, 5, 5]
    counts = Counter(WeightedRandomSampler(WEIGHTS, 10_000))
    assert counts[20] == 0
    assert 2700 < counts[21] < 3300
    assert 4700 < counts[22] < 5300
    assert sorted(WeightedRandomSampler(WEIGHTS, 22, replacement=False)) == [
        *range(20),
        21,
        22,
    ]
    assert list(BatchSampler(SequentialSampler(dataset), 10, False))[2] == [20, 21, 22]
    assert list(BatchSampler(range(4), 3, True)) == [[0, 1, 2]]
    assert [len(BatchSampler(range(4), 3, last)) for last in (True, False)] == [1, 2]


def test_a_random_sampler_is_what_shuffle_is():
    dataset = numbers()
    shuffled = DataLoader(dataset, 5, shuffle=True, seed=3)
    sampled = DataLoader(dataset, 5, sampler=RandomSampler(dataset), seed=3)
    assert isinstance(shuffled.sampler, RandomSampler)
    assert isinstance(DataLoader(dataset).sampler, SequentialSampler)
    for _ in range(2):
        assert visited(shuffled) == visited(sampled)


def test_a_generator_of_the_loader_draws_its_order():
    loaders = [
        DataLoader(numbers(), 5, shuffle=True, seed=seed, generator=mr.Generator().manual_seed(4))
        for seed in (1, 2)
    ]
    assert visited(loaders[0]) == visited(loaders[1])
    assert sorted(flat(visited(loaders[0]))) == [*range(N)]
    assert visited(DataLoader(numbers(), 5, generator=mr.Generator())) == visited(
        DataLoader(numbers(), 5)
    )


def test_samplers_of_ones_own():
    class Ends(Sampler):
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter([0, mr.tensor(N - 1), np.int64(-1)])

    sampler = Ends()
    loader = DataLoader(numbers(), 2, sampler=sampler)
    loader.set_epoch(4)
    assert visited(loader) == [[0, N - 1], [N - 1]]
    assert sampler.epoch == 4
    with pytest.raises(DTypeError, match="a sampler with a length"):
        len(loader)
    assert visited(DataLoader(numbers(), 2, sampler=[5, 4, 3], drop_last=True)) == [[5, 4]]
    batches = [[1], [2, 3], np.array([4, 5, 6])]
    loader = DataLoader(numbers(), batch_sampler=batches)
    assert visited(loader) == [[1], [2, 3], [4, 5, 6]]
    assert len(loader) == 3
    loader = DataLoader(numbers(), batch_sampler=BatchSampler(RandomSampler(numbers()), 4, True))
    assert (len(loader), len(visited(loader))) == (5, 5)
    assert visited(loader) != visited(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_indices_that_are_not_there_are_told(workers):
    loader = DataLoader(numbers(), 2, sampler=[0, 1, N], num_workers=workers)
    batches = iter(loader)
    with pytest.raises(BoundsError, match=f"DataLoader: expected an index into {N} samples"):
        list(batches)
    with pytest.raises(DTypeError, match="as index"):
        list(DataLoader(numbers(), 2, sampler=["a"], num_workers=workers))
    with pytest.raises(DTypeError, match="many indices"):
        list(DataLoader(numbers(), batch_sampler=[1, 2], num_workers=workers))


def test_a_sample_that_comes_again_is_augmented_anew():
    images = mr.data.ImageDataset(
        "a", "train", np.zeros((2, 4, 4, 1), np.uint8), np.arange(2), ("a", "b"), 255
    )
    seen = []

    def transform(x, draws):
        seen.extend(draws.uniform().tolist())
        return x

    loader = DataLoader(images, 4, sampler=[0, 1, 0, 0, 1, 0], transform=transform, num_workers=0)
    list(loader)
    assert len(set(seen)) == 6
    first, seen[:] = seen[:2], []
    list(DataLoader(images, 2, transform=transform, num_workers=0))
    assert seen == first, "the first time it is as ever"

    class Noisy(data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return np.float32(index), mr.rand(1).item()

    for dataset in (Noisy(), Subset(Noisy(), [1, 0])):
        drawn = []
        for workers in (0, 3):
            loader = DataLoader(dataset, 4, sampler=[0, 1, 0, 0, 1, 0], num_workers=workers)
            drawn.append([float(v) for _, noise in loader for v in noise])
        assert len(set(drawn[0])) == 6
        assert drawn[0] == drawn[1]


# **** collate_fn ****


def test_collate_fn_gets_the_samples_and_gives_the_batch():
    got = []

    def pad(samples):
        got.append(samples)
        longest = max(len(text) for text, _ in samples)
        return mr.tensor([[*map(ord, text.ljust(longest))] for text, _ in samples]), len(samples)

    dataset = [("ab", 1), ("c", 2), ("defg", 3)]
    batches = list(DataLoader(dataset, 2, collate_fn=pad))
    assert got == [dataset[:2], dataset[2:]]
    assert batches[0][0].tolist() == [[97, 98], [99, 32]]
    assert batches[1][1] == 1


def test_collate_fn_may_leave_samples_out_by_default_collate():
    dataset = [(np.float32(1), 0), None, (np.float32(3), 2)]
    loader = DataLoader(dataset, 3, collate_fn=lambda b: default_collate([s for s in b if s]))
    ((x, y),) = loader
    assert (x.tolist(), y.tolist(), y.dtype) == ([1, 3], [0, 2], np.int64)


def test_draws_of_a_collate_fn_depend_on_the_batch_alone():
    def mix(samples):
        return mr.rand(1).item(), len(samples)

    runs = [
        list(DataLoader(numbers(), 4, collate_fn=mix, num_workers=workers)) for workers in (0, 3)
    ]
    assert runs[0] == runs[1]
    assert len({value for value, _ in runs[0]}) == 6


def test_default_collate():
    assert default_collate([1, 2]).tolist() == [1, 2]
    assert default_collate([0.5, 1]).dtype == np.float64
    assert default_collate([np.uint8([1]), np.uint8([2])]).dtype == np.uint8
    batch = default_collate([{"x": mr.ones(2), "y": ("a", 1)}, {"x": mr.zeros(2), "y": ("b", 2)}])
    assert batch["x"].tolist() == [[1, 1], [0, 0]]
    assert batch["y"][0] == ["a", "b"]
    assert batch["y"][1].tolist() == [1, 2]
    x, y = default_collate([[1.0, 2], [3.0, 4]])
    assert (x.tolist(), y.tolist()) == ([1, 3], [2, 4])
    for bad, error in (
        ([], ArgumentError),
        (3, ArgumentError),
        ([mr.ones(2), mr.ones(3)], ShapeError),
        ([(1, 2), (1,)], ShapeError),
        ([object()], DTypeError),
    ):
        with pytest.raises(error):
            default_collate(bad)


# **** data sets joined ****


def test_data_sets_one_after_the_other():
    both = ConcatDataset([numbers(3), Subset(numbers(10), [7, 5]), numbers(1)])
    assert len(both) == 6
    assert both.cumulative_sizes == [3, 5, 6]
    assert [int(both[i][1]) for i in range(-6, 6)] == [0, 1, 2, 7, 5, 0] * 2
    x, y = both[1:5]
    assert y.tolist() == [1, 2, 7, 5]
    assert x.shape == (4, 1)
    assert flat(visited(DataLoader(both, 4))) == [0, 1, 2, 7, 5, 0]
    assert sorted(flat(visited(DataLoader(both, 4, shuffle=True)))) == [0, 0, 1, 2, 5, 7]
    assert flat(visited(DataLoader(ConcatDataset([both, both]), 5)))[6:] == [0, 1, 2, 7, 5, 0]
    joined = numbers(3) + numbers(2)
    assert isinstance(joined, ConcatDataset)
    assert [int(joined[i][1]) for i in range(5)] == [0, 1, 2, 0, 1]
    part, _ = data.random_split(both, [4, 2])
    assert len(part) == 4
    images = ConcatDataset([data.load("digits"), data.load("digits", train=False)])
    x, y = next(iter(DataLoader(images, 7, sampler=[1499, 1500])))
    assert x.shape == (2, 1, 8, 8)
    assert y[1].item() == data.load("digits", train=False)[0][1]
    assert repr(both).startswith("ConcatDataset(TensorDataset(")


def test_joined_data_sets_that_do_not_fit():
    for bad in ([], 3, None, "abc", [3], [numbers(), None]):
        with pytest.raises(ArgumentError, match="ConcatDataset: expected"):
            ConcatDataset(bad)
    with pytest.raises(BoundsError, match="ConcatDataset: expected an index into 3 samples, got 3"):
        ConcatDataset([numbers(3)])[3]
    other = TensorDataset(np.ones((2, 4), np.float32), np.arange(2))
    with pytest.raises(ShapeError, match="samples alike"):
        ConcatDataset([numbers(2), other])[0:4]


# **** what PyTorch's loader takes besides ****


def test_pytorchs_arguments_in_pytorchs_order():
    loader = DataLoader(
        numbers(), 2, None, [3, 1, 2], None, 2, default_collate, True, True, 5.0,
        lambda number: None, None, None,
        prefetch_factor=3, persistent_workers=True, pin_memory_device="", in_order=True,
    )  # fmt: skip
    assert visited(loader) == [[3, 1]]
    assert (loader.prefetch, loader.timeout, loader.num_workers) == (3, 5.0, 2)


def test_workers_are_prepared_before_their_first_batch():
    seen, lock = [], threading.Lock()

    def prepare(number):
        with lock:
            seen.append((number, threading.get_ident()))

    class Slow(data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            time.sleep(0.005)
            assert threading.get_ident() in [ident for _, ident in seen]
            return np.float32(index)

    list(DataLoader(Slow(), 1, num_workers=3, worker_init_fn=prepare))
    assert sorted(number for number, _ in seen) == [*range(len(seen))]
    assert 1 <= len(seen) <= 3

    def fails(number):
        raise ZeroDivisionError("in a worker")

    with pytest.raises(ZeroDivisionError, match="in a worker"):
        list(DataLoader(numbers(), 4, num_workers=2, worker_init_fn=fails))


def test_a_batch_that_takes_too_long_is_told():
    release = threading.Event()

    class Stuck(data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            release.wait(10)
            return np.float32(index)

    try:
        with pytest.raises(DataError, match=r"a batch within 0\.05 s, got none"):
            list(DataLoader(Stuck(), 1, num_workers=1, timeout=0.05))
    finally:
        release.set()


MISTAKES = [
    ({"sampler": [1], "shuffle": True}, "a sampler or shuffle=True, got both"),
    ({"batch_sampler": [[1]], "batch_size": 2}, "batch_sampler without batch_size, shuffle"),
    ({"batch_sampler": [[1]], "shuffle": True}, "batch_sampler without batch_size, shuffle"),
    ({"batch_sampler": [[1]], "sampler": [1]}, "batch_sampler without batch_size, shuffle"),
    ({"batch_sampler": [[1]], "drop_last": True}, "batch_sampler without batch_size, shuffle"),
    ({"sampler": 3}, "sampler a Sampler, or a list of indices, got 3"),
    ({"sampler": iter([1])}, "got an iterator, which is used up in one epoch"),
    ({"sampler": RandomSampler}, "sampler a Sampler, or a list of indices"),
    ({"sampler": []}, "at least batch_size = 1 samples"),
    (
        {"sampler": [1, 2], "batch_size": 3, "drop_last": True},
        "at least batch_size = 3 samples.*got 2",
    ),
    ({"collate_fn": 3}, r"collate_fn\(samples\) a function of 1 arguments, got 3"),
    ({"collate_fn": list, "transform": lambda x, draws: x}, "or a collate_fn, got both"),
    ({"generator": 3}, r"generator a minires\.Generator, got 3"),
    ({"timeout": -1}, "timeout a finite number >= 0"),
    ({"timeout": 1, "num_workers": 0}, "num_workers >= 1 with a timeout, got 0"),
    ({"worker_init_fn": 3}, r"worker_init_fn\(number\) a function of 1"),
    ({"multiprocessing_context": "spawn"}, r"got 'spawn' \(workers are threads\)"),
    ({"prefetch_factor": 0}, "prefetch an integer >= 1, got 0"),
    ({"persistent_workers": 3}, "persistent_workers True or False"),
    ({"in_order": False}, "in_order True"),
    ({"pin_memory_device": 3}, "pin_memory_device a name"),
]


@pytest.mark.parametrize(("options", "words"), MISTAKES)
def test_mistakes(options, words):
    with pytest.raises(ArgumentError, match=f"DataLoader: expected .*{words}"):
        DataLoader(numbers(), **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomSampler([]), "a data set with samples, got an empty one"),
        (lambda: RandomSampler(3), "a data set with __len__"),
        (lambda: RandomSampler([1], num_samples=0), "num_samples an integer >= 1, got 0"),
        (lambda: RandomSampler([1], "yes"), "replacement True or False"),
        (lambda: RandomSampler([1], generator=3), r"generator a minires\.Generator"),
        (lambda: SequentialSampler(None), "a data set with __len__"),
        (lambda: SubsetRandomSampler([-1]), "each index an integer >= 0, got -1"),
        (lambda: WeightedRandomSampler([1, -1], 2), "each weight a finite number >= 0, got -1"),
        (lambda: WeightedRandomSampler([1, float("inf")], 2), "each weight a finite number"),
        (lambda: WeightedRandomSampler([0, 0], 2), r"a weight above 0, got \[0, 0\]"),
        (lambda: WeightedRandomSampler([], 2), "a weight above 0"),
        (lambda: WeightedRandomSampler([1, 0], 2, False), "at most 1, as many as have a weight"),
        (lambda: WeightedRandomSampler([1], 0), "num_samples an integer >= 1, got 0"),
        (lambda: BatchSampler(3, 2, False), "sampler a Sampler, or a list of indices"),
        (lambda: BatchSampler([1], 0, False), "batch_size an integer >= 1"),
        (lambda: BatchSampler([1], 1, 0), "drop_last True or False"),
    ],
)
def test_mistakes_of_samplers(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


def test_weights_of_any_size_and_kind():
    for weights in ([1e308] * 3, [1e-320, 1e-320], mr.ones(4), np.ones(4, np.float32)):
        assert len(list(WeightedRandomSampler(weights, 5))) == 5


def test_training_with_rare_classes_sees_them_as_often():
    labels = np.array([0] * 95 + [1] * 5)
    weights = 1 / np.bincount(labels)[labels]
    dataset = TensorDataset(np.zeros((100, 1), np.float32), labels)
    loader = DataLoader(dataset, 50, sampler=WeightedRandomSampler(weights, 1000))
    ones = sum(y.sum().item() for _, y in loader)
    assert 430 < ones < 570
    assert len(list(itertools.islice(loader, 3))) == 3


def test_what_a_collate_fn_returns_goes_to_the_device(on_gpu):
    Pair = namedtuple("Pair", "x y")

    def make(samples):
        x, y = default_collate(samples)
        return {"pair": Pair(x, [y]), "text": "a", "array": np.ones(2)}

    loader = DataLoader(numbers(), 4, shuffle=True, collate_fn=make, device="cuda")
    batches = list(loader)
    assert sorted(index for b in batches for index in b["pair"].y[0].tolist()) == [*range(N)]
    assert {b["pair"].x.device.type for b in batches} == {"cuda"}
    assert {b["pair"].y[0].device.type for b in batches} == {"cuda"}
    assert isinstance(batches[0]["array"], np.ndarray)
    assert batches[0]["text"] == "a"


def test_a_custom_sampler_and_a_gpu(on_gpu):
    images = data.load("digits").limit(20)
    sampler = WeightedRandomSampler(np.arange(20), 30)
    both = []
    for device in ("cpu", "cuda"):
        transform = data.Compose([data.Normalize([0.5], [0.5]), data.RandomCrop(1)])
        loader = DataLoader(images, 8, sampler=sampler, transform=transform, device=device)
        both.append([(x.cpu().numpy(), y.cpu().numpy()) for x, y in loader])
    for (x, y), (x2, y2) in zip(*both, strict=True):
        np.testing.assert_array_equal(y, y2)
        np.testing.assert_allclose(x, x2, rtol=1e-6, atol=1e-6)
