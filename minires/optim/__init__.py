"""Optimisers, parameter groups and learning-rate schedules, under PyTorch's names."""

from minires.optim.adam import Adam, AdamW
from minires.optim.groups import no_decay_groups
from minires.optim.optimizer import Optimizer
from minires.optim.schedules import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)
from minires.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ConstantLR",
    "CosineAnnealingLR",
    "LRScheduler",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "SequentialLR",
    "no_decay_groups",
]
