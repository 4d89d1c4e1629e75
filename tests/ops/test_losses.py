"""Losses that are array expressions: formulas, weights, ends of the number line, PyTorch."""

import math

import numpy as np
import pytest
from harness import against_torch, arrays, check_gradients, host, raises, tensor

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError

REDUCTIONS = {"mean": np.mean, "sum": np.sum, "none": lambda losses: losses}
bce = mr.binary_cross_entropy_with_logits


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mse(reduction, device):
    x, target = arrays((3, 4), (3, 4))
    y = host(mr.mse_loss(tensor(x), tensor(target), reduction=reduction))
    np.testing.assert_allclose(y, REDUCTIONS[reduction]((x - target) ** 2), rtol=1e-13)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy(reduction, device):
    x, target, weight, pos_weight = arrays((3, 4), (3, 4), (3, 1), (4,))
    target, weight, pos_weight = (1 / (1 + np.exp(-a)) for a in (target, weight, pos_weight))
    p = 1 / (1 + np.exp(-x))
    losses = -weight * (pos_weight * target * np.log(p) + (1 - target) * np.log(1 - p))
    y = bce(
        tensor(x),
        tensor(target),
        weight=tensor(weight),
        pos_weight=tensor(pos_weight),
        reduction=reduction,
    )
    np.testing.assert_allclose(host(y), REDUCTIONS[reduction](losses), rtol=1e-12)


def test_binary_cross_entropy_of_any_logit(device):
    x = tensor([-1e4, 0.0, 1e4, 1e4], requires_grad=True)
    loss = bce(x, tensor([0.0, 1.0, 1.0, 0.0]), reduction="none")
    np.testing.assert_allclose(host(loss), [0, math.log(2), 0, 1e4], rtol=1e-6)
    gradient = mr.grad(loss.sum(), [x])[0]
    np.testing.assert_allclose(host(gradient), [0, -0.5, 0, 1])  # sigmoid(x) - target, also at 0


