"""Softmax, its logarithm and normaliser: beside large maxima, beside infinities, to all digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from harness import LAYOUTS, arrays, distinct, host, place, raises, tensor, there

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.gradcheck import check, check2

INF, NAN = math.inf, math.nan
FUNCTIONS = {"softmax": mr.softmax, "log_softmax": mr.log_softmax, "logsumexp": mr.logsumexp}


def exactly(array, dim):
    """(softmax, log_softmax, logsumexp) in extended precision, the rest beside 1 kept apart."""
    x = np.asarray(array, np.longdouble)
    shifted = x - x.max(dim, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(dim, keepdims=True)
    log = np.log(total)
    single = (shifted == 0).sum(dim, keepdims=True) == 1
    rest = np.where(shifted == 0, 0, e).sum(dim, keepdims=True)
    log = np.where(single, np.log1p(rest), log)
    sums = (log + x.max(dim, keepdims=True)).squeeze(dim)
    return {"softmax": e / total, "log_softmax": shifted - log, "logsumexp": sums}


def of(name, array, dim=1, entry=0):
    """The value, and the gradient of one of its entries."""
    x = tensor(array, requires_grad=True)
    y = FUNCTIONS[name](x, dim)
    up = np.zeros(y.shape, y.dtype)
    up.reshape(-1)[entry] = 1
    (g,) = mr.grad(y, x, there(up))
    return host(y), host(g)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("large", [1e2, 1e4, 1e8, 1e30, -1e8])
def test_beside_a_large_maximum_nothing_is_lost(large, dtype, device):
    rows = np.array([[large, large]], dtype)
    y, g = of("log_softmax", rows)
    np.testing.assert_allclose(y, [[-math.log(2)] * 2], rtol=2e-7)
    assert g.tolist() == [[0.5, -0.5]]
    y, g = of("softmax", rows)
    assert (y.tolist(), g.tolist()) == ([[0.5, 0.5]], [[0.25, -0.25]])
    y, g = of("logsumexp", rows)
    np.testing.assert_allclose(y, [large + math.log(2)], rtol=2e-7)
    assert g.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_to_the_last_digits(name, dtype, layout, device):
    (x,) = arrays((2, 3, 4, 5))
    for scale, shift in ((1, 0), (30, 0), (1, 4096)):
        x = LAYOUTS[layout]((scale * x + shift).astype(dtype))
        for dim in (0, 1, -1):
            y = host(FUNCTIONS[name](there(x), dim))
            expected = exactly(x, dim)[name]
            assert y.dtype == dtype
            # the differences x - max(x) are rounded, by half a unit of as many as there are
            size = np.abs(x - x.max(dim, keepdims=True)).max() + 4
            least = 1 if name == "logsumexp" else np.finfo(dtype).tiny  # m + log(...) has a zero
            # a GPU takes float32 below the normal ones for 0
            lost = np.finfo(dtype).tiny if place() == "cuda" and dtype == "float32" else 0
            away = np.maximum(np.abs(y - expected) - lost, 0)
            error = away / np.maximum(np.abs(expected), least)
            assert error.max() <= size * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_small_beside_one(dtype, device):
    """A class that is almost certain: its logarithm and both slopes are those of the others."""
    far = 20.0 if dtype == "float32" else 60.0
    rows, small = np.array([[far, 0.0, 0.0]], dtype), 2 * math.exp(-far)
    y, g = of("log_softmax", rows)
    np.testing.assert_allclose(y[0, 0], -small, rtol=1e-6)
    np.testing.assert_allclose(g, [[small, -small / 2, -small / 2]], rtol=1e-6)
    y, g = of("softmax", rows)
    np.testing.assert_allclose(g, [[small, -small / 2, -small / 2]], rtol=1e-6)
    y, g = of("logsumexp", rows - rows.max())
    np.testing.assert_allclose(y, [small], rtol=1e-6)
    np.testing.assert_allclose(g, [[1, small / 2, small / 2]], rtol=1e-6)


ROWS = [[-INF, -INF], [-INF, 0], [INF, 0], [INF, INF], [NAN, 0], [INF, -INF], [-INF, NAN], [1, 2]]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_infinities_as_in_pytorch(row, name):
    torch = pytest.importorskip("torch")
    for entry in (0, 1):
        if name == "logsumexp" and entry:
            continue
        y, g = of(name, [[float(v) for v in row]], entry=entry)
        x = torch.tensor([[float(v) for v in row]], requires_grad=True)
        z = getattr(torch, name)(x, 1)
        z.reshape(-1)[entry].backward()
        np.testing.assert_allclose(y, z.detach().numpy(), rtol=1e-6)
        np.testing.assert_allclose(g, x.grad.numpy(), rtol=1e-6)


def test_rows_of_infinities(device):
    """The same by hand: NaN stays in the row that makes it, and a class ruled out costs nothing."""
    x = tensor([[-INF, -INF], [-INF, 0.0], [INF, 0.0], [0.0, 0.0]], requires_grad=True)
    nothing = [[True, True], [False, False], [True, True], [False, False]]
    for name in ("softmax", "log_softmax"):
        y = FUNCTIONS[name](x, 1)
        assert np.isnan(y.tolist()).tolist() == nothing
        (g,) = mr.grad(y[1:4:2].exp().sum(), x)
        assert np.isfinite(host(g)[1::2]).all()
    assert mr.softmax(x, 1)[1].tolist() == [0, 1]
    assert mr.log_softmax(x, 1)[1].tolist() == [-INF, 0]
    assert x.logsumexp(1).tolist() == [-INF, 0, INF, pytest.approx(math.log(2))]
    (g,) = mr.grad(x[2:].logsumexp(1).sum(), x)
    np.testing.assert_array_equal(host(g)[2:], [[NAN, 0], [0.5, 0.5]])


@pytest.mark.parametrize("infinite", [INF, -INF])
def test_infinite_gradients_leave_other_rows_alone(infinite, device):
    x = tensor([[1.0, 2.0, -INF], [1.0, 2.0, 3.0]], requires_grad=True)
    for name in ("softmax", "log_softmax"):
        y = FUNCTIONS[name](x, 1)
        (g,) = mr.grad(y, x, tensor([[0, infinite, 0], [0, 1.0, 0]]))
        assert host(g)[0, 0] == -infinite
        assert host(g)[0, 2] == 0  # of no weight
        assert np.isfinite(host(g)[1]).all()


def test_derivatives(device):
    array = distinct((2, 3, 2))[0]
    for f in (
        *(lambda x, d=d: mr.softmax(x, d) for d in (0, 1, -1)),
        *(lambda x, d=d: mr.log_softmax(x, d) for d in (0, 1, -1)),
        *(lambda x, d=d: mr.logsumexp(x, d) for d in (None, 0, (0, 2))),
    ):
        x = tensor(array, requires_grad=True)
        check(f, x).assert_ok()
        check2(f, x).assert_ok()


def test_ends_of_the_number_line(device):
    assert mr.softmax(tensor([1e4, -1e4])).tolist() == [1, 0]
    assert mr.log_softmax(tensor([1e4, 0.0])).tolist() == [0, -1e4]
    assert tensor([1000.0, 1000.0]).logsumexp().item() == pytest.approx(1000 + math.log(2))


def test_shapes_without_entries_and_without_dimensions(device):
    x = mr.zeros(0, 3, requires_grad=True, device=device)
    for f in (mr.softmax, mr.log_softmax):
        for dim in (0, 1):
            y = f(x, dim)
            assert y.shape == (0, 3)
            assert mr.grad(y.sum(), x)[0].shape == (0, 3)
    one = tensor([[3.0]], requires_grad=True)
    assert (mr.softmax(one).item(), mr.log_softmax(one).item()) == (1, 0)
    assert mr.grad(mr.log_softmax(one).sum(), one)[0].item() == 0


def test_captured_as_called(device):
    (array,) = arrays((4, 5))

    def step(x):
        return mr.softmax(x, 1), mr.log_softmax(x, 0), mr.logsumexp(x, 1)

    captured = mr.capture(step)
    for shift in range(4):
        x = tensor(array * (shift + 1) + 100 * shift)
        for one, other in zip(captured(x), step(x)):
            np.testing.assert_array_equal(host(one), host(other))


def test_errors(device):
    for f, name in ((mr.softmax, "softmax"), (mr.log_softmax, "log_softmax")):
        with raises(DTypeError, f"{name}: expected a floating-point tensor, got int64"):
            f(tensor([1]))
        with raises(ArgumentError, f"{name}: expected dim an integer, got None", "Classes are dim"):
            f(mr.ones(2), None)
        with raises(ShapeError, f"{name}: expected dim in -1..0, got 1"):
            f(mr.ones(2), 1)
    with raises(DTypeError, "logsumexp: expected a floating-point tensor"):
        mr.logsumexp(tensor([1]))
    with raises(ShapeError, "logsumexp: expected at least one entry"):
        mr.logsumexp(mr.ones(0, 2), 0)
