"""The 1cycle schedule: one rise and fall of the rate, and of momentum the other way round."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from minires.arguments import choice, flag, integer, number
from minires.errors import ArgumentError, message
from minires.optim.optimizer import Optimizer
from minires.optim.schedules import LRScheduler, checked_optimizer, cosine, line


class OneCycleLR(LRScheduler):
    """Up to ``max_lr`` and down to almost nothing in one run, momentum the other way round.

    After Smith & Topin, "Super-Convergence" (2018); lengths and defaults are PyTorch's. The rate
    goes from ``max_lr / div_factor`` to ``max_lr`` in the first ``pct_start`` of the steps, then
    to ``max_lr / div_factor / final_div_factor`` at step ``total_steps - 1``. With
    ``three_phase`` it first goes back to its start, as fast as it rose. Meanwhile momentum
    (Adam: the first beta) goes from ``max_momentum`` to ``base_momentum`` and back.

    Args:
        optimizer: the optimiser whose rates and momenta are set; its own rates play no part.
        max_lr: the peak, > 0.
        total_steps: how often ``step()`` will be called, >= 2.
        epochs, steps_per_epoch: in place of ``total_steps``, which is their product then.
        pct_start: the share of steps before the peak, in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: whether momentum is set at all; the optimiser must have one then.
        base_momentum, max_momentum: in [0, 1).
        div_factor, final_div_factor: > 0.
        three_phase: rise, mirror image, then the final descent; needs ``pct_start`` <= 0.5.

    Raises:
        ArgumentError: arguments out of range; a step beyond ``total_steps``.
    """

    settings = (
        "max_lr",
        "total_steps",
        "pct_start",
        "anneal_strategy",
        "cycle_momentum",
        "base_momentum",
        "max_momentum",
        "div_factor",
        "final_div_factor",
        "three_phase",
    )

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        op = self._op
        self.optimizer = checked_optimizer(op, optimizer)
        self.max_lr = number(op, "max_lr", max_lr, above=0)
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                expected = "total_steps, or epochs and steps_per_epoch"
                raise ArgumentError(message(op, expected, "neither"))
            epochs = integer(op, "epochs", epochs, least=1)
            total_steps = epochs * integer(op, "steps_per_epoch", steps_per_epoch, least=1)
        self.total_steps = integer(op, "total_steps", total_steps, least=2)
        self.three_phase = flag(op, "three_phase", three_phase)
        most: float = 1
        fix = ""
        if self.three_phase:
            most, fix = 0.5, "With three_phase the way up and its mirror image share the steps."
        self.pct_start = number(op, "pct_start", pct_start, least=0, most=most, fix=fix)
        self.anneal_strategy = choice("anneal_strategy", anneal_strategy, ("cos", "linear"))
        self.cycle_momentum = flag(op, "cycle_momentum", cycle_momentum)
        self.base_momentum = number(op, "base_momentum", base_momentum, least=0, below=1)
        self.max_momentum = number(op, "max_momentum", max_momentum, least=0, below=1)
        self.div_factor = number(op, "div_factor", div_factor, above=0)
        self.final_div_factor = number(op, "final_div_factor", final_div_factor, above=0)
        if self.cycle_momentum and not {"momentum", "betas"} & set(optimizer.defaults):
            raise ArgumentError(
                message(
                    op,
                    "an optimizer with momentum or betas",
                    type(optimizer).__name__,
                    fix="Pass cycle_momentum=False.",
                )
            )
        for group in optimizer.param_groups:
            group["initial_lr"] = self.max_lr / self.div_factor
        super().__init__(optimizer)

    def next_options(self, step: int) -> list[dict[str, Any]]:
        step = integer(self._op, "step", step, least=0)
        if step > self.total_steps:
            raise ArgumentError(
                message(
                    self._op,
                    f"at most total_steps = {self.total_steps} steps",
                    step,
                    fix="Give total_steps = epochs * len(loader) when stepping once per batch.",
                )
            )
        start = self.max_lr / self.div_factor
        last = start / self.final_div_factor
        low, high = self.base_momentum, self.max_momentum
        # (last step, rates, momenta): a rise of 0.3 of 100 steps ends at step 29, the 30th.
        rise = self.pct_start * self.total_steps
        phases = [(rise - 1, (start, self.max_lr), (high, low))]
        if self.three_phase:
            phases.append((2 * rise - 2, (self.max_lr, start), (low, high)))
            phases.append((self.total_steps - 1.0, (start, last), (high, high)))
        else:
            phases.append((self.total_steps - 1.0, (self.max_lr, last), (low, high)))

        # The step() call behind the last optimiser step has no step left to prepare.
        at = min(step, self.total_steps - 1)
        ends = [end for end, _, _ in phases]
        phase = bisect_left(ends, at)
        begin = ends[phase - 1] if phase else 0.0
        end, rates, momenta = phases[phase]
        done = (at - begin) / (end - begin) if end > begin else 1.0
        between = cosine if self.anneal_strategy == "cos" else line
        options: dict[str, Any] = {"lr": between(*rates, done)}
        momentum = between(*momenta, done)
        if not self.cycle_momentum:
            return [dict(options) for _ in self.base_lrs]
        return [
            {**options, "betas": (momentum, group["betas"][1])}
            if "betas" in group
            else {**options, "momentum": momentum}
            for group in self.optimizer.param_groups
        ]
