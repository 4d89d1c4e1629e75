"""A run of many epochs: history, checkpoints, callbacks, and resuming to the same bits."""

from __future__ import annotations

import functools
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
from minires.train.checkpoint import (
    Content,
    read_checkpoint,
    read_progress,
    restore_checkpoint,
    save_checkpoint,
)
from minires.train.checks import check_loader, check_optimizer, check_parts
from minires.train.loop import Running, Watch, run_epoch, run_evaluation
from minires.train.shown import shown
from minires.train.together import facts_of, together, warn_of_ranks
from minires.train.work import Loss, Model


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

    Started on several ranks (``mpiexec -n 4 python train.py``), all of them train one model, as
    :func:`train_epoch` says, and evaluate it together. Every value of a row is over all ranks, and
    the same on all (``seconds`` are those of rank 0). Rank 0 alone shows how it goes, and reads and
    writes files. Dropout and other draws of rank r > 0 are decided by the random state of rank 0
    and r. The same number of ranks gives the same bits, resumed or not; a run that is resumed with
    another number goes on with a warning, since sums are added in another order then.

    Args:
        model, train_loader, optimizer, loss_fn, schedule, on_step, capture: see
            :func:`train_epoch`.
        test_loader: see :func:`evaluate`; with several ranks each has its part of every batch.
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
        ArgumentError: ``epochs`` not a whole number >= 1; ``resume`` without ``checkpoint``; a
            DistributedDataParallel as model; batches with fewer samples than there are ranks.
        CheckpointError: a checkpoint that is damaged or belongs to another run; a folder that
            cannot be written, before any training.
        DistributedError: ranks with different settings, see :func:`train_epoch`.
        NaNError, DataError, ShapeError: see :func:`train_epoch`; NaNError names the epoch.

    Warns:
        UserWarning: a run that is resumed with another number of ranks.
    """
    op = "fit"
    epochs = arguments.integer(op, "epochs", epochs, 1)
    check_optimizer(op, optimizer, None if isinstance(schedule, ReduceLROnPlateau) else schedule)
    with_others = together(op, model)
    group = with_others.group
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
    work = with_others.work(model, loss_fn, optimizer, capture)
    judged = work
    if averaged is not None:
        judged = with_others.work(averaged.module, loss_fn, optimizer, capture)
    models = [model] if averaged is None else [model, averaged]
    facts = {"epochs": epochs, "number of epochs that are done": len(rows)}
    facts |= {f"config {name}": value for name, value in config.items()}
    facts |= facts_of("train_loader", train_loader) | facts_of("test_loader", test_loader)
    with_others.compare(model, optimizer, schedule, facts)
    if checkpoint is not None:
        group.first(check_writable, checkpoint)
        there = group.first(_to_resume, checkpoint, config) if resume else None
        if there is not None:
            progress_of = restore_checkpoint(
                checkpoint, there, model=model, optimizer=optimizer, schedule=schedule,
                averaged=averaged,
            )  # fmt: skip
            rows[:] = progress_of["history"]
            if with_others.talks and len(rows) < epochs:
                warn_of_ranks(progress_of.get("ranks", 1), group.size)
    with_others.begin(models, optimizer)
    train_part = with_others.part_of("train_loader", train_loader)
    test_part = with_others.part_of("test_loader", test_loader, empty=True)
    run = Run(model, judged.model, optimizer, epochs, rows)
    per_step = None if isinstance(schedule, ReduceLROnPlateau) else schedule

    save = functools.partial(
        save_checkpoint, model=model, optimizer=optimizer, schedule=schedule, averaged=averaged,
        progress=_progress(rows, config, group.size),
    )  # fmt: skip

    def after_step(step: int, loss: float) -> None:
        if averaged is not None and isinstance(model, Module):
            averaged.update_parameters(model)
        for callback in heard:
            callback.on_step(run, step, loss)
        if on_step is not None:
            on_step(step, loss)

    with shown(progress and with_others.talks, train_loader, test_loader) as display:

        def after_batch(running: Running) -> None:
            display.batch(running)
            if watch is not None:
                watch(running)

        for callback in [display, *heard]:
            callback.on_fit_start(run)
        with_others.agree_to_stop(run)
        while len(rows) < epochs and not run.stopped:
            epoch, lr = len(rows), optimizer.param_groups[0]["lr"]
            try:
                _set_epoch(train_part, epoch)
                with with_others.drawing():
                    trained = run_epoch(
                        work, train_part, optimizer, per_step, after_step, after_batch
                    )
                with_others.settle(models)
                _set_epoch(test_part, epoch)
                tested = run_evaluation(judged, test_part, None, after_batch)
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
                "seconds": group.broadcast_object(trained.seconds + tested.seconds),
            }
            rows.append(row)
            for callback in heard:
                callback.on_epoch_end(run, row)
            with_others.agree_to_stop(run)
            if checkpoint is not None:
                group.first(save, checkpoint)
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


def _progress(rows: list[Row], config: dict[str, Any], ranks: int) -> dict[str, Any]:
    """What a checkpoint keeps beside the state; ``rows`` may grow."""
    progress: dict[str, Any] = {"history": rows, "config": config}
    return progress if ranks == 1 else progress | {"ranks": ranks}


def _to_resume(checkpoint: Path, config: dict[str, Any]) -> Content | None:
    """What a checkpoint holds, if there is one.

    Raises:
        CheckpointError: it is damaged or belongs to another run.
    """
    if not checkpoint.exists():
        return None
    _check_same_run(checkpoint, config)
    return read_checkpoint(checkpoint)


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` as it will come back from the checkpoint: tuples are lists, keys strings."""
    try:
        return json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise ArgumentError(message("fit", "config of plain JSON values", error)) from error


_PROGRESS = schema.record(
    {"history": schema.history, "config": schema.mapping(schema.anything)},
    {"ranks": schema.whole(1, 2**31 - 1)},
)


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
