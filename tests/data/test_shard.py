"""Batches cut for several ranks: together they are, to the bit, what one process would see."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from cuda_stand_in import cuda_backend

import minires as mr
from minires import data, distributed
from minires.data import DataLoader
from minires.errors import ArgumentError


def images(n: int = 53) -> data.ImageDataset:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)
    return data.ImageDataset("noise", "train", pixels, np.arange(n) % 10, tuple("abcdefghij"), 255)


class Noisy(data.Dataset):
    """Samples that are drawn when they are asked for."""

    def __len__(self) -> int:
        return 53

    def __getitem__(self, index: int):
        return index + mr.random.generator().random((3, 4, 4), np.float32), index


class Own:
    """A sampler of one's own, some samples of which come several times."""

    def __init__(self) -> None:
        self.epoch = 0

    def __len__(self) -> int:
        return 40

    def __iter__(self):
        return iter(np.random.default_rng(self.epoch).integers(0, 53, 40).tolist())

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Batches(Own):
    """Lists of indices, of a length that nobody knows before."""

    def __iter__(self):
        rng = np.random.default_rng(self.epoch)
        return iter([rng.integers(0, 53, size).tolist() for size in (5, 9, 3, 4)])


def crops() -> data.Compose:
    return data.Compose(
        [data.Normalize([0.5] * 3, [0.25] * 3), data.RandomCrop(2), data.RandomHorizontalFlip()]
    )


def stacked(samples):
    x, y = data.default_collate(samples)
    return 2 * x, y


CASES = {
    "in order": lambda: DataLoader(images(), 10),
    "shuffled": lambda: DataLoader(images(), 10, shuffle=True, seed=3),
    "augmented": lambda: DataLoader(images(), 11, shuffle=True, transform=crops(), seed=1),
    "dropped": lambda: DataLoader(images(), 26, shuffle=True, drop_last=True),
    "drawn samples": lambda: DataLoader(Noisy(), 9, shuffle=True),
    "repeated": lambda: DataLoader(
        images(), 10, sampler=data.RandomSampler(images(), True, 70), transform=crops()
    ),
    "own sampler": lambda: DataLoader(Noisy(), 7, sampler=Own()),
    "own batches": lambda: DataLoader(images(), batch_sampler=Batches(), transform=crops()),
    "collated": lambda: DataLoader(Noisy(), 10, shuffle=True, collate_fn=stacked),
    "own generator": lambda: DataLoader(
        images(), 10, shuffle=True, generator=np.random.default_rng(4)
    ),
}


def epochs(loader, many=2):
    """[(x, y, share)] of some epochs."""
    return [
        (x.cpu().numpy(), y.cpu().numpy(), loader.share) for _ in range(many) for x, y in loader
    ]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("case", CASES)
def test_the_shards_of_all_ranks_are_the_batch_of_one_process(case, workers, size):
    def loader(**options):
        made = CASES[case]()
        vars(made).update(num_workers=workers, **options)
        return made

    whole = epochs(loader())
    shards = [epochs(loader(shard=(rank, size))) for rank in range(size)]
    assert [len(shard) for shard in shards] == [len(whole)] * size
    for (x, y, share), *parts in zip(whole, *shards, strict=True):
        assert share == 1
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), x)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), y)
        assert [part[2] for part in parts] == [len(part[1]) / len(y) for part in parts]
        sizes = [len(part[1]) for part in parts]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] <= 1  # as array_split cuts


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_on_a_gpu(workers):
    with cuda_backend():
        options = {"shuffle": True, "transform": crops(), "num_workers": workers}
        whole = epochs(DataLoader(images(), 10, device="cuda", **options))
        shards = [
            epochs(DataLoader(images(), 10, device="cuda", shard=(rank, 2), **options))
            for rank in range(2)
        ]
    for (x, y, _), *parts in zip(whole, *shards, strict=True):
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), x)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), y)
        assert [share for *_, share in parts] == [len(part[1]) / len(y) for part in parts]


def test_what_collate_fn_draws_differs_by_rank():
    def noisy(samples):
        return mr.random.generator().random(3)

    drawn = [
        [tuple(noise) for noise in DataLoader(images(), 20, collate_fn=noisy, shard=(rank, 2))]
        for rank in range(2)
    ]
    assert len({*drawn[0], *drawn[1]}) == 6
    again = DataLoader(images(), 20, collate_fn=noisy, shard=(1, 2))
    assert [tuple(noise) for noise in again] == drawn[1]


class Permuted(data.Sampler):
    """As PyTorch's users write theirs: draws from the global generator."""

    def __len__(self) -> int:
        return 53

    def __iter__(self):
        yield from mr.randperm(26).tolist()
        yield from (26 + mr.randperm(27)).tolist()


class Subclass(data.RandomSampler):
    def __iter__(self):
        return iter(mr.randperm(53).tolist())


