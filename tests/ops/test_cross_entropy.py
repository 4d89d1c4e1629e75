"""Cross entropy: labels, probabilities, smoothing, ignored rows, reductions."""

from __future__ import annotations

import numpy as np
import pytest
from harness import (
    against_torch,
    arrays,
    check_gradients,
    check_op,
    host,
    ones,
    raises,
    tensor,
    there,
    zeros,
)

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError

LABELS = np.array([2, 0, -100, 4, 1, 1])
OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0},
    {"reduction": "sum"},
    {"reduction": "none", "label_smoothing": 0.3},
    {"ignore_index": 1},
]


def loss(options, labels=LABELS):
    if options.get("ignore_index") == 1:
        labels = np.where(labels < 0, 3, labels)
    return lambda x: mr.cross_entropy(x, tensor(labels), **options)


def test_cross_entropy_by_hand(anywhere):
    x = tensor([[0.0, np.log(3.0)], [0.0, 0.0]], dtype="float64", requires_grad=True)
    y = mr.cross_entropy(x, tensor([1, 0]), reduction="sum")
    np.testing.assert_allclose(y.item(), np.log(4 / 3) + np.log(2))
    y.backward()
    np.testing.assert_allclose(host(x.grad), [[0.25, -0.25], [-0.5, 0.5]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cross_entropy_against_reference(options, dtype, device):
    (x,) = arrays((6, 5))
    check_op(loss(options), [3 * x], dtype)
    check_op(loss(options), [np.asfortranarray(x)], dtype)
    check_op(loss(options), [x[::-1, ::-1]], dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cross_entropy_gradients(options, anywhere):
    check_gradients(loss(options), arrays((6, 5)))


def test_cross_entropy_of_probabilities(anywhere):
    x, q = arrays((4, 3), (4, 3))
    q = np.exp(q) / np.exp(q).sum(1, keepdims=True)
    one_hot = np.eye(3)[[0, 2, 1, 1]]
    labels = tensor([0, 2, 1, 1])
    for smoothing in (0.0, 0.2):
        by_rows = mr.cross_entropy(tensor(x), tensor(one_hot), label_smoothing=smoothing)
        by_labels = mr.cross_entropy(tensor(x), labels, label_smoothing=smoothing)
        np.testing.assert_allclose(by_rows.item(), by_labels.item())
    check_gradients(lambda x, q: mr.cross_entropy(x, q, label_smoothing=0.1), [x, q])


def test_cross_entropy_does_not_overflow(anywhere):
    x = tensor([[1e4, 0.0], [-1e4, 0.0]], requires_grad=True)
    y = mr.cross_entropy(x, tensor([1, 1]), reduction="none")
    assert y.tolist() == [1e4, 0.0]
    y.sum().backward()
    assert x.grad.tolist() == [[1.0, -1.0], [0.0, 0.0]]


def test_cross_entropy_with_a_class_ruled_out(anywhere):
    x = tensor([[0.0, -np.inf, 0.0]], requires_grad=True)
    y = mr.cross_entropy(x, tensor([0]))
    np.testing.assert_allclose(y.item(), np.log(2), rtol=1e-6)
    y.backward()
    assert x.grad.tolist() == [[-0.5, 0.0, 0.5]]


def by_definition(x, labels, smoothing, ignore, g):
    """Losses and gradients row by row in extended precision, entry by entry, leaving out what has
    no weight; of the sum over classes what is not the label is kept apart."""
    losses, gx = [], np.zeros(x.shape, np.longdouble)
    for i, label in enumerate(labels):
        losses.append(np.longdouble(0))
        if label == ignore:
            continue
        row = x[i].astype(np.longdouble)
        row = row - row.max()
        top = int(row.argmax())
        e = np.exp(row)
        rest = np.delete(e, top).sum()
        q = np.full(len(row), np.longdouble(smoothing) / len(row))
        q[label] += 1 - np.longdouble(smoothing)
        for k, weight in enumerate(q):
            if weight:
                losses[-1] -= weight * (row[k] - np.log1p(rest))
            slope = e[k] / (1 + rest) - weight
            if k == label:  # p - 1 as minus all others
                slope = -np.delete(e, k).sum() / (1 + rest) + (1 - weight)
            gx[i, k] = slope * g[i] if slope else 0
    return np.array(losses), gx


EXTREME = {
    "certain": [30.0, 0, 1, -2],
    "certain of another": [0, 30.0, 1, -2],
    "far from 0": [1e4, 1e4 + 1, 1e4, 1e4],
    "tied": [2.0, 2, -1, 0],
    "ruled out": [0.5, -np.inf, 1, -np.inf],
    "label ruled out": [-np.inf, 1, 2, 3],
    "only one left": [1, -np.inf, -np.inf, -np.inf],
}


def check_extreme(dtype):
    for smoothing in (0.0, 0.25, 1.0):
        rows = [row for row in EXTREME.values() if not smoothing or np.isfinite(row).all()]
        labels, g = np.zeros(len(rows), int), np.linspace(0.5, 2, len(rows))
        rows, labels = np.array([*rows, [np.nan] * 4, [np.inf] * 4], dtype), [*labels, 9, 9]
        g = np.array([*g, 1, np.inf], dtype)
        x = tensor(rows, requires_grad=True)
        losses = mr.cross_entropy(
            x, tensor(labels), label_smoothing=smoothing, ignore_index=9, reduction="none"
        )
        (gx,) = mr.grad(losses, x, there(g))
        expected, slopes = by_definition(rows, labels, smoothing, 9, g)
        eps = np.finfo(dtype).eps
        # exponents are differences of up to 32, rounded
        np.testing.assert_allclose(host(losses.detach()), expected, rtol=40 * eps)
        atol = smoothing * eps  # a share of the smoothing is subtracted
        np.testing.assert_allclose(host(gx), slopes, rtol=40 * eps, atol=atol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_reference_to_all_digits(dtype):
    with mr.backend("numpy"):
        check_extreme(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_kernel_to_all_digits(dtype, device):
    check_extreme(dtype)


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_infinite_losses_and_gradients(backend, smoothing):
    """A label that is ruled out costs infinity, and an infinite gradient has the sign of its
    slope; what has no slope gets none of it."""
    rows = np.array([[-np.inf, 1, 2], [0, 1, -np.inf], [0, 1, 2]], np.float32)
    x = tensor(rows, requires_grad=True)
    labels = tensor([0, 0, 9])
    losses = mr.cross_entropy(
        x, labels, label_smoothing=smoothing, ignore_index=9, reduction="none"
    )
    assert np.isinf(host(losses.detach())).tolist() == [True, smoothing > 0, False]
    (g,) = mr.grad(losses, x, tensor([1.0, np.inf, np.inf]))
    assert np.isfinite(host(g)[0]).all()
    away = 0 if not smoothing else -np.inf
    slopes = 1 / (1 + np.e) - 1 + smoothing * 2 / 3, np.e / (1 + np.e) - smoothing / 3
    expected = [np.inf * np.sign(slope) for slope in slopes]
    assert g.tolist()[1:] == [[*expected, away], [0, 0, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("classes", [2, 16, 17, 70])
def test_nan_stays_in_its_row_and_fills_it(classes, smoothing, bad, anywhere):
    for place in {0, classes // 2, classes - 1}:
        rows = arrays((4, classes))[0].astype(np.float32)
        rows[1, place] = rows[3, place] = bad
        x = tensor(rows, requires_grad=True)
        labels = tensor([0, 1, 1, -100])
        losses = mr.cross_entropy(x, labels, label_smoothing=smoothing, reduction="none")
        (g,) = mr.grad(losses.sum(), x)
        assert np.isnan(host(losses.detach())).tolist() == [False, True, False, False]
        assert np.isnan(host(g)).all(1).tolist() == [False, True, False, False]
        assert np.isfinite(host(g)[[0, 2, 3]]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_what_is_in_an_ignored_row_does_not_count(reduction, smoothing, weighted, dtype, anywhere):
    (rows,) = arrays((5, 3))
    weight = tensor([0.5, 2.0, 1.0], dtype=dtype) if weighted else None
    labels, found = tensor([0, -100, 2, -100, 1]), []
    for bad in (0.0, np.nan, np.inf, -np.inf):
        rows[1], rows[3, 1] = bad, bad
        x = tensor(rows, dtype=dtype, requires_grad=True)
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        y = mr.cross_entropy(x, labels, **options)
        up = np.ones(y.shape, dtype)
        up.reshape(-1)[1:2] = np.inf  # the gradient of an ignored loss
        (g,) = mr.grad(y, x, there(up))
        found.append((y.tolist(), g.tolist()))
        assert np.isfinite(host(g)).all()
        assert not host(g)[[1, 3]].any()
        logarithms = tensor(np.where(np.isnan(rows), bad, -abs(rows)), dtype=dtype)
        loss = mr.nll_loss(logarithms, labels, weight=weight, reduction=reduction)
        assert np.isfinite(host(loss)).all()
    assert found[1:] == found[:1] * 3


def test_a_class_of_no_weight_may_be_ruled_out(anywhere):
    """Probability 0, or weight 0, times a logarithm of -inf: nothing, and not NaN."""
    rows, away = [[1.0, -np.inf, 2.0]], np.log1p(np.e)  # logsumexp - 1
    x = tensor(rows, requires_grad=True)
    p = np.array([1 / (1 + np.e), 0, np.e / (1 + np.e)])
    slopes = p - [1, 0, 0]
    for target, weight in (
        ([0], None),
        ([0], [1.0, 1.0, 1.0]),
        ([0], [1.0, 0.0, 3.0]),
        ([[1.0, 0.0, 0.0]], None),
        ([[1.0, 0.0, 0.0]], [1.0, 5.0, 1.0]),
    ):
        given = None if weight is None else tensor(weight)
        loss = mr.cross_entropy(x, tensor(target), weight=given)
        assert loss.item() == pytest.approx(away, rel=1e-6)
        np.testing.assert_allclose(host(mr.grad(loss, x)[0]), [slopes], rtol=1e-6)
    with_smoothing = {"weight": tensor([1.0, 0.0, 1.0]), "label_smoothing": 0.3}
    loss = mr.cross_entropy(x, tensor([0]), **with_smoothing)
    assert loss.item() == pytest.approx(0.8 * away + 0.1 * (away - 1), rel=1e-6)
    assert np.isfinite(host(mr.grad(loss, x)[0])).all()
    # a label that is ruled out, of a class without weight
    no_weight = tensor([1.0, 0.0, 1.0])
    for loss in (
        mr.cross_entropy(x, tensor([1]), weight=no_weight, reduction="sum"),
        mr.nll_loss(mr.log_softmax(x, 1), tensor([1]), weight=no_weight, reduction="sum"),
    ):
        assert loss.item() == 0
        assert mr.grad(loss, x)[0].tolist() == [[0, 0, 0]]


def test_gradients_of_targets_and_weights_beside_a_class_ruled_out(device):
    x = tensor([[1.0, -np.inf, 2.0]], dtype="float64")
    weight = ones(3, dtype="float64", requires_grad=True)
    loss = mr.cross_entropy(x, tensor([0]), weight=weight, reduction="sum")
    assert mr.grad(loss, weight)[0].tolist() == [pytest.approx(np.log1p(np.e)), 0, 0]
    q = tensor([[1.0, 0.0, 0.0]], dtype="float64", requires_grad=True)
    (gq,) = mr.grad(mr.cross_entropy(x, q), q)  # minus the logarithm: infinite where it is
    np.testing.assert_allclose(host(gq), [[np.log1p(np.e), np.inf, np.log1p(np.e) - 1]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_and_probabilities_to_all_digits(dtype, device):
    """The same losses and gradients as those of the kernel, where one class is almost certain."""
    rows = np.array([row for row in EXTREME.values() if np.isfinite(row).all()], dtype)
    labels, one_hot = np.zeros(len(rows), int), np.zeros_like(rows)
    one_hot[:, 0] = 1
    found = []
    for target, weight in ((labels, None), (labels, ones(4, dtype=dtype)), (one_hot, None)):
        x = tensor(rows, requires_grad=True)
        y = mr.cross_entropy(x, tensor(target), weight=weight, reduction="none")
        found.append((host(y.detach()), host(mr.grad(y.sum(), x)[0])))
    for y, g in found[1:]:
        np.testing.assert_allclose(y, found[0][0], rtol=40 * np.finfo(dtype).eps)
        np.testing.assert_allclose(g, found[0][1], rtol=40 * np.finfo(dtype).eps)


def test_mean_of_equal_losses_is_one_of_them(anywhere):
    for n in (41, 49, 1000):
        x = zeros(n, 2)
        one = mr.cross_entropy(x[:1], tensor([0]))
        for target in (np.zeros(n, int), np.full((n, 2), 0.5, np.float32)):
            assert mr.cross_entropy(x, tensor(target)).item() == one.item()
        assert mr.nll_loss(mr.log_softmax(x, 1), zeros(n).long()).item() == one.item()


def test_cross_entropy_nan_logits_give_nan(anywhere):
    x = tensor([[np.nan, 1.0], [0.0, 1.0]])
    y = mr.cross_entropy(x, tensor([0, 0]), reduction="none")
    assert np.isnan(host(y)[0])
    assert np.isfinite(host(y)[1])


X = (3, 4)
ERRORS = {
    "range": (X, [0, 4, 1], {}, ArgumentError, ["labels in 0..3", "4 at index 1", "count from 0"]),
    "negative": (X, [0, 1, -1], {}, ArgumentError, ["-1 at index 2"]),
    "float": (X, [0.0, 1.0, 2.0], {}, DTypeError, ["integer labels of shape (3,)", ".long()"]),
    "one_hot": (X, np.eye(4, dtype=int)[:3], {}, ShapeError, ["labels of shape (3,)", "argmax(1)"]),
    "length": (X, [0, 1], {}, ShapeError, ["labels of shape (3,)", "(2,)"]),
    "dims": ((3,), [0, 1, 2], {}, ShapeError, ["labels of shape ()", "(3,)"]),
    "reduction": (X, [0, 1, 2], {"reduction": "men"}, ArgumentError, ["did you mean mean"]),
    "smoothing": (
        X,
        [0, 1, 2],
        {"label_smoothing": 2},
        ArgumentError,
        ["a finite number >= 0 and <= 1"],
    ),
    "ignored": (X, [-100] * 3, {}, ArgumentError, ["every label is ignore_index=-100"]),
    "empty": ((0, 4), np.zeros(0, int), {}, ShapeError, ["at least one row"]),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_cross_entropy_errors(case, device):
    shape, labels, options, kind, words = case
    with raises(kind, *words):
        mr.cross_entropy(zeros(shape), tensor(labels), **options)


def test_cross_entropy_warns_of_probabilities(device):
    with pytest.warns(UserWarning, match="expects logits"):
        mr.cross_entropy(tensor([[0.25, 0.75]]), tensor([0]))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_parity_cross_entropy(options):
    torch = pytest.importorskip("torch")
    labels = np.where(LABELS < 0, 3, LABELS) if options.get("ignore_index") == 1 else LABELS
    against_torch(
        loss(options),
        lambda x: torch.nn.functional.cross_entropy(x, torch.tensor(labels), **options),
        arrays((6, 5)),
    )
