"""The ImageNet family (He et al. 2015, arXiv:1512.03385, Table 1), with torchvision's names.

A 7x7 stem of stride 2, a 3x3 max pool of stride 2, four stages, global average pooling and one
linear layer: five halvings, made for images of 224x224. State dicts have torchvision's keys in
torchvision's order. There is one class; its members are made by a block and by numbers::

    v1, v1.5           ResNet(Bottleneck, STAGES[50], stride_in="1x1"), ResNet(Bottleneck, ...)
    v2                 ResNet(PreActBottleneck, STAGES[50])
    plain              ResNet(PlainBlock, STAGES[34])
    Wide ResNet-50-2   ResNet(Bottleneck, STAGES[50], width_per_group=128)
    ResNeXt-50 32x4d   ResNet(Bottleneck, STAGES[50], groups=32, width_per_group=4)
    SE-ResNet-50       ResNet(Bottleneck, STAGES[50], reduction=16)

:mod:`minires.models.registry` gives each of them a name.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Unpack

import numpy as np

from minires import arguments
from minires.errors import ArgumentError, message, quoted
from minires.models.blocks import BasicBlock, Bottleneck
from minires.models.network import Variations, _Network
from minires.models.variants import Block
from minires.nn import Conv2d, MaxPool2d
from minires.tensor import Tensor

# Blocks in each stage (arXiv:1512.03385, Table 1). Depth 200 (arXiv:1603.05027, Sec. 4) has 16
# bottlenecks more than depth 152, on the maps of 28x28.
STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


class Options(Variations, total=False):
    """Options of the ImageNet family, see :class:`ResNet`."""

    num_classes: int
    in_channels: int
    stride_in: str
    replace_stride_with_dilation: Sequence[bool] | None


class ResNetOptions(Options, total=False):
    """Options of a ResNet whose name does not decide the width of its bottlenecks."""

    groups: int
    width_per_group: int


class ResNet(_Network):
    """A network of the ImageNet family; made by :func:`resnet18` and its siblings.

    ``forward`` takes images ``(n, in_channels, h, w)`` and returns logits ``(n, num_classes)``.

    Args:
        block: one of the classes in :mod:`minires.models.blocks`. With a pre-activation block the
            stem has no batch norm and ReLU, and one pair follows the last block instead.
        layers: blocks in each of the four stages, such as ``STAGES[50]``.
        groups, width_per_group, stride_in: of a bottleneck, see
            :class:`~minires.models.variants.BranchOptions`.
        replace_stride_with_dilation: for stages 2, 3 and 4, whether to keep the size of the maps
            and dilate the 3x3 convolutions from there on instead.
        variations: what any network can be told, see :class:`~minires.models.network.Variations`.

    Attributes:
        depth: layers with weights from input to output, shortcuts aside: the number in a name.
        image_shape: (c, h, w) of the images that it was designed for.

    Raises:
        ArgumentError: an option out of range, or one that these blocks do not have.
        ShapeError: at the call: not images of ``in_channels``.
    """

    image_size = 224
    default_shortcut = "B"
    fan = "fan_out"

    def __init__(
        self,
        block: type[Block],
        layers: Sequence[int],
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        groups: int = 1,
        width_per_group: int = 64,
        stride_in: str = "3x3",
        replace_stride_with_dilation: Sequence[bool] | None = None,
        **variations: Unpack[Variations],
    ) -> None:
        layers = layers.tolist() if isinstance(layers, np.ndarray) else layers
        layers = arguments.sizes("ResNet", "layers of four stages:", layers, 0, 4)
        dilate = (False, *_dilated_stages(replace_stride_with_dilation))
        stages, dilation = [], 1
        for i, blocks in enumerate(layers):
            stride = 1 if i == 0 else 2
            if dilate[i]:
                dilation, stride = 2 * dilation, 1
            stages.append((blocks, 64 * 2**i, stride, dilation))
        super().__init__(
            block,
            Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
            MaxPool2d(3, stride=2, padding=1),
            stages,
            num_classes,
            groups=groups,
            width_per_group=width_per_group,
            stride_in=stride_in,
            **variations,
        )

    def features(self, x: Tensor) -> Tensor:
        maps = super().features(x)
        if maps.shape[2:] == (1, 1):
            warnings.warn(
                f"ResNet: images of {x.shape[2]}x{x.shape[3]} leave maps of 1x1 after five "
                "halvings; did you mean cifar_resnet(depth=20)?",
                UserWarning,
                stacklevel=4,  # features, forward, __call__: the line that called the network
            )
        return maps


def _dilated_stages(dilate: Sequence[bool] | None) -> Sequence[bool]:
    """``replace_stride_with_dilation`` as three booleans, for stages 2, 3 and 4."""
    if dilate is None:
        return False, False, False
    if not isinstance(dilate, tuple | list) or len(dilate) != 3:
        raise ArgumentError(
            message(
                "ResNet",
                "replace_stride_with_dilation for stages 2, 3 and 4, as three booleans",
                quoted(dilate),
            )
        )
    return [arguments.flag("ResNet", "replace_stride_with_dilation", entry) for entry in dilate]


def resnet18(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-18: 11,689,512 parameters, 1.81 G multiply-adds; ``stride_in`` does not concern it."""
    return ResNet(BasicBlock, STAGES[18], **options)


def resnet34(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-34: 21,797,672 parameters, 3.66 G multiply-adds; ``stride_in`` does not concern it."""
    return ResNet(BasicBlock, STAGES[34], **options)


def resnet50(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50: 25,557,032 parameters, 4.09 G multiply-adds at 224x224 (v1.5)."""
    return ResNet(Bottleneck, STAGES[50], **options)


def resnet101(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-101: 44,549,160 parameters, 7.80 G multiply-adds at 224x224 (v1.5)."""
    return ResNet(Bottleneck, STAGES[101], **options)


def resnet152(**options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-152: 60,192,808 parameters, 11.51 G multiply-adds at 224x224 (v1.5)."""
    return ResNet(Bottleneck, STAGES[152], **options)


def resnext50_32x4d(**options: Unpack[Options]) -> ResNet:
    """ResNeXt-50 of 32 groups of 4 channels (Xie et al. 2017, arXiv:1611.05431): 25,028,904
    parameters, 4.23 G multiply-adds at 224x224."""
    return ResNet(Bottleneck, STAGES[50], groups=32, width_per_group=4, **options)


def resnext101_32x8d(**options: Unpack[Options]) -> ResNet:
    """ResNeXt-101 of 32 groups of 8 channels: 88,791,336 parameters, 16.41 G multiply-adds at
    224x224."""
    return ResNet(Bottleneck, STAGES[101], groups=32, width_per_group=8, **options)


def wide_resnet50_2(**options: Unpack[Options]) -> ResNet:
    """ResNet-50 whose 3x3 convolutions are twice as wide (Zagoruyko & Komodakis 2016,
    arXiv:1605.07146, Sec. 3.3): 68,883,240 parameters, 11.40 G multiply-adds at 224x224."""
    return ResNet(Bottleneck, STAGES[50], width_per_group=128, **options)


def wide_resnet101_2(**options: Unpack[Options]) -> ResNet:
    """ResNet-101 whose 3x3 convolutions are twice as wide: 126,886,696 parameters, 22.75 G
    multiply-adds at 224x224."""
    return ResNet(Bottleneck, STAGES[101], width_per_group=128, **options)
