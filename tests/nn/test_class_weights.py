"""Weights for classes, in ``nll_loss`` and ``cross_entropy``."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.gradcheck import check, check2
from minires.nn import functional as F

DRAWS = np.random.default_rng(0)
X, WEIGHT = DRAWS.standard_normal((6, 4)), DRAWS.uniform(0.2, 3, 4)
LABELS = np.array([3, 0, 1, 1, -100, 3])


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_parity_with_torch(reduction):
    torch = pytest.importorskip("torch")
    x, theirs = mr.tensor(X, requires_grad=True), torch.tensor(X, requires_grad=True)
    loss = nn.NLLLoss(mr.tensor(WEIGHT), reduction=reduction)
    y = loss(F.log_softmax(x, 1), mr.tensor(LABELS))
    expected = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHT), reduction=reduction)(
        theirs, torch.tensor(LABELS)
    )
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-12)
    y.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), theirs.grad.numpy(), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_parity_of_cross_entropy(reduction, smoothing, probabilities):
    torch = pytest.importorskip("torch")
    target = DRAWS.dirichlet(np.ones(4), 6) if probabilities else LABELS
    x, theirs = mr.tensor(X, requires_grad=True), torch.tensor(X, requires_grad=True)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    y = nn.CrossEntropyLoss(mr.tensor(WEIGHT), **options)(x, mr.tensor(target))
    loss = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHT), **options)
    expected = loss(theirs, torch.tensor(target))
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-12)
    y.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), theirs.grad.numpy(), rtol=1e-11, atol=1e-15)


def test_derivatives_of_cross_entropy():
    def f(x, weight):
        return F.cross_entropy(x, mr.tensor(LABELS), weight, label_smoothing=0.2)

    inputs = [mr.tensor(X, requires_grad=True), mr.tensor(WEIGHT, requires_grad=True)]
    check(f, inputs).assert_ok()
    check2(f, inputs).assert_ok()


def test_derivatives_of_both_arguments():
    def f(x, weight):
        return F.nll_loss(x, mr.tensor(LABELS), weight)

    inputs = [mr.tensor(X, requires_grad=True), mr.tensor(WEIGHT, requires_grad=True)]
    check(f, inputs).assert_ok()
    check2(f, inputs).assert_ok()


def test_the_weights_are_a_buffer():
    for kind in (nn.NLLLoss, nn.CrossEntropyLoss):
        loss = kind(mr.ones(3)).double()
        assert loss.weight.dtype == np.float64
        assert list(loss.state_dict()) == ["weight"]
        assert list(kind().state_dict()) == []


@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        (mr.ones(3), ShapeError, r"a weight for each class, of shape \(4,\), got \(3,\)"),
        (mr.ones(4).double(), DTypeError, "nll_loss: expected one dtype"),
        (mr.tensor([1, 1, 1, 1]), DTypeError, "nll_loss: expected a floating-point tensor"),
        (np.ones(4, np.float32), DTypeError, "nll_loss: expected a tensor, got ndarray"),
        (mr.tensor([0.0, 0, 1, 0]), ArgumentError, "weights whose sum is not 0, got 0 for"),
    ],
)
def test_errors(weight, error, words):
    with pytest.raises(error, match=words):
        F.nll_loss(mr.tensor(X).float(), mr.tensor(LABELS), weight)
    with pytest.raises(error, match=words.replace("nll_loss", "cross_entropy")):
        F.cross_entropy(mr.tensor(X).float(), mr.tensor(LABELS), weight)
