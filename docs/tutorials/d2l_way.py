"""ResNet-18 in the manner of Dive into Deep Learning, on Fashion-MNIST at 96x96.

python docs/tutorials/d2l_way.py              # ten epochs, as in the chapter
python docs/tutorials/d2l_way.py --epochs 1
python docs/tutorials/d2l_way.py --quick      # a few steps
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tutorial_tools import Clock, images, options, progress

import minires as torch
from minires import nn
from minires.data import DataLoader
from minires.nn import functional as F


class Residual(nn.Module):
    """relu(F(X) + X), with a 1x1 convolution on the shortcut where shapes change."""

    def __init__(self, in_channels, num_channels, use_1x1conv=False, strides=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, num_channels, kernel_size=3, padding=1, stride=strides)
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.conv2 = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(num_channels)
        self.conv3 = None
        if use_1x1conv:
            self.conv3 = nn.Conv2d(in_channels, num_channels, kernel_size=1, stride=strides)

    def forward(self, X):
        Y = F.relu(self.bn1(self.conv1(X)))
        Y = self.bn2(self.conv2(Y))
        if self.conv3 is not None:
            X = self.conv3(X)
        Y += X
        return F.relu(Y)


def resnet_block(in_channels, num_channels, num_residuals, first_block=False):
    """A stage. All but the first halve the maps and change their number, in their first block."""
    blocks = []
    for i in range(num_residuals):
        if i == 0 and not first_block:
            blocks.append(Residual(in_channels, num_channels, use_1x1conv=True, strides=2))
        else:
            blocks.append(Residual(num_channels, num_channels))
    return nn.Sequential(*blocks)


def resnet18(in_channels=1, num_classes=10):
    net = nn.Sequential(
        nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    net.add_module("resnet_block1", resnet_block(64, 64, 2, first_block=True))
    net.add_module("resnet_block2", resnet_block(64, 128, 2))
    net.add_module("resnet_block3", resnet_block(128, 256, 2))
    net.add_module("resnet_block4", resnet_block(256, 512, 2))
    net.add_module("global_avg_pool", nn.AdaptiveAvgPool2d((1, 1)))
    net.add_module("fc", nn.Sequential(nn.Flatten(), nn.Linear(512, num_classes)))
    return net


def print_shapes(net, X):
    """What comes out of each layer, one after the other."""
    with torch.no_grad():
        for name, layer in net.named_children():
            X = layer(X)
            print(f"{name:<16}{type(layer).__name__:<18}{'x'.join(map(str, X.shape[1:]))}")


def init_weights(layer):
    """Glorot's uniform rule for everything with a weight matrix."""
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(layer.weight)


class Resize:
    """Images of ``size`` x ``size``, bilinear: a product with one small matrix per axis."""

    def __init__(self, size):
        self.size = size

    def matrix(self, old):
        """(size, old): row p holds the weights of the pixels between which p falls."""
        at = np.clip((np.arange(self.size) + 0.5) * old / self.size - 0.5, 0, old - 1)
        weights = 1 - np.abs(at[:, None] - np.arange(old))
        return np.maximum(weights, 0).astype(np.float32)

    def __call__(self, x, draws):
        rows = np.tensordot(self.matrix(x.shape[1]), x, (1, 1))  # (size, n, w, c)
        both = np.tensordot(self.matrix(x.shape[2]), rows, (1, 2))  # (size, size, n, c)
        return both.transpose(2, 1, 0, 3)


def accuracy(net, batches):
    net.eval()
    correct = seen = 0
    with torch.no_grad():
        for X, y in batches:
            correct += (net(X).argmax(dim=1) == y).sum().item()
            seen += len(y)
    return correct / seen


def train(net, train_iter, test_iter, num_epochs, lr):
    """Plain SGD, no momentum; prints a line per epoch and gives the last one's numbers."""
    net.apply(init_weights)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    loss = nn.CrossEntropyLoss()
    for epoch in range(1, num_epochs + 1):
        clock = Clock()
        total = correct = seen = 0
        net.train()
        for X, y in progress(train_iter, f"epoch {epoch} of {num_epochs}"):
            optimizer.zero_grad()
            y_hat = net(X)
            l = loss(y_hat, y)
            l.backward()
            optimizer.step()
            total += l.item() * len(y)
            correct += (y_hat.argmax(dim=1) == y).sum().item()
            seen += len(y)
        trained = str(clock)
        test = accuracy(net, test_iter)
        print(
            f"epoch {epoch}: loss {total / seen:.3f}, train acc {correct / seen:.3f}, "
            f"test acc {test:.3f}, {trained} and {clock} with the test",
            flush=True,
        )
    return {"loss": total / seen, "train": correct / seen, "test": test}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__.splitlines()[0], epochs=10, argv=argv)
    torch.manual_seed(chosen.seed)
    net = resnet18()
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters")
    print_shapes(net, torch.rand(1, 1, 224, 224))
    train_data, test_data = images("fashion-mnist", chosen)
    size, batch = (32, 32) if chosen.quick else (96, 256)
    train_iter = DataLoader(
        train_data, batch, shuffle=True, transform=Resize(size), seed=chosen.seed
    )
    test_iter = DataLoader(test_data, batch, transform=Resize(size))
    return train(net, train_iter, test_iter, chosen.epochs, lr=0.05)


if __name__ == "__main__":
    main()
