"""Parts of a data set: chosen samples, and a random division into several."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minires import arguments, random
from minires.data.checks import length, many_places, places
from minires.data.collate import collate
from minires.data.dataset import Dataset
from minires.data.samplers import checked_generator
from minires.data.tensors import BatchSource
from minires.errors import ArgumentError, message, quoted


class Subset(Dataset):
    """The samples of a data set at ``indices``, in that order; nothing is copied.

    ``subset[i]`` is one of them; a slice or a list of indices in place of i gives a batch.

    Raises:
        ArgumentError: no data set.
        DTypeError: indices that are no list or array of integers.
        BoundsError: an index that the data set does not have.
    """

    def __init__(self, dataset: Any, indices: Any) -> None:
        self.indices = many_places("Subset", indices, length("Subset", dataset))
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        where = places("Subset", index, len(self))
        return self.dataset[int(self.indices[where])] if isinstance(where, int) else self._at(where)

    def __repr__(self) -> str:
        return f"Subset({len(self)} of {self.dataset!r})"

    def batch(self, indices: Any, /) -> Any:
        """The samples at ``indices`` (k,) of this part: x (k, ...) and y (k, ...), or what other
        fields the samples have.

        Raises:
            DTypeError, BoundsError: no indices, or some that are not there.
        """
        return self._at(many_places("Subset", indices, len(self)))

    @property
    def scale(self) -> int:
        """The divisor that maps the pixels of images to 0..1; only of images."""
        return int(self.dataset.scale)

    @property
    def pixels(self) -> Any:
        """:meth:`ImageDataset.pixels <minires.data.ImageDataset.pixels>` of this part; only of
        images."""
        of_all = self.dataset.pixels
        return lambda indices: of_all(self.indices[many_places("Subset", indices, len(self))])

    def _at(self, where: NDArray[np.int64]) -> Any:
        chosen = self.indices[where]
        if isinstance(self.dataset, BatchSource):
            return self.dataset.batch(chosen)
        return collate(self.dataset, chosen)


class ConcatDataset(Dataset):
    """Several data sets one after the other, as one; nothing is copied.

    ``both[i]`` is one sample; a slice or a list of indices in place of i gives a batch.

    Attributes:
        datasets: the parts.
        cumulative_sizes: how many samples the first part has, the first two, and so on.

    Raises:
        ArgumentError: no list of data sets, or an empty one.

    >>> from minires.data import load
    >>> len(ConcatDataset([load("digits"), load("digits", train=False)]))
    1797
    """

    def __init__(self, datasets: Sequence[Any]) -> None:
        op = "ConcatDataset"
        parts = [*arguments.iterator(op, "data sets", datasets)]
        if not parts:
            raise ArgumentError(message(op, "at least one data set", "none"))
        self.datasets = parts
        self.cumulative_sizes = np.cumsum([length(op, part) for part in parts]).tolist()

    def __len__(self) -> int:
        return int(self.cumulative_sizes[-1])

    def __getitem__(self, index: Any) -> Any:
        where = places("ConcatDataset", index, len(self))
        if not isinstance(where, int):
            return collate(self, where)
        number = bisect_right(self.cumulative_sizes, where)
        return self.datasets[number][where - self._start(number)]

    def __repr__(self) -> str:
        return f"ConcatDataset({', '.join(map(repr, self.datasets))})"

    def _start(self, number: int) -> int:
        return int(self.cumulative_sizes[number - 1]) if number else 0


def _joined(first: Dataset, second: Any) -> ConcatDataset:
    """``first + second``: one after the other."""
    return ConcatDataset([first, second])


Dataset.__add__ = _joined  # type: ignore[operator]  # here, where ConcatDataset is known


def random_split(
    dataset: Any, lengths: Sequence[float], generator: np.random.Generator | None = None
) -> list[Subset]:
    """Divide a data set at random into parts without common samples.

    Args:
        dataset: anything with ``__len__`` and ``__getitem__``.
        lengths: the size of each part; or shares that add up to 1, rounded down, after which the
            samples that are left go to the first parts, one each.
        generator: draws the order; the global generator by default.

    Raises:
        ArgumentError: sizes that do not add up to the data set's, or are negative.

    >>> from minires.data import load
    >>> random_split(load("digits"), [0.9, 0.1])
    [Subset(1350 of ImageDataset(digits, train: 1500 images of (1, 8, 8), 10 classes)), \
Subset(150 of ImageDataset(digits, train: 1500 images of (1, 8, 8), 10 classes))]
    """
    op, total = "random_split", length("random_split", dataset)
    generator = checked_generator(op, generator)
    expected = f"sizes that add up to {total}, or shares >= 0 that add up to 1"
    if not isinstance(lengths, list | tuple) or not lengths:
        raise ArgumentError(message(op, expected, quoted(lengths)))
    whole = [arguments.as_integer(entry) for entry in lengths]
    sizes = [size for size in whole if size is not None]
    if len(sizes) < len(lengths):
        shares = [arguments.number(op, "each share", share, least=0, most=1) for share in lengths]
        if not math.isclose(math.fsum(shares), 1):
            raise ArgumentError(message(op, expected, quoted(lengths)))
        sizes = [math.floor(total * share) for share in shares]
        for i in range(total - sum(sizes)):
            sizes[i % len(sizes)] += 1
    if sum(sizes) != total or any(size < 0 for size in sizes):
        got = f"{quoted(sizes)}, which is {quoted(sum(sizes))}"
        raise ArgumentError(message("random_split", f"sizes >= 0 that add up to {total}", got))
    source = random.generator() if generator is None else generator
    ends = np.cumsum(sizes)[:-1]
    return [Subset(dataset, part) for part in np.split(source.permutation(total), ends)]
