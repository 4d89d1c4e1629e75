"""Schedules made of schedules: one after the other, or all at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from minires.errors import ArgumentError, message, quoted
from minires.optim.optimizer import Optimizer
from minires.optim.schedules import LRScheduler, checked_optimizer, increasing


class _Composed(LRScheduler):
    """A schedule made of schedules, its parts; its state contains theirs."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler]) -> None:
        checked_optimizer(self._op, optimizer)
        if not isinstance(schedulers, list | tuple) or not schedulers:
            raise ArgumentError(message(self._op, "a list of schedules", quoted(schedulers)))
        for i, part in enumerate(schedulers):
            if not isinstance(part, LRScheduler) or part.optimizer is not optimizer:
                known = isinstance(part, LRScheduler)
                got = "one built on another" if known else type(part).__name__
                raise ArgumentError(
                    message(self._op, "schedules built on this optimizer", got, f"at index {i}")
                )
        self.schedulers = list(schedulers)
        super().__init__(optimizer)

    def state_dict(self) -> dict[str, Any]:
        parts = [part.state_dict() for part in self.schedulers]
        return {**super().state_dict(), "schedulers": parts}

    def check_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().check_state_dict(state_dict)
        states = state_dict["schedulers"]
        if not isinstance(states, list) or len(states) != len(self.schedulers):
            op, got = f"{self._op}.load_state_dict", quoted(states)
            expected = f"the states of {len(self.schedulers)} schedulers"
            raise ArgumentError(message(op, expected, got))
        for part, state in zip(self.schedulers, states):
            part.check_state_dict(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.check_state_dict(state_dict)
        for part, state in zip(self.schedulers, state_dict["schedulers"]):
            part.load_state_dict(state)
        super().load_state_dict(state_dict)


class SequentialLR(_Composed):
    """One schedule after the other, each counting from its own start and the group's own rate.

    A warm-up of 100 steps, then a cosine over the remaining 900::

        schedule = SequentialLR(
            optimizer,
            [LinearLR(optimizer, 0.1, total_iters=100), CosineAnnealingLR(optimizer, 900)],
            milestones=[100],
        )

    Args:
        optimizer: the optimiser whose rates are set.
        schedulers: at least one, all built on ``optimizer``. Step this schedule, never its parts.
        milestones: the step at which each part but the first takes over, >= 1 and increasing.

    Raises:
        ArgumentError: schedules of another optimiser, milestones that do not fit them.
    """

    settings = ("milestones",)

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
    ) -> None:
        self.milestones = increasing(self._op, milestones)
        if isinstance(schedulers, list | tuple) and len(schedulers) != len(self.milestones) + 1:
            raise ArgumentError(
                message(
                    self._op,
                    "one milestone less than schedules",
                    f"{len(self.milestones)} milestone(s) for {len(schedulers)} schedule(s)",
                )
            )
        super().__init__(optimizer, schedulers)

    def _go_to(self, step: int) -> None:
        part = self.schedulers[bisect_right(self.milestones, step)]
        if step == 0 or step in self.milestones:
            part._begin()
        else:
            part.step()
        self.last_epoch, self._last = step, part._last


class ChainedScheduler(_Composed):
    """Several schedules at once: each step is one of every schedule, in their order.

    Args:
        schedulers: at least one, all built on one optimiser. Step this schedule, never its parts.
        optimizer: the optimiser whose rates are set; by default that of the first part.

    Raises:
        ArgumentError: schedules of another optimiser.
    """

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        if optimizer is None and isinstance(schedulers, list | tuple) and schedulers:
            optimizer = getattr(schedulers[0], "optimizer", None)
        super().__init__(optimizer, schedulers)  # type: ignore[arg-type]

    def _begin(self) -> None:
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = base_lr
        for part in self.schedulers:
            part._go_to(0)
        self._go_to(0)

    def _go_to(self, step: int) -> None:
        for part in self.schedulers if step else ():  # they have begun already
            part.step()
        groups, names = self.optimizer.param_groups, [part._last for part in self.schedulers]
        self.last_epoch = step
        self._last = [
            {name: group[name] for options in each for name in options}
            for group, each in zip(groups, zip(*names))
        ]
