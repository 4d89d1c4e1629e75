"""Training recipes. A study uses one and the same recipe for every kind and depth of network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires import arguments
from minires.data import Draws, ImageDataset, Normalize
from minires.device import device_of, move
from minires.optim import LRScheduler, Optimizer
from minires.study.words import ENGLISH
from minires.train import recipe

Transform = Callable[[Any, Draws], Any]


@dataclass(frozen=True)
class Protocol:
    """How a network is trained.

    Attributes:
        name: ``"quick"`` or ``"paper"``.
        epochs, batch_size, lr, momentum, weight_decay: as usual.
        schedule: a name of :mod:`minires.train.recipe`: ``"cosine"``, to zero; ``"steps"``, the
            rate divided by 10 at 1/2 and 3/4 of the training.
        warmup_epochs: of the linear warm-up; under the rule ``"80%"`` unused.
        warmup_rule: ``"linear"``; or ``"80%"``, the paper's rule for 110 layers and more: a tenth
            of the rate until the training error of an epoch is below 80 %.
        normalize: ``"channel"`` mean and standard deviation, or ``"pixel"`` mean only.
        augment: names of :mod:`minires.train.recipe`; ``"crop"`` has 4 pixels of zeros around.
        description: the recipe in one sentence.
        optimizer: a name of :mod:`minires.train.recipe`.
        label_smoothing: the share of the uniform distribution in the targets.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float | None
    weight_decay: float
    schedule: str
    warmup_epochs: float
    warmup_rule: str
    normalize: str
    augment: tuple[str, ...]
    description: str
    optimizer: str = "sgd"
    label_smoothing: float = 0.0

    def with_epochs(self, epochs: int | None) -> Protocol:
        """The same recipe stretched to another number of epochs."""
        if epochs is None:
            return self
        epochs = arguments.integer("protocol", "epochs", epochs, 1)
        # a warm-up longer than half of a short run would leave no training at the full rate
        return dataclasses.replace(
            self, epochs=epochs, warmup_epochs=min(self.warmup_epochs, epochs / 2)
        )

    def with_recipe(self, **given: Any) -> Protocol:
        """The same protocol with parts of its recipe replaced.

        Args:
            **given: fields of the recipe, see ``RECIPE``. A schedule or a warm-up of one's own
                ends the rule ``"80%"``; another optimiser has its own usual rate and momentum.

        Raises:
            ArgumentError: no field of the recipe, or a value that it cannot have.
        """
        if not given:
            return self
        for name in given:
            arguments.choice("part of a recipe", name, RECIPE)
        op, new = "protocol", dict(given)
        optimizer = new.get("optimizer", self.optimizer)
        arguments.choice("optimizer", optimizer, recipe.OPTIMIZERS)
        if optimizer != self.optimizer:
            new = {"lr": recipe.RATES[optimizer], "momentum": None, **new}
        if "momentum" in new:
            new["momentum"] = recipe.momentum_of(optimizer, new["momentum"])
        arguments.choice("schedule", new.get("schedule", self.schedule), SCHEDULES)
        if "augment" in new:
            new["augment"] = recipe.augmentations(new["augment"])
        for name in ("lr", "weight_decay", "warmup_epochs"):
            if name in new:
                new[name] = arguments.number(op, name, new[name], least=0)
        if "batch_size" in new:
            new["batch_size"] = arguments.integer(op, "batch_size", new["batch_size"], 1)
        if "label_smoothing" in new:
            share = arguments.number(
                op, "label_smoothing", new["label_smoothing"], least=0, below=1
            )
            new["label_smoothing"] = share
        changed = [name for name in new if getattr(self, name) != new[name]]
        if not changed:
            return self
        if "schedule" in changed or "warmup_epochs" in changed:
            new["warmup_rule"] = "linear"
        parts = ", ".join(name.replace("_", " ") for name in RECIPE if name in changed)
        description = f"The {self.name} protocol, but for: {parts}."
        return dataclasses.replace(self, **new, description=description)

    def to_json(self) -> dict[str, Any]:
        """The protocol as plain values."""
        return {**dataclasses.asdict(self), "augment": list(self.augment)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Protocol:
        """The protocol that a stored configuration describes; also one that has a single name for
        its augmentation, as studies had before recipes could be chosen."""
        augment = values["augment"]
        names = FORMER[augment] if isinstance(augment, str) else tuple(augment)
        return Protocol(**{**values, "augment": names})


FORMER: dict[str, tuple[str, ...]] = {"none": (), "crop-flip": ("crop", "flip")}
RECIPE = (  # what options of a study may replace
    "batch_size",
    "optimizer",
    "lr",
    "momentum",
    "weight_decay",
    "schedule",
    "warmup_epochs",
    "label_smoothing",
    "augment",
)
# "plateau" looks at the loss of the images that are evaluated: here the test images, of which a
# study must not learn.
SCHEDULES = tuple(name for name in recipe.SCHEDULES if name != "plateau")


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
        augment=(),
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
        augment=("crop", "flip"),
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


def make_optimizer(protocol: Protocol, parameters: Any) -> Optimizer:
    """The protocol's optimiser."""
    return recipe.make_optimizer(
        protocol.optimizer,
        parameters,
        lr=protocol.lr,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
    )


def make_schedule(
    protocol: Protocol, optimizer: Optimizer, steps_per_epoch: int, depth: int
) -> recipe.Schedule:
    """The protocol's learning rates, one step per optimiser step."""
    total = protocol.epochs * steps_per_epoch
    if protocol.warmup_rule == "80%":
        warming = depth >= PAPER_WARMUP_DEPTH
        return StepsWithWarmUp(optimizer, [total // 2, total * 3 // 4], warming)
    warmup = min(round(protocol.warmup_epochs * steps_per_epoch), total // 2)
    return recipe.make_schedule(protocol.schedule, optimizer, total, warmup)


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


def make_normalize(protocol: Protocol, dataset: ImageDataset) -> Transform:
    """What is done to all images before a network sees them."""
    if protocol.normalize == "pixel":
        return SubtractMeanImage(dataset)
    std = [s or 1.0 for s in dataset.std()]  # a constant channel stays what it is
    return Normalize(dataset.mean(), std)
