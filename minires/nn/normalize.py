"""Layers that normalise each sample by itself; ``BatchNorm2d`` has a file of its own."""

from __future__ import annotations

from collections.abc import Sequence

from minires import arguments
from minires.creation import ones, zeros
from minires.errors import ArgumentError, message
from minires.nn import functional as F
from minires.nn.layers import parameter
from minires.nn.module import Module
from minires.tensor import Tensor


class LayerNorm(Module):
    """Normalises over the last dimensions, as many as ``normalized_shape`` has; see
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
        name = "LayerNorm"
        shape = arguments.sizes(name, "normalized_shape", normalized_shape, 1)
        self.normalized_shape = shape
        self.eps = arguments.number(name, "eps", eps, above=0)
        self.elementwise_affine = arguments.flag(name, "elementwise_affine", elementwise_affine)
        biased = arguments.flag(name, "bias", bias) and elementwise_affine
        self.weight = parameter(name, ones, *shape) if elementwise_affine else None
        self.bias = parameter(name, zeros, *shape) if biased else None

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
        name = "GroupNorm"
        self.num_groups = arguments.integer(name, "num_groups", num_groups, 1)
        self.num_channels = c = arguments.integer(name, "num_channels", num_channels, 1)
        if c % self.num_groups:
            given = f"{c} with num_groups={self.num_groups}"
            raise ArgumentError(message("GroupNorm", "num_channels divisible by num_groups", given))
        self.eps = arguments.number(name, "eps", eps, above=0)
        self.affine = arguments.flag(name, "affine", affine)
        biased = arguments.flag(name, "bias", bias) and affine
        self.weight = parameter(name, ones, c) if affine else None
        self.bias = parameter(name, zeros, c) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        text = f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
        return text + (", bias=False" if self.affine and self.bias is None else "")
