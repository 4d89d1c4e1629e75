"""Residual networks written as PyTorch code is written; the same source runs on both libraries.

:func:`library` binds it to ``torch`` or to ``minires``. Names and order of modules are those of
torchvision, so that state dicts carry over; torchvision itself is not needed. Bound to PyTorch this
is the opponent of every row. Bound to minires it is the "torchvision-style code": separate
``bn`` and ``relu``, ``nn.ReLU(inplace=True)``, ``out += identity``.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any


@functools.cache
def library(name: str) -> SimpleNamespace:
    """The nets of this module on ``"torch"`` or ``"minires"``: cifar_resnet, resnet18, resnet50."""
    if name == "torch":
        from torch import nn
        from torch.nn import functional as F
    else:
        from minires import nn
        from minires.nn import functional as F

    def conv3x3(c_in: int, c_out: int, stride: int = 1) -> Any:
        return nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=1, bias=False)

    def conv1x1(c_in: int, c_out: int, stride: int = 1) -> Any:
        return nn.Conv2d(c_in, c_out, kernel_size=1, stride=stride, bias=False)

    class PaddedIdentity(nn.Module):
        """Shortcut A of the CIFAR nets: subsampled, with channels of zeros."""

        def __init__(self, stride: int, more_channels: int) -> None:
            super().__init__()
            self.stride, self.more_channels = stride, more_channels

        def forward(self, x: Any) -> Any:
            x = x[:, :, :: self.stride, :: self.stride]
            return F.pad(x, (0, 0, 0, 0, 0, self.more_channels))

    class BasicBlock(nn.Module):
        expansion = 1

        def __init__(self, c_in: int, channels: int, stride: int, downsample: Any) -> None:
            super().__init__()
            self.conv1 = conv3x3(c_in, channels, stride)
            self.bn1 = nn.BatchNorm2d(channels)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = conv3x3(channels, channels)
            self.bn2 = nn.BatchNorm2d(channels)
            self.downsample = downsample

        def forward(self, x: Any) -> Any:
            identity = x
            out = self.conv1(x)
            out = self.bn1(out)
            out = self.relu(out)
            out = self.conv2(out)
            out = self.bn2(out)
            if self.downsample is not None:
                identity = self.downsample(x)
            out += identity
            return self.relu(out)

    class Bottleneck(nn.Module):
        expansion = 4

        def __init__(self, c_in: int, channels: int, stride: int, downsample: Any) -> None:
            super().__init__()
            self.conv1 = conv1x1(c_in, channels)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = conv3x3(channels, channels, stride)
            self.bn2 = nn.BatchNorm2d(channels)
            self.conv3 = conv1x1(channels, 4 * channels)
            self.bn3 = nn.BatchNorm2d(4 * channels)
            self.relu = nn.ReLU(inplace=True)
            self.downsample = downsample

        def forward(self, x: Any) -> Any:
            identity = x
            out = self.conv1(x)
            out = self.bn1(out)
            out = self.relu(out)
            out = self.conv2(out)
            out = self.bn2(out)
            out = self.relu(out)
            out = self.conv3(out)
            out = self.bn3(out)
            if self.downsample is not None:
                identity = self.downsample(x)
            out += identity
            return self.relu(out)

    def stage(block: Any, c_in: int, channels: int, blocks: int, stride: int, padded: bool) -> Any:
        c_out = channels * block.expansion
        downsample = None
        if stride != 1 or c_in != c_out:
            if padded:
                downsample = PaddedIdentity(stride, c_out - c_in)
            else:
                projection = conv1x1(c_in, c_out, stride)
                downsample = nn.Sequential(projection, nn.BatchNorm2d(c_out))
        first = block(c_in, channels, stride, downsample)
        rest = (block(c_out, channels, 1, None) for _ in range(blocks - 1))
        return nn.Sequential(first, *rest)

    class CifarResNet(nn.Module):
        """6n+2 layers for 32x32 images (arXiv:1512.03385, Sec. 4.2), shortcut A."""

        def __init__(self, depth: int) -> None:
            super().__init__()
            blocks = (depth - 2) // 6
            self.conv1 = conv3x3(3, 16)
            self.bn1 = nn.BatchNorm2d(16)
            self.relu = nn.ReLU(inplace=True)
            self.layer1 = stage(BasicBlock, 16, 16, blocks, 1, padded=True)
            self.layer2 = stage(BasicBlock, 16, 32, blocks, 2, padded=True)
            self.layer3 = stage(BasicBlock, 32, 64, blocks, 2, padded=True)
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            x = self.conv1(x)
            x = self.bn1(x)
            x = self.relu(x)
            x = self.layer1(x)
            x = self.layer2(x)
            x = self.layer3(x)
            x = self.avgpool(x)
            return self.fc(x.flatten(1))

    class ResNet(nn.Module):
        """The ImageNet nets as torchvision defines them (v1.5)."""

        def __init__(self, block: Any, layers: tuple[int, ...], c_in: int, classes: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(c_in, 64, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.relu = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
            wide = block.expansion
            self.layer1 = stage(block, 64, 64, layers[0], 1, padded=False)
            self.layer2 = stage(block, 64 * wide, 128, layers[1], 2, padded=False)
            self.layer3 = stage(block, 128 * wide, 256, layers[2], 2, padded=False)
            self.layer4 = stage(block, 256 * wide, 512, layers[3], 2, padded=False)
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(512 * wide, classes)

        def forward(self, x: Any) -> Any:
            x = self.conv1(x)
            x = self.bn1(x)
            x = self.relu(x)
            x = self.maxpool(x)
            x = self.layer1(x)
            x = self.layer2(x)
            x = self.layer3(x)
            x = self.layer4(x)
            x = self.avgpool(x)
            return self.fc(x.flatten(1))

    def resnet18(in_channels: int = 3, num_classes: int = 1000) -> Any:
        return ResNet(BasicBlock, (2, 2, 2, 2), in_channels, num_classes)

    def resnet50(in_channels: int = 3, num_classes: int = 1000) -> Any:
        return ResNet(Bottleneck, (3, 4, 6, 3), in_channels, num_classes)

    return SimpleNamespace(cifar_resnet=CifarResNet, resnet18=resnet18, resnet50=resnet50)
