"""Batches for training: shuffled, augmented and prefetched in background threads.

What a batch holds is a function of (data set, seed, epoch, its number), and batches are handed out
in order. So neither the number of threads nor their luck with the scheduler shows in the results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from minires.data.checks import whole_number
from minires.data.dataset import Dataset
from minires.data.transforms import MAX_SEED, Transform, augmentation, permutation
from minires.errors import ArgumentError, DTypeError, NaNError, ShapeError, message
from minires.tensor import Tensor, from_numpy

_Arrays = tuple[NDArray[Any], NDArray[Any]]


@runtime_checkable
class BatchSource(Protocol):
    """A data set that gives many samples at once, faster than one by one."""

    def __len__(self) -> int: ...

    def batch(self, indices: NDArray[np.int64], /) -> _Arrays:
        """Samples ``indices`` (k,): x (k, ...) of floats and y (k, ...)."""


class TensorDataset(Dataset):
    """Samples and targets in memory, given as arrays or Tensors of equal length.

    Args:
        x: (n, ...) of float32 or float64; images are (n, c, h, w).
        y: (n,) labels, or (n, ...) targets.

    Raises:
        ShapeError: lengths differ, or there is no first axis.
        DTypeError: x is not float32 or float64.
        NaNError: x holds a NaN or infinity; names the first.
    """

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = _array(x), _array(y)
        if not self.x.ndim or not self.y.ndim or len(self.x) != len(self.y):
            got = f"{self.x.shape} and {self.y.shape}"
            raise ShapeError(message("TensorDataset", "x and y of equal length", got))
        _check_samples("TensorDataset", self.x)
        self.y = _as_targets("TensorDataset", self.y)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.x[index], self.y[index]

    def __repr__(self) -> str:
        return f"TensorDataset(x {self.x.shape} {self.x.dtype}, y {self.y.shape} {self.y.dtype})"

    def batch(self, indices: NDArray[np.int64], /) -> _Arrays:
        """The samples at ``indices`` (k,): x (k, ...) and y (k, ...)."""
        return self.x[indices], self.y[indices]


class DataLoader:
    """Iterates over ``(x, y)`` batches of a data set.

    ``x`` is a Tensor: for images logical (n, c, h, w), with channels-last memory. ``y`` is a Tensor
    of n targets, int64 if they are labels. Each iteration is an epoch with its own order and
    augmentation: 0, 1, 2 and so on, or as :meth:`set_epoch` says.

    Args:
        dataset: a :class:`~minires.data.ImageDataset`, a :class:`TensorDataset`, or any object
            (a :class:`~minires.data.Dataset` of your own) with ``__len__`` and ``__getitem__``
            -> (array (c, h, w), label). With ``num_workers`` > 1 its ``__getitem__`` is called by
            several threads at the same time.
        batch_size: images per batch; the last batch may have fewer.
        shuffle: visit the images in an order drawn from (seed, epoch).
        transform: called as ``transform(x, draws)`` on the float batch (n, h, w, c); see
            :mod:`minires.data.transforms`.
        seed: of the order and of the augmentation.
        drop_last: leave out a last batch with fewer images.
        num_workers: background threads that prepare batches; 0 prepares them in the calling
            thread.
        prefetch: batches prepared ahead, per worker.
        pin_memory: taken so that PyTorch code runs, and changes nothing.

    Raises:
        ArgumentError: an argument out of range, an empty data set, or ``drop_last`` with fewer
            images than ``batch_size``.

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
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            expected = "a data set with __len__ and __getitem__"
            raise ArgumentError(message("DataLoader", expected, type(dataset).__name__))
        if transform is not None and not callable(transform):
            expected = "transform to be a callable (x, draws) -> x"
            raise ArgumentError(message("DataLoader", expected, repr(transform)))
        self.dataset = dataset
        self.batch_size = whole_number("DataLoader", "batch_size", batch_size, 1)
        self.shuffle = bool(shuffle)
        self.transform = transform
        self.seed = whole_number("DataLoader", "seed", seed, 0, MAX_SEED)
        self.drop_last = bool(drop_last)
        self.num_workers = whole_number("DataLoader", "num_workers", num_workers, 0)
        self.prefetch = whole_number("DataLoader", "prefetch", prefetch, 1)
        self._epoch = 0
        if len(dataset) == 0:
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
            f"num_workers={self.num_workers}, prefetch={self.prefetch})"
        )

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration will be."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch, as after a resume; the ones after it count on.

        Raises:
            ArgumentError: ``epoch`` is not a whole number >= 0.
        """
        self._epoch = whole_number("DataLoader.set_epoch", "epoch", epoch, 0, MAX_SEED)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Not a generator itself: the epoch must be taken now, not at the first next().
        epoch = self._epoch
        self._epoch += 1
        batches = self._in_background(epoch) if self.num_workers else self._in_caller(epoch)
        return ((from_numpy(x), from_numpy(y)) for x, y in batches)

    def _in_caller(self, epoch: int) -> Iterator[_Arrays]:
        for indices in self._index_batches(epoch):
            yield self._prepare(indices, epoch)

    def _in_background(self, epoch: int) -> Iterator[_Arrays]:
        batches = self._index_batches(epoch)
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="minires-loader")
        try:
            ahead: deque[Future[_Arrays]] = deque(
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
        order = permutation(n, self.seed, epoch) if self.shuffle else np.arange(n)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]

    def _prepare(self, indices: NDArray[np.int64], epoch: int) -> _Arrays:
        """x (n, c, h, w) with channels-last memory, transformed, and y; or x (n, ...)."""
        if isinstance(self.dataset, BatchSource):
            x, y = self.dataset.batch(indices)
        else:
            x, y = _collate(self.dataset, indices)
        if x.ndim != 4:
            if self.transform is not None:
                expected = "images (c, h, w) for the transform"
                raise ShapeError(message("DataLoader", expected, f"samples {x.shape[1:]}"))
            return x, y
        buffer = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        if self.transform is not None:
            given = buffer
            buffer = self.transform(given, augmentation(self.seed, epoch, indices))
            _check_transformed(self.transform, given, buffer)
            buffer = np.ascontiguousarray(buffer)
        return buffer.transpose(0, 3, 1, 2), y


def _collate(dataset: Any, indices: NDArray[np.int64]) -> _Arrays:
    samples = [dataset[int(index)] for index in indices]
    arrays = [_array(sample[0]) for sample in samples]
    for index, array in zip(indices, arrays):
        if array.shape != arrays[0].shape or array.dtype != arrays[0].dtype:
            first = f"{arrays[0].shape} {arrays[0].dtype} (sample {indices[0]})"
            got = f"{array.shape} {array.dtype} (sample {index})"
            raise ShapeError(message("DataLoader", f"samples alike, as {first}", got))
    x = np.stack(arrays)
    _check_samples("DataLoader", x, indices)
    return x, _as_targets("DataLoader", np.asarray([_array(sample[1]) for sample in samples]))


def _array(value: Any) -> NDArray[Any]:
    return value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _as_targets(op: str, y: NDArray[Any]) -> NDArray[Any]:
    """Labels as int64, float targets as they are."""
    if np.issubdtype(y.dtype, np.integer):
        return y.astype(np.int64)
    if y.dtype not in (np.float32, np.float64):
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
        raise NaNError(message(op, "finite numbers", x[where], context))


def _check_transformed(transform: Transform, given: NDArray[Any], x: Any) -> None:
    expected = f"a {given.dtype} array ({len(given)}, h, w, c) from {transform!r}"
    if not isinstance(x, np.ndarray):
        raise ArgumentError(message("DataLoader", expected, type(x).__name__))
    if x.dtype != given.dtype:
        raise DTypeError(message("DataLoader", expected, x.dtype))
    if x.ndim != 4 or len(x) != len(given):
        raise ShapeError(message("DataLoader", expected, f"shape {x.shape}"))
