"""Progress bars on a terminal (Rich): of the command line, and of ``fit``."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from minires.interrupts import HeldBack


class _Progress(Progress):
    """Progress bars with a line of words below, which says what is being done."""

    words = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        if self.words:
            yield Text(self.words, no_wrap=True, overflow="ellipsis")


class _TimeLeft(TimeRemainingColumn):
    """The time that remains; of a task with the field ``within``, the longest of its parts, which
    are done at the same time: at the end one may go on alone, and the whole is slower."""

    def render(self, task: Task) -> Text:
        parts = task.fields.get("within", list)()
        return super().render(max([task, *parts], key=lambda each: each.time_remaining or 0))


class Bars:
    """Progress bars that are on screen while the ``with`` block runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._compiled = False  # whether any kernel was
        self._progress = _Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None if console.width < 60 else 30),
            TaskProgressColumn(),
            _TimeLeft(),
            TextColumn("remaining"),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Self:
        with HeldBack():  # half begun, it would leave a terminal without a cursor
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with HeldBack():
            self._progress.stop()

    def kernel(self, name: str) -> None:
        """A kernel is being compiled: the reason why nothing moves."""
        if not self._compiled:
            self._line("Compiling kernels for this CPU, once. `minires warmup` does it ahead.")
        self._compiled = True
        self._progress.words = f"compiling {name.lstrip('_')}"

    def ready(self, name: str, done: int, asked: int) -> None:
        """A CUDA kernel is compiled, or was and is loaded; so many are, of those known by now."""
        self._progress.words = f"kernels for the GPU: {done} of {asked} ready, {name}"

    def _line(self, text: str) -> None:
        """A line that stays, on a terminal and in a file."""
        self._console.print(escape(text), highlight=False, soft_wrap=True, emoji=False)
