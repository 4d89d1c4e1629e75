"""What is measured on a network besides its errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from minires.device import CPU, move
from minires.nn import Conv2d, Module
from minires.ops import cross_entropy
from minires.tensor import Tensor


def conv_names(model: Module) -> list[str]:
    """The names of the convolutions on the main path, in forward order (no shortcuts)."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Conv2d) and "downsample" not in name and "shortcut" not in name
    ]


def gradient_norms(model: Module, x: Tensor, y: Tensor) -> list[float]:
    """The Euclidean norm of the loss's gradient for each convolution's weight, in forward order.

    Taken in training mode on one batch, on a copy: the model and its batch-norm statistics stay
    as they are.
    """
    probe = copy.deepcopy(model)
    probe.train()
    for parameter in probe.parameters():
        parameter.grad = None
    cross_entropy(probe(x), y).backward()
    modules = dict(probe.named_modules())
    norms = []
    for name in conv_names(model):
        gradient: Any = modules[name].weight.grad
        values = move(gradient.data, CPU)
        norms.append(float(np.sqrt(np.square(values, dtype=np.float64).sum())))
    return norms
