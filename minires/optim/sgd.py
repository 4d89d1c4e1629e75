"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from minires.arguments import flag, number
from minires.device import array_module
from minires.errors import ArgumentError, message
from minires.ops import update
from minires.optim.optimizer import Group, Optimizer, Update


class SGD(Optimizer):
    r"""Gradient descent with momentum and weight decay, by PyTorch's formulas::

        g = gradient + weight_decay * p
        v = momentum * v + (1 - dampening) * g         (first step: v = g)
        p = p - lr * v                                 (nesterov: p - lr * (g + momentum * v))

    The learning rate stands outside of v. Sutskever et al., "On the importance of initialization
    and momentum in deep learning" (ICML 2013), eq. 1-2, and the recipe of the residual-network
    papers write it inside, ``v = momentum * v + lr * g``, ``p = p - v``. While lr is constant the
    two are the same steps; when lr drops by 10, here the very next step is ten times shorter,
    there the old, longer steps fade out over about 1 / (1 - momentum) steps. Nesterov's variant
    is Sutskever's eq. 3-4 in the same reading.

    Args:
        params: see :class:`~minires.optim.Optimizer`.
        lr: learning rate, >= 0.
        momentum: in [0, 1]; 0 keeps no buffer.
        dampening: in [0, 1], the share of the gradient that does not enter v.
        weight_decay: L2 penalty, >= 0; it is added to the gradient, so it passes through v.
        nesterov: look ahead by one momentum step; needs momentum > 0 and dampening = 0.

    Raises:
        ArgumentError, DTypeError: see :class:`~minires.optim.Optimizer`.
    """

    _remembers: ClassVar[dict[str, str] | None] = {"momentum_buffer": "array"}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
            },
        )

    def _check_options(self, group: Group) -> None:
        for name, most in (("lr", None), ("momentum", 1), ("dampening", 1), ("weight_decay", None)):
            group[name] = float(number(self._op, name, group[name], least=0, most=most))
        group["nesterov"] = flag(self._op, "nesterov", group["nesterov"])
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ArgumentError(
                message(
                    "SGD",
                    "momentum > 0 and dampening == 0 with nesterov=True",
                    f"momentum {group['momentum']:g} and dampening {group['dampening']:g}",
                )
            )

    def _update_together(self, updates: list[Update]) -> None:
        velocities, begins = [], []
        for p, _, state, group in updates:
            begins.append(group["momentum"] != 0 and "momentum_buffer" not in state)
            if begins[-1]:
                state["momentum_buffer"] = array_module(p).zeros_like(p)
            velocities.append(state["momentum_buffer"] if group["momentum"] else None)
        params, grads, _, groups = zip(*updates)

        def rows() -> list[tuple[float, ...]]:
            return [
                (
                    group["lr"],
                    group["weight_decay"],
                    group["momentum"],
                    1.0 if begin else 1 - group["dampening"],
                    group["nesterov"],
                    begin,
                )
                for group, begin in zip(groups, begins)
            ]

        update.sgd(params, grads, velocities, rows)
