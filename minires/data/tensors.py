"""Data sets in memory, and what a data set has that gives many samples at once."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from minires.data.checks import many_places, places
from minires.data.collate import as_array, as_targets, check_samples
from minires.data.dataset import Dataset
from minires.errors import ShapeError, message


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
