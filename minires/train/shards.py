"""The part of each batch that is one rank's: what ``fit`` makes of loaders in several processes.

The batches that a loader gives are those of all ranks together, and each rank takes its part, as
``numpy.array_split`` cuts it. A loader that gives each rank its own part says so by its ``shard``,
or has a DistributedSampler, and is taken as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minires.data import DataLoader
from minires.data.distributed import DistributedSampler, too_few
from minires.device import CPU, move
from minires.distributed import Group
from minires.tensor import Tensor


def is_shard(loader: Any) -> bool:
    """Whether a loader gives this rank's part of the batches already."""
    sampler = getattr(loader, "sampler", None)
    return getattr(loader, "shard", None) is not None or isinstance(sampler, DistributedSampler)


def shared_out(
    op: str, name: str, loader: Iterable[Any], group: Group, empty: bool
) -> Iterable[Any]:
    """A loader of this rank's parts.

    Args:
        loader: of whole batches, the same on all ranks; or of parts, which is returned as it is.
        empty: batches may have fewer samples than there are ranks; who has none of one skips it.

    Raises:
        ArgumentError: batches with fewer samples than there are ranks, without ``empty``; while
            iterating, where that is not known before.
    """
    if is_shard(loader):
        return loader
    if isinstance(loader, DataLoader):
        return _OfLoader(loader, group, empty)
    if isinstance(loader, Sequence) and not empty:
        for batch in loader:
            _check_size(op, name, _size(batch), group.size)
    return _Cut(op, name, loader, group, empty)


class _Passing:
    """A loader in place of another one, whose epochs are counted by that."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.set_epoch = getattr(loader, "set_epoch", None)  # None if it counts none

    def __len__(self) -> int:
        return len(self._loader)


class _OfLoader(_Passing):
    """A DataLoader that makes this rank's parts alone."""

    def __init__(self, loader: DataLoader, group: Group, empty: bool) -> None:
        super().__init__(loader)
        self._part = loader._sharded(group.rank, group.size, empty=empty)

    def __iter__(self) -> Iterator[Any]:
        epoch = self._loader.epoch
        self._part.set_epoch(epoch)
        self._loader.set_epoch(epoch + 1)
        return iter(self._part)


class _Cut(_Passing):
    """Any iterable of batches (inputs, labels), each of which is cut.

    Attributes:
        check: a number that the labels of the whole batch before the last cut decide, 0..2**16 - 1.
    """

    def __init__(
        self, op: str, name: str, loader: Iterable[Any], group: Group, empty: bool
    ) -> None:
        super().__init__(loader)
        self._op, self._name, self._group, self._empty = op, name, group, empty
        self.check = 0

    def __iter__(self) -> Iterator[Any]:
        rank, size = self._group.rank, self._group.size
        for batch in self._loader:
            n = _size(batch)
            if n is None:  # no batch that the loop takes: it says so
                yield batch
                continue
            if not self._empty:
                _check_size(self._op, self._name, n, size)
            self.check = _check(batch[1])
            first, rest = divmod(n, size)
            start = rank * first + min(rank, rest)
            end = start + first + (rank < rest)
            yield tuple([field[start:end] for field in batch])


def check_of(loader: Any) -> int:
    """A number that the batch which was cut last decides; 0 where none is cut here."""
    return loader.check if isinstance(loader, _Cut) else 0


def _size(batch: Any) -> int | None:
    """How many samples a batch has; None if it is none of (inputs, labels)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return None
    if not all(isinstance(field, Tensor | np.ndarray | list | tuple) for field in batch):
        return None
    sizes = {len(field) for field in batch if not isinstance(field, Tensor) or field.ndim}
    return sizes.pop() if len(sizes) == 1 else None


def _check(labels: Any) -> int:
    if isinstance(labels, Tensor):
        labels = move(labels._array, CPU)
    return zlib.crc32(np.asarray(labels).tobytes()) & 0xFFFF


def _check_size(op: str, name: str, n: int | None, ranks: int) -> None:
    if n is not None and n < ranks:
        fix = "Use larger batches, drop_last=True, or fewer ranks."
        raise too_few(ranks, f"a batch of {n}", name, fix, op)