def test_binary_cross_entropy_of_infinite_logits(device):
    """A certain answer that is right costs nothing, and a weight of 0 makes any loss nothing."""
    inf = math.inf
    x = tensor([-inf, inf, -inf, inf, 0.0], requires_grad=True)
    target = tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    loss = bce(x, target, reduction="none")
    assert loss.tolist() == [0, 0, inf, inf, pytest.approx(math.log(2))]
    assert mr.grad(loss.sum(), x)[0].tolist() == [0, 0, -1, 1, -0.5]
    weight = tensor([1.0, 1.0, 0.0, 0.0, 1.0])
    loss = bce(x, target, weight=weight)
    assert loss.item() == pytest.approx(math.log(2) / 5)
    np.testing.assert_allclose(host(mr.grad(loss, x)[0]), [0, 0, 0, 0, -0.1])
    loss = bce(x, target, pos_weight=mr.zeros(1, device=device), reduction="none")
    assert loss.tolist() == [0, 0, 0, inf, 0]
    assert mr.grad(loss.sum(), x)[0].tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_cross_entropy_to_all_digits(dtype, device):
    """p = sigmoid(x) of an answer, and its loss and slope, whichever of 0 and 1 p is close to."""
    x = np.linspace(-80, 80, 321).astype(dtype)
    exact = x.astype(np.longdouble)
    for target, sign in ((0.0, 1), (1.0, -1)):
        leaf = tensor(x, requires_grad=True)
        loss = bce(leaf, mr.full(x.shape, target, dtype=dtype, device=device), reduction="none")
        (g,) = mr.grad(loss.sum(), leaf)
        away = sign * exact
        expected = np.maximum(away, 0) + np.log1p(np.exp(-abs(away)))
        slope = sign / (1 + np.exp(-away))
        np.testing.assert_allclose(host(loss), expected, rtol=8 * np.finfo(dtype).eps)
        np.testing.assert_allclose(host(g), slope, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_is_cross_entropy_of_log_softmax(reduction, device):
    x = tensor(arrays((5, 4))[0])
    labels = tensor([0, 3, -100, 1, 1])
    loss = mr.nll_loss(mr.log_softmax(x, 1), labels, reduction=reduction)
    expected = mr.cross_entropy(x, labels, reduction=reduction)
    np.testing.assert_allclose(host(loss), host(expected), rtol=1e-12)


def test_nll_ignores_rows_whatever_is_in_them(device):
    x = tensor([[-np.inf, 0.0], [-1.0, -2.0]], dtype="float32", requires_grad=True)
    loss = mr.nll_loss(x, tensor([7, 1]), ignore_index=7)
    loss.backward()
    assert loss.item() == 2
    assert x.grad.tolist() == [[0, 0], [0, -1]]


def test_arrays_may_be_targets():
    assert mr.mse_loss(mr.ones(2), np.zeros(2, np.float32)).item() == 1
    assert mr.nll_loss(mr.zeros(2, 3), np.array([0, 2])).item() == 0


def test_gradients(device):
    x, target = arrays((2, 3), (2, 3))
    check_gradients(lambda x, t: mr.mse_loss(x, t), [x, target])
    check_gradients(lambda x, t: bce(x, t), [x, target])
    check_gradients(lambda x: mr.nll_loss(x, tensor([2, 0])), [x])


X, T = mr.ones(4, 3), mr.ones(4, 3)
BAD = {
    "column": (
        lambda: mr.mse_loss(mr.ones(4, 1), mr.ones(4)),
        ShapeError,
        "mse_loss: expected a target of shape (4, 1), got (4,). Reshape one of them",
        "target.reshape(4, 1)",
    ),
    "size": (lambda: mr.mse_loss(X, mr.ones(3)), ShapeError, "target of shape (4, 3), got (3,)"),
    "dtype": (lambda: mr.mse_loss(X, T.double()), DTypeError, "mse_loss: expected one dtype"),
    "labels": (lambda: bce(X, T.long()), DTypeError, "float32 (4, 3) and int64 (4, 3)"),
    "reduction": (
        lambda: mr.mse_loss(X, T, reduction="avg"),
        ArgumentError,
        "unknown reduction 'avg'",
    ),
    "nothing": (lambda: mr.mse_loss(mr.ones(0), mr.ones(0)), ShapeError, "at least one entry"),
    "weight": (
        lambda: bce(X, T, weight=mr.ones(2, 4, 3)),
        ShapeError,
        "a weight that broadcasts to (4, 3), got (2, 4, 3)",
    ),
    "pos_weight": (
        lambda: bce(X, T, pos_weight=mr.ones(4)),
        ShapeError,
        "binary_cross_entropy_with_logits: expected shapes that broadcast",
    ),
    "label": (
        lambda: mr.nll_loss(X, mr.tensor([0, 1, 3, 0])),
        ArgumentError,
        "nll_loss: expected labels in 0..2, got 3 at index 2",
    ),
    "float labels": (
        lambda: mr.nll_loss(X, mr.ones(4)),
        DTypeError,
        "nll_loss: expected integer labels of shape (4,), got float32",
    ),
    "ignored": (
        lambda: mr.nll_loss(X, mr.tensor([0, 1, 2, 0]), ignore_index="0"),
        ArgumentError,
        "nll_loss: expected ignore_index an integer, got '0'",
    ),
    "images": (lambda: mr.nll_loss(mr.ones(1, 2, 3), mr.ones(1).long()), ShapeError, "(1, 3)"),
    "all ignored": (
        lambda: mr.nll_loss(X, mr.full(4, -100, dtype="int64")),
        ShapeError,
        "nll_loss: expected at least one row to average",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name):
    call, kind, *words = BAD[name]
    with raises(kind, *words):
        call()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_parity_with_pytorch(reduction):
    functional = pytest.importorskip("torch.nn.functional")
    torch = pytest.importorskip("torch")
    x, target, weight, pos_weight = arrays((3, 4), (3, 4), (3, 1), (4,))
    x[0, 0] = 0
    against_torch(
        lambda x, t: mr.mse_loss(x, t, reduction=reduction),
        lambda x, t: functional.mse_loss(x, t, reduction=reduction),
        [x, target],
    )
    against_torch(
        lambda x, t: bce(
            x,
            t,
            weight=mr.tensor(weight),
            pos_weight=mr.tensor(pos_weight),
            reduction=reduction,
        ),
        lambda x, t: functional.binary_cross_entropy_with_logits(
            x,
            t,
            torch.tensor(weight),
            pos_weight=torch.tensor(pos_weight),
            reduction=reduction,
        ),
        [x, target],
    )
    against_torch(
        lambda x: mr.nll_loss(x, mr.tensor([1, -100, 3]), reduction=reduction),
        lambda x: functional.nll_loss(x, torch.tensor([1, -100, 3]), reduction=reduction),
        [x],
    )
