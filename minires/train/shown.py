"""Where ``fit`` shows what it does: which display it is, by where its output goes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from minires.distributed.launch import hides_a_file
from minires.notebook import in_notebook
from minires.train.display import Display, LogDisplay, NotebookDisplay


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:  # a stream of batches
        return None


@contextlib.contextmanager
def shown(
    progress: bool, train_loader: Iterable[Any], test_loader: Iterable[Any]
) -> Iterator[Display]:
    """What shows a run while the block lasts: bars if standard output is a terminal, a table in a
    notebook, else the log; or nothing, without ``progress``."""
    batches = (_length(train_loader), _length(test_loader))
    if not progress:
        yield Display(batches)
    elif in_notebook():
        with _live(NotebookDisplay(batches)) as display:
            yield display
    elif sys.stdout is not None and sys.stdout.isatty() and not hides_a_file():
        from rich.console import Console

        from minires.train.terminal import TerminalDisplay

        with _live(TerminalDisplay(Console(file=sys.stdout), batches)) as display:
            yield display
    else:
        yield LogDisplay(batches)


@contextlib.contextmanager
def _live(display: Display) -> Iterator[Display]:
    """Let a display hear of kernels that are compiled, too."""
    from minires.kernels.numba import compiler

    with display, compiler.listening(display.kernel):
        yield display
