"""Optimisers, parameter groups and learning-rate schedules, under PyTorch's names."""

from minires.optim import lr_scheduler, swa_utils
from minires.optim.adam import Adam, AdamW
from minires.optim.groups import no_decay_groups
from minires.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from minires.optim.optimizer import Optimizer
from minires.optim.rmsprop import RMSprop
from minires.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "RMSprop",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "lr_scheduler",
    "no_decay_groups",
    "swa_utils",
]
