"""Learning-rate schedules: each a closed formula of the number of steps taken.

Because a rate depends on the step count alone (and not on the rate before it), a run that is
resumed at step s continues with exactly the rates of a run that never stopped.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from minires.errors import ArgumentError, message
from minires.optim.checks import real, whole
from minires.optim.optimizer import Optimizer


class LRScheduler:
    """Base of the schedules: sets ``group["lr"]`` of every group of an optimiser.

    The first rate is set at construction. ``step()`` follows ``optimizer.step()``: once per
    optimiser step or once per epoch, in whichever unit the schedule's arguments were meant. The
    rate at construction is kept as ``group["initial_lr"]``; several schedules built on one
    optimiser (see :class:`SequentialLR`) start from that same rate.

    A subclass gives ``lr_at(step, base_lr)`` and lists its arguments in ``settings``.

    Attributes:
        last_epoch: how often ``step()`` was called (PyTorch's name, whatever the unit).
        base_lrs: per group, the rate that the schedule scales.
    """

    settings: tuple[str, ...] = ()

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError(message(self._op, "an optimizer", type(optimizer).__name__))
        self.optimizer = optimizer
        self.last_epoch = 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self._apply()

    @property
    def _op(self) -> str:
        return type(self).__name__

    def lr_at(self, step: int, base_lr: float) -> float:
        """The rate after ``step`` steps of a group whose own rate is ``base_lr``."""
        raise NotImplementedError

    def options_at(self, step: int) -> list[dict[str, Any]]:
        """Per group, the options that hold after ``step`` steps: ``{"lr": ...}`` at least."""
        return [{"lr": self.lr_at(step, base)} for base in self.base_lrs]

    def step(self) -> None:
        """Count one step and set the options that hold from here on."""
        self.last_epoch += 1
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The rate of each group now."""
        return [options["lr"] for options in self.options_at(self.last_epoch)]

    def _apply(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise ArgumentError(
                message(
                    self._op,
                    f"the {len(self.base_lrs)} parameter group(s) it was built on",
                    len(groups),
                    fix="Add all groups to the optimizer before building the schedule.",
                )
            )
        for group, options in zip(groups, self.options_at(self.last_epoch)):
            group.update(options)

    def state_dict(self) -> dict[str, Any]:
        """Step count, base rates and arguments, as plain JSON values."""
        return {
            "schedule": self._op,
            "last_epoch": self.last_epoch,
            "base_lrs": list(self.base_lrs),
            "settings": {name: getattr(self, name) for name in self.settings},
        }

    def check_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise what :meth:`load_state_dict` would raise, and change nothing.

        Raises:
            ArgumentError: the state of another kind of schedule, or of other arguments: the
                rates to come would then not be those of the run that was saved.
        """
        op, own = f"{self._op}.load_state_dict", self.state_dict()
        given = state_dict if isinstance(state_dict, dict) else {}
        if given.get("schedule", self._op) != self._op:
            raise ArgumentError(message(op, f"the state of {self._op}", given["schedule"]))
        if set(given) != set(own):
            got = ", ".join(map(str, given)) or type(state_dict).__name__
            raise ArgumentError(message(op, f"a dict with {', '.join(own)}", got))
        saved, settings = state_dict["settings"], own["settings"]
        if len(state_dict["base_lrs"]) != len(self.base_lrs):
            raise ArgumentError(
                message(op, f"{len(self.base_lrs)} base rate(s)", len(state_dict["base_lrs"]))
            )
        for name in settings:
            if saved.get(name) != settings[name]:
                raise ArgumentError(
                    message(
                        op,
                        f"{name} {settings[name]!r}, as in this schedule",
                        repr(saved.get(name)),
                        fix=f"Build the schedule with the {name} that was saved.",
                    )
                )
        whole(op, "last_epoch", state_dict["last_epoch"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step and base rates, and set the optimiser's options for that step.

        Raises:
            ArgumentError: see :meth:`check_state_dict`. Nothing is changed then.
        """
        self.check_state_dict(state_dict)
        self.last_epoch = state_dict["last_epoch"]
        self.base_lrs = list(state_dict["base_lrs"])
        self._apply()

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)
        return f"{self._op}({settings}) at step {self.last_epoch}"


class StepLR(LRScheduler):
    """The rate times ``gamma`` after every ``step_size`` steps.

    Args:
        optimizer: whose rates are set.
        step_size: steps at one rate, >= 1.
        gamma: the factor, > 0.
    """

    settings = ("step_size", "gamma")

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = whole(self._op, "step_size", step_size, low=1)
        self.gamma = real(self._op, "gamma", gamma, above=True)
        super().__init__(optimizer)

    def lr_at(self, step: int, base_lr: float) -> float:
        return base_lr * self.gamma ** (step // self.step_size)


class MultiStepLR(LRScheduler):
    """The rate times ``gamma`` at each milestone: the recipe of the residual-network papers.

    Args:
        optimizer: whose rates are set.
        milestones: step counts, >= 1 and increasing.
        gamma: the factor, > 0.
    """

    settings = ("milestones", "gamma")

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones = _increasing(self._op, milestones)
        self.gamma = real(self._op, "gamma", gamma, above=True)
        super().__init__(optimizer)

    def lr_at(self, step: int, base_lr: float) -> float:
        return base_lr * self.gamma ** bisect_right(self.milestones, step)


class ExponentialLR(LRScheduler):
    """The rate times ``gamma`` after every step.

    Args:
        optimizer: whose rates are set.
        gamma: the factor, > 0.
    """

    settings = ("gamma",)

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = real(self._op, "gamma", gamma, above=True)
        super().__init__(optimizer)

    def lr_at(self, step: int, base_lr: float) -> float:
        return base_lr * self.gamma**step


class LambdaLR(LRScheduler):
    """The rate times ``lr_lambda(step)``, a function of the steps taken.

    The state has the step count and the base rates, not the functions: build a schedule that is
    to go on with the same ones.

    Args:
        optimizer: whose rates are set.
        lr_lambda: takes the number of steps, from 0 on, and returns the factor, >= 0; or a list
            of such functions, one for each parameter group.

    Raises:
        ArgumentError: what is no function, a list of another length than the groups, or a factor
            that is no finite number >= 0.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
    ) -> None:
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, Sequence) else [lr_lambda]
        for function in self.lr_lambdas:
            if not callable(function):
                expected = "lr_lambda a function, or a list of them"
                raise ArgumentError(message(self._op, expected, repr(function)))
        if callable(lr_lambda) and isinstance(optimizer, Optimizer):
            self.lr_lambdas *= len(optimizer.param_groups)
        super().__init__(optimizer)

    def options_at(self, step: int) -> list[dict[str, Any]]:
        if len(self.lr_lambdas) != len(self.base_lrs):
            expected = f"one function for each of {len(self.base_lrs)} parameter group(s)"
            raise ArgumentError(message(self._op, expected, len(self.lr_lambdas)))
        name = f"lr_lambda({step})"
        return [
            {"lr": base * real(self._op, name, factor(step))}
            for base, factor in zip(self.base_lrs, self.lr_lambdas)
        ]


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the group's rate to ``eta_min``: Loshchilov & Hutter (2017), eq. 5.

    Beyond ``T_max`` the cosine goes up again, as in PyTorch.

    Args:
        optimizer: whose rates are set.
        T_max: steps until ``eta_min``, >= 1.
        eta_min: the last rate, >= 0.
    """

    settings = ("T_max", "eta_min")

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = whole(self._op, "T_max", T_max, low=1)
        self.eta_min = real(self._op, "eta_min", eta_min)
        super().__init__(optimizer)

    def lr_at(self, step: int, base_lr: float) -> float:
        return cosine(base_lr, self.eta_min, step / self.T_max)


class LinearLR(LRScheduler):
    """A straight line from ``start_factor`` to ``end_factor`` times the rate, then constant.

    The usual warm-up; put another schedule behind it with :class:`SequentialLR`.

    Args:
        optimizer: whose rates are set.
        start_factor: in (0, 1].
        end_factor: in [0, 1].
        total_iters: steps until ``end_factor``, >= 1.
    """

    settings = ("start_factor", "end_factor", "total_iters")

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3.0,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        self.start_factor = real(self._op, "start_factor", start_factor, high=1.0, above=True)
        self.end_factor = real(self._op, "end_factor", end_factor, high=1.0)
        self.total_iters = whole(self._op, "total_iters", total_iters, low=1)
        super().__init__(optimizer)

    def lr_at(self, step: int, base_lr: float) -> float:
        done = min(step, self.total_iters) / self.total_iters
        return base_lr * line(self.start_factor, self.end_factor, done)


class ConstantLR(LRScheduler):
    """The rate times ``factor`` for ``total_iters`` steps, then the rate itself.

    Args:
        optimizer: whose rates are set.
        factor: in [0, 1].
        total_iters: steps, >= 0.
    """

    settings = ("factor", "total_iters")

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3.0, total_iters: int = 5
    ) -> None:
        self.factor = real(self._op, "factor", factor, high=1.0)
        self.total_iters = whole(self._op, "total_iters", total_iters)
        super().__init__(optimizer)

    def lr_at(self, step: int, base_lr: float) -> float:
        return base_lr * self.factor if step < self.total_iters else base_lr


class SequentialLR(LRScheduler):
    """One schedule after the other, each counting from its own start.

    A warm-up of 100 steps, then a cosine over the remaining 900::

        schedule = SequentialLR(
            optimizer,
            [LinearLR(optimizer, 0.1, total_iters=100), CosineAnnealingLR(optimizer, 900)],
            milestones=[100],
        )

    Args:
        optimizer: whose rates are set.
        schedulers: at least one, all built on ``optimizer``. Step this schedule, never those.
        milestones: the step at which each but the first takes over, >= 1 and increasing.
    """

    settings = ("milestones",)

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
    ) -> None:
        self.schedulers = list(schedulers)
        self.milestones = _increasing(self._op, milestones)
        for i, part in enumerate(self.schedulers):
            if not isinstance(part, LRScheduler) or part.optimizer is not optimizer:
                known = isinstance(part, LRScheduler)
                got = "one built on another" if known else type(part).__name__
                raise ArgumentError(
                    message(self._op, "schedules built on this optimizer", got, f"at index {i}")
                )
        if len(self.milestones) != len(self.schedulers) - 1:
            raise ArgumentError(
                message(
                    self._op,
                    "one milestone less than schedules",
                    f"{len(self.milestones)} milestone(s) for {len(self.schedulers)} schedule(s)",
                )
            )
        super().__init__(optimizer)

    def options_at(self, step: int) -> list[dict[str, Any]]:
        part = bisect_right(self.milestones, step)
        begin = self.milestones[part - 1] if part else 0
        return self.schedulers[part].options_at(step - begin)

    def state_dict(self) -> dict[str, Any]:
        parts = [part.state_dict() for part in self.schedulers]
        return {**super().state_dict(), "schedulers": parts}

    def check_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().check_state_dict(state_dict)
        for part, state in zip(self.schedulers, state_dict["schedulers"]):
            part.check_state_dict(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.check_state_dict(state_dict)
        for part, state in zip(self.schedulers, state_dict["schedulers"]):
            part.load_state_dict(state)
        super().load_state_dict(state_dict)


def cosine(start: float, end: float, done: float) -> float:
    """Half a cosine from ``start`` (``done`` 0) to ``end`` (``done`` 1)."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


def line(start: float, end: float, done: float) -> float:
    """A straight line from ``start`` (``done`` 0) to ``end`` (``done`` 1)."""
    return start + (end - start) * done


def _increasing(op: str, milestones: Sequence[int]) -> list[int]:
    steps = [whole(op, "milestone", milestone, low=1) for milestone in milestones]
    if any(a >= b for a, b in pairwise(steps)):
        raise ArgumentError(message(op, "increasing milestones", steps))
    return steps
