"""Batches for training: shuffled, augmented and prefetched in background threads.

What a batch holds is a function of (data set, seed, epoch, its number), and batches are handed out
in order. So neither the number of threads nor their luck with the scheduler shows in the results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import count, islice
from threading import local
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from minires import arguments
from minires.autograd import Variable
from minires.data.checks import length, many_places, places
from minires.data.collate import (
    as_array,
    as_targets,
    check_samples,
    collate,
    mapped,
    tuple_like,
)
from minires.data.dataset import Dataset
from minires.data.sample import drawn_for, of_epoch, pairs_of, sample
from minires.data.samplers import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    checked_generator,
    checked_sampler,
    epoch_of,
)
from minires.data.transforms import MAX_SEED, Draws, Transform, augmentation
from minires.data.upload import Sent, Upload
from minires.device import CPU, Device, array_module, existing
from minires.errors import ArgumentError, DataError, DTypeError, ShapeError, message, quoted
from minires.tensor import Tensor, from_numpy

MAX_WORKERS = 1024  # threads
MAX_TIMEOUT = 86_400  # seconds
BATCHES = 1 << 62  # keys of batches begin here, those of samples at 0


@runtime_checkable
class BatchSource(Protocol):
    """A data set that gives many samples at once, faster than one by one."""

    def __len__(self) -> int: ...

    def batch(self, indices: NDArray[np.int64], /) -> tuple[NDArray[Any], ...]:
        """Samples ``indices`` (k,): x (k, ...) of floats and others, such as y (k, ...)."""


class TensorDataset(Dataset):
    """Samples and targets in memory, given as arrays or Tensors of equal length.

    ``dataset[i]`` is sample i, as many arrays as were given; a slice or a list of indices in place
    of i gives a batch of them.

    Args:
        x: (n, ...) of float32 or float64; images are (n, c, h, w).
        others: (n,) labels, or (n, ...) targets, weights, masks and so on; any number of them.

    Raises:
        ShapeError: lengths differ, or there is no first axis.
        DTypeError: x is not float32 or float64, or another is no array of numbers.
        NaNError: x holds a NaN or infinity; names the first.
    """

    def __init__(self, x: Any, *others: Any) -> None:
        op = "TensorDataset"
        first, *rest = (as_array(op, value) for value in (x, *others))
        if any(not array.ndim or len(array) != len(first) for array in (first, *rest)):
            got = " and ".join(str(array.shape) for array in (first, *rest))
            raise ShapeError(message(op, "arrays of equal length", got))
        check_samples(op, first)
        self.arrays = (first, *(as_targets(op, array) for array in rest))

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        where = places("TensorDataset", index, len(self))
        return tuple([array[where] for array in self.arrays])

    def __repr__(self) -> str:
        names = ("x ", "y ", *[""] * (len(self.arrays) - 2))
        facts = (f"{name}{a.shape} {a.dtype}" for name, a in zip(names, self.arrays))
        return f"TensorDataset({', '.join(facts)})"

    def batch(self, indices: Any, /) -> tuple[NDArray[Any], ...]:
        """The samples at ``indices`` (k,): as many arrays as were given, each (k, ...).

        Raises:
            DTypeError, BoundsError: no indices, or some that are not there.
        """
        where = many_places("TensorDataset", indices, len(self))
        return tuple([array[where] for array in self.arrays])


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
            a sampler of your own.
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

    Raises:
        ArgumentError: an argument out of range, an empty data set, or ``drop_last`` with fewer
            images than ``batch_size``.
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

    def _samples(self) -> Any:
        return len(self.sampler) if isinstance(self.sampler, Sized) else "none"

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
            return (_moved(batch, self.device) for batch in batches)
        if self.device.type == "cuda":
            return self._on_gpu(batches)
        return (mapped(batch.fields, from_numpy) for batch in batches)

    def _on_gpu(self, batches: Iterator[_Batch]) -> Iterator[Any]:
        """Batches as tensors of the GPU. Each is sent before the one before it is handed out."""
        ring = Upload(self.device)
        ahead: deque[tuple[_Batch, Sent]] = deque()
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

    def _received(self, ring: Upload, ahead: deque[tuple[_Batch, Sent]]) -> Iterator[Any]:
        while ahead:
            yield self._receive(ring, *ahead.popleft())

    def _receive(self, ring: Upload, batch: _Batch, sent: Sent) -> Any:
        def make(*arrays: Any) -> list[Any]:
            if batch.pixels:
                xp, scale = array_module(arrays[0]), np.float32(self.dataset.scale)
                x = self._transformed(xp.divide(arrays[0], scale, dtype=np.float32), batch.draws)
                return [x.transpose(0, 3, 1, 2), *[array.copy() for array in arrays[1:]]]
            made = [array.copy() for array in arrays]
            if batch.images:
                made[0] = made[0].transpose(0, 3, 1, 2)
            return made

        arrays = iter(ring.receive(sent, make))
        return mapped(batch.fields, lambda _: Variable._wrap(next(arrays)))

    def _in_caller(self, epoch: int) -> Iterator[Any]:
        for chosen in self._chosen(epoch):
            yield self._prepare(chosen, epoch)

    def _in_background(self, epoch: int) -> Iterator[Any]:
        batches = self._chosen(epoch)
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="minires-loader")
        workers = _Workers(self.worker_init_fn)
        try:
            ahead: deque[Future[Any]] = deque(
                pool.submit(workers.run, self._prepare, chosen, epoch)
                for chosen in islice(batches, self.num_workers * self.prefetch)
            )
            while ahead:
                ready = self._result(ahead.popleft())
                for chosen in islice(batches, 1):
                    ahead.append(pool.submit(workers.run, self._prepare, chosen, epoch))
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

    def _chosen(self, epoch: int) -> Iterator[_Chosen]:
        """The samples of each batch."""
        n = len(self.dataset)
        if not self._custom:
            order = self.sampler._order(self.seed, epoch) if self.shuffle else None
            for number, start in enumerate(range(0, len(self) * self.batch_size, self.batch_size)):
                end = min(start + self.batch_size, n)
                indices = np.arange(start, end) if order is None else order[start:end]
                yield _Chosen(number, indices)
            return
        times: dict[int, int] = {}  # that a sample came in this epoch
        for number, batch in enumerate(epoch_of(self.batch_sampler, self.seed, epoch)):
            indices = many_places("DataLoader", _listed(batch), n)
            keys = indices.copy()
            for k, index in enumerate(indices.tolist()):
                keys[k] += n * times.get(index, 0)
                times[index] = times.get(index, 0) + 1
            yield _Chosen(number, indices, None if (keys == indices).all() else keys)

    def _prepare(self, chosen: _Chosen, epoch: int) -> Any:
        """A batch of arrays; images (n, c, h, w) have channels-last memory, and are transformed, if
        that is not for the GPU to do. With a ``collate_fn``, what that returns."""
        indices, keys = chosen.indices, chosen.keys
        if self.collate_fn is not None:
            with of_epoch(self.seed, epoch, keys):
                samples = [sample(self.dataset, *pair) for pair in pairs_of(indices)]
                with drawn_for(BATCHES + chosen.number):
                    return self.collate_fn(samples)
        draws = augmentation(self.seed, epoch, indices if keys is None else keys)
        there = self.transform is None or getattr(self.transform, "on_device", False)
        if there and self.device.type == "cuda" and hasattr(self.dataset, "pixels"):
            return _Batch(self.dataset.pixels(indices), draws, pixels=True)
        with of_epoch(self.seed, epoch, keys):
            if isinstance(self.dataset, BatchSource):
                fields = self.dataset.batch(indices)
            else:
                fields = collate(self.dataset, indices)
        x = fields[0] if isinstance(fields, tuple) else fields
        if not isinstance(x, np.ndarray) or x.ndim != 4:
            if self.transform is not None:
                expected = "images (c, h, w) for the transform"
                got = f"samples {x.shape[1:]}" if isinstance(x, np.ndarray) else type(x).__name__
                raise ShapeError(message("DataLoader", expected, got))
            return _Batch(fields, draws)
        x = self._transformed(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), draws)
        x = x.transpose(0, 3, 1, 2)
        fields = tuple_like(fields, (x, *fields[1:])) if isinstance(fields, tuple) else x
        return _Batch(fields, draws, images=True)

    def _transformed(self, given: Any, draws: Draws) -> Any:
        """Images (n, h, w, c), transformed, in contiguous memory of any device."""
        if self.transform is None:
            return given
        x = self.transform(given, draws)
        _check_transformed(self.transform, given, x)
        return array_module(x).ascontiguousarray(x)


class _Chosen(NamedTuple):
    """The number of a batch in its epoch, the indices of its samples, (k,), and what their draws
    depend on in place of the indices, (k,), if some were in the epoch before."""

    number: int
    indices: NDArray[np.int64]
    keys: NDArray[np.int64] | None = None


class _Workers:
    """Numbers the threads of an epoch, and prepares each before its first batch."""

    def __init__(self, prepare: Callable[[int], Any] | None) -> None:
        self.prepare, self.numbers, self.of_thread = prepare, count(), local()

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.prepare is not None and not hasattr(self.of_thread, "number"):
            self.of_thread.number = next(self.numbers)
            self.prepare(self.of_thread.number)
        return function(*args)


def _listed(batch: Any) -> Any:
    """The indices of a batch as a list of integers or an array."""
    if isinstance(batch, list | tuple):
        return [
            each.item() if isinstance(each, Tensor) and not each.shape else each for each in batch
        ]
    return batch


def _moved(content: Any, device: Device) -> Any:
    """What a ``collate_fn`` returned, with its tensors on a device."""
    if isinstance(content, Tensor):
        return content.to(device)
    if isinstance(content, list):
        return [_moved(each, device) for each in content]
    if isinstance(content, tuple):
        return tuple_like(content, [_moved(each, device) for each in content])
    if isinstance(content, dict):
        return {key: _moved(each, device) for key, each in content.items()}
    return content


class _Batch(NamedTuple):
    """A batch on the host.

    Attributes:
        fields: arrays, alone, or in tuples and dicts.
        draws: of the augmentation.
        images: whether the first array is one of images (n, c, h, w), of channels-last memory.
        pixels: whether it is one of bytes (n, h, w, c), to be scaled and transformed.
    """

    fields: Any
    draws: Draws
    images: bool = False
    pixels: bool = False

    def arrays(self) -> list[NDArray[Any]]:
        """All arrays, images (n, h, w, c)."""
        found: list[NDArray[Any]] = []
        mapped(self.fields, found.append)
        if self.images:
            found[0] = found[0].transpose(0, 2, 3, 1)
        return found


def _check_transformed(transform: Transform, given: Any, x: Any) -> None:
    expected = f"a {given.dtype} array ({len(given)}, h, w, c) from {transform!r}"
    if type(x) is not type(given):
        raise ArgumentError(message("DataLoader", expected, type(x).__name__))
    if x.dtype != given.dtype:
        raise DTypeError(message("DataLoader", expected, x.dtype))
    if x.ndim != 4 or len(x) != len(given):
        raise ShapeError(message("DataLoader", expected, f"shape {x.shape}"))
