"""The batches of an epoch: which samples each has, and how it is made of them.

With a shard, (rank, size), the samples of each batch are chosen as one process would choose them,
all of them, and then cut: so ranks together see what one would.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from minires import random
from minires.data.checks import many_places
from minires.data.collate import collate, mapped, tuple_like
from minires.data.distributed import too_few
from minires.data.sample import drawn_for, of_epoch, pairs_of, sample
from minires.data.samplers import BatchSampler, epoch_of
from minires.data.tensors import BatchSource
from minires.data.transforms import Draws, Transform, augmentation
from minires.device import Device, array_module
from minires.errors import ArgumentError, DTypeError, ShapeError, message
from minires.tensor import Tensor

# keys of what is drawn: samples have theirs from 0 on
BATCHES = 1 << 62  # those of batches begin here
ORDER = 1 << 63


class Settings(Protocol):
    """What a loader says of its batches; :class:`~minires.data.DataLoader` explains each."""

    dataset: Any
    batch_size: int
    shuffle: bool
    sampler: Any
    batch_sampler: Any
    collate_fn: Callable[[list[Any]], Any] | None
    transform: Transform | None
    seed: int
    shard: tuple[int, int] | None
    device: Device
    _custom: bool
    _empty: bool

    def __len__(self) -> int: ...


class Chosen(NamedTuple):
    """The samples of a batch, or of a rank's part of it.

    Attributes:
        number: of the batch in its epoch.
        indices: of the samples, (k,).
        keys: (k,), what their draws depend on in place of the indices, if some were in the epoch
            before.
        share: the part of the batch that these samples are.
    """

    number: int
    indices: NDArray[np.int64]
    keys: NDArray[np.int64] | None = None
    share: float = 1.0


class Batch(NamedTuple):
    """A batch on the host.

    Attributes:
        fields: arrays, alone, or in tuples and dicts; or what a ``collate_fn`` returned.
        share: the part of the whole batch that it is.
        draws: of the augmentation.
        images: whether the first array is one of images (n, c, h, w), of channels-last memory.
        pixels: whether it is one of bytes (n, h, w, c), to be scaled and transformed.
    """

    fields: Any
    share: float
    draws: Draws | None = None
    images: bool = False
    pixels: bool = False

    def arrays(self) -> list[NDArray[Any]]:
        """All arrays, images (n, h, w, c)."""
        found: list[NDArray[Any]] = []
        mapped(self.fields, found.append)
        if self.images:
            found[0] = found[0].transpose(0, 2, 3, 1)
        return found


def chosen(loader: Settings, epoch: int) -> Iterator[Chosen]:
    """The samples of each batch of an epoch; with a shard, those of this rank."""
    if loader.shard is None or loader.shard[1] == 1:
        yield from _whole(loader, epoch)
        return
    rank, size = loader.shard
    for number, indices, keys, _ in _whole(loader, epoch):
        if len(indices) < size and not loader._empty:
            ours = isinstance(loader.batch_sampler, BatchSampler)
            fix = "Pass drop_last=True." if ours else "Let batch_sampler give larger batches."
            raise too_few(size, f"a batch of {len(indices)}", f"batch {number} of its epoch", fix)
        own = np.array_split(indices, size)[rank]
        if len(own):
            own_keys = None if keys is None else np.array_split(keys, size)[rank]
            yield Chosen(number, own, own_keys, len(own) / len(indices))


def _whole(loader: Settings, epoch: int) -> Iterator[Chosen]:
    """The samples of each whole batch."""
    n = len(loader.dataset)
    if not loader._custom:
        order = loader.sampler._order(loader.seed, epoch) if loader.shuffle else None
        starts = range(0, len(loader) * loader.batch_size, loader.batch_size)
        for number, start in enumerate(starts):
            end = min(start + loader.batch_size, n)
            yield Chosen(number, np.arange(start, end) if order is None else order[start:end])
        return
    times: dict[int, int] = {}  # that a sample came in this epoch
    for number, batch in enumerate(_visited(loader, epoch)):
        indices = many_places("DataLoader", _listed(batch), n)
        keys = indices.copy()
        for k, index in enumerate(indices.tolist()):
            keys[k] += n * times.get(index, 0)
            times[index] = times.get(index, 0) + 1
        yield Chosen(number, indices, None if (keys == indices).all() else keys)


def _visited(loader: Settings, epoch: int) -> Iterator[Any]:
    """What a sampler of the user's gives. Draws of its own from the global generator are decided by
    (seed, epoch), as those of minires' samplers are: so they are the same on all ranks."""
    draws = functools.cache(functools.partial(random.Keyed, loader.seed, epoch, ORDER))
    with random.drawn_from(draws):
        batches = iter(epoch_of(loader.batch_sampler, loader.seed, epoch))
    while True:
        with random.drawn_from(draws):  # not while others are at work, between two batches
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


