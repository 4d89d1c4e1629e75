"""What the command line says and draws: messages, progress bars and tables (Rich)."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from rich.box import HORIZONTALS
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from minires.errors import MiniresError
from minires.starting import STOPPED

if TYPE_CHECKING:
    from minires.gradcheck.suite import Row


console = Console()
errors = Console(stderr=True)

VERDICTS = {"ok": "green", "FAIL": "bold red"}


@contextlib.contextmanager
def messages() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _notes()
            yield
    except MiniresError as error:
        fail(str(error))
    except MemoryError as error:
        fail(f"out of memory: {error}. Use a smaller batch or network.")
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))


def _notes() -> Any:
    """Shows each warning once, as one line of advice without its place in the code.

    Python's own "once" forgets what it has shown whenever a compiler resets the filters.
    """
    shown: set[str] = set()

    def note(text: Warning | str, *where: object, **options: object) -> None:
        if str(text) not in shown:
            shown.add(str(text))
            line = f"[yellow]note:[/yellow] {escape(str(text))}"
            errors.print(line, soft_wrap=True, highlight=False)

    return note


def fail(text: str) -> NoReturn:
    """One message, and exit code 1. A word too long to be read, such as a path, is cut."""
    text = re.sub(r"\S{400,}", lambda word: f"{word[0][:150]}…{word[0][-150:]}", text)
    errors.print(f"[bold red]error:[/bold red] {escape(text)}", soft_wrap=True, highlight=False)
    raise SystemExit(1)


def stopped(advice: str = "") -> NoReturn:
    errors.print(f"\nStopped. {escape(advice)}".rstrip(), soft_wrap=True, highlight=False)
    raise SystemExit(STOPPED)


def say(text: str) -> None:
    """One line of text, as it is."""
    console.print(escape(text), highlight=False, soft_wrap=True)


class _Display:
    """Progress bars that are on screen while the ``with`` block runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class StudyDisplay(_Display):
    """Two bars, the whole study and the network in training, and a line for each one done.

    The bar of the whole counts multiply-adds, so that its time left knows that deep networks
    take longer.
    """

    def __init__(self, console: Console, first_use: bool) -> None:
        super().__init__(console)
        self._first_use = first_use
        self._whole: TaskID | None = None
        self._network: TaskID | None = None
        self._name, self._epochs = "", 0
        self.folder: Path | None = None  # where the study's results are, once it has begun

    def plan(self, folder: Path, total: int, done: int) -> None:
        self.folder = folder
        self._whole = self._progress.add_task("whole study", total=total, completed=done)

    def network(self, name: str, epochs: int, done: int, steps: int) -> None:
        self._name, self._epochs = name, epochs
        text = f"{name}: compiling kernels (first use)" if self._first_use else name
        if self._first_use:
            self._console.print("[dim]Compiling kernels on first use: about 20 seconds.[/dim]")
        self._network = self._progress.add_task(text, total=epochs * steps, completed=done * steps)
        if done:
            self._console.print(f"{name}: going on after epoch {done} of {epochs}")

    def step(self, work: int) -> None:
        assert self._whole is not None
        assert self._network is not None
        self._progress.advance(self._whole, work)
        self._progress.advance(self._network)
        if self._first_use:
            self._first_use = False
            self._progress.update(self._network, description=self._name)

    def epoch(self, row: dict[str, Any]) -> None:
        if not self._console.is_terminal:  # a log file has no bars, but wants a sign of life
            self._console.print(
                f"{self._name}: epoch {row['epoch']} of {self._epochs}, "
                f"training error {100 * row['train_error']:.1f} %, {row['seconds']:.1f} s"
            )

    def finished(self, run: dict[str, Any]) -> None:
        assert self._network is not None
        self._progress.remove_task(self._network)
        self._console.print(
            f"{self._name}: training error {100 * run['train_error']:.1f} %, "
            f"test error {100 * run['test_error']:.1f} %, {run['seconds']:.1f} s"
        )


