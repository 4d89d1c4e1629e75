"""Gradients kept within bounds, between ``loss.backward()`` and ``optimizer.step()``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from minires import arguments
from minires.autograd import call, current, no_grad
from minires.device import (
    CPU,
    Device,
    array_module,
    as_array,
    check_writeable,
    device_of,
    move,
)
from minires.errors import ArgumentError, NaNError, message
from minires.nn.module import Module
from minires.ops import norm
from minires.tensor import Tensor


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by one factor, in place, so that together they are no longer than
    ``max_norm`` (Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1).

    The factor is ``max_norm / (length + 1e-6)``, as in PyTorch, where that is below 1. Parameters
    without a gradient are passed over.

    Args:
        parameters: a tensor, or any number of them: ``model.parameters()``.
        max_norm: >= 0; ``math.inf`` only measures.
        norm_type: the p of the p-norm, >= 1 or ``math.inf``.
        error_if_nonfinite: raise where the length is NaN or infinite, before anything is changed.

    Returns:
        The length before, a scalar of the gradients' dtype; 0 if there are none.

    Raises:
        ArgumentError: no parameters, what is none, a ``max_norm`` or ``norm_type`` out of range, a
            gradient that looks at read-only memory.
        NaNError: see ``error_if_nonfinite``.

    >>> import minires as mr
    >>> w = mr.tensor([3.0, 4.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> clip_grad_norm_([w], max_norm=1.0)
    tensor(10.)
    >>> [round(entry, 4) for entry in w.grad.tolist()]
    [0.6, 0.8]
    """
    op = "clip_grad_norm_"
    limit = float(arguments.number(op, "max_norm", max_norm, least=0, finite=False))
    norm_type = float(arguments.number(op, "norm_type", norm_type, least=1, finite=False))
    error_if_nonfinite = arguments.flag(op, "error_if_nonfinite", error_if_nonfinite)
    gradients = _gradients(op, parameters)
    lengths = tuple([norm(gradient, norm_type)._array for gradient in gradients])
    places = {device_of(length) for length in lengths}
    if len(places) == 1 and places != {CPU} and not error_if_nonfinite:
        total, factor = call(_shortened_there, lengths, norm_type, limit)
        change = True  # without waiting for the GPU nobody knows
    else:
        total, factor = call(_shortened, lengths, norm_type, limit, error_if_nonfinite)
        change = factor != 1 or current().recording  # a graph cannot know
    if change:
        with no_grad():
            for gradient in gradients:
                gradient.mul_(Tensor(call(_as_in, factor, gradient.dtype, gradient.device)))
    dtype, device = gradients[0]._meta[1:] if gradients else (np.float32, CPU)
    return Tensor(call(_as_in, total, dtype, device))


def _as_in(number: Any, dtype: Any, device: Device) -> Any:
    """A number of NumPy as an array of a dtype, on a device."""
    return move(as_array(number.astype(dtype)), device)


def _shortened(
    lengths: tuple[Any, ...], norm_type: float, limit: float, error_if_nonfinite: bool
) -> tuple[Any, Any]:
    """The length of all gradients together, and what to multiply them with."""
    total = float(np.linalg.norm([n.item() for n in lengths], norm_type)) if lengths else 0.0
    if error_if_nonfinite and not math.isfinite(total):
        raise NaNError(
            message(
                "clip_grad_norm_",
                "finite gradients",
                f"a {norm_type:g}-norm of {total}",
                fix="minires.detect_anomaly() names the line that made a NaN.",
            )
        )
    factor = limit / (total + 1e-6)
    # NaN, which a gradient has then, is to spread as in PyTorch
    return np.float64(total), np.float64(1.0 if factor >= 1 else factor)


def _shortened_there(lengths: tuple[Any, ...], norm_type: float, limit: float) -> tuple[Any, Any]:
    """The same on a GPU, as arrays, whose values are not looked at."""
    xp = array_module(lengths[0])
    each = xp.empty(len(lengths))
    for place, length in enumerate(lengths):  # CuPy stacks many arrays by their addresses, which it
        each[place] = length  # copies from the CPU: a CUDA graph cannot hold that
    if math.isinf(norm_type):
        total = each.max()
    else:
        total = (each**norm_type).sum() ** (1 / norm_type)
    return total, xp.minimum(limit / (total + 1e-6), 1.0)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Bring every entry of every gradient into ``-clip_value .. clip_value``, in place.

    Args:
        parameters: a tensor, or any number of them: ``model.parameters()``.
        clip_value: >= 0.

    Raises:
        ArgumentError: no parameters, what is none, a ``clip_value`` out of range, a gradient that
            looks at read-only memory.
    """
    op = "clip_grad_value_"
    limit = float(arguments.number(op, "clip_value", clip_value, least=0, finite=False))
    with no_grad():
        for gradient in _gradients(op, parameters):
            gradient.clamp_(-limit, limit)


def _gradients(op: str, parameters: Any) -> list[Tensor]:
    """The gradients that there are, detached: writing into them writes into ``.grad``."""
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    if isinstance(parameters, Module) or not isinstance(parameters, Iterable):
        fix = "Pass model.parameters()." if isinstance(parameters, Module) else ""
        got = type(parameters).__name__
        raise ArgumentError(message(op, "a tensor or an iterable of them", got, fix=fix))
    given = list(arguments.iterator(op, "tensors", parameters))
    if not given:
        fix = "A generator can be walked through only once."
        raise ArgumentError(message(op, "at least one parameter", "none", fix=fix))
    for p in given:
        if not isinstance(p, Tensor):
            raise ArgumentError(message(op, "tensors", type(p).__name__))
    gradients = [p.grad.detach() for p in given if p.grad is not None]
    for gradient in gradients:  # all of them, before the first is changed
        check_writeable(op, "a gradient", gradient._array, "Copy it: p.grad = p.grad.clone().")
    return gradients
