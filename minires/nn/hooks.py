"""Backward hooks of modules: watching the gradients that pass through one call of a module."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from minires.errors import ArgumentError, message
from minires.tensor import Tensor


class Hooked(Protocol):
    """The attributes of a module that hooks need."""

    _backward_hooks: dict[int, Callable[..., Any]]

    @property
    def forward(self) -> Callable[..., Any]: ...


class _Watch:
    """Collects the gradients of one call of ``module`` and hands them to its backward hooks."""

    def __init__(self, module: Hooked, n_in: int) -> None:
        self.module = module
        self.grad_input: list[Tensor | None] = [None] * n_in
        self.grad_output: list[Tensor | None] = []
        self.inputs_awaited = 0
        self.outputs_awaited = 0

    def saw_output(self, i: int, grad: Tensor) -> None:
        self.grad_output[i] = grad
        self.outputs_awaited -= 1
        if self.outputs_awaited == 0 and not self.inputs_awaited:
            self._fire(replaceable=False)  # the inputs are data: nothing flows further back

    def saw_input(self, i: int, grad: Tensor) -> Tensor | None:
        self.grad_input[i] = grad
        if sum(g is not None for g in self.grad_input) < self.inputs_awaited:
            return None
        return self._fire(replaceable=self.inputs_awaited == 1)

    def _fire(self, replaceable: bool) -> Tensor | None:
        result: Any = None
        for hook in tuple(self.module._backward_hooks.values()):
            replaced = hook(self.module, tuple(self.grad_input), tuple(self.grad_output))
            if replaced is None:
                continue
            if not replaceable:
                raise ArgumentError(
                    message(
                        f"backward hook of {type(self.module).__name__}",
                        "None as result, as the module has not exactly one differentiable input",
                        type(replaced).__name__,
                        fix="Hook a tensor instead: x.register_hook(...).",
                    )
                )
            given = replaced if isinstance(replaced, tuple) else (replaced,)
            result = next((grad for grad in given if grad is not None), None)
            self.grad_input = [None if grad is None else result for grad in self.grad_input]
        return result


def call_watched(module: Hooked, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``module.forward``, with the module's backward hooks set to fire in the backward pass.

    Each differentiable input passes through a view of its own, so that the view's gradient is
    what flows back through this module, without what other users of the same tensor add.
    """
    watch = _Watch(module, len(args))
    seen_by_module = list(args)
    for i, arg in enumerate(args):
        if isinstance(arg, Tensor) and arg.requires_grad:
            watch.inputs_awaited += 1
            seen_by_module[i] = view = arg.reshape(arg.shape)
            view.register_hook(functools.partial(watch.saw_input, i))
    out = module.forward(*seen_by_module, **kwargs)
    outs = out if isinstance(out, tuple) else (out,)
    watch.grad_output = [None] * len(outs)
    for i, tensor in enumerate(outs):
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            watch.outputs_awaited += 1
            tensor.register_hook(functools.partial(watch.saw_output, i))
    return out