class TrainingDisplay(_Display):
    """One bar over the steps of a training run, and a line for each epoch."""

    def __init__(self, console: Console, name: str, epochs: int, steps: int) -> None:
        super().__init__(console)
        self._epochs = epochs
        self._task = self._progress.add_task(name, total=epochs * steps)
        self._steps = steps

    def skip(self, epochs: int) -> None:
        """Count epochs that were done before."""
        self._progress.update(self._task, completed=epochs * self._steps)

    def step(self, step: int, loss: float) -> None:
        self._progress.advance(self._task)

    def epoch(self, row: dict[str, Any]) -> None:
        self._console.print(
            f"epoch {row['epoch']:>3}/{self._epochs}  lr {row['lr']:.4f}  "
            f"train loss {row['train_loss']:.4f} error {100 * row['train_error']:.2f} %  "
            f"test loss {row['test_loss']:.4f} error {100 * row['test_error']:.2f} %  "
            f"{row['seconds']:.1f} s",
            highlight=False,
        )


class WarmUpDisplay(_Display):
    """One bar over the passes, with the name of the kernel that is being compiled."""

    def __init__(self, console: Console, passes: int) -> None:
        super().__init__(console)
        self.kernels: list[str] = []
        self._pass = ""
        self._task = self._progress.add_task("", total=passes)

    def begin(self, name: str, done: int) -> None:
        self._pass = name
        self._progress.update(self._task, completed=done, description=name)

    def kernel(self, name: str) -> None:
        self.kernels.append(name)
        text = f"{self._pass}: compiling {name.lstrip('_')}"
        self._progress.update(self._task, description=text)


def facts(title: str, rows: dict[str, Any]) -> Table:
    """A table of names and values."""
    table = Table(title=title, show_header=False, title_justify="left", box=None, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path is not to be cut
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    return table


class GradcheckDisplay(_Display):
    """One bar over the checks, with the name of what is being checked."""

    def __init__(self, console: Console, width: int) -> None:
        super().__init__(console)
        self._width = width  # of the longest name, so that the bar stays where it is
        self._task = self._progress.add_task("compiling kernels".ljust(width), total=None)
        self._begun = 0  # the cost of all checks that have begun

    def begin(self, cost: int) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(" " * self._width, total=cost)

    def step(self, name: str, cost: int) -> None:
        description = name.ljust(self._width)
        self._progress.update(self._task, completed=self._begun, description=description)
        self._begun += cost


def _folded(name: str) -> str:
    """A name in lines of at most 21 characters: what 80 columns leave for the first one."""
    lines = [""]
    for word in name.split("_"):
        longer = f"{lines[-1]}_{word}" if lines[-1] else word
        if len(longer) <= 21:
            lines[-1] = longer
        else:
            lines.append(f"  _{word}")
    return "\n".join(lines)


def gradcheck_table(rows: Sequence[Row], width: int) -> Table:
    """Operation by operation, one line for each argument on each backend; fits 80 columns."""
    table = Table(
        header_style="bold",
        box=HORIZONTALS,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if width >= 92 else 0, 0, 0),
    )
    table.add_column("operation\n  argument", no_wrap=True)
    table.add_column("back-\nend", no_wrap=True)
    for heading in ("entries\nchecked", "worst\nerror"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("refer-\nence", no_wrap=True)
    for heading in ("kinks\nskip.", "2nd\norder", "f32\nunits", "adj-\noint"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("ver-\ndict", no_wrap=True)
    name = argument = kind = ""
    for row in rows:
        if row.kind != kind and kind:
            table.add_section()
        if row.name != name:
            table.add_row(Text(_folded(row.name), style="bold"))
            argument = ""
        shown = "" if row.argument == argument else f"  {row.argument}"
        name, argument, kind = row.name, row.argument, row.kind
        cells = row.cells()
        table.add_row(
            Text(shown),
            row.backend,
            cells["entries"],
            cells["error"],
            cells["reference"],
            cells["skipped"],
            Text(cells["second"], style="" if row.second_ok else "bold red"),
            cells["rounding"],
            cells["adjoint"],
            Text(cells["verdict"], style=VERDICTS.get(cells["verdict"], "")),
        )
    return table
