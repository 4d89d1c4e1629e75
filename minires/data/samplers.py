"""Samplers: in which order, and how often, a loader visits the samples of a data set.

A sampler is anything that can be iterated over and gives indices. Those here that draw do so from
(seed, epoch) of the loader that uses them, so that a training that is resumed visits what it would
have visited; iterated over alone, they draw from the global generator, and with a ``generator``
of their own always from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minires import arguments, random
from minires.data.checks import length
from minires.data.transforms import permutation
from minires.errors import ArgumentError, message, quoted
from minires.tensor import Tensor

_STREAM = 2  # of the draws with replacement: order and augmentation are 0 and 1


class Sampler:
    """Base of samplers, for your own: define ``__iter__``, which gives indices, and ``__len__``.

    >>> class Backwards(Sampler):
    ...     def __init__(self, dataset):
    ...         self.dataset = dataset
    ...     def __iter__(self):
    ...         return iter(range(len(self.dataset) - 1, -1, -1))
    ...     def __len__(self):
    ...         return len(self.dataset)
    >>> list(Backwards("abc"))
    [2, 1, 0]
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__()")

    def _visited(self, seed: int, epoch: int) -> Iterable[Any]:
        """What it gives in an epoch of a loader with this seed."""
        return _told(self, epoch)


class SequentialSampler(Sampler):
    """All samples in their order."""

    def __init__(self, data_source: Any) -> None:
        length("SequentialSampler", data_source)
        self.data_source = data_source

    def __len__(self) -> int:
        return len(self.data_source)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))


