"""Residual networks and their plain twins."""

from minires.models.blocks import (
    BasicBlock,
    Bottleneck,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
)
from minires.models.cifar import CifarNet, cifar_plain, cifar_resnet, cifar_wide_resnet
from minires.models.keras import keras_resnet50
from minires.models.registry import create, list_models
from minires.models.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from minires.models.shortcuts import OptionA
from minires.models.variants import SqueezeExcitation

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "CifarNet",
    "OptionA",
    "PlainBlock",
    "PreActBlock",
    "PreActBottleneck",
    "PreActPlainBlock",
    "ResNet",
    "SqueezeExcitation",
    "cifar_plain",
    "cifar_resnet",
    "cifar_wide_resnet",
    "create",
    "keras_resnet50",
    "list_models",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
