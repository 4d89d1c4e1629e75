"""Cross entropy between a softmax and the true class.

With p = softmax(x) over the c classes and the target q (one-hot at the label, mixed with the
uniform distribution by the smoothing s: q = (1 - s) * one_hot + s / c)::

    loss = -sum over k of q[k] * log(p[k])  =  logsumexp(x) - sum over k of q[k] * x[k]
    gx   = (p - q) * g

per row, g being the gradient of the row's loss. Label smoothing: Szegedy et al., 2016,
arXiv:1512.00567, section 7.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ...arguments import as_integer, number
from ...autograd import Context, Function, call, check
from ...device import array_module, as_array, beside, device_of, fetched, kernels
from ...errors import ArgumentError, DeviceError, DTypeError, ShapeError, message, quoted
from ...tensor import Tensor
from .. import sums
from ..checks import check_reduction, check_same, real
from ..elementwise import expm1, weigh, where
from ..rows import as_rows
from ..softmax import SoftmaxInput, log_softmax, log_softmax_of, softmax


class CrossEntropy(Function):
    """x (n, c) → the loss of each row, (n,); 0 for rows whose label is ``ignore``."""

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, x: Any, labels: Any, smoothing: float, ignore: int) -> Any:
        ctx.options = smoothing, ignore
        ctx.save(x)
        ctx.save_constants(labels)
        losses = array_module(x).empty(x.shape[0], x.dtype)
        kernels("cross_entropy", x).cross_entropy_fwd(x, labels, smoothing, ignore, losses)
        return losses

    @staticmethod
    def backward(ctx: Context, g: Tensor) -> Any:
        (x,) = ctx.saved
        gx = CrossEntropyInput.apply(g.contiguous(), x, ctx.constants[0], *ctx.options)
        return gx, None, None, None


class CrossEntropyInput(Function):
    """(g, x) → gx = (softmax(x) - q) * g, row by row."""

    complex_safe = True
    launches = True

    @staticmethod
    def forward(ctx: Context, g: Any, x: Any, labels: Any, smoothing: float, ignore: int) -> Any:
        ctx.options = smoothing, ignore
        ctx.save(g, x)
        ctx.save_constants(labels)
        gx = array_module(x).empty_like(x)
        kernels("cross_entropy", x).cross_entropy_bwd_x(g, x, labels, smoothing, ignore, gx)
        return gx

    @staticmethod
    def backward(ctx: Context, ggx: Tensor) -> Any:
        g, x = ctx.saved
        (labels,) = ctx.constants
        smoothing, ignore = ctx.options
        used = Tensor(call(_used, labels, ignore))
        q = call(_mixed, labels, smoothing, ignore, x.shape, x.dtype)
        p, ggx = softmax(where(used, x, 0), 1), where(used, ggx, 0)
        gg = weigh(p - Tensor(q), ggx).sum(1) if ctx.needs_grad[0] else None
        gx = None
        if ctx.needs_grad[1]:
            gx = weigh(SoftmaxInput.apply(ggx, p, (1,)), where(used, g.reshape(-1, 1), 0))
        return gg, gx, None, None, None


class CrossEntropyOfTarget(Function):
    """x, q (n, c) → -sum of q * log(softmax(x)) along each row, (n,), for any factors q.

    gx = (softmax(x) * sum(q) - q) * g and gq = -log(softmax(x)) * g. Entries of q that are 0 count
    for nothing, beside a class that is ruled out too.
    """

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, q: Any) -> Any:
        ctx.save(x, q)
        xp, y = array_module(x), log_softmax_of(x, (1,))
        return -sums.total(xp.where((q == 0) & (y == y), 0, q * y), (1,))

    @staticmethod
    def backward(ctx: Context, g: Tensor) -> Any:
        x, q = ctx.saved
        y, g = log_softmax(x, 1), g.reshape(-1, 1)
        gx = gq = None
        if ctx.needs_grad[0]:  # p * sum(q) - q, where 1 - p = -expm1(y) has its digits as p nears 1
            gx = weigh(q * expm1(y) + y.exp() * (q.sum(1, keepdim=True) - q), g)
        if ctx.needs_grad[1]:
            gq = -weigh(y, g)
        return gx, gq


def check_ignored(op: str, ignore_index: Any) -> int:
    """The label of rows that do not count, as an int."""
    whole = as_integer(ignore_index)
    if whole is None or not -(2**63) <= whole < 2**63:
        raise ArgumentError(message(op, "ignore_index an integer", quoted(ignore_index)))
    return whole


def check_labels(op: str, labels: Tensor, x: Tensor, ignore_index: int) -> Any:
    """The labels (n,) of x (n, c) as a new int64 array, if they are such.

    Raises:
        ShapeError, DTypeError, DeviceError: another shape, kind or device than x's.
        ArgumentError: a label out of range, named with its index.
    """
    check_kind(op, labels, x)
    check(_check_range, op, labels._array, x.shape, ignore_index)
    return call(_own, labels._array)


def check_kind(op: str, labels: Tensor, x: Tensor) -> None:
    """Refuse what are no labels (n,) of x (n, c), without a look at their values.

    Raises:
        ShapeError, DTypeError, DeviceError: another shape, kind or device than x's.
    """
    n, c = x.shape
    if labels.dtype.kind not in "iu":
        other = f", or probabilities of shape ({n}, {c})" if op == "cross_entropy" else ""
        raise DTypeError(
            message(
                op,
                f"integer labels of shape ({n},){other}",
                f"{labels.dtype} {labels.shape}",
                fix="Convert class numbers with .long().",
            )
        )
    if labels.shape != (n,):
        fix = "For one-hot rows use labels.argmax(1)." if labels.shape == (n, c) else ""
        raise ShapeError(message(op, f"labels of shape ({n},)", labels.shape, f"x {x.shape}", fix))
    if device_of(labels._array) != x.device:
        raise DeviceError(
            message(op, f"labels on {x.device}", str(labels.device), fix="Use .to().")
        )


def _own(labels: Any) -> Any:
    """A copy, as int64: the caller may reuse theirs before the backward."""
    return labels.astype(np.int64)


def _check_range(op: str, labels: Any, shape: tuple[int, ...], ignore_index: int) -> None:
    """Labels for logits (n, c) are classes, or the one to ignore."""
    c = shape[1]
    wrong = _are_wrong(labels, c, ignore_index)
    if wrong.any():
        at = wrong.argmax().item()
        label = labels[at].item()
        raise ArgumentError(
            message(
                op,
                f"labels in 0..{c - 1}",
                f"{label} at index {at}",
                f"x {shape}",
                "Labels count from 0." if label == c else "",
            )
        )


def _are_wrong(labels: Any, classes: int, ignore: int) -> Any:
    """Of each label whether it is neither a class nor ignored."""
    return (labels != ignore) & ((labels < 0) | (labels >= classes))


def _used(labels: Any, ignore: int) -> Any:
    return (labels != ignore)[:, None]


def _mixed(labels: Any, smoothing: float, ignore: int, shape: Any, dtype: Any) -> Any:
    """The targets q (n, c) that labels stand for; 0 in the rows to ignore."""
    xp = array_module(labels)
    dtype, uniform = np.dtype(dtype), smoothing / shape[1]
    chosen = labels[:, None] == xp.arange(shape[1])
    q = xp.where(chosen, dtype.type(uniform + (1 - smoothing)), dtype.type(uniform))
    q = q * are_known(labels, shape[1], ignore, dtype)[:, None]
    return xp.where(_used(labels, ignore), q, dtype.type(0))


def are_known(labels: Any, classes: int, ignore: int, dtype: Any) -> Any:
    """A factor for each label: 1, and NaN if it is neither a class nor ignored. There are such
    labels only where they cannot be checked: in the replay of a graph on a GPU."""
    wrong = _are_wrong(labels, classes, ignore)
    nan, one = np.array([np.nan, 1], dtype)
    return array_module(labels).where(wrong, nan, one)


def _count(labels: Any, ignore_index: int, dtype: Any) -> Any:
    """How many labels count, by which the mean loss is divided."""
    return as_array((labels != ignore_index).sum().astype(dtype))


def _check_count(count: Any, ignore_index: int) -> None:
    if not count:
        raise ArgumentError(
            f"cross_entropy: every label is ignore_index={ignore_index}; there is no row to "
            "average. Use reduction='sum' if that is meant."
        )


def _like_probabilities(x: Any) -> Any:
    """Whether every row of x (n, c) lies in 0..1 and sums to 1: a truth value, or on a GPU an array
    of one, for which nobody has waited yet."""
    x = x.real
    if not x.size or x.shape[1] < 2:
        return False
    if isinstance(x, np.ndarray) and (x.min() < 0 or x.max() > 1):
        return False  # as nearly always: there is no need for the sums
    alike = (abs(x.sum(axis=1) - 1) < 1e-4).all()
    return alike if isinstance(x, np.ndarray) else alike & ~((x.min() < 0) | (x.max() > 1))


def _look(suspect: Any, labels: Any, shape: Any, ignore_index: int, used: Any) -> None:
    """Look at the values that a loss of labels depends on, with one wait where they are on a GPU.

    Args:
        suspect: whether logits look like probabilities (:func:`_like_probabilities`).
        labels, shape, ignore_index: see :func:`_check_range`.
        used: how many labels count, by which a mean is divided; None without a mean.

    Raises:
        ArgumentError: a label out of range; no label that counts.
    """
    if isinstance(labels, np.ndarray):
        _warn_about_probabilities(suspect, 4)
        check(_check_range, "cross_entropy", labels, shape, ignore_index)
        if used is not None:
            check(_check_count, used, ignore_index)
        return
    with beside((labels,)):
        wrong = _are_wrong(labels, shape[1], ignore_index).any()
        suspect, wrong, used = fetched(suspect, wrong, used)
        _warn_about_probabilities(suspect, 4)
        if wrong:
            _check_range("cross_entropy", labels, shape, ignore_index)
    if used is not None:
        _check_count(used, ignore_index)


def _warn_about_probabilities(suspect: Any, stacklevel: int) -> None:
    if suspect:
        warnings.warn(
            "cross_entropy expects logits; every row of x lies in 0..1 and sums to 1, which "
            "looks like probabilities. Leave the softmax out of the model.",
            UserWarning,
            stacklevel=stacklevel,
        )


def check_weight(name: str, weight: Any, x: Tensor) -> Tensor:
    """A factor for each class of the logits (n, c), or an error."""
    if real(name, weight).shape != x.shape[1:]:
        expected = f"a weight for each class, of shape {x.shape[1:]}"
        raise ShapeError(message(name, expected, weight.shape))
    check_same(name, x, weight)
    return weight


def sum_of_weights(name: str, factors: Tensor) -> Tensor:
    """The sum of the factors of all labels, by which their mean is divided."""
    total = factors.sum()
    check(_check_nonzero, name, total._array)
    return total


def _check_nonzero(name: str, total: Any) -> None:
    if not total.item():
        fix = "Their mean would be a division by 0: weigh the classes that occur."
        got = "0 for the labels that are there"
        raise ArgumentError(message(name, "weights whose sum is not 0", got, fix=fix))


def used_labels(labels: Any, classes: int, ignore_index: int) -> tuple[Any, Any]:
    """(mask of the labels that count, labels with 0 in place of those that are no class)."""
    known = (labels >= 0) & (labels < classes)
    return labels != ignore_index, array_module(labels).where(known, labels, 0)


def cross_entropy(
    x: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """The loss of a classifier: how far softmax(x) is from the true class.

    For each row, with the target q (one-hot at the label, mixed with the uniform distribution by
    the smoothing s: q = (1 - s) * one_hot + s / c)::

        loss = -sum over k of q[k] * log(softmax(x)[k])  =  logsumexp(x) - sum over k of q[k] * x[k]

    The second form holds where q sums to 1. Label smoothing: Szegedy et al., 2016,
    arXiv:1512.00567, section 7.

    Args:
        x: logits, (n, c): any real numbers, not probabilities. Also (n, c, d1, ...), such as a
            score of each class for each pixel, or (c,) for one label.
        target: labels, integers (n,) in 0..c-1; also (n, d1, ...), or of no dimension. Or
            probabilities of x's shape and dtype.
        weight: a factor w for each class, (c,), where some matter more than others: the entries of
            the target q are multiplied by it, and the mean over labels is the weighted one,
            divided by the sum of their w.
        label_smoothing: s, the share of the uniform distribution in the target, in 0..1.
        ignore_index: labels of this value have no loss and do not count in the mean.
        reduction: ``"mean"`` over the labels, ``"sum"``, or ``"none"`` for one loss per label.

    Returns:
        A scalar, or with ``reduction="none"`` the shape of the labels.

    Raises:
        ShapeError, DTypeError: logits or target of another shape or kind.
        ArgumentError: a label out of range (named with its index), an unknown reduction, or a mean
            over labels whose weights sum to 0. (A captured function that is replayed on a GPU does
            not wait to look at labels: the loss is NaN then, and so are the gradients of such
            rows.)

    >>> import minires as mr
    >>> float(mr.cross_entropy(mr.zeros(2, 4), mr.tensor([0, 3])))  # log(4)
    1.3862943649291992
    """
    real("cross_entropy", x)
    check_reduction(reduction)
    if x.ndim != 2:
        target = target if isinstance(target, Tensor) else Tensor(target)
        rows, of_rows, places = as_rows("cross_entropy", x, target)
        options: Any = {"weight": weight, "label_smoothing": label_smoothing}
        options |= {"ignore_index": ignore_index, "reduction": reduction}
        losses = cross_entropy(rows, of_rows, **options)
        return losses.reshape(places) if reduction == "none" else losses
    if x.shape[1] < 1:
        raise ShapeError(message("cross_entropy", "logits of at least one class", x.shape))
    smoothing = number("cross_entropy", "label_smoothing", label_smoothing, least=0, most=1)
    ignore_index = check_ignored("cross_entropy", ignore_index)
    if not isinstance(target, Tensor):
        target = Tensor(target)
    if x.shape[0] == 0 and reduction == "mean":
        raise ShapeError(message("cross_entropy", "at least one row to average", x.shape))
    with beside((x,)):
        suspect = _like_probabilities(x._array)
    if target.dtype.kind in "fc" and target.ndim == 2:
        _warn_about_probabilities(suspect, 3)
        check_same("cross_entropy", x, target)
        if target.shape != x.shape:
            raise ShapeError(
                message("cross_entropy", f"probabilities of shape {x.shape}", target.shape)
            )
        q = target * (1 - smoothing) + smoothing / x.shape[1]
        if weight is not None:
            q = weigh(q, check_weight("cross_entropy", weight, x))
        losses = CrossEntropyOfTarget.apply(x, q)
        count: Any = x.shape[0]
    else:
        check_kind("cross_entropy", target, x)
        labels = call(_own, target._array)
        used = None
        if reduction == "mean":
            used = call(_count, labels, ignore_index, x.dtype)
            count = Tensor(used)
        _look(suspect, target._array, x.shape, ignore_index, used)
        if weight is None:
            losses = CrossEntropy.apply(x.contiguous(), labels, float(smoothing), ignore_index)
        else:
            check_weight("cross_entropy", weight, x)
            mixed = call(_mixed, labels, smoothing, ignore_index, x.shape, x.dtype)
            used = Tensor(call(_used, labels, ignore_index))
            losses = CrossEntropyOfTarget.apply(where(used, x, 0), weigh(Tensor(mixed), weight))
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    if weight is not None and target.ndim == 1:
        known, at = call(used_labels, labels, x.shape[1], ignore_index)
        factors = where(Tensor(known), weight[Tensor(at)], 0)
        return total / sum_of_weights("cross_entropy", factors)
    return total / count
