"""Cases of the hand-written operations: what breaks kernels, each once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ... import ops
from ...ops.conv2d.op import Conv2dGeometry, Conv2dInput, Conv2dWeight
from ...tensor import Tensor
from .case import Case, Groups, Values, apart, each, normal, positive


def _op(
    name: str,
    label: str,
    function: Callable[..., Tensor],
    linear: Groups = (),
    /,
    **inputs: Values,
) -> Case:
    return Case("operation", name, label, inputs, function, linear=linear)


# x, w, and the options of conv2d
CONVOLUTIONS: dict[str, tuple[Values, Values, dict[str, Any]]] = {
    "3x3 pad 1": (normal(2, 2, 3, 4), normal(3, 2, 3, 3), {"padding": 1}),
    "stride > kernel": (normal(1, 2, 6, 5), normal(2, 2, 1, 2), {"stride": (3, 4)}),
    "padding >= kernel": (normal(1, 1, 2, 3), normal(2, 1, 2, 1), {"padding": (2, 1)}),
    "remainder": (normal(1, 2, 5, 6), normal(2, 2, 2, 3), {"stride": 2}),
    "dilation": (normal(1, 2, 5, 4), normal(2, 2, 2, 2), {"dilation": (3, 2), "padding": 1}),
    "groups": (normal(2, 4, 3, 2), normal(2, 2, 2, 1), {"groups": 2}),
    "depthwise": (normal(1, 3, 3, 3), normal(3, 1, 3, 3), {"groups": 3, "padding": 1}),
    "1x1 stride 2": (normal(2, 3, 3, 3), normal(2, 3, 1, 1), {"stride": 2}),
    "one entry": (normal(1, 1, 1, 1), normal(1, 1, 1, 1), {}),
    "channels last": (normal(2, 3, 3, 2, layout="channels last"), normal(2, 3, 2, 2), {}),
    "reversed": (
        normal(1, 2, 3, 4, layout="reversed"),
        normal(2, 2, 2, 3, layout="reversed"),
        {"padding": 1},
    ),
    "every second": (
        normal(1, 2, 3, 3, layout="every second"),
        normal(2, 2, 2, 2, layout="every second"),
        {},
    ),
    "broadcast": (
        normal(2, 2, 3, 3, layout="broadcast"),
        normal(2, 2, 2, 2, layout="broadcast"),
        {"stride": 2, "padding": 1},
    ),
}


def _with_bias(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return ops.conv2d(x, w, b, stride=(2, 1), padding=(0, 1))


def _convolutions() -> list[Case]:
    cases = []
    for label, (x, w, options) in CONVOLUTIONS.items():

        def convolve(x: Tensor, w: Tensor, options: dict[str, Any] = options) -> Tensor:
            return ops.conv2d(x, w, **options)

        cases.append(_op("conv2d", label, convolve, each("x", "w"), x=x, w=w))
    b = normal(3)
    bias = _op("conv2d", "bias", _with_bias, x=normal(2, 2, 3, 3), w=normal(3, 2, 2, 3), b=b)
    return [*cases, bias, *_conv_gradients()]


def _conv_gradients() -> list[Case]:
    """The two other members of the family; each is linear in both of its arguments."""
    cases = []
    for label in ("stride > kernel", "remainder", "dilation", "groups"):
        x, w, options = CONVOLUTIONS[label]
        full = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | options
        geometry = Conv2dGeometry.from_shapes(x.shape, w.shape, **full)
        gy = normal(geometry.n, geometry.c_out, geometry.h_out, geometry.w_out)

        def of_input(gy: Tensor, w: Tensor, geometry: Conv2dGeometry = geometry) -> Tensor:
            return Conv2dInput.apply(ops.channels_last(gy), w, geometry)

        def of_weight(gy: Tensor, x: Tensor, geometry: Conv2dGeometry = geometry) -> Tensor:
            return Conv2dWeight.apply(ops.channels_last(gy), ops.channels_last(x), geometry)

        cases += [
            _op("Conv2dInput", label, of_input, each("gy", "w"), gy=gy, w=w),
            _op("Conv2dWeight", label, of_weight, each("gy", "x"), gy=gy, x=x),
        ]
    return cases


def _transposed() -> list[Case]:
    """Transposed convolutions, which run on the kernels of convolution's input gradient."""
    cases = []
    for label, x, w, options in (
        ("stride 2", normal(2, 2, 2, 3), normal(2, 3, 3, 2), {"stride": 2, "padding": 1}),
        (
            "output padding, groups",
            normal(1, 4, 3, 2),
            normal(4, 1, 2, 3),
            {"stride": (2, 3), "output_padding": (1, 2), "groups": 2},
        ),
        (
            "dilation, output padding beyond the stride",
            normal(1, 2, 2, 3),
            normal(2, 2, 2, 2),
            {"dilation": 2, "padding": (1, 0), "output_padding": 1},
        ),
    ):

        def convolve(x: Tensor, w: Tensor, options: Any = options) -> Tensor:
            return ops.conv_transpose2d(x, w, **options)

        cases.append(_op("conv_transpose2d", label, convolve, each("x", "w"), x=x, w=w))
    images, w, b = normal(1, 2, 2, 2), normal(2, 3, 2, 2), normal(3)
    return [*cases, _op("conv_transpose2d", "bias", ops.conv_transpose2d, x=images, w=w, b=b)]


