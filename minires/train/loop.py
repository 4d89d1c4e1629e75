"""The training loop: one epoch, and one evaluation. :mod:`.fit` makes a run of them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from minires import arguments
from minires.autograd import no_grad
from minires.device import fetched
from minires.errors import (
    DataError,
    NaNError,
    message,
)
from minires.nn import Module
from minires.ops import cross_entropy
from minires.optim import LRScheduler, Optimizer
from minires.tensor import Tensor
from minires.train.captured import captured_work
from minires.train.checkpoint import Stateful
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
    work = Work(op, model, loss_fn, optimizer, capture)
    return run_epoch(work, loader, optimizer, schedule, on_step, None)


class Work:
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


def run_epoch(
    work: Work,
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
    work = Work("evaluate", model, loss_fn, None, capture=False)
    return run_evaluation(work, loader, on_step, watch)


def run_evaluation(
    work: Work,
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
