"""What a run of :func:`minires.train.fit` tells others, and how they stop it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minires import arguments
from minires.distributed import current_group
from minires.errors import ArgumentError, message, quoted, unknown
from minires.files import as_path, check_writable
from minires.interop import save
from minires.optim import Optimizer

Row = dict[str, Any]


@dataclass
class Run:
    """A run of ``fit``, as callbacks see it.

    Attributes:
        model: the network that is trained.
        evaluated: the network that is evaluated: ``model``, or its average.
        optimizer: what changes its weights.
        epochs: how many there will be in all.
        history: one row for each epoch that is done.
        stopped: why training ends before ``epochs``; empty as long as it does not.
    """

    model: Any
    evaluated: Any
    optimizer: Optimizer
    epochs: int
    history: list[Row] = field(default_factory=list)
    stopped: str = ""

    def stop(self, reason: str) -> None:
        """Let this epoch be the last one."""
        self.stopped = reason


class Callback:
    """Base of what ``fit(callbacks=[...])`` calls; a subclass defines what it wants to hear of.

    A run that is resumed begins with the history of before: what a callback decides, it should
    decide by ``run.history``, so that a resumed run decides the same.

    In a run of several ranks the callbacks of all are called, with the same rows; the run stops if
    that of any rank says so. Let rank 0 alone write files: ``if minires.distributed.get_rank() ==
    0``. Those of minires do.
    """

    def on_fit_start(self, run: Run) -> None:
        """Before the first epoch, or the first after a resume."""

    def on_step(self, run: Run, step: int, loss: float) -> None:
        """After each step of the optimiser; ``step`` counts from 0 in each epoch."""

    def on_epoch_end(self, run: Run, row: Row) -> None:
        """After each epoch, its row in ``run.history``, before the checkpoint is written."""

    def on_fit_end(self, run: Run) -> None:
        """After the last epoch; not if an error or Ctrl-C ended the run."""


def check_callbacks(op: str, callbacks: Any) -> list[Callback]:
    """The callbacks as a list.

    Raises:
        ArgumentError: no list, or something else in it.
    """
    if not isinstance(callbacks, list | tuple):
        raise ArgumentError(message(op, "callbacks a list", quoted(callbacks)))
    for callback in callbacks:
        if not isinstance(callback, Callback):
            expected = "callbacks of class minires.train.Callback"
            raise ArgumentError(message(op, expected, quoted(callback)))
    return list(callbacks)


def best_epoch(history: Sequence[Mapping[str, Any]], monitor: str, mode: str) -> int:
    """Which row has the best value, the first of equals: an index. NaN is never the best.

    Raises:
        ArgumentError: a row has no such column.
    """
    best, where = math.inf, 0
    for index, row in enumerate(history):
        if monitor not in row:
            raise unknown("column of the history", monitor, row)
        value = row[monitor] if mode == "min" else -row[monitor]
        if value < best:
            best, where = value, index
    return where


class _Monitor(Callback):
    """Looks at one column of the history."""

    def __init__(self, op: str, monitor: str | None, mode: str) -> None:
        if monitor is not None and not isinstance(monitor, str):
            raise ArgumentError(message(op, "monitor the name of a column", quoted(monitor)))
        self.monitor, self.mode = monitor, arguments.choice("mode", mode, ("min", "max"))

    def _best(self, run: Run) -> int:
        """The index of the best row so far."""
        default = "val_loss" if "val_loss" in run.history[0] else "test_loss"
        monitor = self.monitor or default
        return best_epoch(run.history, monitor, self.mode)


class EarlyStopping(_Monitor):
    """Stop once ``patience`` epochs in a row were no better than the best one before.

    Args:
        patience: at least 1.
        monitor: a column of the history; None is the loss of what is evaluated after each epoch.
        mode: ``"min"`` if small values are good, ``"max"`` if large ones.

    Raises:
        ArgumentError: an argument out of range; when training, an unknown column.
    """

    def __init__(self, patience: int = 5, *, monitor: str | None = None, mode: str = "min") -> None:
        super().__init__("EarlyStopping", monitor, mode)
        self.patience = arguments.integer("EarlyStopping", "patience", patience, 1)

    def _look(self, run: Run) -> None:
        if run.history and len(run.history) - 1 - self._best(run) >= self.patience:
            best = run.history[self._best(run)]["epoch"]
            run.stop(f"no epoch has been better than epoch {best} for {self.patience} epochs")

    def on_fit_start(self, run: Run) -> None:
        self._look(run)  # a run that was stopped, and is resumed

    def on_epoch_end(self, run: Run, row: Row) -> None:
        self._look(run)


class ModelCheckpoint(_Monitor):
    """Keep the weights of the best epoch so far in a file, as :func:`minires.save` writes them.

    Args:
        path: the file; ``.safetensors`` or ``.pth``. It is replaced in one go.
        monitor: a column of the history; None is the loss of what is evaluated after each epoch.
        mode: ``"min"`` if small values are good, ``"max"`` if large ones.
        metadata: plain values to keep beside the weights (safetensors only).

    Raises:
        ArgumentError: no path, or an argument out of range.
        CheckpointError: the folder cannot be written, before any training.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        monitor: str | None = None,
        mode: str = "min",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__("ModelCheckpoint", monitor, mode)
        self.path, self.metadata = as_path("ModelCheckpoint", path), metadata

    def on_fit_start(self, run: Run) -> None:
        current_group().first(check_writable, self.path)

    def on_epoch_end(self, run: Run, row: Row) -> None:
        if self._best(run) == len(run.history) - 1:
            current_group().first(self._save, run)

    def _save(self, run: Run) -> None:
        save(run.evaluated.state_dict(), self.path, metadata=self.metadata)
