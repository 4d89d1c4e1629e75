"""Layers and networks: ``Module`` and its parts, with PyTorch's names."""

from minires.nn import functional, init, utils
from minires.nn.activation import GELU, LeakyReLU, SiLU
from minires.nn.batch_norm import BatchNorm2d
from minires.nn.containers import ModuleDict, ModuleList, ParameterList, Sequential
from minires.nn.layers import (
    Conv2d,
    ConvTranspose2d,
    CrossEntropyLoss,
    Dropout,
    Dropout2d,
    Flatten,
    Identity,
    Linear,
    LogSoftmax,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
    ZeroPad2d,
)
from minires.nn.losses import BCEWithLogitsLoss, MSELoss, NLLLoss
from minires.nn.module import IncompatibleKeys, Module, Parameter
from minires.nn.normalize import GroupNorm, LayerNorm
from minires.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from minires.nn.summary import Summary, summary

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GroupNorm",
    "Identity",
    "IncompatibleKeys",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ParameterList",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Summary",
    "Tanh",
    "ZeroPad2d",
    "functional",
    "init",
    "summary",
    "utils",
]
