"""Residual networks and their plain twins."""

from minires.models.blocks import (
    BasicBlock,
    Bottleneck,
    OptionA,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
)
from minires.models.cifar import CifarNet, cifar_plain, cifar_resnet
from minires.models.registry import create, list_models
from minires.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152

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
    "cifar_plain",
    "cifar_resnet",
    "create",
    "list_models",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]
