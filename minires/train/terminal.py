"""What ``fit`` and ``minires train`` show on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import TaskID

from minires.bars import Bars
from minires.train.callbacks import Row, Run
from minires.train.display import TRAINING, Display
from minires.train.loop import Running


class TerminalDisplay(Bars, Display):
    """A bar for the epoch and one for all of them, and a line for each epoch that is done.

    The bars are gone at the end, and after Ctrl-C. Where the console is a file there are the lines
    alone.
    """

    def __init__(self, console: Console, batches: tuple[int | None, int | None]) -> None:
        Bars.__init__(self, console)
        Display.__init__(self, batches)
        self._all: TaskID | None = None  # the bar of all epochs, where there is more than one

    def on_fit_start(self, run: Run) -> None:
        super().on_fit_start(run)
        done = len(run.history)
        if run.epochs > 1:
            total = None if self.work is None else self.work * run.epochs
            completed = 0 if self.work is None else self.work * done
            self._all = self._progress.add_task("all epochs", total=total, completed=completed)
        self._epoch = self._progress.add_task("", total=self.work)
        self._name_epoch()

    def _name_epoch(self) -> None:
        name = f"epoch {min(len(self.run.history) + 1, self.run.epochs)} of {self.run.epochs}"
        self._progress.reset(self._epoch, total=self.work, description=name)

    def batch(self, running: Running) -> None:
        super().batch(running)
        passes = TRAINING if running.training else 1
        self._progress.advance(self._epoch, passes)
        if self._all is not None:
            self._progress.advance(self._all, passes)
        self._progress.words = self.doing(running)

    def epoch(self, row: Row) -> None:
        self._line(self.line(row))
        super().epoch(row)
        self._progress.words = ""
        self._name_epoch()

    def end(self) -> None:
        if self.run.stopped:
            self._line(f"stopped: {self.run.stopped}")
