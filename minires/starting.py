"""Imported before anything else: from then on Ctrl-C ends the command in one line.

Importing NumPy, Typer and Rich takes some tenths of a second. A Ctrl-C in that time would show
the inside of whichever module was being read.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")  # of several processes the first speaks
STOPPED = 130  # the exit code of a program that Ctrl-C ended: 128 and the signal's number


def _is_the_command() -> bool:
    """Whether this process is ``minires ...`` or ``python -m minires ...``."""
    name = os.path.basename(sys.argv[0] if sys.argv else "")
    return name in ("minires", "minires.exe") or sys.orig_argv[1:3] == ["-m", "minires"]


def _stop(number: int, frame: FrameType | None) -> None:
    try:
        if all(os.environ.get(name, "0") == "0" for name in RANKS):
            os.write(2, b"\nStopped.\n")
    finally:  # nothing has begun yet that would have to be put away
        os._exit(STOPPED)


def guard() -> None:
    """Make a start that cannot fail, if this process is the command.

    Ctrl-C ends it, if Ctrl-C means what it usually does; and sizes of the terminal that are no
    numbers are forgotten, which Rich and Typer would read as they are imported.
    """
    if not _is_the_command():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    for name in ("COLUMNS", "LINES", "TERMINAL_WIDTH"):
        size = os.environ.get(name, "")
        if not (size.isascii() and size.isdigit() and 0 < int(size) < 10_000):
            os.environ.pop(name, None)


def release() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: from here on there is somebody to catch it."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


guard()
