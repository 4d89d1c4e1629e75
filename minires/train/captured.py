"""The work of a training loop as captured functions: the same numbers without its Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minires.captured import capture
from minires.nn import Module
from minires.optim import Optimizer

Work = Callable[..., Any]


def captured_work(
    learn: Work, judge: Work, model: Module, optimizer: Optimizer
) -> tuple[Work, Work, Work]:
    """``learn``, ``judge`` and the optimiser's step, captured (:func:`minires.capture`)."""
    update = capture(optimizer.step, optimizer)
    return capture(learn, model, optimizer), capture(judge, model), update
