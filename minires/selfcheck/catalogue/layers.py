"""Cases of the layers: each module of ``minires.nn``, with its parameters, in both modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ... import nn
from ...creation import zeros
from ...tensor import Tensor
from .case import Case, Values, apart, normal, positive

# Modules that compute nothing themselves.
CONTAINERS = ("Module", "ModuleDict", "ModuleList", "ParameterList")


def _layer(
    name: str, label: str, make: Callable[[], nn.Module], x: Values, kernels: bool = True
) -> Case:
    return Case("layer", name, label, {"x": x}, module=make, kernels=kernels)


def _array(name: str, label: str, make: Callable[[], nn.Module], x: Values) -> Case:
    """A layer over array expressions only."""
    return _layer(name, label, make, x, kernels=False)


def _norm(training: bool = True, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.BatchNorm2d(3, **options).train(training)


def _loss(x: Tensor) -> Tensor:
    labels = Tensor(np.array([1, 0, 3])).to(x.device)
    return nn.CrossEntropyLoss(label_smoothing=0.2)(x, labels)


def _sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)
    )


def _yes_no(x: Tensor, target: Tensor) -> Tensor:
    factor = Tensor(np.linspace(0.5, 2, 4).astype(x.dtype)).to(x.device)
    return nn.BCEWithLogitsLoss(pos_weight=factor)(x, target)


def _labels(x: Tensor) -> Tensor:
    return nn.NLLLoss()(x, Tensor(np.array([1, 0, 3])).to(x.device))


def _losses() -> list[Case]:
    inputs = {"x": normal(3, 4), "target": positive(3, 4)}
    return [
        Case("layer", "BCEWithLogitsLoss", "", inputs, _yes_no, kernels=False),
        Case("layer", "NLLLoss", "", {"x": normal(3, 4)}, _labels, kernels=False),
        Case("layer", "MSELoss", "", inputs, lambda x, y: nn.MSELoss()(x, y), kernels=False),
    ]


def _ready(layer: nn.Module, x: Values) -> nn.Module:
    """A lazy layer after its first input: the plain one that it becomes."""
    layer(zeros(*x.shape))
    return layer


IMAGES = normal(2, 3, 3, 2)
LINES = normal(2, 3, 5)

CASES = [
    _layer("AdaptiveAvgPool2d", "", lambda: nn.AdaptiveAvgPool2d((2, 1)), IMAGES),
    _layer("AdaptiveAvgPool1d", "", lambda: nn.AdaptiveAvgPool1d(2), LINES),
    _layer("AvgPool1d", "", lambda: nn.AvgPool1d(2, 1, 1), LINES),
    _layer("AvgPool2d", "", lambda: nn.AvgPool2d(2, 1, 1), IMAGES),
    _layer("BatchNorm1d", "train", lambda: nn.BatchNorm1d(3), LINES),
    _layer("BatchNorm1d", "eval", lambda: nn.BatchNorm1d(3).eval(), LINES),
    _layer("BatchNorm1d", "train, rows", lambda: nn.BatchNorm1d(3), normal(4, 3)),
    _layer("BatchNorm2d", "train", _norm(), IMAGES),
    _layer("BatchNorm2d", "eval", _norm(training=False), IMAGES),
    _layer("BatchNorm2d", "train, not affine", _norm(affine=False), IMAGES),
    _layer("BatchNorm2d", "eval, no statistics", _norm(False, track_running_stats=False), IMAGES),
    _layer("BatchNorm2d", "train, cumulative", _norm(momentum=None), IMAGES),
    _layer("Conv1d", "", lambda: nn.Conv1d(3, 2, 3, 2, 1), LINES),
    _layer("Conv2d", "", lambda: nn.Conv2d(3, 2, (2, 3), (2, 1), (0, 1)), IMAGES),
    _layer("Conv2d", "same, even kernel", lambda: nn.Conv2d(3, 2, 2, padding="same"), IMAGES),
    _layer("Conv2d", "groups, no bias", lambda: nn.Conv2d(3, 3, 2, groups=3, bias=False), IMAGES),
    _layer("ConvTranspose2d", "", lambda: nn.ConvTranspose2d(3, 4, (2, 3), 2, 1, (1, 0)), IMAGES),
    _layer("ConvTranspose2d", "groups", lambda: nn.ConvTranspose2d(3, 3, 2, 2, groups=3), IMAGES),
    Case("layer", "CrossEntropyLoss", "", {"x": normal(3, 4)}, _loss),
    _array("Dropout", "train", lambda: nn.Dropout(0.4), IMAGES),
    _array("Dropout", "eval", lambda: nn.Dropout(0.4).eval(), IMAGES),
    _array("Dropout2d", "train", lambda: nn.Dropout2d(0.4), IMAGES),
    _array("Flatten", "", lambda: nn.Flatten(), IMAGES),
    _array("GELU", "exact", lambda: nn.GELU(), normal(3, 4)),
    _array("GELU", "tanh", lambda: nn.GELU("tanh"), normal(3, 4)),
    _array("GroupNorm", "", lambda: nn.GroupNorm(2, 4), normal(2, 4, 2, 3)),
    _array("Identity", "", lambda: nn.Identity(), normal(2, 3)),
    _array("LayerNorm", "", lambda: nn.LayerNorm((3, 2)), normal(4, 3, 2)),
    _array("LayerNorm", "no bias", lambda: nn.LayerNorm(3, bias=False), normal(4, 3)),
    _array("LeakyReLU", "", lambda: nn.LeakyReLU(0.1), apart(3, 4)),
    _array("Linear", "", lambda: nn.Linear(3, 2), normal(4, 3)),
    _array("Linear", "no bias", lambda: nn.Linear(1, 2, bias=False), normal(2, 2, 1)),
    _array("LogSoftmax", "", lambda: nn.LogSoftmax(1), normal(3, 4)),
    _layer("SyncBatchNorm", "train", lambda: nn.SyncBatchNorm(3), IMAGES),
    _layer("SyncBatchNorm", "eval, lines", lambda: nn.SyncBatchNorm(3).eval(), LINES),
    _layer("LazyBatchNorm1d", "", lambda: _ready(nn.LazyBatchNorm1d(), LINES), LINES),
    _layer("LazyBatchNorm2d", "", lambda: _ready(nn.LazyBatchNorm2d(), IMAGES), IMAGES),
    _layer("LazyConv1d", "", lambda: _ready(nn.LazyConv1d(2, 3), LINES), LINES),
    _layer("LazyConv2d", "", lambda: _ready(nn.LazyConv2d(2, (2, 1)), IMAGES), IMAGES),
    _array("LazyLinear", "", lambda: _ready(nn.LazyLinear(2), normal(4, 3)), normal(4, 3)),
    _layer("MaxPool1d", "", lambda: nn.MaxPool1d(2, 1, 1), apart(2, 2, 5)),
    _layer("MaxPool2d", "", lambda: nn.MaxPool2d(3, 2, 1), apart(2, 2, 4, 3)),
    _layer("ReLU", "", lambda: nn.ReLU(), apart(3, 4)),
    _layer("Sequential", "conv, norm, relu, pool", _sequence, normal(2, 2, 4, 3)),
    _array("Sigmoid", "", lambda: nn.Sigmoid(), normal(3, 4)),
    _array("SiLU", "", lambda: nn.SiLU(), normal(3, 4)),
    _array("Softmax", "", lambda: nn.Softmax(1), normal(3, 4)),
    _array("Tanh", "", lambda: nn.Tanh(), normal(3, 4)),
    _array("Upsample", "nearest", lambda: nn.Upsample(scale_factor=2), IMAGES),
    _array("Upsample", "linear", lambda: nn.Upsample(7, mode="linear"), LINES),
    _array("UpsamplingBilinear2d", "", lambda: nn.UpsamplingBilinear2d((5, 3)), IMAGES),
    _array("UpsamplingNearest2d", "", lambda: nn.UpsamplingNearest2d((2, 5)), IMAGES),
    _array("ZeroPad2d", "", lambda: nn.ZeroPad2d((1, 2, 0, -1)), IMAGES),
    *_losses(),
]
