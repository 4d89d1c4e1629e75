"""Layers that normalise each sample by itself; ``BatchNorm2d`` has a file of its own."""

from __future__ import annotations

from collections.abc import Sequence

from minires.errors import ArgumentError, message
from minires.nn import functional as F
from minires.nn.layers import check_count
from minires.nn.module import Module, Parameter
from minires.tensor import Tensor, ones, zeros


def _check_eps(layer: str, eps: float) -> float:
    if not isinstance(eps, int | float) or not eps > 0:
        raise ArgumentError(message(layer, "eps > 0", repr(eps)))
    return eps


class LayerNorm(Module):
    """Normalises over the last dimensions, those of ``normalized_shape``; see
    :func:`minires.ops.layer_norm`.

    Args:
        normalized_shape: the sizes of those dimensions; an integer is one of them.
        eps: keeps the division finite, > 0.
        elementwise_affine: whether to learn ``weight`` and ``bias``, of that shape.
        bias: False learns the weight only.

    Raises:
        ArgumentError: sizes that are not integers >= 1, or ``eps`` not positive.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        sizes = normalized_shape if isinstance(normalized_shape, Sequence) else [normalized_shape]
        self.normalized_shape = tuple(
            check_count("LayerNorm", "normalized_shape", size) for size in sizes
        )
        self.eps = _check_eps("LayerNorm", eps)
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.weight = Parameter(ones(*shape)) if elementwise_affine else None
        self.bias = Parameter(zeros(*shape)) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = self.elementwise_affine
        text = f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={affine}"
        return text + (", bias=False" if affine and self.bias is None else "")


class GroupNorm(Module):
    """Normalises over groups of channels, for any batch size and alike in training and evaluation;
    see :func:`minires.ops.group_norm`.

    Args:
        num_groups: a divisor of ``num_channels``.
        num_channels: channels of the input ``(n, c, ...)``.
        eps: keeps the division finite, > 0.
        affine: whether to learn ``weight`` and ``bias``, one for each channel.
        bias: False learns the weight only.

    Raises:
        ArgumentError: an argument out of range, or groups of unequal size.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_groups = check_count("GroupNorm", "num_groups", num_groups)
        self.num_channels = check_count("GroupNorm", "num_channels", num_channels)
        if num_channels % num_groups:
            given = f"{num_channels} with num_groups={num_groups}"
            raise ArgumentError(message("GroupNorm", "num_channels divisible by num_groups", given))
        self.eps = _check_eps("GroupNorm", eps)
        self.affine = affine
        self.weight = Parameter(ones(num_channels)) if affine else None
        self.bias = Parameter(zeros(num_channels)) if affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        text = f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
        return text + (", bias=False" if self.affine and self.bias is None else "")
