"""Batches for training: shuffled, augmented and prefetched in background threads.

What a batch holds is a function of (data set, seed, epoch, its number), and batches are handed out
in order. So neither the number of threads nor their luck with the scheduler shows in the results.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import count, islice
from threading import local
from typing import Any

import numpy as np

from minires import arguments
from minires.autograd import Variable
from minires.data.batches import Batch, chosen, moved, prepare, transformed
from minires.data.checks import length
from minires.data.collate import mapped
from minires.data.distributed import DistributedSampler, check_cuts, rank_and_size
from minires.data.samplers import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    checked_generator,
    checked_sampler,
)
from minires.data.transforms import MAX_SEED, Transform
from minires.data.upload import Sent, Upload
from minires.device import CPU, Device, array_module, existing
from minires.errors import ArgumentError, DataError, DTypeError, message, quoted
from minires.tensor import from_numpy

MAX_WORKERS = 1024  # threads
MAX_TIMEOUT = 86_400  # seconds


class DataLoader:
    """Iterates over batches of a data set, with as many fields as a sample has: ``(x, y)`` mostly.

    ``x`` is a Tensor: for images logical (n, c, h, w), with channels-last memory. The others are
    Tensors of n targets, int64 if they are integers. Samples may be tuples or dicts of fields,
    nested ones too, and so are batches then; text stays text, in a list. Each iteration is an
    epoch with its own order and augmentation: 0, 1, 2 and so on, or as :meth:`set_epoch` says.

    Args:
        dataset: a :class:`~minires.data.ImageDataset`, a :class:`TensorDataset`, or any object
            (a :class:`~minires.data.Dataset` of your own) with ``__len__`` and ``__getitem__``
            -> (array (c, h, w), label), or any other number of fields. With ``num_workers`` > 1
            its ``__getitem__`` is called by several threads at the same time.
        batch_size: images per batch; the last batch may have fewer.
        shuffle: visit the images in an order drawn from (seed, epoch).
        sampler: gives the indices of an epoch in place of ``shuffle``: one of
            :mod:`minires.data.samplers`, which draw from (seed, epoch) too, a list of indices, or
            a sampler of your own. What that draws from :func:`minires.random.generator`, by
            ``mr.randperm`` for instance, is decided by (seed, epoch), too.
        batch_sampler: gives lists of indices, one for each batch, in place of ``batch_size``,
            ``shuffle``, ``sampler`` and ``drop_last``.
        collate_fn: called with a list of samples, as the data set gives them; what it returns is
            the batch. It may call :func:`~minires.data.default_collate`.
        timeout: seconds to wait for a batch of a worker; 0 waits as long as it takes.
        worker_init_fn: called in each worker, with its number, before its first batch.
        multiprocessing_context: None, since workers are threads.
        generator: draws the order in place of (seed, epoch); a resumed run then is the same only if
            the generator is in the same state.
        transform: called as ``transform(x, draws)`` on the float batch (n, h, w, c); see
            :mod:`minires.data.transforms`.
        seed: of the order and of the augmentation.
        drop_last: leave out a last batch with fewer images.
        num_workers: background threads that prepare batches; 0 prepares them in the calling
            thread.
        prefetch, prefetch_factor: batches prepared ahead, per worker; the second is PyTorch's name.
        pin_memory, pin_memory_device, persistent_workers, in_order: taken so that PyTorch code
            runs, and change nothing: what goes to a GPU goes through pinned memory, threads start
            at once, and batches come in their order.
        device: where batches are to be. To a GPU they are copied while it computes with the batch
            before (:mod:`minires.data.upload`); of an :class:`~minires.data.ImageDataset` it is the
            bytes that are copied, and the transform, if it can, works on the GPU. The values are
            those on the CPU, up to rounding.
        shard: (rank, size), or :mod:`minires.distributed`, which says both: of each batch this
            rank's part alone, as ``numpy.array_split(batch, size)[rank]`` cuts it. ``batch_size``
            is that of all ranks together; order and augmentation are those of one process. A
            ``generator`` must be in the same state on all ranks, and so must whatever else a
            sampler of yours draws from.

    Attributes:
        share: the part that the batch handed out last is of the whole one: 1 without ``shard``. A
            mean over such a batch counts by this much in the mean over the whole one.

    Raises:
        ArgumentError: an argument out of range, an empty data set, ``drop_last`` with fewer
            images than ``batch_size``, or batches with fewer samples than ``shard`` has ranks;
            while iterating, where that is not known before.
        DeviceError: ``device`` is not there.

    Errors of the data set or the transform surface unchanged where the batches are consumed. The
    threads end when the iteration ends, also when it is abandoned by ``break`` or an exception.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool | None = False,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 1,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        multiprocessing_context: None = None,
        generator: np.random.Generator | None = None,
        *,
        transform: Transform | None = None,
        seed: int = 0,
        prefetch: int = 2,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        device: str | Device = CPU,
        shard: Any = None,
    ) -> None:
        op = "DataLoader"
        samples = length(op, dataset)
        self.dataset = dataset
        self.batch_size = arguments.integer(op, "batch_size", batch_size, 1)
        self.shuffle = arguments.flag(op, "shuffle", False if shuffle is None else shuffle)
        self.drop_last = arguments.flag(op, "drop_last", drop_last)
        if transform is not None:
            arguments.takes(op, "transform(x, draws)", transform, 2)
        self.transform = transform
        if collate_fn is not None:
            arguments.takes(op, "collate_fn(samples)", collate_fn, 1)
        self.collate_fn = collate_fn
        if collate_fn is not None and transform is not None:
            expected = "a transform of whole batches or a collate_fn"
            fix = "Transform the batch in collate_fn."
            raise ArgumentError(message(op, expected, "both", fix=fix))
        self.seed = arguments.integer(op, "seed", seed, 0, MAX_SEED)
        self.num_workers = arguments.integer(op, "num_workers", num_workers, 0, MAX_WORKERS)
        ahead = prefetch if prefetch_factor is None else prefetch_factor
        self.prefetch = arguments.integer(op, "prefetch", ahead, 1)
        self.timeout = arguments.number(op, "timeout", timeout, least=0, most=MAX_TIMEOUT)
        if timeout and not self.num_workers:
            raise ArgumentError(message(op, "num_workers >= 1 with a timeout", 0))
        if worker_init_fn is not None:
            arguments.takes(op, "worker_init_fn(number)", worker_init_fn, 1)
        self.worker_init_fn = worker_init_fn
        if multiprocessing_context is not None:
            expected, got = "multiprocessing_context None", quoted(multiprocessing_context)
            raise ArgumentError(message(op, expected, got, "workers are threads"))
        flags = {"pin_memory": pin_memory, "persistent_workers": persistent_workers}
        for name, value in flags.items():
            arguments.flag(op, name, value)
        if in_order is not True or not isinstance(pin_memory_device, str):
            got = f"{quoted(in_order)} and {quoted(pin_memory_device)}"
            raise ArgumentError(message(op, "in_order True and pin_memory_device a name", got))
        self.device = existing(device)
        self._epoch = 0
        if samples == 0:
            raise ArgumentError(message("DataLoader", "a data set with samples", "an empty one"))
        self._custom = sampler is not None or batch_sampler is not None or generator is not None
        self._choose(sampler, batch_sampler, checked_generator(op, generator))
        if isinstance(self.sampler, Sized) and not len(self):
            expected = f"at least batch_size = {self.batch_size} samples, with drop_last"
            fix = "Use a smaller batch_size, or drop_last=False"
            raise ArgumentError(message("DataLoader", expected, self._samples(), fix=fix))
        self.share, self._empty = 1.0, False
        self.shard = rank_and_size(op, shard)
        self._check_shard()

    def _check_shard(self) -> None:
        if self.shard is None:
            return
        if isinstance(self.sampler, DistributedSampler):
            expected = "shard or a DistributedSampler, which are two ways to share out samples"
            raise ArgumentError(message("DataLoader", expected, "both"))
        if not self._empty:
            check_cuts(self.batch_sampler, self._samples(), self.shard[1])

    def _sharded(self, rank: int, size: int, empty: bool = False) -> DataLoader:
        """This loader with a shard, counting epochs from where this one is. With ``empty`` a batch
        may have fewer samples than there are ranks: who has none of it goes on to the next one."""
        other = copy.copy(self)
        other.shard, other._empty = (rank, size), empty
        other._check_shard()
        return other

    def _choose(self, sampler: Any, batch_sampler: Any, generator: Any) -> None:
        """Settle who chooses the samples."""
        op = "DataLoader"
        if sampler is not None and self.shuffle:
            raise ArgumentError(message(op, "a sampler or shuffle=True", "both"))
        if batch_sampler is not None:
            if self.batch_size != 1 or self.shuffle or sampler is not None or self.drop_last:
                expected = "batch_sampler without batch_size, shuffle, sampler and drop_last"
                raise ArgumentError(message(op, expected, "one of them, too"))
            self.batch_sampler = checked_sampler(op, "batch_sampler", batch_sampler)
            self.sampler = getattr(batch_sampler, "sampler", batch_sampler)
            return
        if sampler is None:
            source = self.dataset
            random = RandomSampler(source, generator=generator) if self.shuffle else None
            sampler = SequentialSampler(source) if random is None else random
        self.sampler = checked_sampler(op, "sampler", sampler)
        self.batch_sampler = BatchSampler(self.sampler, self.batch_size, self.drop_last)

    def _samples(self) -> int | None:
        return len(self.sampler) if isinstance(self.sampler, Sized) else None

    def __len__(self) -> int:
        """Batches per epoch.

        Raises:
            DTypeError: a sampler of yours has no ``__len__``.
        """
        try:
            return len(self.batch_sampler)
        except TypeError as error:
            expected = "a sampler with a length"
            raise DTypeError(message("len(DataLoader)", expected, error)) from error

    def __repr__(self) -> str:
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, shuffle={self.shuffle}, "
            f"transform={self.transform!r}, seed={self.seed}, drop_last={self.drop_last}, "
            f"num_workers={self.num_workers}, prefetch={self.prefetch}"
            + (f", sampler={type(self.sampler).__name__}" if self._custom else "")
            + (f", shard={self.shard}" if self.shard else "")
            + (f", device={str(self.device)!r})" if self.device.type == "cuda" else ")")
        )

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration will be."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch, as after a resume; the ones after it count on.

        Raises:
            ArgumentError: ``epoch`` is no integer >= 0.
        """
        self._epoch = arguments.integer("DataLoader.set_epoch", "epoch", epoch, 0, MAX_SEED)

    def __iter__(self) -> Iterator[Any]:
        # Not a generator itself: the epoch must be taken now, not at the first next().
        epoch = self._epoch
        self._epoch += 1
        batches = self._in_background(epoch) if self.num_workers else self._in_caller(epoch)
        if self.collate_fn is not None:
            return self._handed(batches, lambda content: moved(content, self.device))
        if self.device.type == "cuda":
            return self._on_gpu(batches)
        return self._handed(batches, lambda fields: mapped(fields, from_numpy))

    def _handed(self, batches: Iterator[Batch], finish: Callable[[Any], Any]) -> Iterator[Any]:
        for batch in batches:
            self.share = batch.share
            yield finish(batch.fields)

    def _on_gpu(self, batches: Iterator[Batch]) -> Iterator[Any]:
        """Batches as tensors of the GPU. Each is sent before the one before it is handed out."""
        ring = Upload(self.device)
        ahead: deque[tuple[Batch, Sent]] = deque()
        try:
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    yield from self._received(ring, ahead)
                    return
                except BaseException:  # it is told after the batches that came before it
                    yield from self._received(ring, ahead)
                    raise
                ahead.append((batch, ring.send(batch.arrays())))
                if len(ahead) == 2:
                    yield self._receive(ring, *ahead.popleft())
        finally:
            ring.close()

    def _received(self, ring: Upload, ahead: deque[tuple[Batch, Sent]]) -> Iterator[Any]:
        while ahead:
            yield self._receive(ring, *ahead.popleft())

    def _receive(self, ring: Upload, batch: Batch, sent: Sent) -> Any:
        def make(*arrays: Any) -> list[Any]:
            if batch.pixels:
                xp, scale = array_module(arrays[0]), np.float32(self.dataset.scale)
                x = xp.divide(arrays[0], scale, dtype=np.float32)
                x = transformed(self.transform, x, batch.draws)
                return [x.transpose(0, 3, 1, 2), *[array.copy() for array in arrays[1:]]]
            made = [array.copy() for array in arrays]
            if batch.images:
                made[0] = made[0].transpose(0, 3, 1, 2)
            return made

        self.share = batch.share
        arrays = iter(ring.receive(sent, make))
        return mapped(batch.fields, lambda _: Variable._wrap(next(arrays)))

    def _in_caller(self, epoch: int) -> Iterator[Batch]:
        for samples in chosen(self, epoch):
            yield prepare(self, samples, epoch)

    def _in_background(self, epoch: int) -> Iterator[Batch]:
        batches = chosen(self, epoch)
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="minires-loader")
        workers = _Workers(self.worker_init_fn)
        try:
            ahead: deque[Future[Any]] = deque(
                pool.submit(workers.run, prepare, self, samples, epoch)
                for samples in islice(batches, self.num_workers * self.prefetch)
            )
            while ahead:
                ready = self._result(ahead.popleft())
                for samples in islice(batches, 1):
                    ahead.append(pool.submit(workers.run, prepare, self, samples, epoch))
                yield ready
        finally:
            # Reached on exhaustion, error, close() and garbage collection. Not waiting for the
            # threads (they finish their batch and end): the collector may run this in one of them.
            pool.shutdown(wait=False, cancel_futures=True)

    def _result(self, future: Future[Any]) -> Any:
        if not self.timeout:
            return future.result()
        done, _ = wait([future], self.timeout)
        if not done:
            expected, fix = f"a batch within {self.timeout:g} s", "Give it more time by timeout=."
            raise DataError(message("DataLoader", expected, "none", fix=fix))
        return future.result()


class _Workers:
    """Numbers the threads of an epoch, and prepares each before its first batch."""

    def __init__(self, prepare: Callable[[int], Any] | None) -> None:
        self.prepare, self.numbers, self.of_thread = prepare, count(), local()

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.prepare is not None and not hasattr(self.of_thread, "number"):
            self.of_thread.number = next(self.numbers)
            self.prepare(self.of_thread.number)
        return function(*args)
