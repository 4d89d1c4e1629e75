"""Average pooling: ordinary, adaptive and global windows."""

from __future__ import annotations

import numpy as np
import pytest
from harness import (
    LAYOUTS,
    against_torch,
    arrays,
    check_gradients,
    check_op,
    host,
    raises,
    tensor,
    zeros,
)

import minires as mr
from minires.errors import ArgumentError, ShapeError

WINDOWS = {
    "two": ((2, 3, 6, 4), {"kernel_size": 2}),
    "leftover": ((2, 3, 7, 5), {"kernel_size": 2}),
    "padded": ((2, 3, 7, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "padded_out": (
        (2, 3, 7, 6),
        {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    ),
    "ceil": ((2, 3, 7, 6), {"kernel_size": (3, 2), "stride": 2, "padding": 1, "ceil_mode": True}),
    "ceil_out": (
        (2, 3, 8, 7),
        {
            "kernel_size": (3, 2),
            "stride": (3, 2),
            "padding": 1,
            "ceil_mode": True,
            "count_include_pad": False,
        },
    ),
    "stride_above": ((2, 1, 9, 8), {"kernel_size": 2, "stride": (4, 3)}),
    "row": ((1, 17, 1, 9), {"kernel_size": (1, 3), "padding": (0, 1)}),
    "one_pixel": ((3, 2, 1, 1), {"kernel_size": 1}),
    "empty_batch": ((0, 3, 4, 4), {"kernel_size": 2}),
}
ADAPTIVE = {
    "global": ((2, 3, 7, 5), 1),
    "even": ((2, 3, 6, 4), (3, 2)),
    "uneven": ((2, 3, 7, 5), (3, 4)),
    "larger": ((1, 2, 2, 3), (4, 5)),
    "keep": ((1, 17, 4, 3), (None, 1)),
    "one_pixel": ((2, 2, 1, 1), 1),
}


def window(options):
    return lambda x: mr.avg_pool2d(x, **options)


def adaptive(size):
    return lambda x: mr.adaptive_avg_pool2d(x, size)


ALL = {f"window_{k}": (s, window(o)) for k, (s, o) in WINDOWS.items()} | {
    f"adaptive_{k}": (s, adaptive(o)) for k, (s, o) in ADAPTIVE.items()
}


def test_avg_pool2d_by_hand(anywhere):
    x = tensor([[[[1.0, 3.0, 5.0], [5.0, 7.0, 9.0]]]], requires_grad=True)
    assert mr.avg_pool2d(x, 2, stride=1).tolist() == [[[[4.0, 6.0]]]]
    padded = mr.avg_pool2d(x, 2, stride=2, padding=1)
    assert padded.tolist() == [[[[0.25, 2.0], [1.25, 4.0]]]]
    alone = mr.avg_pool2d(x, 2, stride=2, padding=1, count_include_pad=False)
    assert alone.tolist() == [[[[1.0, 4.0], [5.0, 8.0]]]]
    y = mr.adaptive_avg_pool2d(x, 1)
    assert y.item() == 5.0
    y.backward(tensor([[[[12.0]]]]))
    np.testing.assert_allclose(host(x.grad), 2.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_avg_pool2d_against_reference(case, dtype, device):
    shape, f = case
    check_op(f, arrays(shape), dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_avg_pool2d_any_strides(layout, anywhere):
    (x,) = arrays((2, 3, 6, 5))
    check_op(window({"kernel_size": 2}), [layout(x)])


@pytest.mark.parametrize("name", ["window_ceil_out", "window_padded", "adaptive_uneven"])
def test_avg_pool2d_gradients(name, anywhere):
    shape, f = ALL[name]
    check_gradients(lambda x: f(x) ** 2, arrays((1, *shape[1:])))


ERRORS = {
    "dims": ((4, 4), {"kernel_size": 2}, ShapeError, ["(n, c, h, w) or (c, h, w)", "(4, 4)"]),
    "kernel": ((1, 1, 4, 4), {"kernel_size": -1}, ArgumentError, ["kernel_size", "got -1"]),
    "padding": ((1, 1, 4, 4), {"kernel_size": 2, "padding": 2}, ArgumentError, ["half the kernel"]),
    "too_large": ((1, 1, 3, 4), {"kernel_size": 4}, ShapeError, ["no larger than the padded"]),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_avg_pool2d_errors(case, device):
    shape, options, kind, words = case
    with raises(kind, "avg_pool2d: expected", *words):
        mr.avg_pool2d(zeros(shape), **options)


def test_adaptive_avg_pool2d_errors(device):
    with raises(ArgumentError, "adaptive_avg_pool2d", "output_size", "got 0"):
        mr.adaptive_avg_pool2d(zeros(1, 1, 2, 2), 0)
    with raises(ShapeError, "an image with pixels"):
        mr.adaptive_avg_pool2d(zeros(1, 1, 0, 2), 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WINDOWS if name != "empty_batch"])
def test_parity_avg_pool2d(name):
    torch = pytest.importorskip("torch")
    shape, options = WINDOWS[name]
    against_torch(
        window(options), lambda x: torch.nn.functional.avg_pool2d(x, **options), arrays(shape)
    )


@pytest.mark.parametrize("name", ADAPTIVE)
def test_parity_adaptive_avg_pool2d(name):
    torch = pytest.importorskip("torch")
    shape, size = ADAPTIVE[name]
    against_torch(
        adaptive(size), lambda x: torch.nn.functional.adaptive_avg_pool2d(x, size), arrays(shape)
    )