@pytest.mark.parametrize("make", [Permuted, lambda: Subclass(images())])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_sampler_draws_is_the_same_on_all_ranks(make, workers):
    def labels(state, **options):
        mr.manual_seed(state)  # ranks differ in it, while they train
        before = mr.random.get_state()
        loader = DataLoader(Noisy(), 10, sampler=make(), num_workers=workers, **options)
        found = []
        for _ in range(2):
            for _, y in loader:
                assert mr.random.get_state() == before
                found.append(y.numpy())
        return found

    whole = labels(1)
    assert sorted(np.concatenate(whole[:6])) == [*range(53)]
    assert not np.array_equal(np.concatenate(whole[:6]), np.concatenate(whole[6:]))
    parts = zip(labels(2, shard=(0, 2)), labels(3, shard=(1, 2)), strict=True)
    for y, part in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(part), y)


def test_a_loader_says_what_its_shard_is():
    loader = DataLoader(images(), 10, shard=(1, 4), drop_last=True)
    assert (loader.shard, len(loader)) == ((1, 4), 5)
    assert repr(loader).endswith(", prefetch=2, shard=(1, 4))")
    assert DataLoader(images(), 10).shard is None
    assert DataLoader(images(), 10, shard=distributed).shard == (0, 1)  # nothing was launched
    launched = SimpleNamespace(get_rank=lambda: 2, get_world_size=lambda: 3)
    assert DataLoader(images(), 10, shard=launched).shard == (2, 3)


def test_a_shard_of_a_loader_that_is_there():
    loader = DataLoader(images(), 10, shuffle=True)
    loader.set_epoch(4)
    parts = [loader._sharded(rank, 2) for rank in range(2)]
    assert [part.epoch for part in parts] == [4, 4]
    expected = next(iter(loader))[1]
    got = [next(iter(part))[1].numpy() for part in parts]
    np.testing.assert_array_equal(np.concatenate(got), expected.numpy())
    assert loader.shard is None
    with pytest.raises(ArgumentError, match="each of 4 ranks, got a last batch of 3"):
        loader._sharded(0, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_that_get_nothing_of_a_batch_go_on(workers):
    """10, 10, 10, 10, 10, 3 samples for four ranks, and 1 and 1 for three."""
    loader = DataLoader(images(), 10, num_workers=workers)
    parts = [epochs(loader._sharded(rank, 4, empty=True), 1) for rank in range(4)]
    assert [len(part) for part in parts] == [6, 6, 6, 5]
    labels = [np.concatenate([y for _, y, _ in part]) for part in parts]
    np.testing.assert_array_equal(
        np.sort(np.concatenate(labels)),
        np.sort(np.concatenate([y for _, y, _ in epochs(loader, 1)])),
    )
    short = DataLoader(images(2), 1, num_workers=workers)
    assert [len(list(short._sharded(rank, 3, empty=True))) for rank in range(3)] == [2, 0, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"batch_size": 16, "shard": (0, 8)},
            "expected a sample for each of 8 ranks, got a last batch of 5 (53 samples in batches "
            "of 16). Pass drop_last=True, or another batch_size.",
        ),
        (
            {"batch_size": 64, "shard": (0, 64)},
            "each of 64 ranks, got a last batch of 53 (53 samples in batches of 64). Use fewer",
        ),
        (
            {"batch_size": 5, "shard": (7, 8), "drop_last": True},
            "each of 8 ranks, got batches of 5. Use a batch_size of 8 or more.",
        ),
        ({"shard": (2, 2)}, "expected the rank of shard an integer >= 0 and <= 1, got 2"),
        ({"shard": (-1, 2)}, "expected the rank of shard an integer >= 0 and <= 1, got -1"),
        ({"shard": (0, 0)}, "expected the size of shard an integer >= 1 and <= 1048576, got 0"),
        ({"shard": (0.5, 2)}, "expected the rank of shard an integer >= 0 and <= 1, got 0.5"),
        ({"shard": 3}, "expected shard a pair (rank, size), or minires.distributed, got 3"),
        ({"shard": (1, 2, 3)}, "or minires.distributed, got (1, 2, 3)"),
        (
            {"shard": (0, 2), "sampler": data.DistributedSampler(range(53), 2, 0)},
            "expected shard or a DistributedSampler, which are two ways to share out samples, got "
            "both",
        ),
        (
            {
                "shard": (0, 2),
                "batch_sampler": data.BatchSampler(
                    data.DistributedSampler(range(53), 2, 0), 4, False
                ),
                "batch_size": 1,
            },
            "got both",
        ),
    ],
)
def test_shards_that_cannot_be(options, words):
    with pytest.raises(ArgumentError) as caught:
        DataLoader(**({"dataset": images(), "batch_size": 10} | options))
    assert words in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_too_small_for_all_ranks_are_found_while_iterating(workers):
    loader = DataLoader(images(), batch_sampler=Batches(), shard=(3, 4), num_workers=workers)
    taken = []
    with pytest.raises(ArgumentError) as caught:
        taken.extend(loader)
    assert str(caught.value) == (
        "DataLoader: expected a sample for each of 4 ranks, got a batch of 3 (batch 2 of its "
        "epoch). Let batch_sampler give larger batches."
    )

    class Endless(data.Sampler):
        def __iter__(self):
            return iter(range(13))

    loader = DataLoader(images(), 10, sampler=Endless(), shard=(0, 4), num_workers=workers)
    with pytest.raises(ArgumentError, match=r"got a batch of 3 \(batch 1 .*drop_last=True"):
        list(loader)
