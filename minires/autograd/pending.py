"""Pending work: a tensor whose array has not been computed yet.

Between two convolutions of a residual network stand a batch norm, an addition and a ReLU. Run one
by one, each reads and writes the whole tensor. So some operations only note down what they would do
and return a tensor that stands for it; the next operation may take the note over and do both at
once. Whoever else looks at the tensor's array gets it computed there and then
(``Variable.__getattr__``), by the same formulas: that the work was put off is nobody's business.

Two things could show that it was. The memory that the work will read may be written in between:
every :class:`~.tape.Version` therefore knows who is still going to read, and a write in place
finishes that first. And the user may hold the raw array of that memory and write there unseen:
memory that was ever handed out (``Version.exposed``) is not read later at all.

Which operations work like this, and what they make of each other's notes, is a matter of
:mod:`minires.ops`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

from ..forks import new_lock_in_children
from .modes import _anomaly, _fusion, no_grad
from .observe import _observer
from .recording import here

computing = threading.RLock()  # held while pending work is done
new_lock_in_children(globals(), "computing")


class Pending:
    """A note of work to be done: the shape and dtype that come out, and how.

    Subclasses define :meth:`_compute`, and override :meth:`plus` and :meth:`rectified` where they
    can take the next operation over.

    Attributes:
        shape, dtype: of the array to come.
        array: the array, once it is there.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, reads: Sequence[Any] = ()):
        self.shape, self.dtype = shape, dtype
        self.array: Any = None
        me = weakref.ref(self)
        for variable in reads:
            variable._version.will_be_read(me)

    def _compute(self) -> Any:
        """The array."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Let go of what was only needed to compute it."""

    def finish(self) -> Any:
        """The array, computed now if it was not before."""
        if self.array is None:
            with computing:
                if self.array is None:
                    self.array = self._compute()
                    self._forget()
        return self.array

    def plus(self, other: Any) -> Pending | None:
        """A note of this plus the variable ``other``, or None if that is not to be put off."""
        return None

    def rectified(self) -> Pending | None:
        """A note of max(this, 0), or None."""
        return None


class Sum(Pending):
    """Two gradients that meet: their sum, which a ReLU before them takes in its own pass."""

    def __init__(self, a: Any, b: Any):
        if isinstance(a._pending, Sum):  # the third one to come: sums do not pile up
            a._pending.finish()
        super().__init__(a.shape, a.dtype, (a, b))
        self.a, self.b = a, b

    def _compute(self) -> Any:
        with no_grad():
            return (self.a + self.b)._array

    def _forget(self) -> None:
        self.a = self.b = None


def fusing() -> bool:
    """Whether work may be put off: not under ``no_fusion()``, nor while each step is watched."""
    if _anomaly.get().value or _observer.get().value is not None:
        return False
    return bool(_fusion.get().value)


def unwatched() -> bool:
    """Whether nobody looks at single operations: no anomaly detection, observer or recording."""
    if _anomaly.get().value or _observer.get().value is not None:
        return False
    return here.recording is None


def may_wait(*variables: Any) -> bool:
    """Whether work that reads these can be put off: nobody outside could change them unseen."""
    return True not in [variable._version.exposed for variable in variables]
