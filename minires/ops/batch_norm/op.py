"""Batch normalisation (Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 1).

For each channel c, over the m = n * h * w values of a batch::

    mean = sum(x) / m        var = sum((x - mean)²) / m        inv_std = 1 / sqrt(var + eps)
    x_hat = (x - mean) * inv_std                               y = w * x_hat + b

In training mean and var depend on every x of the channel, and the chain rule through them gives::

    gb = sum(gy)        gw = sum(gy * x_hat)
    gx = w * inv_std * (gy - gb / m - x_hat * gw / m)

The two subtracted terms remove from gy its mean and its share along x_hat: the output does not
change when a constant is added to x or when x is scaled. In evaluation mean and var are fixed
numbers, the running statistics, and gx = w * inv_std * gy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...arguments import flag, number
from ...autograd import (
    Context,
    Function,
    copied,
    enable_grad,
    grad,
    is_grad_enabled,
    memo,
)
from ...creation import ones, zeros
from ...device import array_module, beside, kernels
from ...errors import ArgumentError, ShapeError, message
from ...ieee import quiet, restore, warnings_now
from ...memory import allocate
from ...tensor import Tensor, given
from ..checks import check_same, real
from ..layout import channels_last, contiguous


def _rows(array: Any) -> Any:
    """The (m, c) buffer behind an (n, c) or channels-last (n, c, h, w) array."""
    if array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    return array.reshape(-1, array.shape[-1])


def _unrows(rows: Any, shape: tuple[int, ...]) -> Any:
    if len(shape) == 4:
        n, c, h, w = shape
        return rows.reshape(n, h, w, c).transpose(0, 3, 1, 2)
    return rows


def _laid_out(x: Tensor) -> Tensor:
    return channels_last(x) if len(x.shape) == 4 else x.contiguous()


class Affine(NamedTuple):
    """The numbers of each channel that batch norm applies: copies, for parameters may change."""

    w: Any  # (c,)
    b: Any  # (c,)
    mean: Any  # (c,)
    inv_std: Any  # (c,)
    coefficients: Any  # (5, c): mean, scale = w * inv_std, shift = b, 0, 0, as an Operand has them

    @property
    def vectors(self) -> tuple[Any, Any, Any, Any]:
        """(w, b, mean, inv_std)"""
        return self[:4]


class BatchNormStatistics(Function):
    """x → (mean, var), the biased variance, of each channel; their derivatives are BatchNorm's."""

    complex_safe = True
    launches = True
    constant = True

    @staticmethod
    def forward(ctx: Context, x: Any) -> Any:
        empty = array_module(x).empty
        mean, var = empty(x.shape[1], x.dtype), empty(x.shape[1], x.dtype)
        kernels("batch_norm", x).batch_norm_statistics(_rows(x), mean, var)
        return mean, var


class BatchNorm(Function):
    """(x, w, b) → y with given statistics; ``batch``: they are the statistics of x. ``affine``
    holds the same numbers once more, as kernels read them."""

    complex_safe = True

    @staticmethod
    def forward(
        ctx: Context,
        x: Any,
        w: Any,
        b: Any,
        mean: Any,
        inv_std: Any,
        batch: bool,
        affine: Affine | None = None,
    ) -> Any:
        ctx.batch = batch
        ctx.save(x, w)
        ctx.save_constants(mean, inv_std)
        rows = _rows(x)
        y = allocate(rows.shape, x.dtype, x)
        kernels("batch_norm", x).batch_norm_fwd(rows, w, b, mean, inv_std, y)
        return _unrows(y, x.shape)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        x, w = ctx.saved
        gx, gw, gb = BatchNormGradients.apply(_laid_out(gy), x, w, *ctx.constants, ctx.batch)
        return gx, gw, gb, None, None, None


