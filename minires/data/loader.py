"""Batches for training: shuffled, augmented and prefetched in background threads.

What a batch holds is a function of (data set, seed, epoch, its number), and batches are handed out
in order. So neither the number of threads nor their luck with the scheduler shows in the results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from minires import arguments
from minires.autograd import Variable
from minires.data.checks import length, many_places, places
from minires.data.dataset import Dataset
from minires.data.sample import of_epoch, sample
from minires.data.transforms import MAX_SEED, Draws, Transform, augmentation, permutation
from minires.data.upload import Sent, Upload
from minires.device import CPU, Device, array_module, existing
from minires.errors import ArgumentError, DTypeError, NaNError, ShapeError, message, quoted
from minires.tensor import Tensor, from_numpy

MAX_WORKERS = 1024  # threads


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
        first, *rest = (_array(op, value) for value in (x, *others))
        if any(not array.ndim or len(array) != len(first) for array in (first, *rest)):
            got = " and ".join(str(array.shape) for array in (first, *rest))
            raise ShapeError(message(op, "arrays of equal length", got))
        _check_samples(op, first)
        self.arrays = (first, *(_as_targets(op, array) for array in rest))

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
        transform: called as ``transform(x, draws)`` on the float batch (n, h, w, c); see
            :mod:`minires.data.transforms`.
        seed: of the order and of the augmentation.
        drop_last: leave out a last batch with fewer images.
        num_workers: background threads that prepare batches; 0 prepares them in the calling
            thread.
        prefetch: batches prepared ahead, per worker.
        pin_memory: taken so that PyTorch code runs, and changes nothing: what goes to a GPU goes
            through pinned memory.
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
        shuffle: bool = False,
        *,
        transform: Transform | None = None,
        seed: int = 0,
        drop_last: bool = False,
        num_workers: int = 1,
        prefetch: int = 2,
        pin_memory: bool = False,
        device: str | Device = CPU,
    ) -> None:
        op = "DataLoader"
        samples = length(op, dataset)
        self.dataset = dataset
        self.batch_size = arguments.integer(op, "batch_size", batch_size, 1)
        self.shuffle = arguments.flag(op, "shuffle", shuffle)
        if transform is not None:
            arguments.takes(op, "transform(x, draws)", transform, 2)
        self.transform = transform
        self.seed = arguments.integer(op, "seed", seed, 0, MAX_SEED)
        self.drop_last = arguments.flag(op, "drop_last", drop_last)
        self.num_workers = arguments.integer(op, "num_workers", num_workers, 0, MAX_WORKERS)
        self.prefetch = arguments.integer(op, "prefetch", prefetch, 1)
        arguments.flag(op, "pin_memory", pin_memory)
        self.device = existing(device)
        self._epoch = 0
        if samples == 0:
            raise ArgumentError(message("DataLoader", "a data set with samples", "an empty one"))
        if len(self) == 0:
            expected = f"at least batch_size = {self.batch_size} samples, with drop_last"
            fix = "Use a smaller batch_size, or drop_last=False"
            raise ArgumentError(message("DataLoader", expected, len(dataset), fix=fix))

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __repr__(self) -> str:
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, shuffle={self.shuffle}, "
            f"transform={self.transform!r}, seed={self.seed}, drop_last={self.drop_last}, "
            f"num_workers={self.num_workers}, prefetch={self.prefetch}"
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
        if self.device.type == "cuda":
            return self._on_gpu(batches)
        return (_mapped(batch.fields, from_numpy) for batch in batches)

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
        return _mapped(batch.fields, lambda _: Variable._wrap(next(arrays)))

    def _in_caller(self, epoch: int) -> Iterator[Any]:
        for indices in self._index_batches(epoch):
            yield self._prepare(indices, epoch)

    def _in_background(self, epoch: int) -> Iterator[Any]:
        batches = self._index_batches(epoch)
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="minires-loader")
        try:
            ahead: deque[Future[Any]] = deque(
                pool.submit(self._prepare, indices, epoch)
                for indices in islice(batches, self.num_workers * self.prefetch)
            )
            while ahead:
                ready = ahead.popleft().result()
                for indices in islice(batches, 1):
                    ahead.append(pool.submit(self._prepare, indices, epoch))
                yield ready
        finally:
            # Reached on exhaustion, error, close() and garbage collection. Not waiting for the
            # threads (they finish their batch and end): the collector may run this in one of them.
            pool.shutdown(wait=False, cancel_futures=True)

    def _index_batches(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        n = len(self.dataset)
        order = permutation(n, self.seed, epoch) if self.shuffle else None
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            end = min(start + self.batch_size, n)
            yield np.arange(start, end) if order is None else order[start:end]

    def _prepare(self, indices: NDArray[np.int64], epoch: int) -> _Batch:
        """A batch of arrays; images (n, c, h, w) have channels-last memory, and are transformed, if
        that is not for the GPU to do."""
        draws = augmentation(self.seed, epoch, indices)
        there = self.transform is None or getattr(self.transform, "on_device", False)
        if there and self.device.type == "cuda" and hasattr(self.dataset, "pixels"):
            return _Batch(self.dataset.pixels(indices), draws, pixels=True)
        with of_epoch(self.seed, epoch):
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
        fields = _tuple_like(fields, (x, *fields[1:])) if isinstance(fields, tuple) else x
        return _Batch(fields, draws, images=True)

    def _transformed(self, given: Any, draws: Draws) -> Any:
        """Images (n, h, w, c), transformed, in contiguous memory of any device."""
        if self.transform is None:
            return given
        x = self.transform(given, draws)
        _check_transformed(self.transform, given, x)
        return array_module(x).ascontiguousarray(x)


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
        _mapped(self.fields, found.append)
        if self.images:
            found[0] = found[0].transpose(0, 2, 3, 1)
        return found


def collate(dataset: Any, indices: NDArray[np.int64]) -> Any:
    """The samples at ``indices`` (k,) as one batch, field by field; nothing is left out.

    Tuples and dicts stay what they are, of batches; a list of fields becomes a tuple. Numbers and
    arrays (...) become arrays (k, ...), text a list.

    Raises:
        ArgumentError: no index at all.
        ShapeError: samples that differ in their fields or shapes.
        DTypeError: the first field is not of floats, or another is no array of numbers.
        NaNError: the first field holds a NaN or infinity.
    """
    if not len(indices):
        raise ArgumentError(message("batch", "at least one sample", "none"))
    samples = [sample(dataset, int(index)) for index in indices]
    if isinstance(samples[0], list):
        samples = [tuple(sample) if isinstance(sample, list) else sample for sample in samples]
    return _stacked(samples, indices, first=not isinstance(samples[0], Mapping))


def _stacked(values: list[Any], indices: NDArray[np.int64], first: bool) -> Any:
    """One field of all samples; ``first`` says that it is what a network sees."""
    like = values[0]
    if isinstance(like, str | bytes):
        return values
    if isinstance(like, tuple | Mapping):
        if not like:
            expected = "samples of at least one field"
            raise ShapeError(message("DataLoader", expected, f"{like!r} (sample {indices[0]})"))
        keys = like.keys() if isinstance(like, Mapping) else range(len(like))
        for index, value in zip(indices, values):
            same = isinstance(value, type(like)) and len(value) == len(like)
            if not same or (isinstance(like, Mapping) and value.keys() != like.keys()):
                expected = f"samples alike, as sample {indices[0]}, {_kind(like)}"
                got = f"sample {index}, {_kind(value)}"
                raise ShapeError(message("DataLoader", expected, got))
        parts = {
            key: _stacked([value[key] for value in values], indices, first and key == 0)
            for key in keys
        }
        return parts if isinstance(like, Mapping) else _tuple_like(like, parts.values())
    arrays = [_array("DataLoader", value) for value in values]
    for index, array in zip(indices, arrays):
        if array.shape != arrays[0].shape or (first and array.dtype != arrays[0].dtype):
            alike = f"{arrays[0].shape} {arrays[0].dtype} (sample {indices[0]})"
            got = f"{array.shape} {array.dtype} (sample {index})"
            raise ShapeError(message("DataLoader", f"samples alike, as {alike}", got))
    whole = np.stack(arrays)
    if not first:
        return _as_targets("DataLoader", whole)
    _check_samples("DataLoader", whole, indices)
    return whole


def _kind(sample: Any) -> str:
    """What a sample is, in one line."""
    if isinstance(sample, Mapping):
        return f"a dict of {quoted(list(sample))}"
    if isinstance(sample, tuple):
        return f"a tuple of {len(sample)} fields"
    return f"a {type(sample).__name__}"


def _tuple_like(like: Any, fields: Iterable[Any]) -> Any:
    """A tuple of these fields, with the names that ``like`` has if it is a named one."""
    return type(like)(*fields) if hasattr(like, "_fields") else tuple(fields)


def _mapped(fields: Any, function: Callable[[NDArray[Any]], Any]) -> Any:
    """The same batch with ``function(array)`` in place of each array."""
    if isinstance(fields, np.ndarray):
        return function(fields)
    if isinstance(fields, tuple):
        return _tuple_like(fields, [_mapped(field, function) for field in fields])
    if isinstance(fields, Mapping):
        return {key: _mapped(field, function) for key, field in fields.items()}
    return fields


def _array(op: str, value: Any) -> NDArray[Any]:
    if isinstance(value, Tensor):
        return value.detach().numpy()
    if type(value).__module__.startswith("PIL."):
        fix = "Give the data set transform=transforms.ToTensor() of minires.vision."
        raise DTypeError(message(op, "numbers, arrays or Tensors", "a PIL image", fix=fix))
    try:
        return np.asarray(value)
    except Exception as error:  # rows of unequal length, or a broken __array__
        got = f"{quoted(value)} ({type(error).__name__})"
        raise DTypeError(message(op, "numbers, arrays or Tensors", got)) from error


def _as_targets(op: str, y: NDArray[Any]) -> NDArray[Any]:
    """Labels as int64, floats and bools as they are."""
    if y.dtype.kind in "iu":
        return y.astype(np.int64)
    if y.dtype not in (np.float32, np.float64, np.bool_):
        raise DTypeError(message(op, "integer labels or float targets", y.dtype))
    return y


def _check_samples(op: str, x: NDArray[Any], indices: NDArray[np.int64] | None = None) -> None:
    if x.dtype not in (np.float32, np.float64):
        fix = "Scale images to 0..1 first: x.astype('float32') / 255"
        raise DTypeError(message(op, "samples of float32 or float64", x.dtype, fix=fix))
    finite = np.isfinite(x)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        sample = where[0] if indices is None else int(indices[where[0]])
        context = f"sample {sample}, position {where[1:]}"
        raise NaNError(message(op, "finite numbers", str(x[where]), context))


def _check_transformed(transform: Transform, given: Any, x: Any) -> None:
    expected = f"a {given.dtype} array ({len(given)}, h, w, c) from {transform!r}"
    if type(x) is not type(given):
        raise ArgumentError(message("DataLoader", expected, type(x).__name__))
    if x.dtype != given.dtype:
        raise DTypeError(message("DataLoader", expected, x.dtype))
    if x.ndim != 4 or len(x) != len(given):
        raise ShapeError(message("DataLoader", expected, f"shape {x.shape}"))
