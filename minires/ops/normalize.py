"""Normalisation of each sample by itself; over a batch, it is :mod:`minires.ops.batch_norm`.

With m and v the mean and the biased variance of the entries that are normalised together::

    y = (x - m) / sqrt(v + eps) * w + b
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import arguments
from ..arguments import as_integer, number
from ..errors import ArgumentError, ShapeError, message, quoted
from ..tensor import Tensor
from .checks import check_same, real
from .elementwise import sqrt
from .reduce import mean


def _normalized(name: str, x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """x less its mean over ``axes``, over its standard deviation there."""
    eps = number(name, "eps", eps, above=0)
    distance = x - mean(x, axes, keepdim=True)
    return distance / sqrt(mean(distance * distance, axes, keepdim=True) + eps)


def _check_affine(name: str, x: Tensor, shape: tuple[int, ...], **affine: Tensor | None) -> None:
    for key, value in affine.items():
        if value is not None:
            check_same(name, x, value)
            if value.shape != shape:
                given = f"x {x.shape}"
                raise ShapeError(message(name, f"{key} of shape {shape}", value.shape, given))


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    w: Tensor | None = None,
    b: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions (Ba, Kiros & Hinton, 2016, arXiv:1607.06450, Eq. 3).

    With mean and var of those dimensions (var divided by their number)::

        y = (x - mean) / sqrt(var + eps) * w + b

    Args:
        x: (..., *normalized_shape).
        normalized_shape: the sizes of those last dimensions, at least one.
        w, b: factor and offset, each of shape ``normalized_shape``, or None.
        eps: keeps the division finite, > 0.

    Raises:
        ShapeError: sizes that do not fit, or an x without entries.
        ArgumentError: ``eps`` out of range.
    """
    real("layer_norm", x)
    sizes = arguments.sizes("layer_norm", "normalized_shape", normalized_shape, 0)
    if not sizes or x.shape[-len(sizes) :] != sizes:
        expected = f"x whose last sizes are {sizes}" if sizes else "at least one size"
        raise ShapeError(message("layer_norm", expected, f"x {x.shape}"))
    _check_affine("layer_norm", x, sizes, w=w, b=b)
    y = _normalized("layer_norm", x, tuple(range(x.ndim - len(sizes), x.ndim)), eps)
    y = y if w is None else y * w
    return y if b is None else y + b


def group_norm(
    x: Tensor,
    num_groups: int,
    w: Tensor | None = None,
    b: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over groups of channels (Wu & He, 2018, arXiv:1803.08494, Eq. 1 to 7).

    With mean and var over all pixels and all channels of a group (var divided by their number)::

        y = (x - mean) / sqrt(var + eps) * w + b

    One group normalises over all channels, as many groups as channels each by itself (instance
    normalisation). Training and evaluation do the same, for a batch of any size.

    Args:
        x: (n, c, ...).
        num_groups: a divisor of c; the channels of a group stand next to each other.
        w, b: factor and offset of each channel, (c,), or None.
        eps: keeps the division finite, > 0.

    Raises:
        ShapeError: sizes that do not fit, or an x without entries.
        ArgumentError: ``num_groups`` or ``eps`` out of range.
    """
    real("group_norm", x)
    if x.ndim < 2:
        raise ShapeError(message("group_norm", "x of shape (n, c, ...)", x.shape))
    n, c = x.shape[:2]
    count = as_integer(num_groups)
    if count is None or count < 1 or c % count:
        expected = f"num_groups a divisor of the {c} channels"
        raise ArgumentError(message("group_norm", expected, quoted(num_groups), f"x {x.shape}"))
    _check_affine("group_norm", x, (c,), w=w, b=b)
    groups = x.reshape(n, count, c // count, *x.shape[2:])
    y = _normalized("group_norm", groups, tuple(range(2, groups.ndim)), eps).reshape(x.shape)
    per_channel = (c,) + (1,) * (x.ndim - 2)
    y = y if w is None else y * w.reshape(per_channel)
    return y if b is None else y + b.reshape(per_channel)
