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

from minires import random

_epoch = ContextVar[tuple[int, int] | None]("minires_epoch", default=None)


@contextlib.contextmanager
def of_epoch(seed: int, epoch: int) -> Iterator[None]:
    """What :func:`sample` gives in this block is drawn for this seed and epoch."""
    token = _epoch.set((seed, epoch))
    try:
        yield
    finally:
        _epoch.reset(token)


def sample(dataset: Any, index: int) -> Any:
    """``dataset[index]``; in a block of :func:`of_epoch`, whatever it draws from the global
    generator is a function of (seed, epoch, index)."""
    where = _epoch.get()
    if where is None:
        return dataset[index]
    # made when it is first asked for: most data sets draw nothing
    with random.drawn_from(functools.cache(functools.partial(random.Keyed, *where, index))):
        return dataset[index]
