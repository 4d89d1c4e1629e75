"""The part of the data that is one rank's, where several processes train together.

There are two ways. ``DataLoader(shard=...)`` cuts each batch that one process would see: the ranks
together compute what one would. A :class:`DistributedSampler` deals the samples out, as PyTorch's
does: each rank then makes batches of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minires import arguments
from minires.data.checks import length
from minires.data.samplers import BatchSampler, Sampler
from minires.data.transforms import MAX_SEED, permutation
from minires.distributed import current_group
from minires.errors import ArgumentError, message, quoted

MAX_RANKS = 1 << 20


class DistributedSampler(Sampler):
    """A rank's samples of an epoch, as many as every other rank's: PyTorch's sampler.

    The samples, in an order drawn from (seed, epoch), are dealt out like cards: rank ``r`` of ``p``
    gets those at places r, r + p, r + 2p and so on. Where their number is no multiple of p, the
    first ones of the order come again at its end; with ``drop_last`` the last ones are left out.

    A :class:`DataLoader` with this sampler tells it the epoch, so that each one has its own order,
    whether :meth:`set_epoch` is called or not. The order is not that of PyTorch's sampler.

    Args:
        dataset: has ``__len__``, the same on all ranks.
        num_replicas: how many ranks there are; those that were launched, by default.
        rank: which one this is.
        shuffle: draw the order; else it is that of the data set.
        seed: of the order, the same on all ranks.
        drop_last: leave samples out, rather than have some come twice.

    Attributes:
        num_samples: how many samples a rank visits in an epoch.
        total_size: how many all ranks visit.
        epoch: the epoch that iterating over the sampler itself gives.

    Raises:
        ArgumentError: no data set or an empty one, fewer samples than ranks with ``drop_last``,
            arguments out of range.

    Source: torch.utils.data.distributed.DistributedSampler.

    >>> [list(DistributedSampler(range(5), 2, rank, shuffle=False)) for rank in (0, 1)]
    [[0, 2, 4], [1, 3, 0]]
    """

    def __init__(
        self,
        dataset: Any,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        op = "DistributedSampler"
        samples = length(op, dataset)
        if not samples:
            raise ArgumentError(message(op, "a data set with samples", "an empty one"))
        ranks = current_group().size if num_replicas is None else num_replicas
        self.num_replicas = arguments.integer(op, "num_replicas", ranks, 1, MAX_RANKS)
        own = current_group().rank if rank is None else rank
        self.rank = arguments.integer(op, "rank", own, 0, self.num_replicas - 1)
        self.dataset = dataset
        self.shuffle = arguments.flag(op, "shuffle", shuffle)
        self.seed = arguments.integer(op, "seed", seed, 0, MAX_SEED)
        self.drop_last = arguments.flag(op, "drop_last", drop_last)
        whole, rest = divmod(samples, self.num_replicas)
        self.num_samples = whole + (rest > 0 and not self.drop_last)
        if not self.num_samples:
            got, fix = f"{samples}, with drop_last", "Pass drop_last=False."
            raise too_few(self.num_replicas, got, fix=fix, op=op)
        self.total_size = self.num_samples * self.num_replicas
        self.epoch = 0
        self._set = False  # by the user, and not yet used by a loader
        self._ahead = 0  # of the loader's epochs

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        return iter(self._order(self.epoch).tolist())

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch; in a loader, the ones after it count on.

        Raises:
            ArgumentError: ``epoch`` is no integer >= 0.
        """
        op = "DistributedSampler.set_epoch"
        self.epoch = arguments.integer(op, "epoch", epoch, 0, MAX_SEED)
        self._set = True

    def _visited(self, seed: int, epoch: int) -> Iterable[Any]:
        if self._set:
            self._ahead, self._set = self.epoch - epoch, False
        self.epoch = (epoch + self._ahead) % (MAX_SEED + 1)
        return self._order(self.epoch).tolist()

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """This rank's indices of an epoch, (num_samples,)."""
        n = len(self.dataset)
        order = permutation(n, self.seed, epoch) if self.shuffle else np.arange(n)
        return np.resize(order, self.total_size)[self.rank :: self.num_replicas]


def rank_and_size(op: str, shard: Any) -> tuple[int, int] | None:
    """``shard``, a pair (rank, size) or what says both, as :mod:`minires.distributed` does.

    Raises:
        ArgumentError: another kind of thing, or a rank that there is not.
    """
    if shard is None:
        return None
    told = [getattr(shard, name, None) for name in ("get_rank", "get_world_size")]
    if all(map(callable, told)):
        shard = tuple(ask() for ask in told)  # type: ignore[misc]
    if not isinstance(shard, tuple | list) or len(shard) != 2:
        expected = "shard a pair (rank, size), or minires.distributed"
        raise ArgumentError(message(op, expected, quoted(shard)))
    size = arguments.integer(op, "the size of shard", shard[1], 1, MAX_RANKS)
    return arguments.integer(op, "the rank of shard", shard[0], 0, size - 1), size


def check_cuts(batch_sampler: Any, samples: int | None, size: int) -> None:
    """Refuse batches that are known to have fewer samples than there are ranks.

    Args:
        batch_sampler: whose batches are cut.
        samples: how many an epoch has, if that is known.
        size: how many ranks there are.

    Raises:
        ArgumentError: there are such batches.
    """
    if type(batch_sampler) is not BatchSampler:
        return
    many = batch_sampler.batch_size
    if many < size:
        raise too_few(size, f"batches of {many}", fix=f"Use a batch_size of {size} or more.")
    rest = 0 if samples is None or batch_sampler.drop_last else samples % many
    if 0 < rest < size:
        detail = f"{samples} samples in batches of {many}"
        other = "Pass drop_last=True, or another batch_size."
        fix = other if samples != rest else "Use fewer ranks."
        raise too_few(size, f"a last batch of {rest}", detail, fix)


def too_few(
    size: int, got: str, detail: str = "", fix: str = "", op: str = "DataLoader"
) -> ArgumentError:
    """The error of fewer samples than ranks."""
    return ArgumentError(message(op, f"a sample for each of {size} ranks", got, detail, fix=fix))
