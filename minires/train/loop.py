"""The training loop: one epoch, and one evaluation. :mod:`.fit` makes a run of them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from minires import arguments
from minires.autograd import no_grad
from minires.device import fetched
from minires.errors import DataError, NaNError, message
from minires.ops import cross_entropy
from minires.optim import LRScheduler, Optimizer
from minires.train.checks import check_loader, check_optimizer
from minires.train.together import by_itself, together
from minires.train.work import Loss, Model, Work

Row = dict[str, Any]


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

    Started on several ranks (``mpiexec``, ``srun``), all of them train one model together. A batch
    of the loader is then that of all ranks, of which each takes its part; gradients are added up,
    and loss and error are over the whole batch. All ranks begin with the values of rank 0. After
    the epoch running statistics of batch norms that are not synchronised (``nn.SyncBatchNorm``) are
    averaged over the ranks, and parameters and buffers must be the same on all, to the last bit.

    Args:
        model: gives logits (n, classes) for a batch of inputs.
        loader: yields ``(inputs, labels)``; labels are (n,) class indices, or (n, classes)
            probabilities. Tensors or NumPy arrays, which are moved to the model's device; a
            DataLoader with ``device=`` has them there in time. With several ranks it gives the same
            batches on all of them, unless it gives each rank its own part: a DataLoader with
            ``shard`` or a DistributedSampler, or a loader of yours with an attribute ``shard`` that
            is not None. Such are taken as they are.
        loss_fn: the mean loss of a batch, of logits and labels. With several ranks each one's is
            weighed by its share of the samples: a sum, or a mean by class weights or without
            ignored labels, is another number then.
        schedule: stepped once after every optimiser step.
        on_step: called after every step with its index from 0 and its loss.
        capture: record the Python of a step once and repeat what it computes, see
            :func:`minires.capture`: the same numbers in less time, for a ``model`` that is a
            module whose Python does not depend on values. :func:`fit` keeps the graph from
            epoch to epoch. With several ranks gradients are added up between two captured halves;
            a model with ``nn.SyncBatchNorm`` is trained as it is, since a graph holds no work with
            other ranks.

    Raises:
        ArgumentError: arguments of another kind, a DistributedDataParallel, which adds up gradients
            itself, or batches with fewer samples than there are ranks.
        CaptureError: a model that cannot be captured.
        DistributedError: ranks with different models, options, batches or numbers of batches; a
            rank has ended; an error of another rank.
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
    with_others = together(op, model)
    work = with_others.work(model, loss_fn, optimizer, capture)
    with_others.compare(model, optimizer, schedule, {})
    with_others.begin([model], optimizer)
    part = with_others.part_of("loader", loader)
    with with_others.drawing():
        result = run_epoch(work, part, optimizer, schedule, on_step, None)
    with_others.settle([model])
    return result


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
    for step, batch in enumerate(work.batches("train_epoch", loader)):
        value, wrong, n = work.learned("train_epoch", batch, step)
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
        sums.add(value, wrong, n)
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

    Started on several ranks, each one evaluates for itself, so that one may do it alone; unless the
    loader has a ``shard`` of several: then all ranks must call this, and get the result over all
    parts.

    Warns:
        UserWarning: batch norms whose running statistics were never updated: with mean 0 and
            variance 1 they do not normalise, and the figures say little.
    """
    check_loader("evaluate", "loader", loader)
    arguments.callback("evaluate", "on_step", on_step, "on_step(step, loss)")
    arguments.callback("evaluate", "watch", watch, "watch(running)")
    shared = getattr(loader, "shard", None) is not None
    with_others = together("evaluate") if shared else by_itself("evaluate")
    work = with_others.work(model, loss_fn, None, capture=False)
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
            for step, batch in enumerate(work.batches("evaluate", loader)):
                value, wrong, n = work.judged("evaluate", batch, step)
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
                sums.add(value, wrong, n)
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