class _Drawn(Sampler):
    """A sampler that draws; :meth:`_order` does."""

    generator: np.random.Generator | None

    def __iter__(self) -> Iterator[int]:
        rng = random.generator() if self.generator is None else self.generator
        seed, epoch = (int(word) for word in rng.integers(0, 2**63, 2))
        return iter(self._order(seed, epoch).tolist())

    def _visited(self, seed: int, epoch: int) -> Iterable[Any]:
        if self.generator is not None or type(self).__iter__ is not _Drawn.__iter__:
            return _told(self, epoch)
        return self._order(seed, epoch).tolist()

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The indices of an epoch."""
        raise NotImplementedError


def _rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, _STREAM])


class RandomSampler(_Drawn):
    """All samples in a random order, or with ``replacement`` any, each time out of all.

    Args:
        data_source: the data set.
        replacement: whether a sample may come again.
        num_samples: how many an epoch has; all of them by default. Without replacement, more than
            there are begin anew.
        generator: draws instead of (seed, epoch) of the loader.

    Raises:
        ArgumentError: no data set or an empty one, arguments out of range.
    """

    def __init__(
        self,
        data_source: Any,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: np.random.Generator | None = None,
    ) -> None:
        op = "RandomSampler"
        if not length(op, data_source):
            raise ArgumentError(message(op, "a data set with samples", "an empty one"))
        self.data_source = data_source
        self.replacement = arguments.flag(op, "replacement", replacement)
        self._count = None
        if num_samples is not None:
            self._count = arguments.integer(op, "num_samples", num_samples, 1)
        self.generator = checked_generator(op, generator)

    @property
    def num_samples(self) -> int:
        """How many samples an epoch has."""
        return len(self.data_source) if self._count is None else self._count

    def __len__(self) -> int:
        return self.num_samples

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The indices of an epoch, (num_samples,): by default those of ``shuffle=True``."""
        n, many = len(self.data_source), self.num_samples
        if self.replacement:
            return _rng(seed, epoch).integers(0, n, many)
        order = permutation(n, seed, epoch)
        if many > n:
            rng = _rng(seed, epoch)
            order = np.concatenate([order, *(rng.permutation(n) for _ in range(-(-many // n) - 1))])
        return order[:many]


class SubsetRandomSampler(_Drawn):
    """The samples at ``indices`` in a random order.

    Raises:
        ArgumentError: indices that are no list or array of integers >= 0.
    """

    def __init__(self, indices: Any, generator: np.random.Generator | None = None) -> None:
        op = "SubsetRandomSampler"
        given = arguments.listed(op, "indices in a list or an array", indices)
        self.indices = [arguments.integer(op, "each index", index, 0) for index in given]
        self.generator = checked_generator(op, generator)

    def __len__(self) -> int:
        return len(self.indices)

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The indices of an epoch, (n,)."""
        return np.array(self.indices, np.int64)[permutation(len(self), seed, epoch)]


class WeightedRandomSampler(_Drawn):
    """Samples drawn with probabilities in proportion to ``weights``: rare classes as often as
    frequent ones, for instance.

    Args:
        weights: (n,), >= 0, one for each sample of the data set; they need not add up to 1.
        num_samples: how many an epoch has.
        replacement: whether a sample may come again; else no more than have a weight above 0.
        generator: draws instead of (seed, epoch) of the loader.

    Raises:
        ArgumentError: weights that are no such numbers, arguments out of range.

    >>> from minires.data import DataLoader, TensorDataset
    >>> labels = np.array([0, 0, 0, 0, 0, 0, 0, 1])
    >>> weights = 1 / np.bincount(labels)[labels]
    >>> data = TensorDataset(np.zeros((8, 1), np.float32), labels)
    >>> loader = DataLoader(data, 100, sampler=WeightedRandomSampler(weights, 100))
    >>> _, y = next(iter(loader))
    >>> 30 < y.sum().item() < 70
    True
    """

    def __init__(
        self,
        weights: Any,
        num_samples: int,
        replacement: bool = True,
        generator: np.random.Generator | None = None,
    ) -> None:
        op = "WeightedRandomSampler"
        given = weights.detach().cpu().numpy() if isinstance(weights, Tensor) else weights
        numbers = [
            arguments.number(op, "each weight", weight, least=0)
            for weight in arguments.listed(op, "weights in a list or an array", given)
        ]
        self.weights: NDArray[np.float64] = np.array(numbers, np.float64)
        if not self.weights.any():
            raise ArgumentError(message(op, "a weight above 0", quoted(weights)))
        self.num_samples = arguments.integer(op, "num_samples", num_samples, 1)
        self.replacement = arguments.flag(op, "replacement", replacement)
        possible = int(np.count_nonzero(self.weights))
        if not self.replacement and self.num_samples > possible:
            expected = f"num_samples at most {possible}, as many as have a weight above 0"
            fix = "Use replacement=True."
            raise ArgumentError(message(op, expected, self.num_samples, fix=fix))
        self.generator = checked_generator(op, generator)

    def __len__(self) -> int:
        return self.num_samples

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The indices of an epoch, (num_samples,)."""
        shares = self.weights / self.weights.max()  # so that their sum is finite
        shares /= shares.sum()
        rng = _rng(seed, epoch)
        return rng.choice(len(shares), self.num_samples, self.replacement, shares).astype(np.int64)


class BatchSampler(Sampler):
    """The indices of another sampler, as lists of ``batch_size``.

    Args:
        sampler: gives indices.
        batch_size: indices of a batch; the last batch may have fewer.
        drop_last: leave out a last batch with fewer.

    Raises:
        ArgumentError: an argument of another kind, or out of range.
    """

    def __init__(self, sampler: Iterable[Any], batch_size: int, drop_last: bool) -> None:
        op = "BatchSampler"
        self.sampler = checked_sampler(op, "sampler", sampler)
        self.batch_size = arguments.integer(op, "batch_size", batch_size, 1)
        self.drop_last = arguments.flag(op, "drop_last", drop_last)

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[Any]]:
        return self._batches(iter(self.sampler))

    def _visited(self, seed: int, epoch: int) -> Iterable[Any]:
        if type(self).__iter__ is not BatchSampler.__iter__:
            return _told(self, epoch)
        return self._batches(epoch_of(self.sampler, seed, epoch))

    def _batches(self, indices: Iterable[Any]) -> Iterator[list[Any]]:
        """These indices as lists, the last one perhaps left out."""
        batch: list[Any] = []
        for index in indices:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch


def checked_sampler(op: str, name: str, sampler: Any) -> Any:
    """``sampler``, if it can be iterated over more than once.

    Raises:
        ArgumentError: it cannot.
    """
    once = isinstance(sampler, Iterator)
    if once or not isinstance(sampler, Iterable) or isinstance(sampler, str | bytes | type):
        got = "an iterator, which is used up in one epoch" if once else quoted(sampler)
        expected = f"{name} a Sampler, or a list of indices"
        raise ArgumentError(message(op, expected, got))
    return sampler


def checked_generator(op: str, generator: Any) -> np.random.Generator | None:
    """``generator``, if it is one or None.

    Raises:
        ArgumentError: it is not.
    """
    if generator is not None and not isinstance(generator, np.random.Generator):
        raise ArgumentError(message(op, "generator a minires.Generator", quoted(generator)))
    return generator


def epoch_of(sampler: Any, seed: int, epoch: int) -> Iterable[Any]:
    """What a sampler gives in an epoch of a loader with this seed."""
    if isinstance(sampler, Sampler):
        return sampler._visited(seed, epoch)
    return _told(sampler, epoch)


def _told(sampler: Any, epoch: int) -> Iterable[Any]:
    if callable(getattr(sampler, "set_epoch", None)):  # as samplers of PyTorch's users have it
        sampler.set_epoch(epoch)
    return sampler
