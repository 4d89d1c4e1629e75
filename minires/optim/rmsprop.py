"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from minires.arguments import flag, number
from minires.device import array_module
from minires.ops import update
from minires.optim.optimizer import Group, Optimizer, Update


class RMSprop(Optimizer):
    r"""Steps divided by a running root mean square of the gradient, by PyTorch's formulas::

        g = gradient + weight_decay * p                (maximize: -gradient in its place)
        v = alpha * v + (1 - alpha) * g²
        m = alpha * m + (1 - alpha) * g                (centered; else m = 0)
        u = g / (sqrt(v - m²) + eps)
        b = momentum * b + u
        p = p - lr * b                                 (without momentum: p - lr * u)

    Tieleman & Hinton, "Neural Networks for Machine Learning", lecture 6e (Coursera, 2012);
    centered: Graves, "Generating sequences with recurrent neural networks" (arXiv:1308.0850),
    equations 38 to 41. Where rounding takes v - m² below 0, it counts as 0. TensorFlow adds eps
    before it takes the root, and begins with v = 1.

    Args:
        params: see :class:`~minires.optim.Optimizer`.
        lr: learning rate, >= 0.
        alpha: decay of the running means, in [0, 1].
        eps: keeps the division finite, >= 0.
        weight_decay: L2 penalty, >= 0.
        momentum: >= 0; 0 keeps no buffer.
        centered: divide by the standard deviation of the gradient instead.
        maximize: go uphill.

    Raises:
        ArgumentError, DTypeError: see :class:`~minires.optim.Optimizer`.
    """

    _remembers: ClassVar[dict[str, str] | None] = {
        "step": "steps",
        "square_avg": "array",
        "momentum_buffer": "array",
        "grad_avg": "array",
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
        )

    def _check_options(self, group: Group) -> None:
        for name in ("lr", "alpha", "eps", "weight_decay", "momentum"):
            most = 1 if name == "alpha" else None
            group[name] = float(number(self._op, name, group[name], least=0, most=most))
        for name in ("centered", "maximize"):
            group[name] = flag(self._op, name, group[name])

    def _needs(self, group: Group) -> tuple[str, ...]:
        return "step", *(name for name in self._arrays if _kept(name, group))

    def _update_together(self, updates: list[Update]) -> None:
        for p, _, state, group in updates:
            state.setdefault("step", 0)
            for name in self._arrays:
                if _kept(name, group) and name not in state:
                    state[name] = array_module(p).zeros_like(p)
        params, grads, states, groups = zip(*updates)
        squares, means, buffers = (
            [state[name] if _kept(name, group) else None for state, group in zip(states, groups)]
            for name in ("square_avg", "grad_avg", "momentum_buffer")
        )

        def rows() -> list[tuple[float, ...]]:
            for state in states:
                state["step"] += 1
            return [
                (
                    group["lr"],
                    group["weight_decay"],
                    group["alpha"],
                    1 - group["alpha"],
                    group["eps"],
                    group["momentum"],
                    group["centered"],
                    -1.0 if group["maximize"] else 1.0,
                )
                for group in groups
            ]

        update.rmsprop(params, grads, squares, means, buffers, rows)


def _kept(name: str, group: Group) -> bool:
    """Whether the state of a parameter of this group has an array of this name."""
    needed = {"momentum_buffer": group["momentum"] != 0, "grad_avg": group["centered"]}
    return bool(needed.get(name, True))
