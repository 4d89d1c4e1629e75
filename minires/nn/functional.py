"""PyTorch's functional names, with its positional arguments, over :mod:`minires.ops`.

Nothing is computed here: the maths and its errors are in the op of the same name. ``inplace`` is
taken so that PyTorch code runs, and changes nothing: results always have memory of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minires import ops
from minires.arguments import flag
from minires.errors import ArgumentError, message
from minires.ops import (
    flatten,
    gelu,
    linear,
    log_softmax,
    sigmoid,
    softmax,
    softplus,
    tanh,
)
from minires.ops.select import one_hot
from minires.tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "flatten",
    "gelu",
    "group_norm",
    "interpolate",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "pad",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]

Size = int | tuple[int, int]
Line = int | tuple[int]  # the same in one direction


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """2-d convolution, see :func:`minires.ops.conv2d`."""
    return ops.conv2d(
        input, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Line = 1,
    padding: Line | str = 0,
    dilation: Line = 1,
    groups: int = 1,
) -> Tensor:
    """1-d convolution, see :func:`minires.ops.conv1d`."""
    return ops.conv1d(input, weight, bias, stride, padding, dilation, groups)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalisation, see :func:`minires.ops.batch_norm`."""
    return ops.batch_norm(
        input,
        running_mean,
        running_var,
        weight,
        bias,
        training=training,
        momentum=momentum,
        eps=eps,
    )


def max_pool1d(
    input: Tensor,
    kernel_size: Line,
    stride: Line | None = None,
    padding: Line = 0,
    dilation: Line = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows, see :func:`minires.ops.max_pool1d`."""
    return ops.max_pool1d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def avg_pool1d(
    input: Tensor,
    kernel_size: Line,
    stride: Line | None = None,
    padding: Line = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean over windows, see :func:`minires.ops.avg_pool1d`."""
    return ops.avg_pool1d(input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def adaptive_avg_pool1d(input: Tensor, output_size: Line) -> Tensor:
    """Mean over windows chosen for a given output size."""
    return ops.adaptive_avg_pool1d(input, output_size)


def interpolate(
    input: Tensor,
    size: int | tuple[int, ...] | None = None,
    scale_factor: float | tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resize images or sequences, see :func:`minires.ops.interpolate`.

    Raises:
        ArgumentError: ``antialias=True``, which minires does not have.
    """
    if flag("interpolate", "antialias", antialias):
        raise ArgumentError(message("interpolate", "antialias=False", antialias))
    options = mode, align_corners, recompute_scale_factor
    return ops.interpolate(input, size, scale_factor, *options)


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows, see :func:`minires.ops.max_pool2d`."""
    return ops.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean over windows, see :func:`minires.ops.avg_pool2d`."""
    return ops.avg_pool2d(
        input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def adaptive_avg_pool2d(input: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """Mean over windows chosen for a given output size; None keeps the input's."""
    return ops.adaptive_avg_pool2d(input, output_size)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of logits, see :func:`minires.ops.cross_entropy`."""
    return ops.cross_entropy(
        input,
        target,
        weight=weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero entries with probability ``p`` and scale the rest by 1 / (1 - p)."""
    flag("dropout", "inplace", inplace)
    return ops.dropout(input, p, training=training)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zero whole channels with probability ``p`` and scale the rest by 1 / (1 - p)."""
    flag("dropout2d", "inplace", inplace)
    return ops.dropout2d(input, p, training=training)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(input, 0)``, see :func:`minires.ops.relu`."""
    flag("relu", "inplace", inplace)
    return ops.relu(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """``input`` where positive, else ``negative_slope * input``."""
    flag("leaky_relu", "inplace", inplace)
    return ops.leaky_relu(input, negative_slope)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``input * sigmoid(input)``."""
    flag("silu", "inplace", inplace)
    return ops.silu(input)


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """Widen with ``value`` (0 by default) or with what there is, see :func:`minires.ops.pad`."""
    return ops.pad(input, pad, 0 if value is None else value, mode)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """Transposed 2-d convolution, see :func:`minires.ops.conv_transpose2d`."""
    return ops.conv_transpose2d(
        input,
        weight,
        bias,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions, see :func:`minires.ops.layer_norm`."""
    return ops.layer_norm(input, normalized_shape, weight, bias, eps=eps)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over groups of channels, see :func:`minires.ops.group_norm`."""
    return ops.group_norm(input, num_groups, weight, bias, eps=eps)


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Squared differences, see :func:`minires.ops.mse_loss`."""
    return ops.mse_loss(input, target, reduction=reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Minus the log-probability of each label, see :func:`minires.ops.nll_loss`."""
    return ops.nll_loss(
        input, target, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Yes-or-no losses, see :func:`minires.ops.binary_cross_entropy_with_logits`."""
    return ops.binary_cross_entropy_with_logits(
        input, target, weight=weight, pos_weight=pos_weight, reduction=reduction
    )
