"""A small residual network and a block of it, for tests on any device."""

from __future__ import annotations

import numpy as np
from harness import host

import minires as mr
from minires import nn


class Net(nn.Module):
    """A stem with max pooling, a residual block, a convolution with a bias, average pooling and a
    linear layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.head, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(16, 5)

    def forward(self, x):
        x = mr.max_pool2d(self.bn(self.stem(x)).relu(), 3, stride=2, padding=1)
        y = self.bn1(self.conv1(x)).relu()
        x = (self.bn2(self.conv2(y)) + x).relu()
        return self.fc(mr.avg_pool2d(self.head(x), 2).flatten(1))


def network(device, seed=0):
    mr.manual_seed(seed)
    return Net().to(device)


def batches(count, device):
    rng = np.random.default_rng(1)
    for _ in range(count):
        images = rng.standard_normal((4, 3, 8, 8)).astype("f4")
        yield mr.tensor(images, device=device), mr.tensor(rng.integers(0, 5, 4), device=device)


def on_cpu(value):
    """The values of a tensor or of an array of any device."""
    return np.asarray(host(value))


def block(device="cuda"):
    """(conv, bn, x) with statistics of their own."""
    mr.manual_seed(0)
    conv, bn = nn.Conv2d(4, 4, 3, padding=1, bias=False).to(device), nn.BatchNorm2d(4).to(device)
    return conv, bn, mr.randn(2, 4, 5, 5).to(device)
