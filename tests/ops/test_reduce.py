"""Reductions: values against NumPy, first and second derivatives, ties, emptiness, errors."""

from __future__ import annotations

import numpy as np
import pytest
from harness import host, ones, place, tensor, there, zeros

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.gradcheck import check, check2

# name: (NumPy's function of (array, axis, keepdims))
REFERENCES = {
    "sum": np.sum,
    "mean": np.mean,
    "var": lambda a, axis, keepdims: np.var(a, axis, ddof=1, keepdims=keepdims),
    "std": lambda a, axis, keepdims: np.std(a, axis, ddof=1, keepdims=keepdims),
    "amax": np.max,
    "amin": np.min,
    "logsumexp": lambda a, axis, keepdims: np.log(np.exp(a).sum(axis, keepdims=keepdims)),
}
DIMS = [
    ((2, 3), None),
    ((2, 3), 0),
    ((2, 3), -1),
    ((2, 3, 2), (0, 2)),
    ((2, 3, 2), [-1, 1]),
    ((3, 1), 0),
    ((1, 4, 1), 1),
]


def distinct(shape, seed=0):
    size = int(np.prod(shape))
    return (np.random.default_rng(seed).permutation(size) * 0.3 - size * 0.11).reshape(shape)


def leaf(array):
    return there(np.asarray(array, np.float64)).requires_grad_()


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize(("shape", "dim"), DIMS)
@pytest.mark.parametrize("name", REFERENCES)
def test_values_and_derivatives(name, shape, dim, keepdim, device):
    def f(x):
        return getattr(mr, name)(x, dim, keepdim=keepdim)

    array = distinct(shape)
    axis = tuple(dim) if isinstance(dim, list) else dim
    before = array.copy()
    y = f(leaf(array))
    expected = REFERENCES[name](array, axis=axis, keepdims=keepdim)
    assert y.shape == np.shape(expected)
    np.testing.assert_allclose(host(y.detach()), expected, rtol=1e-13)
    check(f, leaf(array)).assert_ok()
    check2(f, leaf(array)).assert_ok()
    np.testing.assert_array_equal(array, before)
    same = getattr(mr, name)(there(array), axis=axis, keepdims=keepdim)
    np.testing.assert_array_equal(host(same), host(y.detach()))


@pytest.mark.parametrize("name", [*REFERENCES, "max", "min", "softmax", "log_softmax"])
def test_layouts_and_float32(name, device):
    base = distinct((4, 6))
    for array in (base.T, base[::2, ::-1], base[:, 1:5], np.broadcast_to(base[:1], (3, 6))):
        x = there(array.astype("float32", copy=False)).requires_grad_()
        y = getattr(x, name)(1)
        y = y.values if isinstance(y, tuple) else y
        assert y.dtype == np.float32
        if name in REFERENCES:
            expected = REFERENCES[name](array, axis=1, keepdims=False)
            np.testing.assert_allclose(host(y.detach()), expected, rtol=2e-6, atol=2e-6)
        (g,) = mr.grad(y.sum(), x)
        assert (g.dtype, g.shape) == (np.float32, array.shape)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("name", ["max", "min"])
def test_extreme_values_with_their_indices(name, keepdim, device):
    array = distinct((3, 4, 2))
    for dim in range(-3, 3):
        values, indices = getattr(mr, name)(there(array), dim, keepdim)
        np.testing.assert_array_equal(
            host(values), getattr(np, name)(array, axis=dim, keepdims=keepdim)
        )
        np.testing.assert_array_equal(
            host(indices), getattr(np, "arg" + name)(array, axis=dim, keepdims=keepdim)
        )
        assert indices.dtype == np.int64

        def f(x, dim=dim):
            return getattr(x, name)(dim, keepdim).values

        check(f, leaf(array)).assert_ok()
        check2(f, leaf(array)).assert_ok()
    result = there(array).max(0)
    assert result.values is result[0]
    assert result.indices is result[1]


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_arg(name, keepdim, device):
    array = distinct((3, 4))
    x = leaf(array)
    for dim in (None, 0, 1, -1):
        y = getattr(x, name)(dim, keepdim=keepdim)
        np.testing.assert_array_equal(host(y), getattr(np, name)(array, axis=dim, keepdims=keepdim))
        assert y.dtype == np.int64
        assert not y.requires_grad


