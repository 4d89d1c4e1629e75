"""The 6n+2 family for small images (He et al. 2015, arXiv:1512.03385, Sec. 4.2), and plain twins.

A 3x3 stem, three stages of n blocks with 16, 32 and 64 channels on maps of full, half and quarter
size, global average pooling and one linear layer: 6n+2 layers with weights. The plain twin has
the same layers without the additions.
"""

from __future__ import annotations

from collections.abc import Callable

from minires.errors import ArgumentError, ShapeError, message
from minires.models.blocks import (
    BasicBlock,
    PlainBlock,
    PreActBlock,
    PreActPlainBlock,
    conv3x3,
    make_shortcut,
)
from minires.nn import BatchNorm2d, Conv2d, Linear, Module, ReLU, Sequential, init
from minires.nn import functional as F
from minires.tensor import Tensor

_WIDTHS = (16, 32, 64)


class CifarNet(Module):
    """A 6n+2 network of any block; made by :func:`cifar_resnet` and :func:`cifar_plain`.

    ``forward`` takes images ``(n, in_channels, h, w)`` and returns logits ``(n, num_classes)``.

    Args:
        block: ``block(in_channels, channels, stride)`` makes one block.
        depth: 6n+2 with n >= 1.
        pre_activation: whether the blocks start with batch norm and ReLU (v2). The stem then has
            none, and one pair follows the last block instead.
    """

    def __init__(
        self,
        block: Callable[[int, int, int], Module],
        depth: int,
        num_classes: int,
        in_channels: int,
        pre_activation: bool,
    ) -> None:
        super().__init__()
        blocks = blocks_per_stage(depth)
        self.depth, self.in_channels, self.pre_activation = depth, in_channels, pre_activation
        self.conv1 = conv3x3(in_channels, _WIDTHS[0])
        self.bn1 = BatchNorm2d(_WIDTHS[-1] if pre_activation else _WIDTHS[0])
        self.relu = ReLU()
        self.layer1 = _stage(block, _WIDTHS[0], _WIDTHS[0], blocks, stride=1)
        self.layer2 = _stage(block, _WIDTHS[0], _WIDTHS[1], blocks, stride=2)
        self.layer3 = _stage(block, _WIDTHS[1], _WIDTHS[2], blocks, stride=2)
        self.fc = Linear(_WIDTHS[2], num_classes)
        he_init(self, "fan_in")

    def forward(self, x: Tensor) -> Tensor:
        if len(x.shape) != 4 or x.shape[1] != self.in_channels:
            raise ShapeError(
                message(
                    f"{type(self).__name__} of depth {self.depth}",
                    f"images of shape (n, {self.in_channels}, h, w)",
                    f"shape {x.shape}",
                    fix="Pass in_channels= for images with other channels.",
                )
            )
        x = self.conv1(x)
        if not self.pre_activation:
            x = self.relu(self.bn1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        if self.pre_activation:
            x = self.relu(self.bn1(x))
        return self.fc(F.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _stage(
    block: Callable[[int, int, int], Module],
    in_channels: int,
    channels: int,
    blocks: int,
    stride: int,
) -> Sequential:
    rest = (block(channels, channels, 1) for _ in range(blocks - 1))
    return Sequential(block(in_channels, channels, stride), *rest)


def he_init(model: Module, mode: str) -> None:
    """Draw every convolution weight from N(0, 2 / fan), as arXiv:1512.03385 Sec. 3.4 prescribes.

    The source (arXiv:1502.01852) gives fan-in in Eq. 10 and fan-out in Eq. 14 and finds either
    sufficient. Linear layers keep PyTorch's default, and batch norm starts as the identity.
    """
    for module in model.modules():
        if isinstance(module, Conv2d):
            init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")


def blocks_per_stage(depth: int) -> int:
    """The n of ``depth = 6n + 2``.

    Raises:
        ArgumentError: ``depth`` is not of that form; names the nearest depths that are.
    """
    if isinstance(depth, bool) or not isinstance(depth, int):
        raise ArgumentError(message("depth", "an integer of the form 6n+2", repr(depth)))
    if depth >= 8 and (depth - 2) % 6 == 0:
        return (depth - 2) // 6
    below = 2 + 6 * ((depth - 2) // 6)
    near = f"{below} and {below + 6}" if below >= 8 else "8"
    raise ArgumentError(
        message("depth", "6n+2 with n >= 1 (8, 14, 20, ...)", depth, fix=f"Nearest: {near}.")
    )


def cifar_resnet(
    depth: int,
    *,
    shortcut: str = "A",
    num_classes: int = 10,
    in_channels: int = 3,
    pre_activation: bool = False,
) -> CifarNet:
    """A residual network of 6n+2 layers; 269,722 parameters at depth 20.

    Args:
        depth: 8, 14, 20, ...; the paper has 20, 32, 44, 56, 110 and 1202.
        shortcut: "A" as in the paper's experiments; "B" adds 2,752 parameters at every depth.
        in_channels: 3 for colour images, 1 for grey ones.
        pre_activation: the blocks of arXiv:1603.05027 (v2) instead.

    Raises:
        ArgumentError: a depth not of the form 6n+2, or an unknown shortcut.
    """

    def block(c_in: int, c_out: int, stride: int) -> Module:
        kind = PreActBlock if pre_activation else BasicBlock
        return kind(c_in, c_out, stride, shortcut=shortcut)

    make_shortcut(shortcut, 1, 1, 1)  # refuse a bad name before anything is drawn
    return CifarNet(block, depth, num_classes, in_channels, pre_activation)


def cifar_plain(
    depth: int, *, num_classes: int = 10, in_channels: int = 3, pre_activation: bool = False
) -> CifarNet:
    """The plain twin of :func:`cifar_resnet` with shortcut A: the same network without additions.

    Parameter names and shapes, and for one seed the initial values, are identical.

    Raises:
        ArgumentError: a depth not of the form 6n+2.
    """
    kind = PreActPlainBlock if pre_activation else PlainBlock
    return CifarNet(kind, depth, num_classes, in_channels, pre_activation)
