"""What the command line says and draws: messages, progress bars and tables (Rich)."""

from __future__ import annotations

import contextlib
import re
import shlex
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.box import HORIZONTALS
from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from minires.bars import Bars
from minires.distributed import current_group
from minires.distributed.exits import prefix, wait_for_turn
from minires.distributed.launch import hides_a_file
from minires.errors import MiniresError
from minires.starting import STOPPED

if TYPE_CHECKING:
    from minires.selfcheck import Row
    from minires.train import Running


console = Console(force_terminal=False if hides_a_file() else None)
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
        fail(str(error), error)
    except MemoryError as error:
        fail(f"out of memory: {error}. Use a smaller batch or network.", error)
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), error)


def _notes() -> Any:
    """Shows each warning once, as one line of advice without its place in the code.

    Python's own "once" forgets what it has shown whenever a compiler resets the filters.
    """
    shown: set[str] = set()

    def note(warning: Warning | str, *where: object, **options: object) -> None:
        text = str(warning)
        if "Traceback (" in text:  # some libraries warn of an exception by showing all of it
            text = text.splitlines()[0]
        if text not in shown and not console.quiet:
            shown.add(text)
            line = f"[yellow]note:[/yellow] {escape(text)}"
            errors.print(line, soft_wrap=True, highlight=False)

    return note


def fail(text: str, error: BaseException | None = None, code: int = 1) -> NoReturn:
    """One message, and an exit code. A word too long to be read, such as a path, is cut. Of several
    ranks that fail, one says why (:mod:`minires.distributed.exits`)."""
    text = re.sub(r"\S{400,}", lambda word: f"{word[0][:150]}…{word[0][-150:]}", text)
    wait_for_turn(error)
    line = f"{escape(prefix())}[bold red]error:[/bold red] {escape(text)}"
    errors.print(line, soft_wrap=True, highlight=False)
    raise SystemExit(code)


def stopped(advice: str = "") -> NoReturn:
    wait_for_turn()
    text = f"\n{escape(prefix())}Stopped. {escape(advice)}".rstrip()
    errors.print(text, soft_wrap=True, highlight=False)
    raise SystemExit(STOPPED)


def say(text: str) -> None:
    """One line of text, as it is."""
    console.print(escape(text), highlight=False, soft_wrap=True, emoji=False)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


@dataclass
class _InTraining:
    """A network that is being trained: its bar, its epochs, how many are done, the work left."""

    bar: TaskID
    epochs: int
    done: int
    left: int


class StudyDisplay(Bars):
    """A bar for the whole study, one for each network in training, and a line for each epoch.

    The bars count multiply-adds, so that their time remaining knows that deep networks take longer.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._whole: TaskID | None = None
        self._networks: dict[str, _InTraining] = {}
        self.folder: Path | None = None  # where the study's results are, once it has begun

    def plan(self, folder: Path, total: int, done: int) -> None:
        self.folder = folder
        self._whole = self._progress.add_task(
            "whole study", total=total, completed=done, within=lambda: self._progress.tasks
        )
        ranks = current_group().size
        if ranks > 1 and done < total:  # said now, since some launchers kill at Ctrl-C
            how = f"the same command, --resume {shlex.quote(str(folder))}."
            self._line(f"{ranks} ranks share the networks out. To go on after a stop: {how}")

    def network(self, name: str, epochs: int, done: int, total: int, gone: int) -> None:
        bar = self._progress.add_task(name, total=total)
        self._networks[name] = _InTraining(bar, epochs, done, total)
        if done:
            self._advance(name, gone)
            self._line(f"{name}: going on after epoch {done} of {epochs}")

    def _advance(self, name: str, work: int) -> None:
        assert self._whole is not None
        self._progress.advance(self._whole, work)
        self._progress.advance(self._networks[name].bar, work)
        self._networks[name].left -= work

    def batch(self, name: str, work: int, running: Running) -> None:
        network = self._networks[name]
        self._advance(name, work)
        if network.done < network.epochs:
            epoch = f"epoch {network.done + 1} of {network.epochs}"
            self._doing(name, epoch, f"{epoch}, {_so_far(running)}")

    def _doing(self, name: str, short: str, words: str) -> None:
        """Say what is done with a network: below the bars, or if there are several, beside its."""
        alone = len(self._networks) == 1
        self._progress.words = words if alone else ""
        description = name if alone else f"{name}, {short}"
        self._progress.update(self._networks[name].bar, description=description)

    def epoch(self, name: str, row: dict[str, Any]) -> None:
        network = self._networks[name]
        network.done = row["epoch"]
        self._line(
            f"{name}: epoch {row['epoch']} of {network.epochs}, "
            f"running training error {_percent(row['train_error'])}, "
            f"test error {_percent(row['test_error'])}, {row['seconds']:.1f} s"
        )

    def evaluating(self, name: str) -> None:
        self._doing(name, "evaluating", "evaluating: the final errors")

    def finished(self, name: str, run: dict[str, Any]) -> None:
        self._remove(name)
        self._line(
            f"{name}: final training error {_percent(run['train_error'])}, "
            f"final test error {_percent(run['test_error'])}, {run['seconds']:.1f} s"
        )

    def diverged(self, name: str) -> None:
        if name in self._networks:  # else it met NaN before its first batch
            self._advance(name, self._networks[name].left)
            self._remove(name)

    def _remove(self, name: str) -> None:
        self._progress.remove_task(self._networks.pop(name).bar)
        self._progress.words = ""


def _so_far(running: Running) -> str:
    """What is being done, and the loss and error of it so far."""
    doing = "training" if running.training else "evaluating"
    return f"{doing}: loss {running.loss:.4f}, error {_percent(running.error)} so far"


class ReadingDisplay(Bars):
    """One bar over pictures that are being read, or looked at by a network."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._tasks: dict[str, TaskID] = {}

    def picture(self, done: int, total: int, words: str = "reading pictures") -> None:
        if words not in self._tasks:
            self._tasks[words] = self._progress.add_task(words, total=total)
        self._progress.update(self._tasks[words], completed=done)
        self._progress.words = ""


