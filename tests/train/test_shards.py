"""A rank's part of each batch, whatever kind of loader gives it; what ranks draw."""

import numpy as np
import pytest

from minires import random
from minires.data import DataLoader, DistributedSampler, TensorDataset
from minires.distributed import Group
from minires.errors import ArgumentError
from minires.tensor import Tensor, from_numpy
from minires.train.shards import check_of, shared_out


def rank(number, size):
    group = Group()
    group.rank, group.size = number, size
    return group


def parts(make, size, empty=False):
    """What each rank has of the batches."""
    return [list(shared_out("fit", "loader", make(), rank(r, size), empty)) for r in range(size)]


X = np.arange(24.0).reshape(12, 2)
Y = np.arange(12)
KINDS = {
    "arrays": lambda a, b: (X[a:b], Y[a:b]),
    "tensors": lambda a, b: [from_numpy(X[a:b]), from_numpy(Y[a:b])],
    "lists": lambda a, b: (X[a:b].tolist(), Y[a:b].tolist()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_parts_are_those_of_array_split(kind, size):
    bounds = [(0, 5), (5, 12)]
    found = parts(lambda: [KINDS[kind](*pair) for pair in bounds], size)
    for r, own in enumerate(found):
        for (a, b), (x, y) in zip(bounds, own, strict=True):
            x, y = (np.asarray(f.numpy() if isinstance(f, Tensor) else f) for f in (x, y))
            np.testing.assert_array_equal(x, np.array_split(X[a:b], size)[r])
            np.testing.assert_array_equal(y, np.array_split(Y[a:b], size)[r])


@pytest.mark.parametrize("stream", [False, True])
def test_batches_with_fewer_samples_than_ranks(stream):
    few = [(X[:2], Y[:2])]
    make = (lambda: iter(few)) if stream else (lambda: few)
    text = r"^fit: expected a sample for each of 3 ranks, got a batch of 2 \(loader\)\. Use larger"
    with pytest.raises(ArgumentError, match=text):
        parts(make, 3)
    sizes = [[len(y) for _, y in own] for own in parts(make, 3, empty=True)]
    assert sizes == [[1], [1], [0]]


def test_a_loader_counts_its_epochs_though_a_part_of_it_is_taken():
    loader = DataLoader(TensorDataset(X, Y), 4, shuffle=True)
    part = shared_out("fit", "loader", loader, rank(1, 2), empty=False)
    orders = [np.concatenate([y.numpy() for _, y in part]).tolist() for _ in range(2)]
    assert loader.epoch == 2
    assert orders[0] != orders[1]
    part.set_epoch(0)
    assert loader.epoch == 0
    assert np.concatenate([y.numpy() for _, y in part]).tolist() == orders[0]
    assert len(part) == len(loader) == 3


def test_loaders_of_parts_are_taken_as_they_are():
    class Own:
        shard = "mine"

        def __iter__(self):
            return iter(())

    data = TensorDataset(X, Y)
    dealt = DataLoader(data, 2, sampler=DistributedSampler(data, 2, 1))
    for loader in (DataLoader(data, 4, shard=(1, 2)), dealt, Own()):
        assert shared_out("fit", "loader", loader, rank(1, 2), empty=False) is loader


def test_what_is_no_batch_is_left_to_the_loop():
    wrong = [(X,), {"x": X}, (X, Y[:3]), 7]
    assert all(a is b for a, b in zip(parts(lambda: iter(wrong), 2)[1], wrong, strict=True))


def test_other_labels_are_another_batch():
    def checks(labels):
        part = shared_out("fit", "loader", [(X, labels)], rank(0, 2), empty=False)
        return [check_of(part) for _ in part]

    assert checks(Y) == checks(from_numpy(Y)) != checks(Y[::-1])
    assert 0 <= checks(Y)[0] < 2**16
    assert check_of([(X, Y)]) == 0


def test_each_rank_draws_by_the_state_of_the_first_and_its_number():
    with random.preserved():
        random.manual_seed(3)
        state = random.get_state()
        draws = []
        for derived in (state, *(random.derived(state, number) for number in (1, 2, 1))):
            random.set_state(derived)
            draws.append(random.generator().random(4).tolist())
        assert draws[1] == draws[3]
        assert len({tuple(d) for d in draws}) == 3
        keys = [random.derived(state, number)["gpu"]["key"] for number in (1, 2)]
        assert len({*keys, state["gpu"]["key"]}) == 3
        random.generator().random()
        assert random.derived(random.get_state(), 1) != random.derived(state, 1)
