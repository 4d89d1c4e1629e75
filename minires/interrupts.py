"""Interrupts that wait: work that must come to its end, whatever signal arrives meanwhile.

Python runs the handlers of signals in its main thread, between any two instructions. A handler that
raises (that of Ctrl-C raises ``KeyboardInterrupt``) ends whatever runs there, ``finally`` and
``except`` blocks included. Where others' values have been changed for a moment, they would stay so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_OUTSIDE, _HOLDING, _THROUGH = range(3)


class HeldBack:
    """Holds signals back inside ``with``, and handles them at its end, each by its own handler.

    What may take long, or is the user's, goes through :meth:`let_through`: there a signal is
    handled at once, and the first handler that raises is the last one until the end of the block::

        with HeldBack() as signals:
            saved = copy(values)
            try:
                return signals.let_through(change, values)
            finally:
                restore(values, saved)  # nothing can stop it

    Only handlers written in Python wait; a signal without one (SIGKILL, or Ctrl-C where it ends the
    process) does what it does. In other threads than the main one no handler runs, and nothing
    needs to be held back.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}  # the handlers whose places we take
        self._waiting: dict[int, FrameType | None] = {}  # signals that came, and where they came
        # One variable, so that each change is one step: outside of the block signals are passed on
        # too, and should one of them stop us there, our handlers may stay and do no harm.
        self._now = _OUTSIDE

    def __enter__(self) -> HeldBack:
        if threading.current_thread() is threading.main_thread():
            try:
                for number in signal.valid_signals():
                    handler = signal.getsignal(number)
                    if callable(handler):  # neither the system's own, nor one of another language
                        self._before[number] = handler
                        signal.signal(number, self._handle)
                self._now = _HOLDING
            except BaseException:
                self._put_back()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            try:
                self._now = _OUTSIDE
                self._handle_waiting()
            finally:
                self._put_back()
        finally:
            self._put_back()  # the rest, should a signal have stopped it

    def _put_back(self) -> None:
        while self._before:
            number = next(iter(self._before))
            if signal.getsignal(number) == self._handle:  # not where the user set another
                signal.signal(number, self._before[number])
            del self._before[number]

    def let_through(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``, during which signals are handled as they come."""
        self._now = _THROUGH
        try:
            self._handle_waiting()
            return function(*args)
        finally:
            self._now = _HOLDING

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of all signals."""
        if self._now == _HOLDING:
            self._waiting[number] = frame
        elif self._now == _THROUGH:
            self._now = _HOLDING  # and it stays so if the handler raises: the clearing up is next
            self._before[number](number, frame)
            self._now = _THROUGH
        else:
            self._before[number](number, frame)

    def _handle_waiting(self) -> None:
        while self._waiting:
            number, frame = self._waiting.popitem()
            try:
                self._before[number](number, frame)
            finally:
                self._handle_waiting()
