"""Lazy results: tensors whose array does not exist yet.

An engine may answer an operation with a tensor that only knows its shape, dtype and device, and
how its array is to be computed: a :class:`Lazy` (which engines do so, and why, is told in
:mod:`minires.fusion`). Whoever looks at the array gets it computed there and then; that it was
deferred is nobody's business.

Two things could show that it was. The memory that is still to be read may be written in between:
every :class:`~.version.Version` therefore knows its readers, and a write in place realizes them
first. And the user may hold the raw array of that memory and write there unseen: memory that
escaped (``Version.escaped``) is not read later at all.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ..device import Device, Gpus, beside
from ..forks import new_lock_in_children
from ..ieee import quiet, restore, warnings_now

computing = threading.RLock()  # held while a lazy array is computed
new_lock_in_children(globals(), "computing")


class Lazy:
    """The array of a tensor that is still to be computed.

    Subclasses define :meth:`_compute`. They set what it needs before they call ``__init__`` of this
    class, from which on it may be asked for, even where Ctrl-C stops what makes it.

    Args:
        shape, dtype, device: of the array to come.
        reads: the variables whose memory the computation will read.

    Attributes:
        array: the array, once it is there.
    """

    channels_last = False  # whether its memory will be in the order (n, h, w, c)
    __slots__ = ("__weakref__", "array", "device", "dtype", "shape")

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, device: Device, reads: Sequence[Any] = ()
    ) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.array: Any = None
        me = weakref.ref(self)
        for variable in reads:
            variable._version.will_be_read(me)

    def _compute(self) -> Any:
        """The array."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Drop the attributes that were only needed to compute the array."""

    def realize(self) -> Any:
        """The array, computed now if it was not before."""
        if self.array is None:
            self.realize_by(self._compute)
        return self.array

    def realize_by(self, compute: Callable[[], Any]) -> bool:
        """Compute the array by ``compute``, unless it is there already; whether it was not."""
        with computing:
            if self.array is not None:
                return False
            before = warnings_now()
            try:
                quiet()  # inf and nan are results
                if Gpus.several:
                    with beside((self,)):
                        self.array = compute()
                else:
                    self.array = compute()
            finally:
                restore(before)
            self._forget()
        return True

    def again(self) -> Lazy | None:
        """Another lazy array with the same values; None if there can be none."""
        return None
