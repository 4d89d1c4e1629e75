"""The blocks of residual networks and their plain twins, as the papers have them.

A plain block computes ``y = relu(F(x))`` and a residual block ``y = relu(F(x) + x)``, with the same
F (He et al. 2015, arXiv:1512.03385, Eq. 1 and 2). The pre-activation blocks move batch norm and
ReLU in front of the convolutions, which leaves ``y = F(x) + x`` with nothing behind the addition
(He et al. 2016, arXiv:1603.05027, Eq. 3 and Fig. 4e). In every block F can be called on its own as
``block.residual(x)``, and the other path, S, as ``block.skip(x)``: x itself or, where a block
changes shape, the shortcut that makes x fit (:mod:`minires.models.shortcuts`).

All take ``x (n, in_channels, h, w)`` and return
``(n, channels * expansion, ceil(h / stride), ceil(w / stride))``, for any
:class:`~minires.models.variants.BlockOptions`. What belongs to an option, most readers may skip:
``make`` is the layers' maker, ``maybe(layer, x)`` is x unless an option asked for that layer, and
``survival`` is 1; all three are in :mod:`minires.models.variants`.

Raises (all of them):
    ArgumentError: an option out of range, or one that the block does not have.
    ShapeError: at the call: F(x) and S(x) cannot be added.
"""

from __future__ import annotations

from typing import Unpack

from minires.models.shortcuts import check_shapes
from minires.models.variants import (
    Block,
    BlockOptions,
    BranchOptions,
    Layers,
    PreActResidualBlock,
    ResidualBlock,
    ResidualLayers,
    maybe,
    paths,
    stochastic_sum,
)
from minires.nn import ReLU
from minires.tensor import Tensor

# ------------------------------------------------------------------ v1: activation after addition


class PlainBlock(Block):
    """``relu(F(x))``: a :class:`BasicBlock` with shortcut A whose addition was taken out.

    Parameter names, their shapes and, for one seed, their initial values are the same.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, **options: Unpack[BranchOptions]
    ) -> None:
        super().__init__()
        make = Layers(type(self), in_channels, channels, stride, **options)
        self.conv1 = make.conv3x3(in_channels, channels, stride)
        self.bn1 = make.norm(channels)
        self.conv2 = make.conv3x3(channels, channels)
        self.bn2 = make.norm(channels)
        self.relu = ReLU()
        self.dropout, self.se = make.dropout(), make.squeeze_excitation()

    def residual(self, x: Tensor) -> Tensor:
        """F(x) = BN2 W2 relu(BN1 W1 x)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(maybe(self.dropout, x)))
        return maybe(self.se, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x))


class BasicBlock(ResidualBlock):
    """``relu(F(x) + x)``, F of two 3x3 convolutions (arXiv:1512.03385, Eq. 1 and Fig. 5 left).

    With ``reduction=16`` the block of SE-ResNet (arXiv:1709.01507, Fig. 3).
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, **options: Unpack[BlockOptions]
    ) -> None:
        super().__init__()
        make = ResidualLayers(type(self), in_channels, channels, stride, **options)
        self.conv1 = make.conv3x3(in_channels, channels, stride)
        self.bn1 = make.norm(channels)
        self.conv2 = make.conv3x3(channels, channels)
        self.bn2 = make.norm(channels)
        self.relu = ReLU()
        self.dropout, self.se = make.dropout(), make.squeeze_excitation()
        self.survival, self.downsample = make.survival(), make.shortcut()

    def residual(self, x: Tensor) -> Tensor:
        """F(x) = BN2 W2 relu(BN1 W1 x)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(maybe(self.dropout, x)))
        return maybe(self.se, x)

    def forward(self, x: Tensor) -> Tensor:
        if self.survival < 1:
            return self.relu(stochastic_sum(self, x))
        f, s = self.residual(x), self.skip(x)
        check_shapes(f, s)
        return self.relu(f + s)


