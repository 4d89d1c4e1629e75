"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from minires.arguments import flag, number
from minires.device import array_module
from minires.errors import ArgumentError, message, quoted
from minires.ops import update
from minires.optim.optimizer import Group, Optimizer, Update


class Adam(Optimizer):
    r"""Steps scaled by running moments of the gradient: Kingma & Ba (2015), algorithm 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g²
        p = p - lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    ``amsgrad`` puts the largest v so far in place of v (Reddi, Kale & Kumar 2018, algorithm 2).
    Weight decay is an L2 penalty added to the gradient, so it is scaled like the gradient; for
    decay that is not, see :class:`AdamW`.

    Args:
        params: see :class:`~minires.optim.Optimizer`.
        lr: learning rate, >= 0.
        betas: decay of the two moments, each in [0, 1).
        eps: keeps the division finite, >= 0.
        weight_decay: L2 penalty, >= 0.
        amsgrad: use the maximum of v.

    Raises:
        ArgumentError, DTypeError: see :class:`~minires.optim.Optimizer`.
    """

    _remembers: ClassVar[dict[str, str] | None] = {
        "step": "steps",
        "exp_avg": "array",
        "exp_avg_sq": "array",
        "max_exp_avg_sq": "array",
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
            },
        )

    def _check_options(self, group: Group) -> None:
        op, betas = self._op, group["betas"]
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise ArgumentError(message(op, "betas to be two numbers", quoted(betas)))
        for name in ("lr", "eps", "weight_decay"):
            group[name] = float(number(op, name, group[name], least=0))
        group["betas"] = tuple(
            float(number(op, f"betas[{i}]", beta, least=0, below=1)) for i, beta in enumerate(betas)
        )
        group["amsgrad"] = flag(op, "amsgrad", group["amsgrad"])

    def _needs(self, group: Group) -> tuple[str, ...]:
        moments = "step", "exp_avg", "exp_avg_sq"
        return (*moments, "max_exp_avg_sq") if group["amsgrad"] else moments

    def _update_together(self, updates: list[Update]) -> None:
        first_moments, second_moments, tops = [], [], []
        for p, _, state, group in updates:
            _complete(p, state, group)
            first_moments.append(state["exp_avg"])
            second_moments.append(state["exp_avg_sq"])
            tops.append(state["max_exp_avg_sq"] if group["amsgrad"] else None)
        params, grads, states, groups = zip(*updates)

        def rows() -> list[tuple[float, ...]]:
            return [self._next_row(*pair) for pair in zip(states, groups)]

        update.adam(params, grads, first_moments, second_moments, tops, rows)

    def _next_row(self, state: dict[str, Any], group: Group) -> tuple[float, ...]:
        """Count the step that begins, and return a parameter's coefficients in this step."""
        state["step"] += 1
        lr, (beta_1, beta_2), decay = group["lr"], group["betas"], group["weight_decay"]
        return (
            lr / (1 - beta_1 ** state["step"]),
            1 - lr * decay if self.decoupled_weight_decay else 1.0,
            0.0 if self.decoupled_weight_decay else decay,
            1 - beta_1,
            beta_2,
            1 - beta_2,
            math.sqrt(1 - beta_2 ** state["step"]),
            group["eps"],
            group["amsgrad"],
        )


def _complete(p: Any, state: dict[str, Any], group: Group) -> None:
    """Put zeros in the place of the moments that the state of the array ``p`` does not have yet."""
    zeros_like = array_module(p).zeros_like
    if not state:
        state["step"] = 0
        state["exp_avg"] = zeros_like(p)
        state["exp_avg_sq"] = zeros_like(p)
    if group["amsgrad"] and "max_exp_avg_sq" not in state:
        state["max_exp_avg_sq"] = zeros_like(p)


class AdamW(Adam):
    r"""Adam with weight decay outside of the moments: Loshchilov & Hutter (2019), algorithm 2.

    Before the step of :class:`Adam` without decay, ``p = p * (1 - lr * weight_decay)``; the
    paper's schedule multiplier is part of ``lr`` here, as in PyTorch. Arguments as for Adam, with
    weight decay 0.01 by default.
    """

    decoupled_weight_decay = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)