class BatchNormGradients(Function):
    """(gy, x, w) → (gx, gw, gb)."""

    complex_safe = True

    @staticmethod
    def forward(ctx: Context, gy: Any, x: Any, w: Any, mean: Any, inv_std: Any, batch: bool) -> Any:
        ctx.batch = batch
        ctx.save(gy, x, w)
        ctx.save_constants(mean, inv_std)
        xp = array_module(x)
        kernel = kernels("batch_norm", x)
        rows = _rows(x)
        gx, gw, gb = allocate(rows.shape, x.dtype, x), xp.empty_like(w), xp.empty_like(w)
        kernel.batch_norm_bwd_affine(_rows(gy), rows, mean, inv_std, gw, gb)
        kernel.batch_norm_bwd_x(_rows(gy), rows, w, mean, inv_std, gw, gb, batch, gx)
        return _unrows(gx, x.shape), gw, gb

    @staticmethod
    def backward(ctx: Context, ggx: Tensor, ggw: Tensor, ggb: Tensor) -> Any:
        # the formulas of the docstring once more, as differentiable operations
        create_graph = is_grad_enabled()
        with enable_grad():
            inputs = [t if t.requires_grad else t.detach().requires_grad_() for t in ctx.saved]
            gy, x, w = (t.reshape(t.shape) for t in inputs)  # nodes of their own, to stop at
            mean, inv_std = ctx.constants
            outputs = _gradients(gy, x, w, mean, inv_std, ctx.batch)
            result = grad(
                outputs, [gy, x, w], [ggx, ggw, ggb], create_graph=create_graph, allow_unused=True
            )
        gradients = [g if need else None for g, need in zip(result, ctx.needs_grad)]
        return (*gradients, None, None, None)


def _gradients(gy: Tensor, x: Tensor, w: Tensor, mean: Any, inv_std: Any, batch: bool) -> Any:
    shape = (1, -1, 1, 1)[: x.ndim]
    axes = (0, 2, 3)[: max(1, x.ndim - 1)]
    center, scale = Tensor(mean).reshape(shape), Tensor(inv_std).reshape(shape)
    if not batch:
        x_hat = (x - center) * scale
        return w.reshape(shape) * scale * gy, (gy * x_hat).sum(axes), gy.sum(axes)
    # eps enters only through inv_std: var + eps = 1 / inv_std², with the eps part held constant
    distance = x - x.mean(axes, keepdim=True)
    var = (distance * distance).mean(axes, keepdim=True)
    eps = (1 / (scale * scale) - var).detach()
    inv = (var + eps) ** -0.5
    x_hat = distance * inv
    gb, gw = gy.sum(axes, keepdim=True), (gy * x_hat).sum(axes, keepdim=True)
    m = x.numel() // x.shape[1]
    gx = w.reshape(shape) * inv * (gy - gb * (1 / m) - x_hat * gw * (1 / m))
    return gx, gw.reshape(-1), gb.reshape(-1)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    num_batches_tracked: Tensor | None = None,
) -> Tensor:
    """Normalise each channel of ``x`` over the batch and all pixels.

    For each channel, m being the number of its values::

        mean = sum(x) / m        var = sum((x - mean)²) / m
        y = weight * (x - mean) / sqrt(var + eps) + bias

    In evaluation ``mean`` and ``var`` are the running statistics. Ioffe and Szegedy, 2015,
    arXiv:1502.03167, algorithm 1.

    Args:
        x: (n, c, h, w), (n, c) or any (n, c, d1, ...).
        running_mean, running_var: (c,), read in evaluation, updated in place in training by
            ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance.
            With None the batch's own statistics are used in both modes.
        weight, bias: w and b, (c,); None stands for ones and zeros.
        training: normalise by the batch's statistics.
        momentum: the weight of the new batch (PyTorch's meaning).
        eps: added to the variance.
        num_batches_tracked: (), int64, raised by one where the running statistics are updated.

    Returns:
        The shape of ``x``.

    Raises:
        ShapeError: shapes that do not fit; one value per channel in training.
        ArgumentError: eps or momentum out of range; a count of batches of another kind; in training
            running statistics or a count that look at read-only memory.
        DTypeError: an argument that is no tensor, or dtypes that differ.

    >>> import minires as mr
    >>> x = mr.tensor([[1.0], [3.0]])
    >>> mr.ops.batch_norm(x, None, None, training=True, eps=1e-12).tolist()
    [[-1.0], [1.0]]
    """
    if len(real("batch_norm", x).shape) not in (2, 4) and len(x.shape) > 2:
        n, c, *places = x.shape
        y = batch_norm(
            x.reshape(n, c, math.prod(places), 1),
            running_mean,
            running_var,
            weight,
            bias,
            training=training,
            momentum=momentum,
            eps=eps,
            num_batches_tracked=num_batches_tracked,
        )
        return y.reshape(x.shape)
    training = flag("batch_norm", "training", training)
    momentum = number("batch_norm", "momentum", momentum, least=0, most=1)
    eps = number("batch_norm", "eps", eps, above=0)
    vectors = running_mean, running_var, weight, bias
    batch = training or running_mean is None or running_var is None
    _check(x, vectors, batch)
    _check_count(x, num_batches_tracked)
    followers = running_mean, running_var, num_batches_tracked
    follow = training and running_mean is not None and running_var is not None
    written = _to_write(followers) if follow else []
    x = _laid_out(x)
    if batch:
        mean, var = BatchNormStatistics.apply(x)
        running = None
        if follow:
            m = x.numel() // x.shape[1]
            running = (*written[:2], momentum, m / (m - 1), written[2])
            for tensor in followers:
                if tensor is not None:
                    tensor.bump_version()
        with beside((x,)):
            affine = _affine(weight, bias, mean._array, var._array, eps, running)
    else:
        affine = _affine_of_statistics(vectors, eps)
    w, b = _parameters(x, weight, bias)
    return BatchNorm.apply(x, w, b, affine.mean, affine.inv_std, batch, affine=affine)