def _listed(batch: Any) -> Any:
    """The indices of a batch as a list of integers or an array."""
    if isinstance(batch, list | tuple):
        return [
            each.item() if isinstance(each, Tensor) and not each.shape else each for each in batch
        ]
    return batch


def prepare(loader: Settings, chosen: Chosen, epoch: int) -> Batch:
    """A batch of arrays; images (n, c, h, w) have channels-last memory, and are transformed, if
    that is not for the GPU to do. With a ``collate_fn``, what that returns."""
    indices, keys, share = chosen.indices, chosen.keys, chosen.share
    dataset, transform = loader.dataset, loader.transform
    if loader.collate_fn is not None:
        rank, size = loader.shard or (0, 1)
        with of_epoch(loader.seed, epoch, keys):
            samples = [sample(dataset, *pair) for pair in pairs_of(indices)]
            with drawn_for(BATCHES + chosen.number * size + rank):
                return Batch(loader.collate_fn(samples), share)
    draws = augmentation(loader.seed, epoch, indices if keys is None else keys)
    there = transform is None or getattr(transform, "on_device", False)
    if there and loader.device.type == "cuda" and hasattr(dataset, "pixels"):
        return Batch(dataset.pixels(indices), share, draws, pixels=True)
    with of_epoch(loader.seed, epoch, keys):
        if isinstance(dataset, BatchSource):
            fields: Any = dataset.batch(indices)
        else:
            fields = collate(dataset, indices)
    x = fields[0] if isinstance(fields, tuple) else fields
    if not isinstance(x, np.ndarray) or x.ndim != 4:
        if transform is not None:
            expected = "images (c, h, w) for the transform"
            got = f"samples {x.shape[1:]}" if isinstance(x, np.ndarray) else type(x).__name__
            raise ShapeError(message("DataLoader", expected, got))
        return Batch(fields, share, draws)
    x = transformed(transform, np.ascontiguousarray(x.transpose(0, 2, 3, 1)), draws)
    x = x.transpose(0, 3, 1, 2)
    fields = tuple_like(fields, (x, *fields[1:])) if isinstance(fields, tuple) else x
    return Batch(fields, share, draws, images=True)


def transformed(transform: Transform | None, given: Any, draws: Any) -> Any:
    """Images (n, h, w, c), transformed, in contiguous memory of any device.

    Raises:
        ArgumentError, DTypeError, ShapeError: the transform returned something else.
    """
    if transform is None:
        return given
    x = transform(given, draws)
    expected = f"a {given.dtype} array ({len(given)}, h, w, c) from {transform!r}"
    if type(x) is not type(given):
        raise ArgumentError(message("DataLoader", expected, type(x).__name__))
    if x.dtype != given.dtype:
        raise DTypeError(message("DataLoader", expected, x.dtype))
    if x.ndim != 4 or len(x) != len(given):
        raise ShapeError(message("DataLoader", expected, f"shape {x.shape}"))
    return array_module(x).ascontiguousarray(x)


def moved(content: Any, device: Device) -> Any:
    """What a ``collate_fn`` returned, with its tensors on a device."""
    if isinstance(content, Tensor):
        return content.to(device)
    if isinstance(content, list):
        return [moved(each, device) for each in content]
    if isinstance(content, tuple):
        return tuple_like(content, [moved(each, device) for each in content])
    if isinstance(content, dict):
        return {key: moved(each, device) for key, each in content.items()}
    return content
