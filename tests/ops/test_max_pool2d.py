"""Max pooling: windows, ties, NaN, second order."""

from __future__ import annotations

import numpy as np
import pytest
from harness import (
    LAYOUTS,
    against_torch,
    check_gradients,
    check_op,
    distinct,
    host,
    ones,
    raises,
    tensor,
    zeros,
)

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError

CASES = {
    "two": ((2, 3, 6, 4), {"kernel_size": 2}),
    "leftover": ((2, 3, 7, 5), {"kernel_size": 2}),
    "overlapping": ((2, 3, 7, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "ceil": ((2, 3, 7, 6), {"kernel_size": (3, 2), "stride": 2, "padding": 1, "ceil_mode": True}),
    "ceil_drops": ((1, 2, 5, 5), {"kernel_size": 2, "stride": 3, "ceil_mode": True}),
    "stride_above": ((2, 1, 9, 8), {"kernel_size": 2, "stride": (4, 3)}),
    "dilated": ((1, 2, 9, 7), {"kernel_size": (3, 2), "dilation": (2, 3), "stride": 1}),
    "row": ((1, 17, 1, 9), {"kernel_size": (1, 3), "padding": (0, 1)}),
    "one_pixel": ((3, 2, 1, 1), {"kernel_size": 1}),
    "whole": ((2, 3, 4, 5), {"kernel_size": (4, 5)}),
    "empty_batch": ((0, 3, 4, 4), {"kernel_size": 2}),
}


def pool(options):
    return lambda x: mr.max_pool2d(x, **options)


def test_max_pool2d_by_hand(anywhere):
    x = tensor([[[[1.0, 5.0, 2.0], [4.0, 3.0, 0.0]]]], requires_grad=True)
    y = mr.max_pool2d(x, (2, 1))
    assert y.tolist() == [[[[4.0, 5.0, 2.0]]]]
    y.backward(tensor([[[[1.0, 2.0, 4.0]]]]))
    assert x.grad.tolist() == [[[[0.0, 2.0, 4.0], [1.0, 0.0, 0.0]]]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_max_pool2d_against_reference(case, dtype, device):
    shape, options = case
    check_op(pool(options), distinct(shape), dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_max_pool2d_any_strides(layout, anywhere):
    (x,) = distinct((2, 3, 6, 5))
    check_op(pool({"kernel_size": 2}), [layout(x)])


@pytest.mark.parametrize("name", ["overlapping", "dilated", "ceil"])
def test_max_pool2d_gradients(name, anywhere):
    shape, options = CASES[name]
    check_gradients(lambda x: pool(options)(x) ** 2, distinct((1, *shape[1:])))


def test_max_pool2d_ties_go_to_the_first(anywhere):
    x = ones(1, 1, 3, 3, requires_grad=True)
    mr.max_pool2d(x, 2, stride=1).sum().backward()
    assert x.grad.tolist() == [[[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]]


def test_max_pool2d_of_minus_infinity_and_nan(anywhere):
    x = np.full((1, 1, 2, 4), -np.inf)
    x[0, 0, 1, 2] = np.nan
    t = tensor(x, requires_grad=True)
    y = mr.max_pool2d(t, 2)
    np.testing.assert_array_equal(host(y), [[[[-np.inf, np.nan]]]])
    y.backward(ones(1, 1, 1, 2, dtype="float64"))
    assert host(t.grad)[0, 0, 0, 0] == 1
    assert host(t.grad)[0, 0, 1, 2] == 1


ERRORS = {
    "dims": ((4, 4), {"kernel_size": 2}, ShapeError, ["(n, c, h, w) or (c, h, w)", "(4, 4)"]),
    "kernel": ((1, 1, 4, 4), {"kernel_size": 0}, ArgumentError, ["kernel_size", "got 0"]),
    "padding": ((1, 1, 4, 4), {"kernel_size": 2, "padding": 2}, ArgumentError, ["half the kernel"]),
    "too_large": ((1, 1, 3, 4), {"kernel_size": 4}, ShapeError, ["no larger than the padded"]),
    "outside": (
        (1, 1, 1, 4),
        {"kernel_size": (2, 1), "dilation": (4, 1), "padding": (2, 0)},
        ShapeError,
        ["windows that meet the image"],
    ),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_max_pool2d_errors(case, device):
    shape, options, kind, words = case
    with raises(kind, "max_pool2d: expected", *words):
        mr.max_pool2d(zeros(shape), **options)


def test_max_pool2d_of_integers(device):
    with raises(DTypeError, "max_pool2d", "int64"):
        mr.max_pool2d(zeros(1, 1, 2, 2, dtype="int64"), 2)


@pytest.mark.parametrize("name", [name for name in CASES if name != "empty_batch"])
def test_parity_max_pool2d(name):
    torch = pytest.importorskip("torch")
    shape, options = CASES[name]
    against_torch(
        pool(options), lambda x: torch.nn.functional.max_pool2d(x, **options), distinct(shape)
    )
