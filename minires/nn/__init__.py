"""Layers and networks: ``Module`` and its parts, with PyTorch's names."""

from minires.nn import functional, init
from minires.nn.batch_norm import BatchNorm2d
from minires.nn.containers import ModuleDict, ModuleList, Sequential
from minires.nn.layers import (
    Conv2d,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    Identity,
    Linear,
    LogSoftmax,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from minires.nn.module import IncompatibleKeys, Module, Parameter
from minires.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from minires.nn.summary import Summary, summary

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Identity",
    "IncompatibleKeys",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Summary",
    "Tanh",
    "functional",
    "init",
    "summary",
]
