"""A run of many epochs: history, checkpoints, callbacks, and resuming to the same bits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minires import arguments
from minires.errors import ArgumentError, CheckpointError, NaNError, message, quoted
from minires.files import as_path, check_writable
from minires.nn import Module
from minires.ops import cross_entropy
from minires.optim import LRScheduler, Optimizer, ReduceLROnPlateau
from minires.optim.swa_utils import AveragedModel
from minires.train import schema
from minires.train.callbacks import Callback, Row, Run, check_callbacks
from minires.train.checkpoint import load_checkpoint, read_progress, save_checkpoint
from minires.train.checks import check_loader, check_optimizer, check_parts
from minires.train.loop import (
    Loss,
    Model,
    Running,
    Watch,
    Work,
    run_epoch,
    run_evaluation,
)
from minires.train.shown import shown


def fit(
    model: Model,
    train_loader: Iterable[Any],
    test_loader: Iterable[Any],
    optimizer: Optimizer,
    *,
    epochs: int,
    loss_fn: Loss = cross_entropy,
    schedule: LRScheduler | ReduceLROnPlateau | None = None,
    averaged: AveragedModel | None = None,
    callbacks: Sequence[Callback] = (),
    evaluated: str = "test",
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    history: list[Row] | None = None,
    on_epoch: Callable[[Row], object] | None = None,
    on_step: Callable[[int, float], object] | None = None,
    watch: Watch | None = None,
    capture: bool = False,
    progress: bool = True,
) -> list[Row]:
    """Train until ``epochs`` epochs are done, evaluating after each.

    Before every epoch both loaders are told which it is, ``set_epoch(0)`` first, where they have
    that method. After every epoch a row is added to the history::

        {"epoch", "lr", "train_loss", "train_error", "test_loss", "test_error", "seconds"}

    (``val_loss`` and ``val_error`` with ``evaluated="val"``), with ``epoch`` counted from 1, ``lr``
    of the first group as the epoch began, the *running* ``train_loss`` and ``train_error`` of
    :func:`train_epoch`, ``test_loss`` and ``test_error`` of :func:`evaluate` after the epoch,
    errors as fractions, and ``seconds`` for both together. Then
    the callbacks hear of it, the checkpoint is written, and ``on_epoch(row)`` called. Stopped at
    any moment (Ctrl-C, a kill), the checkpoint is that of the last finished epoch.

    Args:
        model, train_loader, optimizer, loss_fn, schedule, on_step, capture: see
            :func:`train_epoch`.
        test_loader: see :func:`evaluate`.
        epochs: in all, those done before included.
        schedule: as there; or a ReduceLROnPlateau, which is given the loss of each evaluation.
        averaged: takes in the weights after every step, and is evaluated in place of the model.
        callbacks: see :class:`minires.train.Callback`; one of them may stop the run.
        evaluated: ``"test"``, or ``"val"`` if ``test_loader`` has validation images: what the
            columns of the history are called.
        checkpoint: the file to write after every epoch.
        resume: go on from ``checkpoint``: every number, ``seconds`` aside, becomes bit for bit
            that of a run that was never stopped. Without the file (a run killed in its first
            epoch) training starts at the beginning.
        config: plain JSON values that describe the run (recipe, seed, kind of network). They are
            stored, and a checkpoint of another configuration is refused: plain and residual
            networks, for one, have the same parameter shapes.
        history: rows of epochs that this model has already done; new rows are added to this very
            list, so that they are at hand after an interrupt.
        on_epoch: called with each new row.
        watch: called with a :class:`Running` after every batch, of training and of testing.
        progress: show loss, accuracy, rate, images per second and the time that remains: bars on a
            terminal, in a notebook one table; elsewhere a line for each epoch in the log
            ``minires.train``, at level INFO.

    Returns:
        The history: one row per epoch, those before a resume included.

    Raises:
        ArgumentError: ``epochs`` not a whole number >= 1; ``resume`` without ``checkpoint``.
        CheckpointError: a checkpoint that is damaged or belongs to another run; a folder that
            cannot be written, before any training.
        NaNError, DataError, ShapeError: see :func:`train_epoch`; NaNError names the epoch.
    """
    op = "fit"
    epochs = arguments.integer(op, "epochs", epochs, 1)
    check_optimizer(op, optimizer, None if isinstance(schedule, ReduceLROnPlateau) else schedule)
    check_parts(op, model, loss_fn, capture)
    check_loader(op, "train_loader", train_loader)
    check_loader(op, "test_loader", test_loader)
    heard = check_callbacks(op, callbacks)
    arguments.choice("evaluated", evaluated, ("test", "val"))
    if averaged is not None and not (
        isinstance(averaged, AveragedModel) and isinstance(model, Module)
    ):
        raise ArgumentError(message(op, "averaged an AveragedModel of a module", quoted(averaged)))
    arguments.callback(op, "on_epoch", on_epoch, "on_epoch(row)")
    arguments.callback(op, "watch", watch, "watch(running)")
    arguments.callback(op, "on_step", on_step, "on_step(step, loss)")
    if history is not None and not isinstance(history, list):
        raise ArgumentError(message(op, "history a list of rows", quoted(history)))
    if config is not None and not isinstance(config, Mapping):
        raise ArgumentError(message(op, "config a dict", quoted(config)))
    if checkpoint is not None:
        checkpoint = as_path(op, checkpoint)
    resume = arguments.flag(op, "resume", resume)
    progress = arguments.flag(op, "progress", progress)
    if resume and checkpoint is None:
        raise ArgumentError(
            message("fit", "a checkpoint to resume from", None, fix="Pass checkpoint=path.")
        )
    rows = [] if history is None else history
    config = _as_json(config or {})
    if checkpoint is not None:
        check_writable(checkpoint)
    if resume and checkpoint is not None and Path(checkpoint).exists():
        _check_same_run(checkpoint, config)
        there = load_checkpoint(
            checkpoint, model=model, optimizer=optimizer, schedule=schedule, averaged=averaged
        )
        rows[:] = there["history"]

    work = Work(op, model, loss_fn, optimizer, capture)
    judged = work if averaged is None else Work(op, averaged.module, loss_fn, optimizer, capture)
    run = Run(model, judged.model, optimizer, epochs, rows)
    per_step = None if isinstance(schedule, ReduceLROnPlateau) else schedule

    def after_step(step: int, loss: float) -> None:
        if averaged is not None and isinstance(model, Module):
            averaged.update_parameters(model)
        for callback in heard:
            callback.on_step(run, step, loss)
        if on_step is not None:
            on_step(step, loss)

    with shown(progress, train_loader, test_loader) as display:

        def after_batch(running: Running) -> None:
            display.batch(running)
            if watch is not None:
                watch(running)

        for callback in [display, *heard]:
            callback.on_fit_start(run)
        while len(rows) < epochs and not run.stopped:
            epoch, lr = len(rows), optimizer.param_groups[0]["lr"]
            try:
                _set_epoch(train_loader, epoch)
                trained = run_epoch(
                    work, train_loader, optimizer, per_step, after_step, after_batch
                )
                _set_epoch(test_loader, epoch)
                tested = run_evaluation(judged, test_loader, None, after_batch)
            except NaNError as error:
                raise NaNError(f"epoch {epoch + 1}: {error}") from error
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(tested.loss)
            row = {
                "epoch": epoch + 1,
                "lr": lr,
                "train_loss": trained.loss,
                "train_error": trained.error,
                f"{evaluated}_loss": tested.loss,
                f"{evaluated}_error": tested.error,
                "seconds": trained.seconds + tested.seconds,
            }
            rows.append(row)
            for callback in heard:
                callback.on_epoch_end(run, row)
            if checkpoint is not None:
                save_checkpoint(
                    checkpoint,
                    model=model,
                    optimizer=optimizer,
                    schedule=schedule,
                    averaged=averaged,
                    progress={"history": rows, "config": config},
                )
            display.epoch(row)
            if on_epoch is not None:
                on_epoch(row)
        display.end()
        for callback in heard:
            callback.on_fit_end(run)
    return rows


def _set_epoch(loader: Iterable[Any], epoch: int) -> None:
    """Make order and augmentation those of this epoch, however often the loader was run before."""
    set_epoch = getattr(loader, "set_epoch", None)
    if set_epoch is not None:
        set_epoch(epoch)


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` as it will come back from the checkpoint: tuples are lists, keys strings."""
    try:
        return json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise ArgumentError(message("fit", "config of plain JSON values", error)) from error


