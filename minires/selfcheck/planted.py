"""Planted errors: wrong backward passes that the checker must find, and name.

A checker that passes everything is quiet too. Each entry of :data:`PLANTED` puts one real mistake
of the kind people make into an operation, for as long as a ``with`` lasts: it wraps a backward
kernel, the ``backward`` of a Function, or the skip of a residual block. Forward passes stay right,
so that the numerical derivative is the truth. :func:`check_planted` runs the checker on all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import random
from ..device import backend as use_backend
from ..gradcheck import Report, check
from ..models.blocks import BasicBlock
from ..ops import avg_pool2d, batch_norm, conv2d, max_pool2d
from ..tensor import Tensor
from . import mistakes
from .mistakes import Mixing, Plant

Case = tuple[Callable[..., Tensor], list[Tensor], list[str]]  # a function, its inputs, their names


@dataclass(frozen=True)
class Planted:
    """One mistake, and where it shows.

    Attributes:
        name: of the mistake.
        words: what the report must say.
        plant: a context in which the operation is wrong, on the backend that is set.
        case: makes the function to check and its inputs, the same every time.
        backends: on which the mistake can be made.
    """

    name: str
    words: tuple[str, ...]
    plant: Plant
    case: Callable[[], Case]
    backends: tuple[str, ...] = ("numpy", "auto")

    @contextmanager
    def on(self, backend: str) -> Iterator[None]:
        """Run on this backend, with the mistake in place."""
        with use_backend(backend), self.plant():
            yield


def check_planted(backend: str = "auto") -> list[tuple[Planted, Report]]:
    """Check every planted error that can be planted on ``backend`` ("numpy" or "auto")."""
    reports = []
    for planted in PLANTED:
        if backend in planted.backends:
            with planted.on(backend):
                f, inputs, names = planted.case()
                reports.append((planted, check(f, inputs, names=names)))
    return reports


# ------------------------------------------------------------------------------------ what to check


def _leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    rng = np.random.default_rng(len(shapes))
    return [Tensor(rng.standard_normal(shape), requires_grad=True) for shape in shapes]


def _conv(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> Callable[[], Case]:
    def convolution(x: Tensor, w: Tensor) -> Tensor:
        return conv2d(x, w, **options)

    return lambda: (convolution, _leaves(x, w), ["x", "w"])


def _norm(*shape: int) -> Callable[[], Case]:
    def normalisation(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return batch_norm(x, None, None, weight, bias, training=True)

    names = ["x", "weight", "bias"]
    return lambda: (normalisation, _leaves(shape, shape[1:2], shape[1:2]), names)


def _average() -> Case:
    def average_pooling(x: Tensor) -> Tensor:
        return avg_pool2d(x, (2, 5))

    return average_pooling, _leaves((2, 2, 4, 5)), ["x"]


def _maximum() -> Case:
    """Activations behind a ReLU are often 0 side by side."""

    def max_pooling(x: Tensor) -> Tensor:
        return max_pool2d(x, 2)

    (x,) = _leaves((2, 2, 4, 6))
    return max_pooling, [Tensor(np.maximum(x.data, 0), requires_grad=True)], ["x"]


def _difference() -> Case:
    def difference(x: Tensor, z: Tensor) -> Tensor:
        return x - z

    return difference, _leaves((3, 4), (4,)), ["x", "z"]


def _sum() -> Case:
    def addition(x: Tensor, z: Tensor) -> Tensor:
        return x + z

    return addition, _leaves((3, 4), (3, 4)), ["x", "z"]


def _thousand() -> Case:
    x, a, b, c = _leaves((1000,), (1000,), (1000,), (1000,))

    def mixing(x: Tensor) -> Tensor:
        return Mixing.apply(x, a.data, b.data, c.data)

    return mixing, [x], ["x"]


def _block() -> Case:
    """``relu(F(x) + x)`` with batch norm in training mode."""
    with random.preserved():
        block = BasicBlock(2, 2).double()
    rng = np.random.default_rng(0)
    for parameter in block.parameters():
        parameter.data[...] = 0.5 * rng.standard_normal(parameter.shape)
    return block, _leaves((2, 2, 5, 4)), ["x"]


# ---------------------------------------------------------------------------------------- the list

_IMAGES, _KERNELS = (2, 2, 6, 7), (3, 2, 3, 3)
_SWAPPED = "gradient of {} (the two are exchanged)"

PLANTED: tuple[Planted, ...] = (
    Planted(
        "zero gradient",
        ("w [3, 2, 3, 3]", "the gradient is zero everywhere"),
        mistakes.WEIGHT_FORGOTTEN,
        _conv(_IMAGES, _KERNELS, padding=1),
    ),
    Planted(
        "sign flip",
        ("opposite sign",),
        mistakes.MINUS_FORGOTTEN,
        _difference,
    ),
    Planted(
        "missing factor",
        ("all off by the same factor 10",),
        mistakes.MEAN_FORGOTTEN,
        _average,
    ),
    Planted(
        "batch norm without its x̂ term",
        ("a product of rank one is missing in each channel",),
        mistakes.X_HAT_FORGOTTEN,
        _norm(3, 2, 3, 4),
    ),
    Planted(
        "batch average missing",
        ("a batch average is missing",),
        mistakes.AVERAGE_FORGOTTEN,
        _norm(3, 2, 3, 4),
    ),
    Planted(
        "transposed kernel",
        ("kernel rows and columns exchanged (transposed)",),
        mistakes.KERNEL_TRANSPOSED,
        _conv(_IMAGES, _KERNELS, padding=1),
    ),
    Planted(
        "kernel column counted twice",
        ("all failures have kw=1: counted twice",),
        mistakes.COLUMN_TWICE,
        _conv(_IMAGES, _KERNELS),
    ),
    Planted(
        "padding border wrong",
        ("only border entries of x",),
        mistakes.PADDING_REPLICATED,
        _conv(_IMAGES, _KERNELS, padding=1),
    ),
    Planted(
        "stride remainder dropped",
        ("the gradient is zero, only in the last column of x (w = 6)",),
        mistakes.REMAINDER_DROPPED,
        _conv(_IMAGES, _KERNELS, stride=2),
    ),
    Planted(
        "max-pool tie sent twice",
        ("a gradient where the output does not depend on the input (e.g. a tie sent twice)",),
        mistakes.TIE_SENT_TWICE,
        _maximum,
    ),
    Planted(
        "dilation and stride exchanged",
        ("the gradient lands in the wrong places",),
        mistakes.STRIDE_AND_DILATION_EXCHANGED,
        _conv((2, 2, 9, 8), (3, 2, 2, 2), stride=2),
    ),
    Planted(
        "γ and β gradients swapped",
        (_SWAPPED.format("bias"), _SWAPPED.format("weight")),
        mistakes.PARAMETERS_EXCHANGED,
        _norm(5, 3),
    ),
    Planted(
        "gradient is a view of the cotangent",
        ("shares memory with the upstream gradient",),
        mistakes.COTANGENT_HANDED_OUT,
        _sum,
    ),
    Planted(
        "backward mutates a saved array",
        ("backward changes an array that BatchNorm saved",),
        mistakes.CENTRED_IN_PLACE,
        _norm(5, 3),
    ),
    Planted(
        "one wrong entry of a 1000x1000 Jacobian",
        ("one single entry", "∂output[123] / ∂x[456]"),
        mistakes.ONE_ENTRY_OFF,
        _thousand,
    ),
    Planted(
        "skip dropped",
        ("∂x is missing the identity (the skip was dropped)",),
        mistakes.SKIP_DROPPED,
        _block,
    ),
    Planted(
        "skip scaled by 1.001",
        ("the identity is scaled by 1.001",),
        mistakes.SKIP_SCALED,
        _block,
    ),
    Planted(
        "one channel of the skip lost",
        ("the identity is missing for channel c=1",),
        mistakes.SKIP_WITHOUT_CHANNEL,
        _block,
    ),
    Planted(
        "skip added after the ReLU",
        ("was the skip added after the ReLU?",),
        mistakes.SKIP_ADDED_AFTER_RELU,
        _block,
    ),
    Planted(
        "skip detached",
        ("∂x is missing the identity",),
        mistakes.SKIP_DETACHED,
        _block,
    ),
    Planted(
        "skip counted twice",
        ("the identity is counted twice",),
        mistakes.SKIP_TWICE,
        _block,
    ),
)