def test_ties(device):
    x = leaf([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    (g,) = mr.grad(x.amax(1).sum(), x)
    np.testing.assert_allclose(host(g), [[0, 0.5, 0.5], [1 / 3] * 3])
    (g,) = mr.grad(x.max(1).values.sum(), x)
    assert g.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert x.max(1).indices.tolist() == [1, 0]
    (g,) = mr.grad(x.max(), x)
    assert g.tolist() == [[0, 0.5, 0.5], [0, 0, 0]]
    assert x.argmax().item() == 1


def test_nan_is_the_extreme(device):
    x = leaf([[1.0, np.nan, 3.0], [1.0, 2.0, 3.0]])
    assert np.isnan(x.amax(1).tolist()).tolist() == [True, False]
    assert np.isnan(x.min(1).values.tolist()).tolist() == [True, False]
    assert x.argmax(1).tolist() == [1, 2]
    (g,) = mr.grad(x.amax(1).sum(), x)
    assert g.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert np.isnan(x.sum().item())
    assert np.isnan(x.logsumexp(1).tolist()).tolist() == [True, False]


@pytest.mark.parametrize("upstream", [np.inf, -np.inf, np.nan])
def test_infinite_and_nan_gradients_go_to_the_chosen_alone(upstream, device):
    rows = [[1.0, 3.0, 2.0], [-np.inf, np.inf, 0.0], [4.0, np.nan, 5.0]]
    x = leaf(rows)
    up = mr.full(3, upstream, dtype="float64").to(place())
    for y, chosen in (
        (x.amax(1), [1, 1, 1]),
        (x.amin(1), [0, 0, 1]),
        (x.max(1).values, [1, 1, 1]),
        (x.min(1).values, [0, 0, 1]),
        (x.topk(1).values[:, 0], [1, 1, 1]),
    ):
        (g,) = mr.grad(y, x, up)
        expected = np.zeros((3, 3))
        expected[np.arange(3), chosen] = upstream
        np.testing.assert_array_equal(host(g), expected)


def test_extremes_of_nan_and_infinities_as_in_pytorch(device):
    torch = pytest.importorskip("torch")
    nan, inf = np.nan, np.inf
    rows = ([1, nan, 3, nan], [inf, inf, 1], [-inf, -inf], [nan, inf], [-inf, nan], [2, 2, 1, 2])
    for row in rows:
        row = [float(v) for v in row]
        for name in ("max", "min"):
            x, theirs = leaf(row), torch.tensor(row, dtype=torch.float64, requires_grad=True)
            one, other = getattr(x, name)(0), getattr(theirs, name)(0)
            assert one.indices.item() == other.indices.item()
            assert getattr(x, "arg" + name)().item() == getattr(theirs, "arg" + name)().item()
            np.testing.assert_array_equal(one.values.item(), other.values.item())
            mine = host(mr.grad(one.values, x)[0])
            np.testing.assert_array_equal(mine, torch.autograd.grad(other.values, theirs)[0])
            mine = host(mr.grad(getattr(x, name)(), x)[0])  # those that are equal, or NaN, share
            expected = torch.autograd.grad(getattr(theirs, name)(), theirs)[0]
            np.testing.assert_array_equal(mine, expected)


def test_integers_and_bools(device):
    x = tensor(np.uint8([200, 100]))
    assert x.sum().item() == 300
    assert x.sum().dtype == np.int64
    assert tensor([True, True]).sum().item() == 2
    assert tensor([3, 1]).max().item() == 3
    assert tensor([[3, 1]]).min(1).indices.tolist() == [1]
    assert tensor([False, True]).any().item() is True
    assert tensor([[0.0, 1.0], [2.0, 3.0]]).all(1).tolist() == [False, True]
    assert tensor([[0, 1]]).any(axis=1, keepdims=True).tolist() == [[True]]


def test_no_dims_at_all(device):
    x = leaf(2.0)
    for f in (mr.sum, mr.mean, mr.amax, mr.logsumexp):
        y = f(x)
        assert y.shape == ()
        assert y.item() == 2
        assert mr.grad(y, x)[0].item() == 1
    y = leaf([1.0, 2.0]).sum(())
    assert y.tolist() == [1, 2]


def test_a_scalar_has_dimension_zero(device):
    x = leaf(3.0)
    for dim in (0, -1, (0,)):
        for f in (mr.sum, mr.mean, mr.amax, mr.amin, mr.logsumexp):
            y = f(x, dim, keepdim=True)
            assert (y.shape, y.item(), mr.grad(y, x)[0].item()) == ((), 3, 1)
        assert x.all(dim).item() is True
    for dim in (0, -1):
        for f in (mr.max, mr.min):
            values, indices = f(x, dim)
            assert (values.shape, indices.shape, indices.item()) == ((), (), 0)
            assert mr.grad(values, x)[0].item() == 1
        assert x.argmax(dim).item() == x.argmin(dim, keepdim=True).item() == 0
        assert x.softmax(dim).item() == 1
        assert x.log_softmax(dim).item() == 0
        assert x.topk(1, dim).indices.item() == 0
        assert x.norm(2, dim).item() == 3
        assert x.var(dim, correction=0).item() == 0
        assert x.transpose(0, dim).shape == x.squeeze(dim).shape == ()


def test_what_is_empty(device):
    x = zeros(0, 3, requires_grad=True)
    assert x.sum().item() == 0
    assert x.sum(0).tolist() == [0, 0, 0]
    assert x.sum(1).shape == (0,)
    assert x.amax(1).shape == x.max(1).values.shape == x.argmax(1).shape == (0,)
    assert x.mean(1).shape == (0,)
    assert x.logsumexp(1).shape == (0,)
    assert x.all().item() is True
    (g,) = mr.grad(x.amax(1).sum(), x)
    assert g.shape == (0, 3)


def test_variance_does_not_cancel(device):
    x = tensor(np.float32([1e4, 1e4 + 1, 1e4 + 2]))
    assert x.var().item() == 1
    assert x.var(correction=0).item() == pytest.approx(2 / 3, rel=1e-6)
    assert tensor([5.0]).var(correction=0).item() == 0


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: ones(2, 3).sum(2), ShapeError, r"sum: expected dim in -2\.\.1, got 2 .*\(2, 3"),
        (lambda: ones(2, 3).sum((0, -2)), ShapeError, "each dim once"),
        (lambda: ones(2).sum(0.5), ArgumentError, "an integer or a tuple of them, got 0.5"),
        (lambda: ones(2).sum((0.5,)), ArgumentError, "an integer or a tuple"),
        (lambda: tensor(1.0).sum(1), ShapeError, r"sum: expected dim in -1\.\.0, got 1"),
        (lambda: tensor(1.0).split(1), ShapeError, "split: expected at least one dimension"),
        (lambda: mr.cat([tensor(1.0)]), ShapeError, "expected at least one dimension"),
        (lambda: tensor(1.0).topk(0), ArgumentError, "topk: expected k = 1 of a scalar, got 0"),
        (lambda: ones(2).sum(0, axis=0), TypeError, "multiple values"),
        (lambda: ones(2).sum(dim=0, axis=0), ArgumentError, "dim or axis, got both"),
        (lambda: tensor([1]).mean(), DTypeError, r"mean: .*int64.*x\.float\(\)"),
        (lambda: tensor([1, 2]).var(), DTypeError, "var: expected a floating-point"),
        (lambda: ones(0).mean(), ShapeError, r"mean: .*at least one entry.*\(0,\)"),
        (lambda: ones(1).var(), ShapeError, r"more than 1 entries, got 1.*correction=0"),
        (lambda: ones(1).std(), ShapeError, "more than 1 entries"),
        (lambda: ones(0).amax(), ShapeError, "amax: expected at least one entry"),
        (lambda: ones(0, 2).max(0), ShapeError, "at least one entry"),
        (lambda: ones(0).argmin(), ShapeError, "at least one entry"),
        (lambda: ones(0, 2).logsumexp(0), ShapeError, "at least one entry"),
        (lambda: ones(2, 2).max((0, 1)), ArgumentError, r"max: expected one dim.*\(0, 1\)"),
        (lambda: ones(2, 2).argmax((0, 1)), ArgumentError, "argmax: expected one dim"),
        (lambda: ones(2).argmax(1), ShapeError, "argmax: expected dim in"),
        (lambda: mr.softmax(tensor([1])), DTypeError, "floating-point"),
        (lambda: mr.logsumexp(tensor([1])), DTypeError, "logsumexp: expected a floating"),
    ],
)
def test_errors(act, error, words, device):
    with pytest.raises(error, match=words):
        act()


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.sum((0, 2), keepdim=True),
        lambda x: x.mean(1),
        lambda x: x.var(2),
        lambda x: x.std((0, 1)),
        lambda x: x.amax((0, 2)),
        lambda x: x.amin(1, keepdim=True),
        lambda x: x.max(1).values,
        lambda x: x.min(-1)[0],
        lambda x: x.max(),
        lambda x: x.logsumexp((1, 2)),
        lambda x: x.softmax(1),
        lambda x: x.log_softmax(0),
    ],
)
def test_parity(f):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    values = rng.integers(-2, 3, (2, 3, 4)).astype(float)  # with many ties
    x, t = leaf(values), torch.tensor(values, requires_grad=True)
    y, theirs = f(x), f(t)
    np.testing.assert_allclose(y.detach().data, theirs.detach().numpy(), rtol=1e-12)
    gy = rng.standard_normal(y.shape)
    (g,) = mr.grad(y, x, mr.from_numpy(np.asarray(gy)))
    (tg,) = torch.autograd.grad(theirs, t, torch.tensor(gy))
    np.testing.assert_allclose(g.data, tg.numpy(), rtol=1e-11, atol=1e-13)
