"""Averages of weights over training, under the names of ``torch.optim.swa_utils``.

The weights of stochastic gradient descent wander around what they are heading for; their average
lies closer to it (Polyak and Juditsky 1992; Izmailov et al. 2018, arXiv:1803.05407).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.arguments import callback, flag, number
from minires.autograd import call
from minires.device import beside
from minires.errors import ArgumentError, ShapeError, message, quoted
from minires.nn import Module
from minires.tensor import Tensor, from_numpy

Average = Callable[[Any, Any, int], Any]


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """The exponential moving average: ``decay * average + (1 - decay) * weights``.

    It remembers about ``1 / (1 - decay)`` steps.

    Raises:
        ArgumentError: a decay outside of 0..1.
    """
    decay = number("get_ema_avg_fn", "decay", decay, least=0, most=1)

    def average(averaged: Any, current: Any, count: int) -> Any:
        return averaged + (current - averaged) * averaged.dtype.type(1 - decay)

    return average


def get_swa_avg_fn() -> Average:
    """The mean of all weights so far, each step counted alike."""

    def average(averaged: Any, current: Any, count: int) -> Any:
        return averaged + (current - averaged) / averaged.dtype.type(count + 1)

    return average


class AveragedModel(Module):
    """A copy of a network whose weights are averages of the network's own.

    The first update copies the weights, each further one averages them. The copy is a module: it
    is called, evaluated and saved as the network is; the names of its state begin with
    ``module.``, and ``n_averaged`` counts the updates.

    Args:
        model: the network; it is copied and not changed.
        avg_fn: ``avg_fn(averaged, current, count)`` on arrays; None is :func:`get_swa_avg_fn`.
        use_buffers: average the running statistics of batch norms as well; otherwise they are
            the network's own at the last update. Counts are copied in any case.

    Raises:
        ArgumentError: no module, or no function.

    >>> from minires import nn
    >>> from minires.optim.swa_utils import AveragedModel, get_ema_avg_fn
    >>> net = nn.Linear(2, 1)
    >>> averaged = AveragedModel(net, avg_fn=get_ema_avg_fn(0.9))
    >>> averaged.update_parameters(net)  # after each step of the optimizer
    >>> int(averaged.n_averaged.item())
    1
    """

    def __init__(
        self, model: Module, avg_fn: Average | None = None, use_buffers: bool = False
    ) -> None:
        super().__init__()
        op = "AveragedModel"
        if not isinstance(model, Module):
            raise ArgumentError(message(op, "a module", quoted(model)))
        callback(op, "avg_fn", avg_fn, "avg_fn(averaged, current, count)")
        self.module = copy.deepcopy(model)
        self.module.requires_grad_(False)
        self.avg_fn = avg_fn or get_swa_avg_fn()
        self.use_buffers = flag(op, "use_buffers", use_buffers)
        self.register_buffer("n_averaged", from_numpy(np.zeros((), np.int64)))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take in the weights that ``model`` has now.

        Raises:
            ArgumentError: no module.
            ShapeError: a network of other parameters.
        """
        op = "update_parameters"
        if not isinstance(model, Module):
            raise ArgumentError(message(op, "a module", quoted(model)))
        count = int(self.n_averaged.item())
        own, theirs = _tensors(self.module), _tensors(model)
        if {name: t.shape for name, t in own.items()} != {n: t.shape for n, t in theirs.items()}:
            raise ShapeError(message(op, "the parameters of the network it averages", "others"))
        buffers = set() if self.use_buffers else {name for name, _ in model.named_buffers()}
        for name, averaged in own.items():
            self._take(averaged, theirs[name], 0 if name in buffers else count)
        self.n_averaged.add_(1)

    def _take(self, averaged: Tensor, current: Tensor, count: int) -> None:
        """Average a tensor with those of ``count`` updates; the first, and integers, are copied."""
        a, c = averaged._array, current._array
        with beside((averaged,)):
            if count and a.dtype.kind == "f":
                c = call(self.avg_fn, a, c, count)
            averaged._to_write("update_parameters", "a weight of the average")[...] = c
        averaged.bump_version()


def _tensors(model: Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
