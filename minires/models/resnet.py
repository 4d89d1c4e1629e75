"""The ImageNet family (He et al. 2015, arXiv:1512.03385, Table 1), with torchvision's names.

A 7x7 stem of stride 2, a 3x3 max pool of stride 2, four stages, global average pooling and one
linear layer: five halvings, made for images of 224x224. State dicts have torchvision's keys in
torchvision's order.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from minires.models.blocks import BasicBlock, Bottleneck
from minires.models.cifar import he_init
from minires.nn import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    init,
)
from minires.nn import functional as F
from minires.tensor import Tensor


class ResNet(Module):
    """A network of the ImageNet family; made by :func:`resnet18` and its siblings.

    ``forward`` takes images ``(n, in_channels, h, w)`` and returns logits ``(n, num_classes)``.

    Args:
        layers: blocks in each of the four stages.
        bottleneck: blocks of three convolutions (:class:`Bottleneck`) rather than two.
        stride_in: which convolution of a bottleneck halves the map, ``"3x3"`` (torchvision, v1.5)
            or ``"1x1"`` (the paper, v1).
        shortcut: "A", "B" or "C", see :mod:`minires.models.blocks`.
        zero_init_residual: start every block as its shortcut, with 0 as weight of its last batch
            norm (Goyal et al. 2017, arXiv:1706.02677, Sec. 5.1).
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        bottleneck: bool,
        num_classes: int = 1000,
        in_channels: int = 3,
        stride_in: str = "3x3",
        shortcut: str = "B",
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()

        def block(c_in: int, channels: int, stride: int) -> Module:
            if bottleneck:
                return Bottleneck(c_in, channels, stride, shortcut=shortcut, stride_in=stride_in)
            return BasicBlock(c_in, channels, stride, shortcut=shortcut)

        expansion = Bottleneck.expansion if bottleneck else BasicBlock.expansion
        self.conv1 = Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(64)
        self.relu = ReLU()
        self.maxpool = MaxPool2d(3, stride=2, padding=1)
        c_in = 64
        for i, blocks in enumerate(layers):
            channels = 64 * 2**i
            stage = Sequential()
            for j in range(blocks):
                stage.append(block(c_in, channels, 2 if i > 0 and j == 0 else 1))
                c_in = channels * expansion
            self.add_module(f"layer{i + 1}", stage)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc = Linear(c_in, num_classes)
        he_init(self, "fan_out")
        if zero_init_residual:
            last = "bn3.weight" if bottleneck else "bn2.weight"
            for name, param in self.named_parameters():
                if name.endswith(last):
                    init.zeros_(param)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if x.shape[2:] == (1, 1):
            warnings.warn(
                f"ResNet: images of {h}x{w} leave maps of 1x1 after five halvings; "
                "did you mean cifar_resnet(depth=20)?",
                UserWarning,
                stacklevel=3,  # forward, __call__: the line that called the network
            )
        return self.fc(F.flatten(self.avgpool(x), 1))


def resnet18(
    num_classes: int = 1000,
    in_channels: int = 3,
    stride_in: str = "3x3",
    zero_init_residual: bool = False,
    shortcut: str = "B",
) -> ResNet:
    """ResNet-18: 11,689,512 parameters, 1.81 G multiply-adds; ``stride_in`` does not concern it."""
    return ResNet(
        (2, 2, 2, 2),
        bottleneck=False,
        num_classes=num_classes,
        in_channels=in_channels,
        stride_in=stride_in,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
    )


def resnet34(
    num_classes: int = 1000,
    in_channels: int = 3,
    stride_in: str = "3x3",
    zero_init_residual: bool = False,
    shortcut: str = "B",
) -> ResNet:
    """ResNet-34: 21,797,672 parameters, 3.66 G multiply-adds; ``stride_in`` does not concern it."""
    return ResNet(
        (3, 4, 6, 3),
        bottleneck=False,
        num_classes=num_classes,
        in_channels=in_channels,
        stride_in=stride_in,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
    )


def resnet50(
    num_classes: int = 1000,
    in_channels: int = 3,
    stride_in: str = "3x3",
    zero_init_residual: bool = False,
    shortcut: str = "B",
) -> ResNet:
    """ResNet-50: 25,557,032 parameters, 4.09 G multiply-adds at 224x224 (v1.5)."""
    return ResNet(
        (3, 4, 6, 3),
        bottleneck=True,
        num_classes=num_classes,
        in_channels=in_channels,
        stride_in=stride_in,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
    )


def resnet101(
    num_classes: int = 1000,
    in_channels: int = 3,
    stride_in: str = "3x3",
    zero_init_residual: bool = False,
    shortcut: str = "B",
) -> ResNet:
    """ResNet-101: 44,549,160 parameters, 7.80 G multiply-adds at 224x224 (v1.5)."""
    return ResNet(
        (3, 4, 23, 3),
        bottleneck=True,
        num_classes=num_classes,
        in_channels=in_channels,
        stride_in=stride_in,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
    )


def resnet152(
    num_classes: int = 1000,
    in_channels: int = 3,
    stride_in: str = "3x3",
    zero_init_residual: bool = False,
    shortcut: str = "B",
) -> ResNet:
    """ResNet-152: 60,192,808 parameters, 11.51 G multiply-adds at 224x224 (v1.5)."""
    return ResNet(
        (3, 8, 36, 3),
        bottleneck=True,
        num_classes=num_classes,
        in_channels=in_channels,
        stride_in=stride_in,
        shortcut=shortcut,
        zero_init_residual=zero_init_residual,
    )
