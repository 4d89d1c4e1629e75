"""Which learning rate? One short run in which it rises, and the losses on the way (Smith 2015)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from minires import arguments, random
from minires.autograd import no_grad
from minires.device import is_array, writeable
from minires.distributed import alone
from minires.errors import ArgumentError, DataError, NaNError, message
from minires.interrupts import HeldBack
from minires.nn import Module
from minires.ops import cross_entropy
from minires.optim import Optimizer
from minires.report.figures import GREY, KIND_COLOURS, heading, layout, styled, to_bytes
from minires.train.checks import batches, check_loader, check_optimizer, look
from minires.train.work import Loss, Model, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHING = 0.9  # the weight of what was before in the smoothed loss
DIVERGED = 4.0  # times the smallest smoothed loss: here the search ends
_LEAST = 3  # steps from which a slope can be told


@dataclass(frozen=True)
class LRSearch:
    """What :func:`find_lr` saw.

    Attributes:
        lrs: the rate of each step.
        losses: the loss of its batch, before the step.
        smoothed: their exponential average, without the bias of its start.
        suggestion: the rate at which the smoothed loss falls fastest against the logarithm of the
            rate; None if it never falls.
    """

    lrs: list[float] = field(repr=False)
    losses: list[float] = field(repr=False)
    smoothed: list[float] = field(repr=False)
    suggestion: float | None

    @styled
    def figure(self) -> Figure:
        """The losses against the rate, with the suggestion."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.8), layout=layout())
        axis = figure.subplots()
        axis.plot(self.lrs, self.losses, ".", color=GREY, alpha=0.5, ms=4, label="of each batch")
        axis.plot(self.lrs, self.smoothed, color=KIND_COLOURS["residual"], label="smoothed")
        axis.set_xscale("log")
        axis.set_xlabel("learning rate")
        axis.set_ylabel("training loss")
        # a loss that diverges would press all others flat
        low, high = min(self.losses), max(self.smoothed)
        axis.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low) + 1e-9)
        note = "The smoothed loss never falls."
        if self.suggestion is not None:
            colour = KIND_COLOURS["plain"]
            axis.axvline(self.suggestion, color=colour, ls=(0, (4, 1.6)), label="suggestion")
            note = f"It falls fastest at {self.suggestion:.2g}: the suggestion."
        axis.legend(loc="best")
        heading(figure, "Loss while the learning rate rises", [note])
        return figure

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """In a notebook: the figure, at half its pixels, for displays of double density."""
        return to_bytes(self.figure(), "png"), {"width": 640}


def find_lr(
    model: Model,
    loader: Iterable[Any],
    optimizer: Optimizer,
    *,
    loss_fn: Loss = cross_entropy,
    start_lr: float = 1e-6,
    end_lr: float = 10.0,
    steps: int = 100,
    capture: bool = False,
) -> LRSearch:
    """Train for a few steps with a rate that rises exponentially, and see at which one it learns.

    The rate of step i is start_lr * (end_lr / start_lr) ** (i / (steps - 1)), for all groups. The
    search ends early when the loss is no number, or its average four times its smallest value.
    Afterwards weights, buffers, gradients, the optimiser, the random state and the loader's epoch
    are what they were, to the bit: after an error or Ctrl-C, too. Leslie N. Smith, *Cyclical
    Learning Rates for Training Neural Networks*, 2015 (arXiv:1506.01186), section 3.3.
    Started on several ranks, each one searches for itself, on whole batches.

    Args:
        model, loader, optimizer, loss_fn, capture: see :func:`train_epoch`. A loader of fewer
            batches than ``steps`` is gone through again.
        start_lr, end_lr: the range, 0 < start_lr < end_lr.
        steps: how many, at least 10.

    Raises:
        ArgumentError: a range or number of steps that is none; a model, loss or optimiser too.
        NaNError: a loss that is no finite number at the first rate; inputs that are not finite.
        DataError: a loader without batches.
    """
    op = "find_lr"
    check_optimizer(op, optimizer, None)
    check_loader(op, "loader", loader)
    start_lr = float(arguments.number(op, "start_lr", start_lr, above=0))
    end_lr = float(arguments.number(op, "end_lr", end_lr, above=0))
    steps = arguments.integer(op, "steps", steps, 10, 1_000_000)
    if not start_lr < end_lr:
        raise ArgumentError(message(op, "start_lr < end_lr", f"{start_lr:g} and {end_lr:g}"))
    work = Work(op, model, loss_fn, optimizer, capture)
    lrs = [float(lr) for lr in np.geomspace(start_lr, end_lr, steps)]
    with HeldBack() as signals, alone():
        before = _Before(model, loader, optimizer)
        try:
            losses = signals.let_through(_search, work, loader, optimizer, lrs)
        finally:
            before.restore()
    lrs, smoothed = lrs[: len(losses)], _smoothed(losses)
    return LRSearch(lrs, losses, smoothed, _steepest(lrs, smoothed))


