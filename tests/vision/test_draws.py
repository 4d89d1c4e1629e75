"""In a loader, what a sample draws depends on (seed, epoch, index) alone."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires import random
from minires.data import DataLoader, Dataset, Subset
from minires.data.sample import of_epoch, sample
from minires.utils.data import random_split
from minires.vision import datasets, transforms

AUGMENTED = transforms.Compose(
    [
        transforms.RandomResizedCrop(6, (0.3, 1)),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(0.5, 0.5, 0.5, 0.1),
        transforms.ToTensor(),
        transforms.RandomErasing(0.5, value="random"),
    ]
)


def noise(n: int = 11) -> datasets.FakeData:
    """Each picture's class is its place."""
    return Placed(n, (3, 9, 8), transform=AUGMENTED)


class Placed(datasets.FakeData):
    def __getitem__(self, index):
        return super().__getitem__(index)[0], int(index)


def by_index(loader: DataLoader) -> dict[int, np.ndarray]:
    """One epoch: each sample by its index."""
    return {k: v for x, y in loader for k, v in zip(y.tolist(), x.numpy().copy())}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1, "num_workers": 0},
        {"batch_size": 4, "shuffle": True, "num_workers": 0},
        {"batch_size": 3, "shuffle": True, "num_workers": 4},
        {"batch_size": 20, "num_workers": 2, "prefetch": 5},
    ],
)
def test_order_batches_and_workers_change_nothing(options):
    reference = by_index(DataLoader(noise(), 11, seed=5))
    assert same(by_index(DataLoader(noise(), seed=5, **options)), reference)


def test_seeds_and_epochs_change_everything():
    loader = DataLoader(noise(), 4, seed=5)
    first, second = by_index(loader), by_index(loader)
    other = by_index(DataLoader(noise(), 4, seed=6))
    for k in first:
        assert not np.array_equal(first[k], second[k])
        assert not np.array_equal(first[k], other[k])
    resumed = DataLoader(noise(), 3, shuffle=True, seed=5)
    resumed.set_epoch(1)
    assert same(by_index(resumed), second)


def test_parts_draw_as_the_whole():
    reference = by_index(DataLoader(noise(), 4, seed=5))
    part = by_index(DataLoader(Subset(noise(), [7, 2, 9]), 2, shuffle=True, seed=5))
    assert same(part, {k: reference[k] for k in (7, 2, 9)})
    for half in random_split(noise(), [5, 6]):
        for k, value in by_index(DataLoader(half, 2, seed=5)).items():
            assert np.array_equal(value, reference[k])


def test_the_global_generator_stays_where_it_is():
    mr.manual_seed(1)
    before = random.get_state()
    for workers in (0, 2):
        list(DataLoader(noise(), 4, num_workers=workers))
    assert random.get_state() == before
    with_loader = by_index(DataLoader(noise(), 4))
    mr.manual_seed(2)
    assert same(by_index(DataLoader(noise(), 4)), with_loader)


def test_by_hand_it_is_the_global_generator():
    def drawn():
        return noise()[3][0].numpy()

    mr.manual_seed(1)
    first, second = drawn(), drawn()
    assert not np.array_equal(first, second)
    mr.manual_seed(1)
    assert np.array_equal(drawn(), first)


def test_draws_of_ones_own_data_set():
    class Noisy(Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, index):
            own = mr.rand(2).numpy()
            return np.append(own, random.generator().normal()).astype(np.float32), index

    reference = by_index(DataLoader(Noisy(), 9))
    assert same(by_index(DataLoader(Noisy(), 2, shuffle=True, num_workers=3)), reference)
    values = np.stack(list(reference.values()))
    assert len(np.unique(values)) == values.size


def test_a_loader_within_a_sample_has_its_own_draws():
    class Nested(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            before = mr.rand(1).numpy()
            for _ in DataLoader(noise(2), 2, num_workers=0):
                pass
            return np.concatenate([before, mr.rand(1).numpy()]), index

    class Plain(Nested):
        def __getitem__(self, index):
            return mr.rand(2).numpy(), index

    assert same(by_index(DataLoader(Nested(), 2)), by_index(DataLoader(Plain(), 2)))


class Drawn:
    """Gives a draw for any index."""

    def __getitem__(self, index):
        return float(random.generator().random())


def test_words_decide_the_draws():
    def draw(seed, epoch, index):
        with of_epoch(seed, epoch):
            return sample(Drawn(), index)

    values = [draw(s, e, i) for s in (0, 1, 2**64 - 1) for e in (0, 1, 9) for i in (0, 1, 10**12)]
    assert len(set(values)) == 27
    assert draw(1, 9, 0) == values[15]
    uniform = np.array([draw(0, 0, i) for i in range(2000)])
    assert abs(uniform.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(uniform[:-1], uniform[1:])[0, 1]) < 0.09


def test_errors_put_the_generator_back():
    class Broken:
        def __getitem__(self, index):
            random.generator().random()
            raise KeyError(index)

    with of_epoch(0, 0), pytest.raises(KeyError):
        sample(Broken(), 1)
    assert random.generator() is mr.random.generator()
    assert not isinstance(random.generator(), random.Keyed)
