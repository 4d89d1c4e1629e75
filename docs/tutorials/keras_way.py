"""ResNet-50 from identity and convolutional blocks, as in Keras courses: 64x64x3, six classes.

python docs/tutorials/keras_way.py           # six animals of CIFAR-10, 6,000 images
python docs/tutorials/keras_way.py --quick   # a few steps
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tutorial_tools import Clock, images, options, part, progress

import minires as mr
from minires import nn, optim
from minires.nn import functional as F

ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")


def conv(in_channels, filters, kernel_size, strides=1, padding="valid"):
    """Conv2D: with bias, Glorot's uniform rule for the kernel."""
    layer = nn.Conv2d(in_channels, filters, kernel_size, stride=strides, padding=padding)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def batch_norm(channels):
    """BatchNormalization(axis=3): 0.99 is the weight of the old there, 0.01 of the new here."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def main_path(in_channels, filters, strides):
    """1x1, 3x3 and 1x1 convolutions; the first has the stride."""
    f1, f2, f3 = filters
    return nn.Sequential(
        conv(in_channels, f1, 1, strides),
        batch_norm(f1),
        nn.ReLU(),
        conv(f1, f2, 3, padding="same"),
        batch_norm(f2),
        nn.ReLU(),
        conv(f2, f3, 1),
        batch_norm(f3),
    )


class Block(nn.Module):
    """Two paths from the same input, added before the activation."""

    def __init__(self, main, shortcut):
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x):
        return F.relu(self.main(x) + self.shortcut(x))


def identity_block(filters):
    """The shortcut is the input itself: as many channels come in as go out."""
    return Block(main_path(filters[2], filters, 1), nn.Identity())


def convolutional_block(in_channels, filters, strides=2):
    """The shortcut is a 1x1 convolution and a batch norm, for where shapes change."""
    shortcut = nn.Sequential(
        conv(in_channels, filters[2], 1, strides),
        batch_norm(filters[2]),
    )
    return Block(main_path(in_channels, filters, strides), shortcut)


def resnet50(classes=6):
    """Images 64x64x3 to logits; ``mr.softmax`` of them is the output of the Keras network."""
    layers = [
        conv(3, 64, 7, strides=2, padding=3),  # ZeroPadding2D(3), then a valid convolution
        batch_norm(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
    ]
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        filters = (width, width, 4 * width)
        layers.append(convolutional_block(channels, filters, strides=2 if stage else 1))
        layers += [identity_block(filters) for _ in range(1, blocks)]
        channels = filters[2]
    dense = nn.Linear(channels, classes)
    nn.init.xavier_uniform_(dense.weight)
    nn.init.zeros_(dense.bias)
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), dense)


def counts(net):
    """Parameters as Keras counts them: all, and those that are trained.

    Keras counts the running means and variances of batch norm among all.
    """
    trained = sum(p.numel() for p in net.parameters())
    running = sum(b.numel() for name, b in net.named_buffers() if "running" in name)
    return trained + running, trained


def batches(pixels, labels, size, order):
    """Images (n, 64, 64, 3) and one-hot labels, as tensors."""
    one_hot = np.eye(len(ANIMALS), dtype=np.float32)[labels]
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        x = pixels[chosen].astype(np.float32) / 255
        yield mr.from_nhwc(x), mr.from_numpy(one_hot[chosen])


def evaluate(net, pixels, labels):
    net.eval()
    loss = correct = 0
    with mr.no_grad():
        for x, y in batches(pixels, labels, 100, np.arange(len(labels))):
            logits = net(x)
            loss += mr.cross_entropy(logits, y, reduction="sum").item()
            correct += (logits.argmax(dim=1) == y.argmax(dim=1)).sum().item()
    net.train()
    return loss / len(labels), correct / len(labels)


def settle(net, pixels, labels, steps):
    """Running statistics anew, as plain averages over batches that today's weights see."""
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        nn.init.zeros_(norm.num_batches_tracked)
        norm.momentum = None  # the plain average of all batches since the count was zero
    net.train()
    with mr.no_grad():
        for x, _ in batches(pixels, labels, 100, np.arange(min(100 * steps, len(labels)))):
            net(x)
    for norm in norms:
        norm.momentum = momentum


def fit(net, pixels, labels, epochs, batch_size, seed):
    """Adam and the categorical cross entropy of one-hot labels."""
    optimizer = optim.Adam(net.parameters(), lr=1e-3)
    draws = np.random.default_rng(seed)
    for epoch in range(1, epochs + 1):
        clock, total, correct = Clock(), 0.0, 0
        stream = batches(pixels, labels, batch_size, draws.permutation(len(labels)))
        steps = math.ceil(len(labels) / batch_size)
        for x, y in progress(stream, f"epoch {epoch} of {epochs}", steps):
            optimizer.zero_grad()
            logits = net(x)
            loss = mr.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
            correct += (logits.argmax(dim=1) == y.argmax(dim=1)).sum().item()
        print(
            f"epoch {epoch}: loss {total / len(labels):.4f}, "
            f"accuracy {correct / len(labels):.4f}, {clock}",
            flush=True,
        )


def animals(dataset):
    """The six animals of CIFAR-10 at 64x64, each pixel doubled: uint8 (n, 64, 64, 3), labels."""
    wanted = [dataset.classes.index(name) for name in ANIMALS]
    chosen = part(dataset, np.isin(dataset.labels, wanted))
    pixels = chosen.images.repeat(2, axis=1).repeat(2, axis=2)
    return pixels, np.searchsorted(wanted, chosen.labels)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__.splitlines()[0], epochs=3, argv=argv, limit=10_000)
    mr.manual_seed(chosen.seed)
    net = resnet50()
    total, trained = counts(net)
    print(f"total params: {total:,}, trainable: {trained:,}")
    train, test = images("cifar10", chosen)
    pixels, labels = animals(train)
    print(f"{len(labels):,} images of {len(ANIMALS)} animals, {pixels.shape[1:]}")
    fit(net, pixels, labels, chosen.epochs, 32, chosen.seed)
    for statistics in ("running", "settled"):
        if statistics == "settled":
            settle(net, pixels, labels, steps=20)
        loss, accuracy = evaluate(net, *animals(test))
        print(f"{statistics} statistics: test loss {loss:.4f}, accuracy {accuracy:.4f}", flush=True)
    return {"total": total, "trained": trained, "loss": loss, "accuracy": accuracy}


if __name__ == "__main__":
    main()
