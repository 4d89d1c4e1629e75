"""The learning-rate schedules, under PyTorch's path ``optim.lr_scheduler``."""

from minires.optim.composed import ChainedScheduler, SequentialLR
from minires.optim.one_cycle import OneCycleLR
from minires.optim.plateau import ReduceLROnPlateau
from minires.optim.schedules import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    StepLR,
)

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