_PROGRESS = schema.record({"history": schema.history, "config": schema.mapping(schema.anything)})


def read_history(checkpoint: str | os.PathLike[str]) -> list[Row]:
    """The rows of the epochs that a checkpoint of :func:`fit` has behind it.

    Raises:
        CheckpointError: no whole checkpoint, or not one that :func:`fit` wrote.
    """
    return _read_progress(checkpoint)["history"]


def _read_progress(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    progress = read_progress(checkpoint)
    fix = "Load it with load_checkpoint(), and choose another file for fit()."
    schema.check(_PROGRESS, progress, f"fit {checkpoint}", fix)
    return progress


def _check_same_run(checkpoint: str | os.PathLike[str], config: dict[str, Any]) -> None:
    difference = differing(_read_progress(checkpoint)["config"], config)
    if difference:
        raise CheckpointError(
            message(
                "fit",
                f"a checkpoint of this configuration at {checkpoint}",
                difference,
                fix="Resume with the same settings, or choose another checkpoint file.",
            )
        )


def differing(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Where two configurations differ, as errors say it; nothing if they are the same."""
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if not keys:
        return ""
    first = keys[0]
    return (
        f"{first} {quoted(there.get(first))} there and {quoted(here.get(first))} here "
        f"({len(keys)} setting(s) differ)"
    )
