"""Notebooks: whether this is one, and how errors look there.

In a notebook or IPython, an error shows the reader's own lines, and not the inside of minires.

IPython prints ten lines for each frame. A wrong shape deep in a network, or an interrupted
training, would fill pages with code that the reader did not write. The message of an error says
what it is about; the frames that help are the reader's. Python's own tracebacks, in scripts, are
left alone: a frame has two lines there.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from types import TracebackType
from typing import Any

from .errors import MiniresError

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_INSTALLED = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def trimmed(trace: TracebackType | None) -> TracebackType | None:
    """``trace`` without the frames of minires, and without those of libraries that it called."""
    frames = []
    inside = False
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        inside |= path.startswith(_HERE)
        if not (inside and path.startswith((_HERE, *_INSTALLED))):
            frames.append(trace)
        trace = trace.tb_next
    kept: TracebackType | None = None
    for frame in reversed(frames):
        kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def _show(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
    tb_offset: int | None = None,
) -> None:
    short = error.with_traceback(trimmed(trace))
    short.__cause__ = short.__context__ = None  # what minires itself caught on the way
    shell.showtraceback((kind, short, short.__traceback__), tb_offset=tb_offset)


def _shell() -> Any:
    """IPython, where this code runs in it, or None."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which shows HTML, and not IPython on a terminal."""
    return getattr(_shell(), "kernel", None) is not None


def shorten_tracebacks() -> None:
    """Shorten what IPython shows, if this is IPython and nobody else has a say in it."""
    shell = _shell()
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc((MiniresError, KeyboardInterrupt), _show)
