"""The rectifier."""

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
    raises,
    tensor,
    there,
)

import minires as mr
from minires.errors import DTypeError

SHAPES = [(), (1,), (7,), (2, 3), (2, 3, 4, 5), (1, 1, 1, 1), (3, 17, 1, 9), (0, 3), (2, 0, 4, 4)]


def test_relu_by_hand(anywhere):
    x = tensor([-2.0, -0.0, 0.0, 3.0], requires_grad=True)
    y = mr.relu(x)
    y.backward(tensor([1.0, 2.0, 4.0, 8.0]))
    assert y.tolist() == [0.0, 0.0, 0.0, 3.0]
    assert x.grad.tolist() == [0.0, 0.0, 0.0, 8.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_relu_against_reference(shape, dtype, device):
    check_op(mr.relu, distinct(shape), dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_relu_any_strides(layout, anywhere):
    (x,) = distinct((2, 3, 4, 5))
    check_op(mr.relu, [layout(x)])
    y = mr.relu(there(layout(x)))
    np.testing.assert_array_equal(host(y), np.maximum(x, 0))


def test_relu_with_upstream_in_another_layout(anywhere):
    (x,) = distinct((2, 3, 4, 5))
    t = tensor(x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2), requires_grad=True)
    upstream = np.random.default_rng(0).standard_normal(x.shape)
    mr.relu(t).backward(tensor(upstream))
    np.testing.assert_array_equal(host(t.grad), np.where(x > 0, upstream, 0))


def test_relu_gradients(anywhere):
    check_gradients(lambda x: mr.relu(x) ** 2, distinct((3, 4)))


def test_relu_keeps_nan_and_inf(anywhere):
    y = mr.relu(tensor([np.nan, np.inf, -np.inf]))
    np.testing.assert_array_equal(host(y), [np.nan, np.inf, 0])


def test_relu_in_place(device):
    x = tensor([-1.0, 2.0], requires_grad=True)
    y = x * 3
    assert y.relu_() is y
    y.sum().backward()
    assert y.tolist() == [0.0, 6.0]
    assert x.grad.tolist() == [0.0, 3.0]


def test_relu_errors(device):
    with raises(DTypeError, "relu: expected a floating-point tensor, got int64", ".float()"):
        mr.relu(tensor([1, 2]))
    with raises(DTypeError, "relu: expected a tensor, got list", "minires.tensor"):
        mr.relu([1.0])


def test_parity_relu():
    against_torch(mr.relu, lambda x: x.relu(), distinct((2, 3, 4)))
