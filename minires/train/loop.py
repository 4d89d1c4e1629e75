"""The training loop: one epoch, one evaluation, and a run of many epochs that can be resumed."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from minires import arguments
from minires.autograd import no_grad
from minires.device import fetched
from minires.errors import (
    ArgumentError,
    CheckpointError,
    DataError,
    NaNError,
    message,
    quoted,
)
from minires.files import as_path, check_writable
from minires.nn import Module
from minires.ops import cross_entropy
from minires.optim import LRScheduler, Optimizer
from minires.tensor import Tensor
from minires.train import schema
from minires.train.captured import captured_work
from minires.train.checkpoint import Stateful, load_checkpoint, read_progress, save_checkpoint
from minires.train.checks import (
    batches,
    check_loader,
    check_optimizer,
    check_parts,
    look,
)

Loss = Callable[[Tensor, Tensor], Tensor]
Row = dict[str, Any]


class Model(Stateful, Protocol):
    """What the loop needs of a model; every ``nn.Module`` has it."""

    training: bool

    def __call__(self, x: Tensor, /) -> Tensor: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...


@dataclass(frozen=True)
class EpochResult:
    """One pass over a data set.

    Attributes:
        loss: mean over the examples.
        error: fraction of examples whose largest logit is not the label's, in [0, 1].
        examples: how many were seen.
        seconds: wall-clock time.
    """

    loss: float
    error: float
    examples: int
    seconds: float


@dataclass(frozen=True)
class Running:
    """How far a pass over a data set has come.

    Attributes:
        training: whether the network is being trained, or tested.
        loss, error: of all batches of this pass so far, see :class:`EpochResult`.
        batch: how many examples the last batch had.
    """

    training: bool
    loss: float
    error: float
    batch: int


Watch = Callable[[Running], object]


def train_epoch(
    model: Model,
    loader: Iterable[Any],
    optimizer: Optimizer,
    *,
    loss_fn: Loss = cross_entropy,
    schedule: LRScheduler | None = None,
    on_step: Callable[[int, float], object] | None = None,
    capture: bool = False,
) -> EpochResult:
    """Train on every batch of ``loader`` once; the model is left in training mode.

    Loss and error are the *running* ones: each batch is measured in training mode, before its own
    step. They differ from what :func:`evaluate` gives at the end of the epoch, in evaluation mode.

    Args:
        model: gives logits (n, classes) for a batch of inputs.
        loader: yields ``(inputs, labels)``; labels are (n,) class indices, or (n, classes)
            probabilities. Tensors or NumPy arrays, which are moved to the model's device; a
            DataLoader with ``device=`` has them there in time.
        loss_fn: the mean loss of a batch, of logits and labels.
        schedule: stepped once after every optimiser step.
        on_step: called after every step with its index from 0 and its loss.
        capture: record the Python of a step once and repeat what it computes, see
            :func:`minires.capture`: the same numbers in less time, for a ``model`` that is a
            module whose Python does not depend on values. :func:`fit` keeps the graph from
            epoch to epoch.

    Raises:
        CaptureError: a model that cannot be captured.
        NaNError: NaN or infinity in a batch of inputs, or in the loss; nothing is learned from that
            batch. On a GPU, whose values are looked at once per step, it has gone through the model
            by then, and is in the running statistics of batch norms.
        DataError: the loader gives no batch.
        ShapeError: the model's output is not (n, classes).
    """
    op = "train_epoch"
    check_optimizer(op, optimizer, schedule)
    check_loader(op, "loader", loader)
    arguments.callback(op, "on_step", on_step, "on_step(step, loss)")
    work = _Work(op, model, loss_fn, optimizer, capture)
    return _train_epoch(work, loader, optimizer, schedule, on_step, None)


class _Work:
    """The work on each batch: learning from it, judging it, the update after it."""

    def __init__(
        self, op: str, model: Model, loss_fn: Loss, optimizer: Optimizer | None, capture: bool
    ) -> None:
        def learn(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            if optimizer is not None:
                optimizer.zero_grad()
            logits = model(x)
            loss = loss_fn(logits, y)
            loss.backward()
            return loss, logits

        def judge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(x)
            return loss_fn(logits, y), logits

        check_parts(op, model, loss_fn, capture)
        self.model = model
        self.learn: Callable[..., Any] = learn  # (inputs, labels) -> (loss, logits)
        self.judge: Callable[..., Any] = judge
        self.update: Callable[[], Any] = optimizer.step if optimizer is not None else lambda: None
        if capture and isinstance(model, Module) and optimizer is not None:
            self.learn, self.judge, self.update = captured_work(learn, judge, model, optimizer)


def _train_epoch(
    work: _Work,
    loader: Iterable[Any],
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    on_step: Callable[[int, float], object] | None,
    watch: Watch | None,
) -> EpochResult:
    work.model.train()
    sums = _Sums("train_epoch")
    for step, (x, y, finite) in enumerate(batches("train_epoch", loader, work.model)):
        loss, logits = work.learn(x, y)
        value, wrong = look("train_epoch", loss, logits, x, y, finite, step)
        if not math.isfinite(value):
            raise NaNError(
                message(
                    "train_epoch",
                    "a finite loss",
                    value,
                    f"step {step} of the epoch, lr {optimizer.param_groups[0]['lr']:g}",
                    "Lower the learning rate, start with a warm-up (optim.LinearLR), or find the "
                    "operation with `with detect_anomaly():`.",
                )
            )
        work.update()
        if schedule is not None:
            schedule.step()
        sums.add(value, wrong, len(logits))
        if on_step is not None:
            on_step(step, value)
        if watch is not None:
            watch(sums.running(training=True))
    return sums.result()


def evaluate(
    model: Model,
    loader: Iterable[Any],
    *,
    loss_fn: Loss = cross_entropy,
    on_step: Callable[[int, float], object] | None = None,
    watch: Watch | None = None,
) -> EpochResult:
    """Loss and error on every batch of ``loader``, in evaluation mode and without a graph.

    The model goes back to the mode it was in. Arguments and errors as for :func:`train_epoch`.

    Warns:
        UserWarning: batch norms whose running statistics were never updated: with mean 0 and
            variance 1 they do not normalise, and the figures say little.
    """
    check_loader("evaluate", "loader", loader)
    arguments.callback("evaluate", "on_step", on_step, "on_step(step, loss)")
    arguments.callback("evaluate", "watch", watch, "watch(running)")
    work = _Work("evaluate", model, loss_fn, None, capture=False)
    return _evaluate(work, loader, on_step, watch)


def _evaluate(
    work: _Work,
    loader: Iterable[Any],
    on_step: Callable[[int, float], object] | None,
    watch: Watch | None,
) -> EpochResult:
    model = work.model
    _warn_if_untrained(model)
    sums = _Sums("evaluate")
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            for step, (x, y, finite) in enumerate(batches("evaluate", loader, model)):
                loss, logits = work.judge(x, y)
                value, wrong = look("evaluate", loss, logits, x, y, finite, step)
                if not math.isfinite(value):
                    raise NaNError(
                        message(
                            "evaluate",
                            "a finite loss",
                            value,
                            f"batch {step}",
                            "Training has diverged: lower the learning rate or warm up longer.",
                        )
                    )
                sums.add(value, wrong, len(logits))
                if on_step is not None:
                    on_step(step, value)
                if watch is not None:
                    watch(sums.running(training=False))
    finally:
        model.train(was_training)
    return sums.result()


def fit(
    model: Model,
    train_loader: Iterable[Any],
    test_loader: Iterable[Any],
    optimizer: Optimizer,
    *,
    epochs: int,
    loss_fn: Loss = cross_entropy,
    schedule: LRScheduler | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    history: list[Row] | None = None,
    on_epoch: Callable[[Row], object] | None = None,
    on_step: Callable[[int, float], object] | None = None,
    watch: Watch | None = None,
    capture: bool = False,
) -> list[Row]:
    """Train until ``epochs`` epochs are done, evaluating after each.

    Before every epoch both loaders are told which it is, ``set_epoch(0)`` first, where they have
    that method. After every epoch a row is added to the history::

        {"epoch", "lr", "train_loss", "train_error", "test_loss", "test_error", "seconds"}

    with ``epoch`` counted from 1, ``lr`` of the first group as the epoch began, the *running*
    ``train_loss`` and ``train_error`` of :func:`train_epoch`, ``test_loss`` and ``test_error`` of
    :func:`evaluate` after the epoch, errors as fractions, and ``seconds`` for both together. Then
    the checkpoint is written, then ``on_epoch(row)`` called. Stopped at any moment (Ctrl-C, a
    kill), the checkpoint is that of the last finished epoch.

    Args:
        model, train_loader, optimizer, loss_fn, schedule, on_step, capture: see
            :func:`train_epoch`.
        test_loader: see :func:`evaluate`.
        epochs: in all, those done before included.
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
    check_optimizer(op, optimizer, schedule)
    check_parts(op, model, loss_fn, capture)
    check_loader(op, "train_loader", train_loader)
    check_loader(op, "test_loader", test_loader)
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
        progress = load_checkpoint(checkpoint, model=model, optimizer=optimizer, schedule=schedule)
        rows[:] = progress["history"]

    work = _Work(op, model, loss_fn, optimizer, capture)
    for epoch in range(len(rows), epochs):
        lr = optimizer.param_groups[0]["lr"]
        try:
            _set_epoch(train_loader, epoch)
            trained = _train_epoch(work, train_loader, optimizer, schedule, on_step, watch)
            _set_epoch(test_loader, epoch)
            tested = _evaluate(work, test_loader, None, watch)
        except NaNError as error:
            raise NaNError(f"epoch {epoch + 1}: {error}") from error
        row = {
            "epoch": epoch + 1,
            "lr": lr,
            "train_loss": trained.loss,
            "train_error": trained.error,
            "test_loss": tested.loss,
            "test_error": tested.error,
            "seconds": trained.seconds + tested.seconds,
        }
        rows.append(row)
        if checkpoint is not None:
            save_checkpoint(
                checkpoint,
                model=model,
                optimizer=optimizer,
                schedule=schedule,
                progress={"history": rows, "config": config},
            )
        if on_epoch is not None:
            on_epoch(row)
    return rows


