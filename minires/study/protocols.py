"""Training recipes. A study uses one and the same recipe for every kind and depth of network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires import arguments
from minires.data import Compose, Draws, ImageDataset, Normalize, RandomCrop, RandomHorizontalFlip
from minires.device import device_of, move
from minires.optim import (
    SGD,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    Optimizer,
    SequentialLR,
)
from minires.study.words import ENGLISH

Transform = Callable[[Any, Draws], Any]


@dataclass(frozen=True)
class Protocol:
    """How a network is trained.

    Attributes:
        name: ``"quick"`` or ``"paper"``.
        epochs, batch_size, lr, momentum, weight_decay: as usual; SGD.
        schedule: ``"cosine"`` to zero after a linear warm-up; or ``"steps"``, the rate divided by
            10 at 1/2 and 3/4 of the training.
        warmup_epochs: of the linear warm-up; under ``"steps"`` unused.
        warmup_rule: ``"linear"``; or ``"80%"``, the paper's rule for 110 layers and more: a tenth
            of the rate until the training error of an epoch is below 80 %.
        normalize: ``"channel"`` mean and standard deviation, or ``"pixel"`` mean only.
        augment: ``"none"``, or ``"crop-flip"``: 4 pixels of zeros around, random crop and flip.
        description: the recipe in one sentence.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup_epochs: float
    warmup_rule: str
    normalize: str
    augment: str
    description: str

    def with_epochs(self, epochs: int | None) -> Protocol:
        """The same recipe stretched to another number of epochs."""
        if epochs is None:
            return self
        epochs = arguments.integer("protocol", "epochs", epochs, 1)
        # a warm-up longer than half of a short run would leave no training at the full rate
        return dataclasses.replace(
            self, epochs=epochs, warmup_epochs=min(self.warmup_epochs, epochs / 2)
        )

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Protocol:
        """The protocol that a stored configuration describes."""
        return Protocol(**values)


PROTOCOLS = {
    "quick": Protocol(
        name="quick",
        epochs=10,
        batch_size=128,
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="cosine",
        warmup_epochs=2,
        warmup_rule="linear",
        normalize="channel",
        augment="none",
        description=ENGLISH["about.quick"],
    ),
    "paper": Protocol(
        name="paper",
        epochs=164,
        batch_size=128,
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        warmup_epochs=0,
        warmup_rule="80%",
        normalize="pixel",
        augment="crop-flip",
        description=ENGLISH["about.paper"],
    ),
}

PAPER_WARMUP_DEPTH = 110
PAPER_WARMUP_ERROR = 0.8


class StepsWithWarmUp(LRScheduler):
    """The paper's rates: lr, then lr / 10 and lr / 100 from ``milestones`` on; and while
    ``warming`` a tenth of lr.

    ``warming`` is not part of the state: it follows from the history, see :meth:`observe`.
    """

    settings = ("milestones",)

    def __init__(self, optimizer: Optimizer, milestones: list[int], warming: bool) -> None:
        self.milestones, self.warming = milestones, warming
        super().__init__(optimizer)

    def next_lr(self, step: int, lr: float, base_lr: float) -> float:
        if self.warming:
            return base_lr * 0.1
        passed = sum(step >= milestone for milestone in self.milestones)
        return base_lr * 0.1**passed

    def observe(self, train_error: float) -> None:
        """End the warm-up once an epoch's training error is below 80 %."""
        if self.warming and train_error < PAPER_WARMUP_ERROR:
            self.warming = False
            self._go_to(self.last_epoch)


def make_optimizer(protocol: Protocol, parameters: Any) -> SGD:
    """The protocol's optimiser."""
    return SGD(
        parameters,
        lr=protocol.lr,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
    )


def make_schedule(
    protocol: Protocol, optimizer: Optimizer, steps_per_epoch: int, depth: int
) -> LRScheduler:
    """The protocol's learning rates, one step per optimiser step."""
    total = protocol.epochs * steps_per_epoch
    if protocol.schedule == "steps":
        warming = protocol.warmup_rule == "80%" and depth >= PAPER_WARMUP_DEPTH
        return StepsWithWarmUp(optimizer, [total // 2, total * 3 // 4], warming)
    warmup = round(protocol.warmup_epochs * steps_per_epoch)
    cosine = CosineAnnealingLR(optimizer, T_max=max(total - warmup, 1))
    if warmup == 0:
        return cosine
    rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
    return SequentialLR(optimizer, [rise, cosine], [warmup])


class SubtractMeanImage:
    """``x - mean`` per pixel and channel, in units of 0..1, as in He et al. 2015, Sec. 4.2."""

    def __init__(self, dataset: ImageDataset) -> None:
        mean = dataset.images.mean(axis=0, dtype=np.float64) / dataset.scale
        self.mean = mean.astype(np.float32)

    on_device = True

    def __call__(self, x: Any, draws: Draws) -> Any:
        return x - move(self.mean, device_of(x))

    def __repr__(self) -> str:
        return f"SubtractMeanImage({self.mean.shape})"


def make_transforms(protocol: Protocol, dataset: ImageDataset) -> tuple[Transform, Transform]:
    """What is done to training images, and what to images that are only evaluated."""
    normalize: Transform
    if protocol.normalize == "pixel":
        normalize = SubtractMeanImage(dataset)
    else:
        std = [s or 1.0 for s in dataset.std()]  # a constant channel stays what it is
        normalize = Normalize(dataset.mean(), std)
    if protocol.augment == "none":
        return normalize, normalize
    return Compose([normalize, RandomCrop(padding=4), RandomHorizontalFlip()]), normalize