class WarmUpDisplay(Bars):
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


class GradcheckDisplay(Bars):
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


# The columns of the table: heading, the cell of a row, and what the legend says.
COLUMNS = {
    "entries": ("entries", "how many entries of Jacobians were compared; ~ by random probes"),
    "error": ("error", "the largest relative error among them"),
    "by": ("reference", "the numerical derivative: complex step, 5-point or central differences"),
    "skips": ("skipped", "entries left out, because they sit on a kink"),
    "2nd": ("second", "the largest relative error of second derivatives"),
    "f32": ("rounding", "error of the float32 kernels; 1 is the rounding of a sum that long"),
    "adj": ("adjoint", "error of <Ju, v> = <u, J'v>, for linear operations"),
    "result": ("verdict", "ok, FAIL, or no kernel"),
}
ESSENTIAL = ("entries", "error", "result")  # what has room in fewer than 80 columns


def gradcheck_table(rows: Sequence[Row], width: int) -> Table:
    """Operation by operation, one line for each argument on each backend; fits 50 columns."""
    shown = COLUMNS if width >= 80 else ESSENTIAL
    table = Table(
        header_style="bold",
        box=HORIZONTALS,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if width >= 92 else 0, 0, 0),
    )
    table.add_column("operation\n  argument", no_wrap=True)
    table.add_column("on", no_wrap=True)
    for heading in shown:
        justify: Any = "left" if heading in ("by", "result") else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    name = argument = kind = ""
    for row in rows:
        if row.kind != kind and kind:
            table.add_section()
        if row.name != name:
            table.add_row(Text(_folded(row.name), style="bold"))
            argument = ""
        first = "" if row.argument == argument else f"  {row.argument}"
        name, argument, kind = row.name, row.argument, row.kind
        values = row.cells()
        styles = {
            "2nd": "" if row.second_ok else "bold red",
            "result": VERDICTS.get(values["verdict"], ""),
        }
        cells = (
            Text(_probed(values[COLUMNS[heading][0]]), style=styles.get(heading, ""))
            for heading in shown
        )
        table.add_row(Text(first), row.backend, *cells)
    return table


def _probed(cell: str) -> str:
    """A number of entries that random probes went over, with a ~ before it."""
    number, probes, _ = cell.partition(" vᵀJu")
    return f"~{number}" if probes else number


def gradcheck_legend(width: int) -> Table:
    """What the columns of the table are."""
    legend = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    legend.add_row("on", "the backend whose kernels ran")
    for heading in COLUMNS if width >= 80 else ESSENTIAL:
        legend.add_row(heading, COLUMNS[heading][1])
    if width < 80:
        legend.add_row("", "From 80 columns on, the table shows five columns more.")
    return legend
