"""Learning-rate schedules: each is a rule that makes the next rate from the current one.

A schedule multiplies the rate it finds (``LambdaLR`` and ``OneCycleLR`` alone set a rate of their
own), so that several on one optimiser, and changes by hand, add up, and none undoes another. The
rules are PyTorch's, rounding included. A run that is resumed from the states of its optimiser and
schedules continues with exactly the rates of a run that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from minires.arguments import integer, number, takes
from minires.errors import ArgumentError, message, quoted
from minires.optim.optimizer import Optimizer


class LRScheduler:
    """Base of the schedules: changes ``group["lr"]`` of every group of an optimiser.

    The first change is made at construction. ``step()`` follows ``optimizer.step()``: once per
    optimiser step or once per epoch, in whichever unit the schedule's arguments were meant. The
    rate before any schedule is kept as ``group["initial_lr"]``.

    A subclass gives :meth:`next_lr` and lists its arguments in ``settings``.

    Attributes:
        last_epoch: how often ``step()`` was called (PyTorch's name, whatever the unit).
        base_lrs: per group, the rate that it had before any schedule.
    """

    settings: tuple[str, ...] = ()

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = checked_optimizer(self._op, optimizer)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = 0
        self._last: list[dict[str, Any]] = []  # the options of each group as they were set last
        self._go_to(0)

    @property
    def _op(self) -> str:
        return type(self).__name__

    def next_lr(self, step: int, lr: float, base_lr: float) -> float:
        """The rate after ``step`` steps of a group whose rate is ``lr`` now, and was ``base_lr``
        before any schedule. ``step`` is 0 where the schedule begins."""
        raise NotImplementedError

    def _given(self, step: Any, lr: Any, base_lr: Any) -> tuple[int, float, float]:
        rates = number(self._op, "lr", lr), number(self._op, "base_lr", base_lr)
        return integer(self._op, "step", step, least=0), *rates

    def next_options(self, step: int) -> list[dict[str, Any]]:
        """Per group, the options that hold after ``step`` steps: ``{"lr": ...}`` at least."""
        rates = [number(self._op, "lr", g["lr"]) for g in self.optimizer.param_groups]
        return [{"lr": self.next_lr(step, *both)} for both in zip(rates, self.base_lrs)]

    def step(self) -> None:
        """Count one step and set the options that hold from here on."""
        self._go_to(self.last_epoch + 1)

    def get_last_lr(self) -> list[float]:
        """The rate of each group as this schedule set it last."""
        return [options["lr"] for options in self._last]

    def _begin(self) -> None:
        """Begin (again) with the optimiser's own rates."""
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = base_lr
        self._go_to(0)

    def _go_to(self, step: int) -> None:
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
        options = self.next_options(step)
        self.last_epoch = step
        self._take(options)

    def _take(self, options: list[dict[str, Any]]) -> None:
        self._last = options
        for group, new in zip(self.optimizer.param_groups, options):
            group.update(new)

    def state_dict(self) -> dict[str, Any]:
        """Step count, rates and arguments, as plain JSON values."""
        groups = self.optimizer.param_groups
        return {
            "schedule": self._op,
            "last_epoch": self.last_epoch,
            "base_lrs": list(self.base_lrs),
            "options": [{k: group[k] for k in last} for group, last in zip(groups, self._last)],
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
            kind = given["schedule"]
            got = kind if isinstance(kind, str) else quoted(kind)
            raise ArgumentError(message(op, f"the state of {self._op}", got))
        if set(given) != set(own):
            got = ", ".join(map(str, given)) or type(state_dict).__name__
            raise ArgumentError(message(op, f"a dict with {', '.join(own)}", got))
        integer(op, "last_epoch", given["last_epoch"], least=0)
        rates, options = given["base_lrs"], given["options"]
        if not isinstance(rates, list) or len(rates) != len(self.base_lrs):
            many = len(rates) if isinstance(rates, list) else quoted(rates)
            raise ArgumentError(message(op, f"{len(self.base_lrs)} base rate(s)", many))
        for rate in rates:
            number(op, "base_lrs", rate, least=0)
        if not isinstance(options, list) or [*map(_keys, options)] != [*map(_keys, self._last)]:
            told = "; ".join(", ".join(keys) for keys in map(_keys, self._last))
            raise ArgumentError(message(op, f"options {told}", quoted(options)))
        for group, new in zip(self.optimizer.param_groups, options):
            self.optimizer._checked(op, {**group, **new})
        saved, settings = given["settings"], own["settings"]
        for name in settings:
            known = isinstance(saved, dict) and name in saved
            if not known or saved[name] != settings[name]:
                raise ArgumentError(
                    message(
                        op,
                        f"{name} {settings[name]!r}, as in this schedule",
                        quoted(saved[name] if known else None),
                        fix=f"Build the schedule with the {name} that was saved.",
                    )
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step, and give the optimiser the rates that it had.

        Raises:
            ArgumentError: see :meth:`check_state_dict`. Nothing is changed then.
        """
        self.check_state_dict(state_dict)
        self.last_epoch = state_dict["last_epoch"]
        self.base_lrs = list(state_dict["base_lrs"])
        self._take(
            [
                {name: self.optimizer._checked(self._op, {**group, **new})[name] for name in new}
                for group, new in zip(self.optimizer.param_groups, state_dict["options"])
            ]
        )

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)
        return f"{self._op}({settings}) at step {self.last_epoch}"


class StepLR(LRScheduler):
    """The rate times ``gamma`` after every ``step_size`` steps.

    ``lr = lr * gamma`` at the steps that ``step_size`` divides.

    Args:
        optimizer: the optimiser whose rates are set.
        step_size: steps at one rate, >= 1.
        gamma: the factor, > 0.
    """

    settings = ("step_size", "gamma")

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = integer(self._op, "step_size", step_size, least=1)
        self.gamma = number(self._op, "gamma", gamma, above=0)
        super().__init__(optimizer)

    def next_lr(self, step: int, lr: float, base_lr: float) -> float:
        step, lr, base_lr = self._given(step, lr, base_lr)
        return lr * self.gamma if step and step % self.step_size == 0 else lr


class MultiStepLR(LRScheduler):
    """The rate times ``gamma`` at each milestone: the recipe of the residual-network papers.

    Args:
        optimizer: the optimiser whose rates are set.
        milestones: step counts, >= 1 and in order; a count that is named twice counts twice.
        gamma: the factor, > 0.
    """

    settings = ("milestones", "gamma")

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones = increasing(self._op, milestones, twice=True)
        self.gamma = number(self._op, "gamma", gamma, above=0)
        super().__init__(optimizer)

    def next_lr(self, step: int, lr: float, base_lr: float) -> float:
        step, lr, base_lr = self._given(step, lr, base_lr)
        for _ in range(self.milestones.count(step)):  # one that is named twice counts twice
            lr *= self.gamma
        return lr


class ExponentialLR(LRScheduler):
    """The rate times ``gamma`` after every step.

    Args:
        optimizer: the optimiser whose rates are set.
        gamma: the factor, > 0.
    """

    settings = ("gamma",)

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = number(self._op, "gamma", gamma, above=0)
        super().__init__(optimizer)

    def next_lr(self, step: int, lr: float, base_lr: float) -> float:
        step, lr, base_lr = self._given(step, lr, base_lr)
        return lr * self.gamma if step else lr


class LambdaLR(LRScheduler):
    """The group's own rate times ``lr_lambda(step)``, a function of the steps taken.

    This rule sets the rate, whatever it was: ``lr = base_lr * lr_lambda(step)``.

    The state has the step count and the base rates, not the functions: build a schedule that is
    to go on with the same ones.

    Args:
        optimizer: the optimiser whose rates are set.
        lr_lambda: takes the number of steps, from 0 on, and returns the factor, >= 0; or a list
            of such functions, one for each parameter group.

    Raises:
        ArgumentError: ``lr_lambda`` is no function, or a list of another length than the groups, or
            returns a factor that is no finite number >= 0.
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
                raise ArgumentError(message(self._op, expected, quoted(function)))
            takes(self._op, "lr_lambda(step)", function, 1)
        if callable(lr_lambda) and isinstance(optimizer, Optimizer):
            self.lr_lambdas *= len(optimizer.param_groups)
        super().__init__(optimizer)

    def next_options(self, step: int) -> list[dict[str, Any]]:
        if len(self.lr_lambdas) != len(self.base_lrs):
            expected = f"one function for each of {len(self.base_lrs)} parameter group(s)"
            raise ArgumentError(message(self._op, expected, len(self.lr_lambdas)))
        step = integer(self._op, "step", step, least=0)
        name = f"lr_lambda({step})"
        return [
            {"lr": base * number(self._op, name, factor(step), least=0)}
            for base, factor in zip(self.base_lrs, self.lr_lambdas)
        ]


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the group's rate to ``eta_min``: Loshchilov & Hutter (2017), eq. 5.

    The rate at step t is ``eta_min + (base_lr - eta_min) (1 + cos(π t / T_max)) / 2``; made of the
    rate before, ``lr = eta_min + (lr - eta_min) (1 + cos(π t / T_max)) / (1 + cos(π (t-1) /
    T_max))``. Beyond ``T_max`` the cosine goes up again, as in PyTorch.

    Args:
        optimizer: the optimiser whose rates are set.
        T_max: steps until ``eta_min``, >= 1.
        eta_min: the last rate, >= 0.
    """

    settings = ("T_max", "eta_min")

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = integer(self._op, "T_max", T_max, least=1)
        self.eta_min = number(self._op, "eta_min", eta_min, least=0)
        super().__init__(optimizer)

    def next_lr(self, step: int, lr: float, base_lr: float) -> float:
        step, lr, base_lr = self._given(step, lr, base_lr)
        if step == 0:
            return lr
        if (step - 1 - self.T_max) % (2 * self.T_max) == 0:  # from the bottom, where all are equal
            return lr + (base_lr - self.eta_min) * (1 - math.cos(math.pi / self.T_max)) / 2
        now = 1 + math.cos(math.pi * step / self.T_max)
        before = 1 + math.cos(math.pi * (step - 1) / self.T_max)
        return now / before * (lr - self.eta_min) + self.eta_min


class LinearLR(LRScheduler):
    """A straight line from ``start_factor`` to ``end_factor`` times the rate, then constant.

    With f(t) the line's factor at step t, ``lr = lr * f(t) / f(t - 1)``. The usual warm-up; put
    another schedule behind it with :class:`~minires.optim.SequentialLR`.

    Args:
        optimizer: the optimiser whose rates are set.
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
        self.start_factor = number(self._op, "start_factor", start_factor, above=0, most=1)
        self.end_factor = number(self._op, "end_factor", end_factor, least=0, most=1)
        self.total_iters = integer(self._op, "total_iters", total_iters, least=1)
        super().__init__(optimizer)

    def next_lr(self, step: int, lr: float, base_lr: float) -> float:
        step, lr, base_lr = self._given(step, lr, base_lr)
        if step == 0:
            return lr * self.start_factor
        if step > self.total_iters:
            return lr
        rise = self.end_factor - self.start_factor
        return lr * (1 + rise / (self.total_iters * self.start_factor + (step - 1) * rise))


class ConstantLR(LRScheduler):
    """The rate times ``factor`` for ``total_iters`` steps, then the rate itself.

    Args:
        optimizer: the optimiser whose rates are set.
        factor: in [0, 1]. After 0 the rate is again what it was before any schedule.
        total_iters: steps, >= 0.
    """

    settings = ("factor", "total_iters")

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3.0, total_iters: int = 5
    ) -> None:
        self.factor = number(self._op, "factor", factor, least=0, most=1)
        self.total_iters = integer(self._op, "total_iters", total_iters, least=0)
        super().__init__(optimizer)

    def next_lr(self, step: int, lr: float, base_lr: float) -> float:
        step, lr, base_lr = self._given(step, lr, base_lr)
        if step == 0 < self.total_iters:
            return lr * self.factor
        if step != self.total_iters or step == 0:
            return lr
        return lr * (1 / self.factor) if self.factor else base_lr


def cosine(start: float, end: float, done: float) -> float:
    """Half a cosine from ``start`` (``done`` 0) to ``end`` (``done`` 1)."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


def line(start: float, end: float, done: float) -> float:
    """A straight line from ``start`` (``done`` 0) to ``end`` (``done`` 1)."""
    return start + (end - start) * done


def increasing(op: str, milestones: Sequence[int], twice: bool = False) -> list[int]:
    """The milestones as a list of step counts in order; ``twice``: a count may be named again."""
    if not isinstance(milestones, list | tuple):
        raise ArgumentError(message(op, "milestones a list of integers", quoted(milestones)))
    steps = [integer(op, "milestone", milestone, least=1) for milestone in milestones]
    if any(a > b or (a == b and not twice) for a, b in pairwise(steps)):
        raise ArgumentError(message(op, "increasing milestones", steps))
    return steps


def checked_optimizer(op: str, optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(message(op, "an optimizer", type(optimizer).__name__))
    return optimizer


def _keys(options: Any) -> list[str]:
    """The names of options as sorted text; none if ``options`` is no dict."""
    return sorted(map(str, options)) if isinstance(options, dict) else []
