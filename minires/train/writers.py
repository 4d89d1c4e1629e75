"""Callbacks that write down how a run goes: a table of its epochs, and TensorBoard's files.

In a run of several ranks the first one writes them.
"""

from __future__ import annotations

import csv
import io
import os
from typing import TYPE_CHECKING

from minires.arguments import flag
from minires.distributed import current_group
from minires.files import as_path, check_writable, write_atomic
from minires.nn import Module
from minires.train.callbacks import Callback, Row, Run
from minires.train.display import held_out

if TYPE_CHECKING:
    from minires.utils.tensorboard import SummaryWriter


class CSVLogger(Callback):
    """Write the history to a table, a line for each epoch, replaced as a whole after each.

    A run that is resumed has all its lines there, those of before included. Columns are those of
    :func:`fit`'s rows, and what callbacks before this one put into them.

    Args:
        path: the file. One that is there is replaced when the first epoch is done.

    Raises:
        ArgumentError: no path.
        CheckpointError: the folder cannot be written, before any training.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_path("CSVLogger", path)

    def on_fit_start(self, run: Run) -> None:
        current_group().first(check_writable, self.path)
        if run.history:  # killed between two epochs, a run may have left another table
            current_group().first(self._write, run)

    def on_epoch_end(self, run: Run, row: Row) -> None:
        current_group().first(self._write, run)

    def _write(self, run: Run) -> None:
        columns = list(dict.fromkeys(name for row in run.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(run.history)
        write_atomic(self.path, text.getvalue())


class TensorBoard(Callback):
    """Write loss, accuracy and rate of each epoch, for ``tensorboard --logdir FOLDER``.

    Training and evaluation are in one chart each: ``loss/train`` beside ``loss/test``,
    ``accuracy/train`` beside ``accuracy/test``, and ``lr``. A run that is resumed goes on with its
    curves; what an interrupted run wrote of epochs beyond its checkpoint is hidden.

    Args:
        log_dir: the folder; a folder for each run, and TensorBoard lays them over each other.
        histograms: write the values of weights and of their last gradients after each epoch, too.

    Raises:
        ArgumentError: no path.
        ExportError: the package tensorboardX is missing.
    """

    def __init__(self, log_dir: str | os.PathLike[str], *, histograms: bool = False) -> None:
        from minires.utils.tensorboard import tensorboardx

        self.log_dir = as_path("TensorBoard", log_dir)
        self.histograms = flag("TensorBoard", "histograms", histograms)
        self._writer: SummaryWriter | None = None
        tensorboardx("TensorBoard")

    def on_fit_start(self, run: Run) -> None:
        current_group().first(self._open, run)

    def _open(self, run: Run) -> None:
        from minires.utils.tensorboard import SummaryWriter

        done = len(run.history)
        # the name of a file has its second: one that is resumed at once needs another name
        self._writer = SummaryWriter(
            self.log_dir, purge_step=done + 1 if done else None, filename_suffix=f".{done}"
        )

    def on_epoch_end(self, run: Run, row: Row) -> None:
        current_group().first(self._add, run, row)

    def _add(self, run: Run, row: Row) -> None:
        writer, epoch = self._writer, row["epoch"]
        if writer is None:
            return
        key, _ = held_out(row)
        for part in ("train", key):
            writer.add_scalar(f"loss/{part}", row[f"{part}_loss"], epoch)
            writer.add_scalar(f"accuracy/{part}", 1 - row[f"{part}_error"], epoch)
        writer.add_scalar("lr", row["lr"], epoch)
        if self.histograms and isinstance(run.model, Module):
            for name, weight in run.model.named_parameters():
                writer.add_histogram(f"weights/{name}", weight, epoch)
                if weight.grad is not None:
                    writer.add_histogram(f"gradients/{name}", weight.grad, epoch)
        writer.flush()  # for who looks on

    def on_fit_end(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
