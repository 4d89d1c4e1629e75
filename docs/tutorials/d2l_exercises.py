"""The exercises on residual networks of Dive into Deep Learning, worked out.

python docs/tutorials/d2l_exercises.py           # all of Table 1
python docs/tutorials/d2l_exercises.py --quick   # 18 and 50 layers only
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from d2l_way import Residual, resnet18
from tutorial_tools import options

import minires as torch
from minires import nn
from minires.nn import functional as F


class Bottleneck(nn.Module):
    """Residual for deep networks: the 3x3 convolution works on a quarter of the channels."""

    expansion = 4

    def __init__(self, in_channels, num_channels, use_1x1conv=False, strides=1):
        super().__init__()
        out_channels = num_channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, num_channels, kernel_size=1, stride=strides)
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.conv2 = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(num_channels)
        self.conv3 = nn.Conv2d(num_channels, out_channels, kernel_size=1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = None
        if use_1x1conv:
            self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=strides)

    def forward(self, X):
        Y = F.relu(self.bn1(self.conv1(X)))
        Y = F.relu(self.bn2(self.conv2(Y)))
        Y = self.bn3(self.conv3(Y))
        if self.shortcut is not None:
            X = self.shortcut(X)
        Y += X
        return F.relu(Y)


class PreActivation(nn.Module):
    """F(X) + X with batch norm and ReLU in front of each convolution, nothing after the sum."""

    expansion = 1

    def __init__(self, in_channels, num_channels, use_1x1conv=False, strides=1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, num_channels, kernel_size=3, padding=1, stride=strides)
        self.bn2 = nn.BatchNorm2d(num_channels)
        self.conv2 = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1)
        self.conv3 = None
        if use_1x1conv:
            self.conv3 = nn.Conv2d(in_channels, num_channels, kernel_size=1, stride=strides)

    def forward(self, X):
        activated = F.relu(self.bn1(X))
        Y = self.conv1(activated)
        Y = self.conv2(F.relu(self.bn2(Y)))
        return Y + (X if self.conv3 is None else self.conv3(activated))


def stage(block, in_channels, num_channels, num_residuals, strides):
    """Blocks of any of the three kinds; the 1x1 convolution stands where the shape changes."""
    expansion = getattr(block, "expansion", 1)
    changes = strides != 1 or in_channels != num_channels * expansion
    blocks = [block(in_channels, num_channels, use_1x1conv=changes, strides=strides)]
    for _ in range(1, num_residuals):
        blocks.append(block(num_channels * expansion, num_channels))
    return nn.Sequential(*blocks)


def resnet(block, counts, in_channels=3, num_classes=1000):
    """A column of the paper's Table 1: ``counts`` blocks of 64, 128, 256 and 512 channels."""
    net = nn.Sequential(
        nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    channels = 64
    for i, count in enumerate(counts):
        width = 64 * 2**i
        net.add_module(f"stage{i + 1}", stage(block, channels, width, count, 2 if i else 1))
        channels = width * getattr(block, "expansion", 1)
    if block is PreActivation:  # the last sum has not been normalised by anything
        net.add_module("last", nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()))
    net.add_module("global_avg_pool", nn.AdaptiveAvgPool2d((1, 1)))
    net.add_module("fc", nn.Sequential(nn.Flatten(), nn.Linear(channels, num_classes)))
    return net


TABLE_1 = {
    18: (Residual, (2, 2, 2, 2), 1.8),
    34: (Residual, (3, 4, 6, 3), 3.6),
    50: (Bottleneck, (3, 4, 6, 3), 3.8),
    101: (Bottleneck, (3, 4, 23, 3), 7.6),
    152: (Bottleneck, (3, 8, 36, 3), 11.3),
}


def print_table(depths):
    """Parameters, and multiply-adds at 224x224 beside the paper's figure."""
    print(f"{'layers':>6}  {'block':<12}{'parameters':>12}{'multiply-adds':>16}{'paper':>8}")
    for depth in depths:
        block, counts, paper = TABLE_1[depth]
        cost = torch.summary(resnet(block, counts), (1, 3, 224, 224))
        print(
            f"{depth:>6}  {block.__name__:<12}{cost.total_params:>12,}"
            f"{cost.total_mult_adds / 1e9:>14.2f} G{paper:>6.1f} G",
            flush=True,
        )


def zero_block(channels):
    """A block whose F is zero: the last batch norm multiplies by 0 and adds 0."""
    block = Residual(channels, channels)
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)
    return block


def deeper(net):
    """A copy of ``net`` with one more block at the end of each stage, so far without effect."""
    larger = copy.deepcopy(net)
    for i, channels in enumerate((64, 128, 256, 512), 1):
        getattr(larger, f"resnet_block{i}").append(zero_block(channels))
    return larger


def identities(x):
    """For which inputs is a block with F = 0 the identity function?"""
    residual = zero_block(x.shape[1])
    pre = PreActivation(x.shape[1], x.shape[1])
    nn.init.zeros_(pre.conv2.weight)
    nn.init.zeros_(pre.conv2.bias)

    def same(block, x):
        return bool((block(x) == x).all().item())

    return {
        "Residual, after a ReLU": same(residual, F.relu(x)),
        "Residual, any input": same(residual, x),
        "PreActivation, any input": same(pre, x),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__.splitlines()[0], epochs=0, argv=argv)
    torch.manual_seed(chosen.seed)
    print_table((18, 50) if chosen.quick else TABLE_1)

    print("\na block with F = 0 is the identity function")
    found = identities(torch.randn(2, 64, 8, 8))
    for case, holds in found.items():
        print(f"  {case:<26}{'yes' if holds else 'no'}")

    net = resnet18()
    larger = deeper(net)
    x, labels = torch.rand(8, 1, 64, 64), torch.randint(0, 10, (8,))
    before, after = net(x), larger(x)
    unchanged = bool((before == after).all().item())
    print(f"\n18 layers and 26, the new ones zero: the same outputs, bit for bit: {unchanged}")
    torch.cross_entropy(after, labels).backward()
    awake = larger.resnet_block2[2].bn2.weight.grad.abs().max().item()
    print(f"largest gradient of a new γ: {awake:.4f}, so the new layers can learn")
    return {"identities": found, "unchanged": unchanged, "awake": awake}


if __name__ == "__main__":
    main()
