"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from minires.arguments import flag, number
from minires.errors import ArgumentError, message, quoted
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

    def _update(
        self, data: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: Group
    ) -> None:
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        _complete(data, state, group)
        state["step"] += 1
        if decay and self.decoupled_weight_decay:
            data *= 1 - lr * decay
        elif decay:
            grad = grad + decay * data

        first, second = state["exp_avg"], state["exp_avg_sq"]
        first += (1 - beta1) * (grad - first)
        second *= beta2
        second += (1 - beta2) * grad * grad
        if group["amsgrad"]:
            largest = state["max_exp_avg_sq"]
            np.maximum(largest, second, out=largest)
            second = largest

        scale = np.sqrt(second)
        scale /= math.sqrt(1 - beta2 ** state["step"])
        scale += group["eps"]
        data -= lr / (1 - beta1 ** state["step"]) * first / scale

    def _update_together(self, updates: list[Update]) -> None:
        from minires.kernels.packed import contiguous
        from minires.optim.kernel_numba import adam

        arrays = []
        for data, grad, state, group in updates:
            _complete(data, state, group)
            moments = state["exp_avg"], state["exp_avg_sq"]
            largest = state["max_exp_avg_sq"] if group["amsgrad"] else data
            arrays.append((data, contiguous(grad), *moments, largest))
        adam(arrays, lambda: [self._options(state, group) for *_, state, group in updates])

    def _options(self, state: dict[str, Any], group: Group) -> tuple[float, ...]:
        """The options of the kernel, for the step that begins."""
        state["step"] += 1
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        return (
            lr / (1 - beta1 ** state["step"]),
            1 - lr * decay if self.decoupled_weight_decay else 1.0,
            0.0 if self.decoupled_weight_decay else decay,
            1 - beta1,
            beta2,
            1 - beta2,
            math.sqrt(1 - beta2 ** state["step"]),
            group["eps"],
            float(group["amsgrad"]),
        )


def _complete(data: np.ndarray, state: dict[str, Any], group: Group) -> None:
    """Make what the state lacks."""
    if not state:
        state["step"] = 0
        state["exp_avg"] = np.zeros_like(data)
        state["exp_avg_sq"] = np.zeros_like(data)
    if group["amsgrad"] and "max_exp_avg_sq" not in state:
        state["max_exp_avg_sq"] = np.zeros_like(data)


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
