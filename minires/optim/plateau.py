"""A schedule that no formula of the step count gives: it listens to a measured value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minires.arguments import as_integer, choice, integer, number
from minires.errors import ArgumentError, message, quoted
from minires.optim.optimizer import Optimizer
from minires.optim.schedules import checked_optimizer
from minires.tensor import Tensor


class ReduceLROnPlateau:
    """The rate times ``factor`` once a measured value has not got better for a while.

    ``step(value)`` once per epoch, with the validation loss for instance. A value is better if it
    beats the best so far by more than ``threshold`` (NaN never does). More than ``patience`` values
    in a row that are not better lower the rate. Rules and defaults are PyTorch's.

    Args:
        optimizer: the optimiser whose rates are lowered.
        mode: ``"min"`` if small values are good (a loss), ``"max"`` if large ones (an accuracy).
        factor: in [0, 1).
        patience: how many values in a row may bring no progress, >= 0.
        threshold: the least progress that counts, >= 0.
        threshold_mode: ``"rel"`` takes ``threshold`` as a share of the best value, ``"abs"`` as a
            difference from it.
        cooldown: steps after a reduction in which bad values are not counted, >= 0.
        min_lr: the lowest rate, >= 0; or one for each parameter group.
        eps: reductions by less than this are not made, >= 0.

    Attributes:
        best: the best value so far.
        num_bad_epochs: values in a row that were not better.
        last_epoch: how often ``step()`` was called.

    Raises:
        ArgumentError: arguments out of range.
    """

    _state = ("last_epoch", "best", "num_bad_epochs", "cooldown_counter")

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        op = "ReduceLROnPlateau"
        self.optimizer = checked_optimizer(op, optimizer)
        self.mode = choice("mode", mode, ("min", "max"))
        self.threshold_mode = choice("threshold_mode", threshold_mode, ("rel", "abs"))
        groups = len(optimizer.param_groups)
        lowest = list(min_lr) if isinstance(min_lr, list | tuple) else [min_lr] * groups
        if len(lowest) != groups:
            raise ArgumentError(message(op, f"min_lr for {groups} group(s)", len(lowest)))
        self.factor = number(op, "factor", factor, least=0, below=1)
        self.patience = integer(op, "patience", patience, least=0)
        self.threshold = number(op, "threshold", threshold, least=0)
        self.cooldown = integer(op, "cooldown", cooldown, least=0)
        self.min_lrs = [number(op, "min_lr", value, least=0) for value in lowest]
        self.eps = number(op, "eps", eps, least=0)
        self.best = math.inf if mode == "min" else -math.inf
        self.last_epoch = self.num_bad_epochs = self.cooldown_counter = 0

    def step(self, metrics: Any) -> None:
        """Take note of the measured value, a number or a tensor of one entry; lower the rates if
        too many values in a row were not better.

        Raises:
            ArgumentError: ``metrics`` is no number, or the optimizer got parameter groups since the
                schedule was built.
        """
        op = "ReduceLROnPlateau.step"
        if isinstance(metrics, Tensor) and metrics.numel() == 1:
            metrics = metrics.item()
        whole = as_integer(metrics) is not None  # there are integers beyond all floats
        value = float(number(op, "metrics", metrics, finite=whole))
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            expected = f"the {len(self.min_lrs)} parameter group(s) it was built on"
            fix = "Add all groups to the optimizer before building the schedule."
            raise ArgumentError(message("ReduceLROnPlateau", expected, len(groups), fix=fix))
        rates = [number(op, "lr", group["lr"]) for group in groups]
        self.last_epoch += 1
        if self._is_better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, lr, lowest in zip(groups, rates, self.min_lrs):
                lower = max(lr * self.factor, lowest)
                if lr - lower > self.eps:
                    group["lr"] = lower
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if not math.isfinite(self.best):  # the first value: there is nothing to take a share of
            return sign * value > sign * self.best
        bar = self.best * self.threshold if self.threshold_mode == "rel" else self.threshold
        return sign * value > sign * (self.best + sign * bar)

    def get_last_lr(self) -> list[float]:
        """The rate of each group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What the schedule remembers, as plain numbers; the rates are in the optimizer's."""
        return {name: getattr(self, name) for name in self._state}

    def check_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise what :meth:`load_state_dict` would raise, and change nothing."""
        op = "ReduceLROnPlateau.load_state_dict"
        if not isinstance(state_dict, dict) or set(state_dict) != set(self._state):
            known = isinstance(state_dict, dict)
            got = ", ".join(map(str, state_dict)) if known else quoted(state_dict)
            raise ArgumentError(message(op, f"a dict with {', '.join(self._state)}", got))
        whole = as_integer(state_dict["best"]) is not None
        number(op, "best", state_dict["best"], finite=whole)
        for name in ("last_epoch", "num_bad_epochs", "cooldown_counter"):
            integer(op, name, state_dict[name], least=0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; load the optimizer's as well, which holds the rates.

        Raises:
            ArgumentError: not the state of such a schedule. Nothing is changed then.
        """
        self.check_state_dict(state_dict)
        for name in self._state:
            setattr(self, name, state_dict[name])
