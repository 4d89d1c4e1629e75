"""Losses that are array expressions; :mod:`minires.ops.cross_entropy` has kernels of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import call, check
from ..device import array_module, as_array, beside
from ..errors import ShapeError, message
from ..tensor import Tensor
from .activation import softplus
from .checks import binary_operands, check_reduction, check_same, given, real
from .cross_entropy.op import (
    are_known,
    check_ignored,
    check_labels,
    check_weight,
    sum_of_weights,
    used_labels,
)
from .elementwise import weigh, where
from .rows import as_rows


def _targets(name: str, x: Tensor, target: Any) -> Tensor:
    """``target``, if it has x's shape: broadcasting one against the other is a silent mistake."""
    real(name, x)
    if not isinstance(target, Tensor):
        target = Tensor(target)
    if target.shape != x.shape:
        fix = ""
        if target.numel() == x.numel():
            fix = f"Reshape one of them, as in target.reshape{x.shape}."
        raise ShapeError(message(name, f"a target of shape {x.shape}", target.shape, fix=fix))
    check_same(name, x, target)
    return target


def reduced(name: str, losses: Tensor, reduction: str) -> Tensor:
    """The losses, their sum, or their mean.

    Raises:
        ArgumentError: an unknown ``reduction``.
        ShapeError: a mean of nothing.
    """
    check_reduction(reduction)
    if reduction == "none":
        return losses
    if reduction == "mean" and not losses.numel():
        raise ShapeError(message(name, "at least one entry to average", losses.shape))
    return losses.sum() if reduction == "sum" else losses.mean()


def mse_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """The squared differences, ``(x - target) ** 2``.

    Args:
        x: predictions, any shape.
        target: of the same shape and dtype; the two are not broadcast.
        reduction: ``"mean"`` over all entries, ``"sum"``, or ``"none"`` for x's shape.

    Raises:
        ShapeError: shapes that differ.
        ArgumentError: an unknown reduction.
    """
    difference = x - _targets("mse_loss", x, target)
    return reduced("mse_loss", difference * difference, reduction)


def nll_loss(
    x: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Minus the log-probability of each label; of ``log_softmax(x)`` it is ``cross_entropy(x)``.

    Args:
        x: log-probabilities, (n, c); also (n, c, d1, ...), or (c,) for one label.
        target: labels, integers (n,) in 0..c-1; also (n, d1, ...), or of no dimension.
        weight: a factor for each class, (c,), where some matter more than others.
        ignore_index: labels of this value have no loss and do not count in the mean.
        reduction: ``"mean"`` over the labels (their weighted mean, if there are weights),
            ``"sum"``, or ``"none"`` for one loss per label.

    Raises:
        ShapeError, DTypeError: x, labels or weights of another shape or kind.
        ArgumentError: a label out of range, an unknown reduction, or a mean over labels whose
            weights sum to 0. (In a replay on a GPU the loss is NaN then, as in
            :func:`cross_entropy`.)
    """
    real("nll_loss", x)
    target = target if isinstance(target, Tensor) else Tensor(target)
    if x.ndim != 2:
        rows, labels, places = as_rows("nll_loss", x, target)
        options: Any = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}
        losses = nll_loss(rows, labels, **options)
        return losses.reshape(places) if reduction == "none" else losses
    ignore_index = check_ignored("nll_loss", ignore_index)
    labels = check_labels("nll_loss", target, x, ignore_index)
    used, at = call(used_labels, labels, x.shape[1], ignore_index)
    known = Tensor(call(are_known, labels, x.shape[1], ignore_index, x.dtype))
    with beside((x,)):
        rows = array_module(labels).arange(len(labels))
    losses = -where(used, x[rows, at], 0) * known
    if weight is not None:
        factors = where(used, check_weight("nll_loss", weight, x)[at], 0)
        losses = weigh(losses, factors)
    if check_reduction(reduction) != "mean":
        return reduced("nll_loss", losses, reduction)
    count = call(_count, used, x.dtype)
    check(_check_count, count)
    if weight is None:
        return losses.sum() / Tensor(count)
    return losses.sum() / sum_of_weights("nll_loss", factors)


def _count(used: Any, dtype: Any) -> Any:
    return as_array(used.sum().astype(dtype))


def _check_count(count: Any) -> None:
    if not count:
        raise ShapeError(message("nll_loss", "at least one row to average", "none"))


def binary_cross_entropy_with_logits(
    x: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The loss of independent yes-or-no questions, each answered by a logit::

        p    = 1 / (1 + exp(-x))
        loss = -(pos_weight * target * log(p) + (1 - target) * log(1 - p)) * weight

    computed without p, from log(p) = -softplus(-x) and log(1 - p) = -softplus(x): no logit is too
    large for it.

    Args:
        x: logits, any shape.
        target: of the same shape and dtype, probabilities in 0..1.
        weight: a factor of each loss, broadcast to x's shape.
        pos_weight: a factor of the yes-answers, broadcast to x's shape: (classes,) for x
            (n, classes).
        reduction: ``"mean"`` over all entries, ``"sum"``, or ``"none"`` for x's shape.

    Raises:
        ShapeError: shapes that differ, or weights that do not broadcast.
        ArgumentError: an unknown reduction.
    """
    name = "binary_cross_entropy_with_logits"
    target = _targets(name, x, target)
    for factor, value in (("weight", weight), ("pos_weight", pos_weight)):
        if value is None:
            continue
        binary_operands(name, x, given(name, value))
        if np.broadcast_shapes(value.shape, x.shape) != x.shape:
            expected = f"a {factor} that broadcasts to {x.shape}"
            raise ShapeError(message(name, expected, value.shape))
    yes, no = weigh(target, softplus(-x)), weigh(1 - target, softplus(x))
    losses = (yes if pos_weight is None else weigh(yes, pos_weight)) + no
    return reduced(name, losses if weight is None else weigh(losses, weight), reduction)