def _check(x: Tensor, vectors: Sequence[Any], batch: bool) -> None:
    """Hold the arguments of :func:`batch_norm` against each other."""
    shape = x.shape
    if len(shape) not in (2, 4):
        raise ShapeError(message("batch_norm", "x of shape (n, c, h, w) or (n, c)", shape))
    c = shape[1]
    check_same("batch_norm", x, *[value for value in vectors if value is not None])
    for name, value in zip(("running_mean", "running_var", "weight", "bias"), vectors):
        if value is not None and value.shape != (c,):
            raise ShapeError(
                message("batch_norm", f"{name} of shape ({c},)", value.shape, f"x {shape}")
            )
    if batch and (x.numel() < 2 * c or not c):
        raise ShapeError(
            message(
                "batch_norm",
                "more than one value per channel in training",
                f"shape {shape}",
                "the variance of one value is undefined",
                "Use a larger batch, drop_last=True in the loader, or eval().",
            )
        )


def _check_count(x: Tensor, count: Tensor | None) -> None:
    """Refuse a count of batches that kernels cannot raise."""
    if count is None:
        return
    given("batch_norm", count)
    if (count.shape, count.dtype, count.device) == ((), np.int64, x.device):
        return
    expected = f"num_batches_tracked of shape (), int64, on {x.device}"
    got = f"shape {count.shape}, {count.dtype}, on {count.device}"
    raise ArgumentError(message("batch_norm", expected, got))


def _to_write(followers: Sequence[Tensor | None]) -> list[Any]:
    """The arrays of the running mean and variance and of the count of batches, to write into."""
    names = "running_mean", "running_var", "num_batches_tracked"
    return [
        None if t is None else t._to_write("batch_norm", name, f"Pass {name}.clone().")
        for name, t in zip(names, followers)
    ]


def _affine(
    weight: Tensor | None, bias: Tensor | None, mean: Any, var: Any, eps: float, running: Any = None
) -> Affine:
    """The scale and shift of each channel. ``running``, if given, is (running_mean, running_var,
    momentum, m / (m - 1), count): the kernel updates both running statistics by mean and var, and
    raises the count of batches by one, if there is one."""
    xp = array_module(mean)
    w = xp.ones_like(mean) if weight is None else weight._array
    b = xp.zeros_like(mean) if bias is None else bias._array
    dtype = xp.result_type(mean, w, b)
    own = xp.empty((2, mean.size), dtype)
    inv_std, coefficients = xp.empty_like(mean), xp.empty((5, mean.size), dtype)
    before = warnings_now()
    try:
        quiet()
        kernel = kernels("batch_norm", mean)
        kernel.batch_norm_affine(mean, var, w, b, eps, own, inv_std, coefficients, running)
    finally:
        restore(before)
    return Affine(own[0], own[1], mean, inv_std, coefficients)


def _affine_of_statistics(vectors: Sequence[Any], eps: float) -> Affine:
    """The scale and shift of each channel from the running statistics. Statistics and parameters
    mostly have not changed since the last call: the result is memoised."""
    mean, var, weight, bias = vectors
    affine: Affine = memo(
        ("batch_norm", eps, weight is None),
        [vector for vector in vectors if vector is not None],
        lambda: _affine(weight, bias, copied(mean._array), var._array, eps),
    )
    return affine


def _parameters(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight and bias as tensors, in memory without gaps."""
    if weight is None:
        weight = ones(x.shape[1], dtype=x.dtype, device=x.device)
    if bias is None:
        bias = zeros(x.shape[1], dtype=x.dtype, device=x.device)
    return contiguous(weight), contiguous(bias)
