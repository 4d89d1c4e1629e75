"""topk and norm: against sorting and loops, ties, NaN, kinks, and PyTorch."""

import itertools
import math

import numpy as np
import pytest
from harness import (
    against_torch,
    arrays,
    check_gradients,
    distinct,
    host,
    ones,
    raises,
    tensor,
    zeros,
)

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError


@pytest.mark.parametrize(
    ("k", "dim", "largest"), [*itertools.product((0, 1, 3), (0, 1, -1), (0, 1))]
)
def test_topk(k, dim, largest, device):
    (x,) = distinct((4, 3, 5))
    values, indices = mr.topk(tensor(x), k, dim, bool(largest))
    order = np.argsort(-x if largest else x, axis=dim).take(range(k), axis=dim)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(host(indices), order)
    np.testing.assert_array_equal(host(values), np.take_along_axis(x, order, dim))


def test_topk_of_ties_nan_and_integers(device):
    assert mr.topk(tensor([1.0, 5.0, 5.0, 5.0]), 2).indices.tolist() == [1, 2]
    assert mr.topk(tensor([1.0, 0.0, 0.0]), 2, largest=False).indices.tolist() == [1, 2]
    nan = tensor([1.0, float("nan"), 2.0])
    assert nan.topk(2).indices.tolist() == [1, 2]
    assert nan.topk(2, largest=False).indices.tolist() == [0, 2]
    whole = tensor(np.array([3, 250, 7], np.uint8)).topk(1)
    assert (whole.values.item(), whole.values.dtype) == (250, np.uint8)


def test_topk_takes_numpys_name_and_pytorchs_positions(device):
    x = tensor(distinct((3, 4))[0])
    for result in (x.topk(2, 0, True, True), mr.topk(x, k=2, axis=0)):
        np.testing.assert_array_equal(host(result.values), -np.sort(-host(x), 0)[:2])


def test_topk_gradients(device):
    (x,) = distinct((3, 4))
    check_gradients(lambda x: mr.topk(x, 2).values ** 2, [x])
    values, _ = (t := tensor(x, requires_grad=True)).topk(1)
    values.sum().backward()
    np.testing.assert_array_equal(host(t.grad), x == x.max(1, keepdims=True))


@pytest.mark.parametrize(
    ("k", "dim", "kind", "words"),
    [
        (5, -1, ArgumentError, "topk: expected k in 0..4, got 5"),
        (-1, 0, ArgumentError, "k in 0..3, got -1"),
        (1.0, 0, ArgumentError, "got 1.0"),
        (1, 2, ShapeError, "dim in -2..1, got 2"),
    ],
)
def test_topk_errors(k, dim, kind, words, device):
    with raises(kind, words):
        ones(3, 4).topk(k, dim)


ORDERS = [1, 2, 2.5, 3, math.inf, -math.inf]


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dim", [None, 0, -1, (0, 2)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_norm(p, dim, keepdim, device):
    (x,) = arrays((2, 3, 4))
    axes = tuple(range(3)) if dim is None else dim
    sizes = np.abs(x)
    if p == math.inf:
        expected = sizes.max(axes, keepdims=keepdim)
    elif p == -math.inf:
        expected = sizes.min(axes, keepdims=keepdim)
    else:
        expected = (sizes**p).sum(axes, keepdims=keepdim) ** (1 / p)
    y = host(mr.norm(tensor(x), p, dim, keepdim))
    np.testing.assert_allclose(y, expected, rtol=1e-13)


def test_norm_defaults_and_names(device):
    x = tensor([[3.0, 4.0], [0.0, 0.0]])
    assert x.norm().item() == 5
    assert x.norm("fro").item() == 5
    assert x.norm(axis=1).tolist() == [5, 0]
    assert x.dtype == x.norm(3).dtype


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("p", [1, 2, 3, math.inf])
def test_the_norm_of_zero_has_gradient_zero(p, device):
    x = zeros(3, requires_grad=True)
    x.norm(p).backward()
    assert x.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("p", ORDERS)
def test_norm_gradients(p, device):
    check_gradients(lambda x: mr.norm(x, p, 1), distinct((3, 4)))


@pytest.mark.parametrize("p", [1e300, "nuc", True, None, float("nan")])
def test_norm_errors(p, device):
    with raises(ArgumentError, 'norm: expected p a number, inf, -inf or "fro"'):
        ones(2).norm(p)


def test_norm_of_integers(device):
    with raises(DTypeError, "norm: expected a floating-point tensor"):
        tensor([1, 2]).norm()


def test_parity_with_pytorch():
    torch = pytest.importorskip("torch")
    (x,) = distinct((3, 4))
    for p in (*ORDERS, "fro"):
        against_torch(lambda x, p=p: mr.norm(x, p), lambda x, p=p: torch.norm(x, p), [x])
    for largest, dim in itertools.product((True, False), (0, 1)):
        against_torch(
            lambda x, largest=largest, dim=dim: mr.topk(x, 2, dim, largest).values,
            lambda x, largest=largest, dim=dim: torch.topk(x, 2, dim, largest).values,
            [x],
        )
