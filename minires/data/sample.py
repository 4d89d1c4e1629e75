"""A sample of a data set, whose random draws depend on (seed, epoch, index) alone.

A data set may draw while it makes a sample: a crop, noise, whatever its ``__getitem__`` or its
transforms do with :func:`minires.rand` or :func:`minires.random.generator`. Several threads of a
loader do that at once, so draws from one stream would depend on which thread is first. A loader
therefore asks for samples by :func:`sample`, which gives each a generator of its own.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minires import random

_epoch = ContextVar[tuple[int, int] | None]("minires_epoch", default=None)
_keys = ContextVar[NDArray[np.int64] | None]("minires_keys", default=None)


@contextlib.contextmanager
def of_epoch(seed: int, epoch: int, keys: NDArray[np.int64] | None = None) -> Iterator[None]:
    """What :func:`sample` gives in this block is drawn for this seed and epoch; of a batch with
    ``keys`` (k,), for these in place of the indices, so that a sample that comes several times in
    an epoch is drawn for each time."""
    tokens = _epoch.set((seed, epoch)), _keys.set(keys)
    try:
        yield
    finally:
        _epoch.reset(tokens[0])
        _keys.reset(tokens[1])


def pairs_of(indices: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """The indices of a batch, each with the key that its draws depend on."""
    keys = _keys.get()
    if keys is None or len(keys) != len(indices):
        keys = indices
    return zip(indices.tolist(), keys.tolist())


def sample(dataset: Any, index: int, key: int | None = None) -> Any:
    """``dataset[index]``; in a block of :func:`of_epoch`, whatever it draws from the global
    generator is a function of (seed, epoch, key), the key being the index if there is none."""
    with drawn_for(index if key is None else key):
        return dataset[index]


@contextlib.contextmanager
def drawn_for(key: int) -> Iterator[None]:
    """In a block of :func:`of_epoch`, what is drawn in this one is for this key."""
    where = _epoch.get()
    if where is None:
        yield
        return
    # made when it is first asked for: most data sets draw nothing
    with random.drawn_from(functools.cache(functools.partial(random.Keyed, *where, key))):
        yield