class Bottleneck(ResidualBlock):
    """``relu(F(x) + x)``, F of 1x1, 3x3 and 1x1 convolutions (arXiv:1512.03385, Fig. 5 right).

    With ``groups=32, width_per_group=4`` the block of ResNeXt 32x4d (arXiv:1611.05431, Fig. 3c),
    with ``width_per_group=128`` that of a Wide ResNet-50-2 (arXiv:1605.07146, Sec. 3).
    """

    kernels = (1, 3, 1)
    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, **options: Unpack[BlockOptions]
    ) -> None:
        super().__init__()
        make = ResidualLayers(type(self), in_channels, channels, stride, **options)
        width, c_out, strides = make.width, make.c_out, make.strides  # channels, 4 * channels
        self.conv1 = make.conv1x1(in_channels, width, strides[0])
        self.bn1 = make.norm(width)
        self.conv2 = make.conv3x3(width, width, strides[1])
        self.bn2 = make.norm(width)
        self.conv3 = make.conv1x1(width, c_out)
        self.bn3 = make.norm(c_out)
        self.relu = ReLU()
        self.dropout, self.se = make.dropout(), make.squeeze_excitation()
        self.survival, self.downsample = make.survival(), make.shortcut()

    def residual(self, x: Tensor) -> Tensor:
        """F(x) = BN3 W3 relu(BN2 W2 relu(BN1 W1 x))."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(maybe(self.dropout, x)))
        return maybe(self.se, x)

    def forward(self, x: Tensor) -> Tensor:
        if self.survival < 1:
            return self.relu(stochastic_sum(self, x))
        f, s = self.residual(x), self.skip(x)
        check_shapes(f, s)
        return self.relu(f + s)


# -------------------------------------------------------- v2: activation before the convolutions


class PreActPlainBlock(Block):
    """``F(x)``: a :class:`PreActBlock` with shortcut A whose addition was taken out."""

    pre_activation = True

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, **options: Unpack[BranchOptions]
    ) -> None:
        super().__init__()
        make = Layers(type(self), in_channels, channels, stride, **options)
        self.bn1 = make.norm(in_channels)
        self.conv1 = make.conv3x3(in_channels, channels, stride)
        self.bn2 = make.norm(channels)
        self.conv2 = make.conv3x3(channels, channels)
        self.relu = ReLU()
        self.dropout, self.se = make.dropout(), make.squeeze_excitation()

    def preactivate(self, x: Tensor) -> Tensor:
        """relu(BN1 x), what the first convolution sees."""
        return self.relu(self.bn1(x))

    def branch(self, activated: Tensor) -> Tensor:
        """F from its first convolution on."""
        x = self.relu(self.bn2(self.conv1(activated)))
        x = self.conv2(maybe(self.dropout, x))
        return maybe(self.se, x)

    def residual(self, x: Tensor) -> Tensor:
        """F(x) = W2 relu(BN2 W1 relu(BN1 x))."""
        return self.branch(self.preactivate(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x)


class PreActBlock(PreActResidualBlock):
    """``F(x) + x``, F of two 3x3 convolutions with pre-activation (arXiv:1603.05027, Fig. 4e).

    With many channels and ``dropout`` the block of Wide ResNets for small images
    (arXiv:1605.07146, Fig. 1d).
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, **options: Unpack[BlockOptions]
    ) -> None:
        super().__init__()
        make = ResidualLayers(type(self), in_channels, channels, stride, **options)
        self.bn1 = make.norm(in_channels)
        self.conv1 = make.conv3x3(in_channels, channels, stride)
        self.bn2 = make.norm(channels)
        self.conv2 = make.conv3x3(channels, channels)
        self.relu = ReLU()
        self.dropout, self.se = make.dropout(), make.squeeze_excitation()
        self.survival, self.downsample = make.survival(), make.shortcut()

    def preactivate(self, x: Tensor) -> Tensor:
        """relu(BN1 x), what the first convolution sees."""
        return self.relu(self.bn1(x))

    def branch(self, activated: Tensor) -> Tensor:
        """F from its first convolution on."""
        x = self.relu(self.bn2(self.conv1(activated)))
        x = self.conv2(maybe(self.dropout, x))
        return maybe(self.se, x)

    def residual(self, x: Tensor) -> Tensor:
        """F(x) = W2 relu(BN2 W1 relu(BN1 x))."""
        return self.branch(self.preactivate(x))

    def forward(self, x: Tensor) -> Tensor:
        if self.survival < 1:
            return stochastic_sum(self, x)
        f, s = paths(self, x)  # residual(x) and skip(x)
        check_shapes(f, s)
        return f + s


class PreActBottleneck(PreActResidualBlock):
    """``F(x) + x``, F of 1x1, 3x3 and 1x1 convolutions with pre-activation (arXiv:1603.05027)."""

    kernels = (1, 3, 1)
    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, **options: Unpack[BlockOptions]
    ) -> None:
        super().__init__()
        make = ResidualLayers(type(self), in_channels, channels, stride, **options)
        width, c_out, strides = make.width, make.c_out, make.strides  # channels, 4 * channels
        self.bn1 = make.norm(in_channels)
        self.conv1 = make.conv1x1(in_channels, width, strides[0])
        self.bn2 = make.norm(width)
        self.conv2 = make.conv3x3(width, width, strides[1])
        self.bn3 = make.norm(width)
        self.conv3 = make.conv1x1(width, c_out)
        self.relu = ReLU()
        self.dropout, self.se = make.dropout(), make.squeeze_excitation()
        self.survival, self.downsample = make.survival(), make.shortcut()

    def preactivate(self, x: Tensor) -> Tensor:
        """relu(BN1 x), what the first convolution sees."""
        return self.relu(self.bn1(x))

    def branch(self, activated: Tensor) -> Tensor:
        """F from its first convolution on."""
        x = self.relu(self.bn2(self.conv1(activated)))
        x = self.relu(self.bn3(self.conv2(x)))
        x = self.conv3(maybe(self.dropout, x))
        return maybe(self.se, x)

    def residual(self, x: Tensor) -> Tensor:
        """F(x) = W3 relu(BN3 W2 relu(BN2 W1 relu(BN1 x)))."""
        return self.branch(self.preactivate(x))

    def forward(self, x: Tensor) -> Tensor:
        if self.survival < 1:
            return stochastic_sum(self, x)
        f, s = paths(self, x)  # residual(x) and skip(x)
        check_shapes(f, s)
        return f + s
