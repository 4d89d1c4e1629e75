"""Layers and networks: ``Module`` and its parts, with PyTorch's names."""

from minires.nn import functional, init, parallel, utils
from minires.nn.activation import GELU, LeakyReLU, SiLU
from minires.nn.batch_norm import BatchNorm1d, BatchNorm2d
from minires.nn.containers import ModuleDict, ModuleList, ParameterList, Sequential
from minires.nn.conv import Conv1d, Conv2d, ConvTranspose2d
from minires.nn.layers import (
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
from minires.nn.lazy import (
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyConv1d,
    LazyConv2d,
    LazyLinear,
)
from minires.nn.losses import BCEWithLogitsLoss, MSELoss, NLLLoss
from minires.nn.module import IncompatibleKeys, Module
from minires.nn.normalize import GroupNorm, LayerNorm
from minires.nn.parameter import Parameter, UninitializedBuffer, UninitializedParameter
from minires.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
)
from minires.nn.summary import Summary, summary
from minires.nn.sync_batch_norm import SyncBatchNorm
from minires.nn.upsample import Upsample, UpsamplingBilinear2d, UpsamplingNearest2d

__all__ = [
    "GELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv1d",
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
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyLinear",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
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
    "SyncBatchNorm",
    "Tanh",
    "UninitializedBuffer",
    "UninitializedParameter",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "ZeroPad2d",
    "functional",
    "init",
    "parallel",
    "summary",
    "utils",
]