def _search(
    work: Work, loader: Iterable[Any], optimizer: Optimizer, lrs: list[float]
) -> list[float]:
    """The loss before each step, up to the last one or to where it diverges."""
    losses: list[float] = []
    work.model.train()
    for lr, (x, y, finite) in zip(lrs, _rounds(loader, work.model)):
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss, logits = work.learn(x, y)
        value, _ = look("find_lr", loss, logits, x, y, finite, len(losses))
        if not math.isfinite(value):
            if not losses:
                expected, fix = "a finite loss at the first rate", "Lower start_lr."
                raise NaNError(message("find_lr", expected, value, f"lr {lr:g}", fix))
            break
        losses.append(value)
        smoothed = _smoothed(losses)
        if smoothed[-1] > DIVERGED * min(smoothed) > 0:
            break
        work.update()
    return losses


def _rounds(loader: Iterable[Any], model: Model) -> Iterator[Any]:
    """The batches of the loader, and again from its beginning."""
    while True:
        found = False
        for batch in batches("find_lr", loader, model):
            found = True
            yield batch
        if not found:  # empty, or an iterator that can be walked through once
            fix = "A generator can be walked through only once: pass a loader, or fewer steps."
            raise DataError(message("find_lr", "a batch for each step", "no more", fix=fix))


def _smoothed(losses: list[float]) -> list[float]:
    """Exponential averages, each over the weight that it has so far."""
    average, result = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        result.append(average / (1 - SMOOTHING**count))
    return result


def _steepest(lrs: list[float], smoothed: list[float]) -> float | None:
    """The rate of the steepest fall before the smallest loss, or None."""
    last = int(np.argmin(smoothed)) + 1
    if last < _LEAST:
        return None
    slopes = np.gradient(smoothed[:last], np.log(lrs[:last]))
    steepest = int(np.argmin(slopes))
    return lrs[steepest] if slopes[steepest] < 0 else None


class _Before:
    """What a search changes, as it was."""

    def __init__(self, model: Any, loader: Any, optimizer: Optimizer) -> None:
        self._model, self._loader, self._optimizer = model, loader, optimizer
        self._modules: list[tuple[Module, bool, dict[str, Any], dict[str, Any]]] = []
        if isinstance(model, Module):
            self._modules = [
                (module, module.training, dict(module._parameters), dict(module._buffers))
                for module in model.modules()
            ]
        self._training = model.training
        groups = optimizer.param_groups
        tensors = [p for group in groups for p in group["params"]]
        if isinstance(model, Module):
            tensors += [*model.parameters(), *model.buffers()]
        tensors = list({id(tensor): tensor for tensor in tensors}.values())
        gradients = [(tensor, tensor.grad) for tensor in tensors]
        self._gradients = gradients
        tensors += [gradient for _, gradient in gradients if gradient is not None]
        # what is read-only stays as it is by itself
        self._values = [(t, t.detach().clone()) for t in tensors if writeable(t._array)]
        self._state = None  # of a model that is no module
        if not isinstance(model, Module):
            self._state = {name: value.clone() for name, value in model.state_dict().items()}
        self._groups = [dict(group) for group in groups]
        self._kept = {
            p: {name: value.copy() if is_array(value) else value for name, value in kept.items()}
            for p, kept in optimizer.state.items()
        }
        self._random = random.get_state()
        self._epoch = getattr(loader, "epoch", None)

    def restore(self) -> None:
        for module, training, parameters, buffers in self._modules:
            module._parameters.update(parameters)
            module._buffers.update(buffers)
            module.training = training
        if not self._modules:
            self._model.train(self._training)
        with no_grad():
            for tensor, values in self._values:
                tensor.copy_(values)
        if self._state is not None:
            self._model.load_state_dict(self._state)
        for tensor, gradient in self._gradients:
            tensor.grad = gradient
        for group, options in zip(self._optimizer.param_groups, self._groups):
            group.clear()
            group.update(options)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._kept)
        random.set_state(self._random)
        if self._epoch is not None and hasattr(self._loader, "set_epoch"):
            self._loader.set_epoch(self._epoch)
