"""What ``fit`` shows of a run: in a notebook a table, in a file lines of a log.

On a terminal it shows bars (:mod:`minires.train.terminal`); :mod:`minires.train.shown` chooses.
"""

from __future__ import annotations

import html
import logging
import time
from types import TracebackType
from typing import Any, Self

from minires.texttable import text_table
from minires.train.callbacks import Callback, Row, Run
from minires.train.loop import Running

logger = logging.getLogger("minires.train")

TRAINING = 3  # passes that learning from an image costs: forward, and two that go back
_PAUSE = 0.25  # seconds between two pictures of a notebook's table


class Display(Callback):
    """Counts what a run has done, and shows nothing of it; subclasses do.

    ``fit`` calls :meth:`batch` after each batch, and :meth:`epoch` for each row once its checkpoint
    is on the disk: what an epoch's line says is safe.

    Args:
        batches: how many batches training and evaluation have in an epoch; None where a loader has
            no length.
    """

    def __init__(self, batches: tuple[int | None, int | None]) -> None:
        training, held = batches
        # of an epoch, in passes over a batch
        self.work = None if training is None or held is None else TRAINING * training + held
        self.rates: dict[int, float] = {}  # of each epoch seen, images per second in training
        self.done = 0  # passes of this epoch
        self._images = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The run is over; ``error`` ended it, or nothing did."""

    def kernel(self, name: str) -> None:
        """A kernel is being compiled: the reason why nothing moves."""

    def on_fit_start(self, run: Run) -> None:
        self.run = run
        self._begin()

    def _begin(self) -> None:
        self.done, self._images, self._start = 0, 0, time.perf_counter()

    def batch(self, running: Running) -> None:
        """After each batch, of training and of evaluation."""
        self.done += TRAINING if running.training else 1
        if running.training:
            self._images += running.batch
            seconds = max(time.perf_counter() - self._start, 1e-9)
            self.rates[len(self.run.history) + 1] = self._images / seconds

    def epoch(self, row: Row) -> None:
        """After each epoch."""
        self._begin()

    def end(self) -> None:
        """After the last epoch."""

    def doing(self, running: Running) -> str:
        """What is being done, and how it goes."""
        what = "training" if running.training else "evaluating"
        return (
            f"{what}: loss {running.loss:.4f}, accuracy {percent(1 - running.error)}, "
            f"lr {self.run.optimizer.param_groups[0]['lr']:.4g}, {self._rate()}"
        )

    def line(self, row: Row) -> str:
        """An epoch in one line."""
        key, held = held_out(row)
        return (
            f"epoch {row['epoch']} of {self.run.epochs}: lr {row['lr']:.4g}, "
            f"running training loss {row['train_loss']:.4f} "
            f"accuracy {percent(1 - row['train_error'])}, "
            f"{held} loss {row[f'{key}_loss']:.4f} accuracy {percent(1 - row[f'{key}_error'])}, "
            f"{self._rate(row['epoch'])}, {row['seconds']:.1f} s"
        )

    def _rate(self, epoch: int | None = None) -> str:
        return f"{self.rates.get(epoch or len(self.run.history) + 1, 0):,.0f} images/s"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def held_out(row: Row) -> tuple[str, str]:
    """How the columns of what is evaluated begin, and its name."""
    return ("val", "validation") if "val_loss" in row else ("test", "test")


class LogDisplay(Display):
    """A line for each epoch in the log ``minires.train``, at level INFO."""

    def epoch(self, row: Row) -> None:
        logger.info("%s", self.line(row))
        super().epoch(row)

    def end(self) -> None:
        if self.run.stopped:
            logger.info("stopped: %s", self.run.stopped)


class NotebookDisplay(Display):
    """One output, changed in place: a table of the epochs, and below it what is being done.

    In a notebook that is exported it stands once, as it was at the end.
    """

    def __init__(self, batches: tuple[int | None, int | None]) -> None:
        super().__init__(batches)
        self._handle: Any = None
        self._words, self._last = "", 0.0
        self._began = time.perf_counter()
        self._passed = 0  # passes over batches since then

    def on_fit_start(self, run: Run) -> None:
        super().on_fit_start(run)
        self._began = time.perf_counter()
        self._show()

    def kernel(self, name: str) -> None:
        self._words = f"compiling {name.lstrip('_')}: once, then it is kept"
        self._show()

    def batch(self, running: Running) -> None:
        super().batch(running)
        self._passed += TRAINING if running.training else 1
        self._words = f"epoch {len(self.run.history) + 1} of {self.run.epochs}, "
        self._words += self.doing(running) + self._remaining()
        if time.perf_counter() - self._last > _PAUSE:
            self._show()

    def epoch(self, row: Row) -> None:
        super().epoch(row)
        self._show()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle is None:  # it ended before it began
            return
        self._words = f"{time.perf_counter() - self._began:.1f} s"
        if kind is not None:
            begun = len(self.run.history) + 1
            how = "interrupted" if issubclass(kind, KeyboardInterrupt) else kind.__name__
            self._words += f"; ended in epoch {begun} of {self.run.epochs}: {how}"
        elif self.run.stopped:
            self._words += f"; stopped: {self.run.stopped}"
        self.done = 0
        self._show()

    def _remaining(self) -> str:
        """How long the run will still take, if what comes is as fast as what was."""
        if self.work is None:
            return ""
        left = self.work * (self.run.epochs - len(self.run.history)) - self.done
        seconds = round((time.perf_counter() - self._began) / self._passed * left)
        minutes, seconds = divmod(seconds, 60)
        return f", {minutes}:{seconds:02} remaining"

    def _show(self) -> None:
        from IPython.display import display

        self._last = time.perf_counter()
        if self._handle is None:
            self._handle = display(self, display_id=True)
        else:
            self._handle.update(self)

    def _rows(self) -> list[list[str]]:
        """The table: one line for each epoch, its heads first."""
        history = self.run.history
        name = held_out(history[0])[1] if history else ""
        held = [f"{name} loss", f"{name} accuracy"]
        rows = [["epoch", "lr", "training loss", "accuracy", *held, "images/s", "seconds"]]
        for row in history:
            key, _ = held_out(row)
            rate = self.rates.get(row["epoch"])
            rows.append(
                [
                    f"{row['epoch']}",
                    f"{row['lr']:.4g}",
                    f"{row['train_loss']:.4f}",
                    percent(1 - row["train_error"]),
                    f"{row[f'{key}_loss']:.4f}",
                    percent(1 - row[f"{key}_error"]),
                    "" if rate is None else f"{rate:,.0f}",  # of epochs before a resume
                    f"{row['seconds']:.1f}",
                ]
            )
        return rows

    def __repr__(self) -> str:
        """Where there is no HTML."""
        heads, *rows = self._rows()
        return (text_table(heads, rows, left=0) + "\n" if rows else "") + self._words

    def _repr_html_(self) -> str:
        heads, *rows = self._rows()
        table = ""
        if rows:
            cells = [_cells("td", row) for row in rows]
            table = (
                '<div style="max-height: 28em; overflow-y: auto"><table>'
                f"<thead>{_cells('th', heads)}</thead><tbody>{''.join(cells)}</tbody></table></div>"
            )
        bar = ""
        if self.work and self.done:
            bar = f'<progress value="{self.done}" max="{self.work}"></progress> '
        return f"{table}<div>{bar}{html.escape(self._words)}</div>"


def _cells(tag: str, row: list[str]) -> str:
    """A line of an HTML table."""
    style = ' style="text-align: right"'
    return f"<tr>{''.join(f'<{tag}{style}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>"
