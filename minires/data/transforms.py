"""Augmentation whose random draws depend on (seed, epoch, image) alone.

A transform is a callable ``transform(x, draws) -> x`` on a float32 batch (n, h, w, c), channels
last, with a :class:`Draws` that gives it one random number per image. Write your own the same way;
see :class:`RandomHorizontalFlip` for the shortest example. The batch is an array of NumPy; where
the transform has an attribute ``on_device`` that is true, as those here have, a loader that moves
batches to a GPU lets it work there, on an array of CuPy. The draws are made on the host in any
case, so that they are the same ones.

Where the numbers come from: they are no stream that is used up, but a function. The words seed,
epoch, the transform's place in its :class:`Compose` and the number of the draw are folded one by
one, ``key = mix(key ^ word)``, last the image's index, with ``mix`` the step of SplitMix64 (Steele,
Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, Fig. 17). So an image
gets the same augmentation in whatever order, batch size or thread it is prepared, and other ones in
every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from minires import arguments
from minires.device import array_module, device_of, is_array, move
from minires.errors import ArgumentError, DTypeError, ShapeError, message, quoted

Batch = Any  # an array (n, h, w, c) of float32, NumPy's or CuPy's
MAX_SEED = 2**64 - 1
_SHUFFLE, _AUGMENT = 0, 1  # the two streams at the top, so that order and augmentation differ


def _mix(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64: a bijection of 64-bit words in which every bit depends on every other.

    Arrays only (n >= 1 dimensions): NumPy's integer arrays wrap around as this needs, its scalars
    warn about it.
    """
    z = key + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers, one per image, that are a function of (seed, epoch, stream, draw, index).

    Attributes:
        seed, epoch: whole numbers in 0..2**64 - 1.
        indices: int64 (n,), the images' places in the data set.
        path: the stream: two transforms with different paths draw independent numbers.

    Raises:
        ArgumentError: a seed or an epoch out of range.
        DTypeError: indices that are no array of integers.
    """

    seed: int
    epoch: int
    indices: NDArray[np.int64]
    path: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        arguments.integer("Draws", "seed", self.seed, 0, MAX_SEED)
        arguments.integer("Draws", "epoch", self.epoch, 0, MAX_SEED)
        arguments.sizes("Draws", "path", self.path)
        indices = self.indices
        if (
            not isinstance(indices, np.ndarray)
            or indices.ndim != 1
            or indices.dtype.kind not in "iu"
        ):
            raise DTypeError(message("Draws", "indices (n,) of integers", quoted(indices)))

    def stream(self, k: int) -> Draws:
        """The ``k``-th independent stream below this one."""
        return replace(self, path=(*self.path, k))

    def bits(self, draw: int = 0) -> NDArray[np.uint64]:
        """64 random bits per image, (n,); ``draw`` numbers independent draws of one stream."""
        draw = arguments.integer("Draws.bits", "draw", draw, 0)
        key = np.zeros(1, np.uint64)
        for word in (self.seed, self.epoch, *self.path, draw):
            key = _mix(key ^ np.uint64(word))
        return _mix(key ^ self.indices.astype(np.uint64))

    def uniform(self, draw: int = 0) -> NDArray[np.float64]:
        """Uniform on [0, 1), (n,), with 53 bits."""
        return (self.bits(draw) >> np.uint64(11)) * np.float64(2.0**-53)

    def integers(self, high: int, draw: int = 0) -> NDArray[np.int64]:
        """Uniform on 0..high-1, (n,), up to a bias of high / 2**53."""
        high = arguments.integer("Draws.integers", "high", high, 1)
        return (self.uniform(draw) * high).astype(np.int64)


Transform = Callable[[Batch, Draws], Batch]


def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A random order of 0..n-1 from (seed, epoch): the indices sorted by one hash each."""
    draws = Draws(seed, epoch, np.arange(n), path=(_SHUFFLE,))
    return np.argsort(draws.bits(), kind="stable")


def augmentation(seed: int, epoch: int, indices: NDArray[np.int64]) -> Draws:
    """The draws a loader hands to its transform: independent of :func:`permutation`."""
    return Draws(seed, epoch, indices, path=(_AUGMENT,))


def _check_batch(op: str, x: Any) -> None:
    if not is_array(x) or x.dtype.kind not in "fiu":
        raise DTypeError(message(op, "a batch (n, h, w, c) as a NumPy array", quoted(x)))
    if x.ndim != 4:
        raise ShapeError(message(op, "a batch (n, h, w, c)", f"shape {x.shape}"))


def _check_draws(op: str, x: Batch, draws: Any) -> None:
    if not isinstance(draws, Draws):
        raise ArgumentError(message(op, "draws, as a DataLoader makes them", quoted(draws)))
    if len(draws.indices) != len(x):
        got = f"{len(draws.indices)} for {len(x)} images"
        raise ShapeError(message(op, "draws of one index for each image", got))


def _beside(x: Any, array: NDArray[Any]) -> Any:
    """An array of NumPy on the device of ``x``."""
    return move(array, device_of(x))


