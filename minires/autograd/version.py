"""Versions: how often a piece of memory was written, and who may still read or write it."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

from .lazy import Lazy
from .place import Place, caller

MANY = 16  # readers of one memory; beyond, readers that are done are dropped


class Version:
    """The history of an array's memory; views share it.

    Attributes:
        count: how often the memory was written in place, last at ``place``.
        restored: how often the count was set back, with the values.
        escaped: whether someone outside the engine was ever handed the raw array, and may write
            there unseen.
    """

    event: ClassVar[int] = 0  # the number of the last write or escape of all memory
    _events: ClassVar[Iterator[int]] = itertools.count(1)

    # defaults as class attributes: every tensor has a Version, and a new one sets nothing
    count = restored = 0
    place: Place = ("", 0)
    escaped = False
    memoised: dict[Any, tuple[Any, ...]] | None = None  # values made from this memory, by key
    _readers: list[weakref.ref[Lazy]] | None = None
    _most = MANY

    def bump(self) -> None:
        """Note a write in place."""
        self.count += 1
        Version.event = next(Version._events)
        self.place = caller()
        self.memoised = None

    def advance(self, times: int) -> None:
        """Note so many writes, which a replay repeats."""
        self.count += times
        self.memoised = None
        Version.event = next(Version._events)

    def restore(self, count: int) -> None:
        """Note that the memory has the values again that it had at this count."""
        self.count, self.memoised = count, None
        self.restored += 1
        Version.event = next(Version._events)

    def escape(self) -> None:
        """Note that someone has the raw array, who may write there unseen."""
        if not self.escaped:
            self.escaped = True
            Version.event = next(Version._events)

    def will_be_read(self, reader: weakref.ref[Lazy]) -> None:
        """Note that this memory is still to be read, by a lazy tensor."""
        if self._readers is None:
            self._readers = []
        elif len(self._readers) == self._most:  # forget the readers that are done
            self._readers = [ref for ref in self._readers if _waits(ref())]
            self._most = max(MANY, 2 * len(self._readers))
        self._readers.append(reader)

    def flush_readers(self) -> None:
        """Realize every lazy tensor that is to read this memory: it is about to be written."""
        readers, self._readers, self._most = self._readers or [], None, MANY
        try:
            for reader in readers:
                lazy = reader()
                if lazy is not None:
                    lazy.realize()
        except BaseException:  # the write will not be now: those that are left still wait for one
            self._readers = [*readers, *(self._readers or ())]
            raise


def _waits(lazy: Lazy | None) -> bool:
    return lazy is not None and lazy.array is None
