"""Parts of a data set: chosen samples, and a random division into several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minires import random
from minires.data.dataset import Dataset
from minires.data.loader import BatchSource, _collate
from minires.errors import ArgumentError, DTypeError, message


class Subset(Dataset):
    """The samples of a data set at ``indices``, in that order; nothing is copied.

    Raises:
        DTypeError: indices that are not integers.
        ArgumentError: an index that the data set does not have.
    """

    def __init__(self, dataset: Any, indices: ArrayLike) -> None:
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            got = f"{chosen.dtype} {chosen.shape}"
            raise DTypeError(message("Subset", "a list of integers as indices", got))
        self.dataset, self.indices = dataset, chosen.astype(np.int64)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(dataset):
            got = f"{chosen.min()}..{chosen.max()}"
            raise ArgumentError(message("Subset", f"indices in 0..{len(dataset) - 1}", got))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    def __repr__(self) -> str:
        return f"Subset({len(self)} of {self.dataset!r})"

    def batch(self, indices: NDArray[np.int64], /) -> tuple[NDArray[Any], NDArray[Any]]:
        """The samples at ``indices`` (k,) of this part: x (k, ...) and y (k, ...)."""
        chosen = self.indices[indices]
        if isinstance(self.dataset, BatchSource):
            return self.dataset.batch(chosen)
        return _collate(self.dataset, chosen)


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
    total = len(dataset)
    if all(isinstance(length, int | np.integer) for length in lengths):
        sizes = [int(length) for length in lengths]
    else:
        if not math.isclose(math.fsum(lengths), 1) or min(lengths) < 0:
            expected = f"sizes that add up to {total}, or shares >= 0 that add up to 1"
            raise ArgumentError(message("random_split", expected, list(lengths)))
        sizes = [math.floor(total * share) for share in lengths]
        for i in range(total - sum(sizes)):
            sizes[i % len(sizes)] += 1
    if sum(sizes) != total or any(size < 0 for size in sizes):
        got = f"{sizes}, which is {sum(sizes)}"
        raise ArgumentError(message("random_split", f"sizes >= 0 that add up to {total}", got))
    source = random.generator() if generator is None else generator
    ends = np.cumsum(sizes)[:-1]
    return [Subset(dataset, part) for part in np.split(source.permutation(total), ends)]