class Normalize:
    """``(x - mean) / std`` per channel, in units of 0..1.

    Raises:
        ArgumentError: lengths differ, a value is not finite, or a std is not above zero.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        for name, values in (("mean", mean), ("std", std)):
            if not isinstance(values, list | tuple) and getattr(values, "ndim", 0) != 1:
                fix = f"For grey images, a tuple of one: ({quoted(values)},)."
                expected = f"{name} a number for each channel"
                raise ArgumentError(message("Normalize", expected, quoted(values), fix=fix))
        self.mean = tuple(float(arguments.number("Normalize", "mean", value)) for value in mean)
        self.std = tuple(float(arguments.number("Normalize", "std", value)) for value in std)
        if len(self.mean) != len(self.std) or not self.mean:
            got = f"{len(self.mean)} and {len(self.std)}"
            raise ArgumentError(message("Normalize", "one mean and one std per channel", got))
        if min(self.std) <= 0:
            fix = "A channel with std 0 is constant: use std 1 for it"
            raise ArgumentError(message("Normalize", "std > 0", quoted(self.std), fix=fix))
        self._mean, self._std = np.array(self.mean, np.float32), np.array(self.std, np.float32)

    on_device = True

    def __call__(self, x: Batch, draws: Draws | None = None) -> Batch:
        _check_batch("Normalize", x)
        if x.shape[-1] != len(self.mean):
            expected = f"x with {len(self.mean)} channels (last axis)"
            raise ShapeError(message("Normalize", expected, f"{x.shape[-1]}", f"x {x.shape}"))
        # Whole image rows: broadcasting over an axis of 1 or 3 channels is several times slower.
        w = x.shape[-2]
        rows = x.reshape(*x.shape[:-2], -1) - _beside(x, np.tile(self._mean, w))
        rows /= _beside(x, np.tile(self._std, w))
        return rows.reshape(x.shape)

    def __repr__(self) -> str:
        mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std))
        return f"Normalize(mean=({mean}), std=({std}))"


class RandomCrop:
    """Pad every side with ``padding`` zeros, then cut out a window of the original size at random.

    Put it behind :class:`Normalize`, as in He et al. 2015 (section 4.2): the zeros are then the
    data set's mean.

    Raises:
        ArgumentError: ``padding`` is not a whole number >= 0.
    """

    def __init__(self, padding: int = 4) -> None:
        self.padding = arguments.integer("RandomCrop", "padding", padding, 0)

    on_device = True

    def __call__(self, x: Batch, draws: Draws) -> Batch:
        _check_batch("RandomCrop", x)
        _check_draws("RandomCrop", x, draws)
        n, h, w, c = x.shape
        p = self.padding
        padded = array_module(x).pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        top, left = draws.integers(2 * p + 1, draw=0), draws.integers(2 * p + 1, draw=1)
        if not isinstance(x, np.ndarray):  # a thread for each pixel, which looks up its place
            rows_of = top[:, None, None] + np.arange(h)[:, None]  # (n, h, 1)
            columns_of = left[:, None, None] + np.arange(w)  # (n, 1, w)
            images = np.arange(n)[:, None, None]
            return padded[tuple(_beside(x, part) for part in (images, rows_of, columns_of))]
        # A row of a window is one run of w * c numbers, so the gather copies whole runs.
        rows = padded.reshape(n, h + 2 * p, (w + 2 * p) * c)
        windows = sliding_window_view(rows, (h, w * c), axis=(1, 2))
        return windows[np.arange(n), top, left * c].reshape(n, h, w, c)

    def __repr__(self) -> str:
        return f"RandomCrop(padding={self.padding})"


class RandomHorizontalFlip:
    """Mirror each image left-right with probability ``p``.

    Raises:
        ArgumentError: ``p`` is not in 0..1.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = float(arguments.number("RandomHorizontalFlip", "p", p, least=0, most=1))

    on_device = True

    def __call__(self, x: Batch, draws: Draws) -> Batch:
        _check_batch("RandomHorizontalFlip", x)
        _check_draws("RandomHorizontalFlip", x, draws)
        flip = _beside(x, np.flatnonzero(draws.uniform() < self.p))
        y = x.copy()
        y[flip] = x[flip][:, :, ::-1]
        return y

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip(p={self.p})"


class Compose:
    """Transforms in turn, each with its own stream of random numbers.

    >>> Compose([Normalize([0.5], [0.25]), RandomCrop(2), RandomHorizontalFlip()])
    Compose([Normalize(mean=(0.5), std=(0.25)), RandomCrop(padding=2), RandomHorizontalFlip(p=0.5)])
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        if not isinstance(transforms, list | tuple):
            raise ArgumentError(message("Compose", "a list of transforms", quoted(transforms)))
        self.transforms = tuple(transforms)
        for transform in self.transforms:
            if not callable(transform):
                expected = "callables (x, draws) -> x"
                raise ArgumentError(message("Compose", expected, quoted(transform)))

    @property
    def on_device(self) -> bool:
        """Whether all of them can work on a GPU."""
        return all(getattr(transform, "on_device", False) for transform in self.transforms)

    def __call__(self, x: Batch, draws: Draws) -> Batch:
        _check_batch("Compose", x)
        _check_draws("Compose", x, draws)
        for k, transform in enumerate(self.transforms):
            x = transform(x, draws.stream(k))
        return x

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.transforms))}])"