def _norms() -> list[Case]:
    def statistics(c: int, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = np.linspace(-0.5, 0.5, c), np.linspace(0.5, 2, c)
        return tuple(Tensor(a.astype(like.dtype)).to(like.device) for a in (mean, var))

    def train(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.batch_norm(x, None, None, w, b, training=True)

    def evaluate(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.batch_norm(x, *statistics(x.shape[1], x), w, b)

    def bare(x: Tensor) -> Tensor:
        return ops.batch_norm(x, None, None, training=True, eps=1e-3)

    affine = {"w": normal(3), "b": normal(3)}
    return [
        _op("batch_norm", "train", train, x=normal(2, 3, 2, 3), **affine),
        _op("batch_norm", "train, (n, c)", train, x=normal(5, 3), **affine),
        _op(
            "batch_norm",
            "train, one channel",
            train,
            x=normal(2, 1, 1, 2),
            w=normal(1),
            b=normal(1),
        ),
        _op(
            "batch_norm",
            "train, reversed",
            train,
            x=normal(2, 3, 2, 2, layout="reversed"),
            **affine,
        ),
        _op("batch_norm", "train, no weights", bare, x=normal(3, 2, 2, 1)),
        _op("batch_norm", "eval", evaluate, x=normal(2, 3, 2, 3), **affine),
        _op("batch_norm", "eval, one image", evaluate, x=normal(1, 3, 1, 1), **affine),
    ]


def _pools() -> list[Case]:
    cases = []
    for label, x, kernel, options in (
        ("2x2", apart(2, 2, 4, 5), 2, {}),
        ("stride > kernel", apart(1, 2, 6, 7), (2, 1), {"stride": (3, 4)}),
        ("overlap, padding", apart(1, 2, 5, 4), 3, {"stride": 2, "padding": 1}),
        ("ceil mode", apart(1, 1, 5, 6), (2, 3), {"stride": (2, 2), "ceil_mode": True}),
        ("one entry", apart(1, 1, 1, 1), 1, {}),
        ("every second", apart(1, 2, 3, 3, layout="every second"), 2, {"stride": 1}),
        ("reversed", apart(1, 2, 3, 4, layout="reversed"), 2, {"stride": 1}),
    ):

        def largest(x: Tensor, kernel: Any = kernel, options: Any = options) -> Tensor:
            return ops.max_pool2d(x, kernel, **options)

        def average(x: Tensor, kernel: Any = kernel, options: Any = options) -> Tensor:
            return ops.avg_pool2d(x, kernel, **options)

        cases += [
            _op("max_pool2d", label, largest, x=x),
            _op("avg_pool2d", label, average, each("x"), x=x),
        ]
    return [
        *cases,
        *_lines(),
        _op("max_pool2d", "one image", lambda x: ops.max_pool2d(x, 2), x=apart(2, 4, 5)),
        _op(
            "max_pool2d",
            "beside indices",
            lambda x: ops.max_pool2d(x, 3, 2, 1, return_indices=True)[0],
            x=apart(1, 2, 4, 5),
        ),
        _op(
            "max_pool2d",
            "dilation",
            lambda x: ops.max_pool2d(x, 2, stride=1, dilation=(2, 1)),
            x=apart(1, 2, 4, 3),
        ),
        _op(
            "avg_pool2d",
            "padding not counted",
            lambda x: ops.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False),
            each("x"),
            x=normal(1, 2, 5, 4),
        ),
        _op(
            "adaptive_avg_pool2d",
            "uneven",
            lambda x: ops.adaptive_avg_pool2d(x, (2, 3)),
            each("x"),
            x=normal(2, 2, 5, 4),
        ),
        _op(
            "adaptive_avg_pool2d",
            "global",
            lambda x: ops.adaptive_avg_pool2d(x, 1),
            each("x"),
            x=normal(2, 3, 2, 3, layout="channels last"),
        ),
    ]


def _lines() -> list[Case]:
    """One dimension: windows of two, in strides and padding."""
    return [
        _op(
            "conv1d",
            "stride, padding",
            lambda x, w: ops.conv1d(x, w, stride=2, padding=1),
            each("x", "w"),
            x=normal(2, 3, 6),
            w=normal(2, 3, 2),
        ),
        _op(
            "conv1d",
            "one sequence, same",
            lambda x, w: ops.conv1d(x, w, padding="same", groups=2),
            each("x", "w"),
            x=normal(4, 5, layout="transposed"),
            w=normal(2, 2, 2),
        ),
        _op("max_pool1d", "", lambda x: ops.max_pool1d(x, 2, 1, 1), x=apart(1, 2, 5)),
        _op("avg_pool1d", "", lambda x: ops.avg_pool1d(x, 3, 2), each("x"), x=normal(2, 1, 6)),
        _op(
            "adaptive_avg_pool1d",
            "",
            lambda x: ops.adaptive_avg_pool1d(x, 3),
            each("x"),
            x=normal(1, 2, 5),
        ),
    ]


def _rest() -> list[Case]:
    labels = np.array([2, 0, -100, 3])

    def loss(**options: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: ops.cross_entropy(x, Tensor(labels).to(x.device), **options)

    x = normal(4, 5)
    return [
        _op("relu", "4 dims", ops.relu, x=apart(2, 3, 2, 2)),
        _op("relu", "one entry", ops.relu, x=apart(1)),
        _op("relu", "every second", ops.relu, x=apart(3, 3, layout="every second")),
        _op("relu", "reversed", ops.relu, x=apart(2, 5, layout="reversed")),
        _op("relu", "broadcast", ops.relu, x=apart(3, 4, layout="broadcast")),
        _op("cross_entropy", "mean", loss(), x=x),
        _op("cross_entropy", "sum, smoothed", loss(reduction="sum", label_smoothing=0.1), x=x),
        _op(
            "cross_entropy", "each row", loss(reduction="none"), x=normal(4, 5, layout="transposed")
        ),
        _op(
            "cross_entropy",
            "probabilities",
            ops.cross_entropy,
            x=normal(3, 4),
            target=positive(3, 4),
        ),
    ]


CASES = [*_convolutions(), *_transposed(), *_norms(), *_pools(), *_rest()]