class _Sums:
    """Adds up the losses and errors of batches of unequal size."""

    def __init__(self, op: str) -> None:
        self.op = op
        self.loss = 0.0
        self.wrong = self.examples = self.batch = 0
        self.start = time.perf_counter()

    def add(self, loss: float, wrong: int, n: int) -> None:
        """A batch of n examples, with its mean loss and how many were taken for another class."""
        self.loss += loss * n
        self.wrong += wrong
        self.examples += n
        self.batch = n

    def running(self, training: bool) -> Running:
        loss, error = self.loss / self.examples, self.wrong / self.examples
        return Running(training, loss, error, self.batch)

    def result(self) -> EpochResult:
        if self.examples == 0:
            raise DataError(
                message(
                    self.op,
                    "at least one batch",
                    "none",
                    fix="Is the data set smaller than the batch, with drop_last=True?",
                )
            )
        return EpochResult(
            self.loss / self.examples,
            self.wrong / self.examples,
            self.examples,
            time.perf_counter() - self.start,
        )


def _warn_if_untrained(model: Model) -> None:
    state = model.state_dict()
    names = [name for name in state if name.endswith("num_batches_tracked")]
    counts = fetched(*[state[name]._array for name in names])
    fresh = [
        name
        for name, count in zip(names, counts)
        if count == 0
        # A converted file may lack the count but hold real statistics.
        and not state[name.replace("num_batches_tracked", "running_mean")].data.any()
    ]
    if fresh:
        warnings.warn(
            "evaluate: batch-norm running statistics have never been updated "
            f"({fresh[0]} = 0, {len(fresh)} in all). Train first, or load a checkpoint.",
            UserWarning,
            stacklevel=3,
        )


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
