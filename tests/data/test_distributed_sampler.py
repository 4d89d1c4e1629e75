"""The sampler for several processes: what PyTorch's promises, and epochs that need no telling."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minires import data, distributed, utils
from minires.data import DataLoader, DistributedSampler, TensorDataset
from minires.errors import ArgumentError


def numbers(n: int = 10) -> TensorDataset:
    return TensorDataset(np.zeros((n, 1), np.float32), np.arange(n))


def samplers(n, ranks, **options):
    return [DistributedSampler(numbers(n), ranks, rank, **options) for rank in range(ranks)]


def pytorchs(n: int, ranks: int, rank: int, drop_last: bool) -> list[int]:
    """The rank's samples without shuffling, step by step as torch/utils/data/distributed.py."""
    if drop_last and n % ranks != 0:
        num_samples = math.ceil((n - ranks) / ranks)
    else:
        num_samples = math.ceil(n / ranks)
    total_size = num_samples * ranks
    indices = list(range(n))
    if drop_last:
        indices = indices[:total_size]
    else:
        padding = total_size - len(indices)
        if padding <= len(indices):
            indices += indices[:padding]
        else:
            indices += (indices * math.ceil(padding / len(indices)))[:padding]
    return indices[rank:total_size:ranks]


@given(
    n=st.integers(1, 50), ranks=st.integers(1, 60), drop_last=st.booleans(), seed=st.integers(0, 9)
)
def test_samples_are_dealt_out_as_pytorch_deals_them(n, ranks, drop_last, seed):
    if drop_last and n < ranks:
        with pytest.raises(ArgumentError, match=f"each of {ranks} ranks, got {n}, with drop_last"):
            DistributedSampler(numbers(n), ranks, 0, drop_last=True)
        return
    options = {"drop_last": drop_last, "seed": seed}
    plain = [list(each) for each in samplers(n, ranks, shuffle=False, **options)]
    assert plain == [pytorchs(n, ranks, rank, drop_last) for rank in range(ranks)]
    drawn = samplers(n, ranks, **options)
    order = list(DistributedSampler(numbers(n), 1, 0, seed=seed))
    assert sorted(order) == [*range(n)]
    for each, places in zip(drawn, plain):
        assert list(each) == [order[place] for place in places]
        assert len(each) == each.num_samples == len(places)
        assert each.total_size == ranks * len(places)


@pytest.mark.parametrize("shuffle", [False, True])
def test_all_samples_are_visited_and_ranks_visit_as_many(shuffle):
    for n, ranks in ((10, 3), (12, 4), (2, 5), (1, 1)):
        visited = [list(each) for each in samplers(n, ranks, shuffle=shuffle)]
        assert {len(each) for each in visited} == {-(-n // ranks)}
        flat = sorted(index for each in visited for index in each)
        assert set(flat) == set(range(n))
        assert len(flat) - n < ranks  # no more come again than must


def test_an_epoch_has_its_own_order_and_a_seed_too():
    def orders(**options):
        each = DistributedSampler(numbers(64), 2, 1, **options)
        found = [list(each)]
        assert list(each) == found[0]  # a function of (seed, epoch)
        each.set_epoch(1)
        return [*found, list(each)]

    first, second = orders(), orders(seed=1)
    assert len({tuple(order) for order in (*first, *second)}) == 4
    assert orders(shuffle=False) == [[*range(1, 64, 2)]] * 2


def visited(loader) -> list[int]:
    return [label for _, y in loader for label in y.tolist()]


@pytest.mark.parametrize("as_batches", [False, True])
def test_a_loader_tells_the_epoch_to_those_who_forget_it(as_batches):
    def made():
        each = DistributedSampler(numbers(64), 2, 0)
        if as_batches:
            batches = data.BatchSampler(each, 8, False)
            return each, DataLoader(numbers(64), batch_sampler=batches)
        return each, DataLoader(numbers(64), 8, sampler=each)

    each, loader = made()
    epochs = [visited(loader) for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert each.epoch == 2
    for epoch, expected in enumerate(epochs):
        each.set_epoch(epoch)
        assert list(each) == expected
    # resumed, by the loader or by the sampler, as PyTorch's users do it
    _, loader = made()
    loader.set_epoch(2)
    assert visited(loader) == epochs[2]
    each, loader = made()
    each.set_epoch(1)
    assert [visited(loader), visited(loader)] == epochs[1:]
    for epoch in (2, 0, 0):  # and told each time
        each.set_epoch(epoch)
        assert visited(loader) == epochs[epoch]


def test_ranks_together_visit_what_one_process_visits():
    together = [visited(DataLoader(numbers(50), 4, sampler=each)) for each in samplers(50, 4)]
    assert sorted(set(np.concatenate(together))) == [*range(50)]
    assert {len(each) for each in together} == {13}


def test_ranks_are_those_that_were_launched(monkeypatch):
    each = DistributedSampler(numbers())
    assert (each.rank, each.num_replicas, len(each)) == (0, 1, 10)
    group = SimpleNamespace(rank=2, size=4)
    monkeypatch.setattr("minires.data.distributed.current_group", lambda: group)
    each = DistributedSampler(numbers())
    assert (each.rank, each.num_replicas, len(each)) == (2, 4, 3)


def test_pytorchs_paths():
    assert utils.data.DistributedSampler is DistributedSampler
    assert utils.data.distributed.DistributedSampler is DistributedSampler
    assert distributed.DistributedSampler is DistributedSampler


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 2}, "expected rank an integer >= 0 and <= 1, got 2"),
        ({"rank": -1}, "expected rank an integer >= 0 and <= 1, got -1"),
        ({"num_replicas": 0}, "expected num_replicas an integer >= 1 and <= 1048576, got 0"),
        ({"seed": -1}, "expected seed an integer >= 0"),
        ({"shuffle": 1}, "expected shuffle True or False, got 1"),
        ({"drop_last": "no"}, "expected drop_last True or False, got 'no'"),
        ({"dataset": 3}, "expected a data set with __len__ and __getitem__, got int"),
        ({"dataset": []}, "expected a data set with samples, got an empty one"),
        (
            {"num_replicas": 11, "drop_last": True},
            "expected a sample for each of 11 ranks, got 10, with drop_last. Pass drop_last=False.",
        ),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ArgumentError) as caught:
        DistributedSampler(**({"dataset": numbers(), "num_replicas": 2, "rank": 0} | options))
    assert str(caught.value).startswith("DistributedSampler: expected")
    assert words in str(caught.value)


def test_a_bad_epoch():
    with pytest.raises(ArgumentError, match="set_epoch: expected epoch an integer >= 0"):
        DistributedSampler(numbers()).set_epoch(-1)
