"""Products with the Jacobian and the Hessian, against hand values and PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires.errors import DTypeError, ShapeError

F64 = "float64"


def t(values):
    return mr.tensor(values, dtype=F64)


# A function of two inputs, (3,) and (2, 3), with a (2, 3) result, in the names both libraries share
def f(x, w):
    return (w * x).tanh() * x.exp().sum() + (w**3)[:, :1]


def scalar(x, w):
    return (f(x, w) ** 2).sum()


X, W = np.array([0.3, -0.5, 0.8]), np.array([[0.2, 1.1, -0.4], [0.9, -0.7, 0.6]])


# **** hand values ****


def test_vjp():
    y, g = mr.vjp(lambda x: x * x, t([1.0, 2.0]), t([1.0, 10.0]))
    assert y.tolist() == [1, 4]
    assert g.tolist() == [2, 40]
    assert not y.requires_grad
    assert not g.requires_grad
    y, (gx, gw) = mr.vjp(lambda x, w: (x * w).sum(), [t([1.0, 2.0]), t([3.0, 4.0])])
    assert y.item() == 11
    assert gx.tolist() == [3, 4]
    assert gw.tolist() == [1, 2]


def test_jvp():
    y, d = mr.jvp(lambda x: x**3, t([1.0, 2.0]), t([1.0, 10.0]))
    assert y.tolist() == [1, 8]
    assert d.tolist() == [3, 120]
    _, d = mr.jvp(lambda x, w: x * w, [t([2.0]), t([5.0])], [t([1.0]), t([100.0])])
    assert d.tolist() == [5 + 200]


def test_jacobian():
    j = mr.jacobian(lambda x: mr.stack([x.sum(), x[0] * x[1]]), t([3.0, 5.0]))
    assert j.tolist() == [[1, 1], [5, 3]]
    a = t(np.arange(6.0).reshape(2, 3))
    assert mr.jacobian(lambda x: a @ x, t([1.0, 2.0, 3.0])).tolist() == a.tolist()
    assert mr.jacobian(lambda x: x.sum(), t([[1.0, 2.0]])).tolist() == [[1, 1]]
    assert mr.jacobian(lambda x: x[:0], t([1.0, 2.0])).shape == (0, 2)
    assert mr.jacobian(lambda x: x * 2, t(3.0)).item() == 2
    one, other = mr.jacobian(lambda x, w: x * w, (t([2.0]), t([7.0])))
    assert (one.tolist(), other.tolist()) == ([[7]], [[2]])


def test_hvp_and_hessian():
    y, h = mr.hvp(lambda x: (x**3).sum(), t([1.0, 2.0]), t([1.0, 10.0]))
    assert y.item() == 9
    assert h.tolist() == [6, 120]
    h = mr.hessian(lambda x: x[0] * x[0] * x[1], t([2.0, 5.0]))
    assert h.tolist() == [[10, 4], [4, 0]]
    assert mr.hessian(lambda x: (x * x).sum(), t([[1.0], [2.0]])).shape == (2, 1, 2, 1)


@pytest.mark.parametrize(
    ("function", "name"),
    [(lambda x: x.detach() * 2, "detached"), (lambda x: mr.ones(2, dtype=F64), "constant")],
)
def test_what_does_not_depend_on_the_input(function, name):
    x, v = t([1.0, 2.0]), t([1.0, 1.0])
    assert mr.vjp(function, x, v)[1].tolist() == [0, 0]
    assert mr.jvp(function, x, v)[1].tolist() == [0, 0]
    assert mr.jacobian(function, x).tolist() == [[0, 0], [0, 0]]
    assert mr.hvp(lambda x: function(x).sum(), x, v)[1].tolist() == [0, 0]
    assert mr.hessian(lambda x: function(x).sum(), x).tolist() == [[0, 0], [0, 0]]


def test_one_of_two_inputs_is_not_used():
    x, w = t([1.0, 2.0]), t([3.0])
    gx, gw = mr.vjp(lambda x, w: x.sum(), [x, w])[1]
    assert (gx.tolist(), gw.tolist()) == ([1, 1], [0])
    jx, jw = mr.jacobian(lambda x, w: x * 2, [x, w])
    assert jx.tolist() == [[2, 0], [0, 2]]
    assert jw.tolist() == [[0], [0]]
    assert mr.jvp(lambda x, w: x * 2, [x, w], [x, w])[1].tolist() == [2, 4]
    hx, hw = mr.hvp(lambda x, w: (x * x).sum(), [x, w], [x, w])[1]
    assert (hx.tolist(), hw.tolist()) == ([2, 4], [0])


def test_linear_functions_have_no_curvature():
    x = t([1.0, 2.0])
    assert mr.hvp(lambda x: x.sum(), x, x)[1].tolist() == [0, 0]
    assert mr.hessian(lambda x: (x * 3).sum(), x).tolist() == [[0, 0], [0, 0]]


def test_nothing_is_left_behind():
    x = mr.tensor([1.0, 2.0], F64, requires_grad=True)
    w = mr.tensor([1.0, 2.0], F64, requires_grad=True)
    for act in (
        lambda: mr.vjp(lambda x: (x * w).sum(), x),
        lambda: mr.jvp(lambda x: x * w, x, x),
        lambda: mr.jacobian(lambda x: x * w, x),
        lambda: mr.hessian(lambda x: (x * x * w).sum(), x),
    ):
        act()
        assert x.grad is None
        assert w.grad is None
        assert x.is_leaf
    with mr.no_grad():
        assert mr.jacobian(lambda x: x * x, x).tolist() == [[2, 0], [0, 4]]


def test_create_graph_reaches_the_inputs():
    x = mr.tensor([1.0, 2.0], F64, requires_grad=True)
    _, g = mr.vjp(lambda x: (x**3).sum(), x, create_graph=True)
    g.sum().backward()
    assert x.grad.tolist() == [6, 12]
    x.grad = None
    mr.jacobian(lambda x: x**3, x, create_graph=True).sum().backward()
    assert x.grad.tolist() == [6, 12]
    x.grad = None
    mr.jvp(lambda x: x**3, x, t([1.0, 10.0]), create_graph=True)[1].sum().backward()
    assert x.grad.tolist() == [6, 120]


def test_through_a_convolution_and_a_kink():
    rng = np.random.default_rng(0)
    x, w = t(rng.standard_normal((1, 2, 4, 4))), t(rng.standard_normal((3, 2, 3, 3)))
    v = t(rng.standard_normal(x.shape))

    def g(x):
        return mr.relu(mr.conv2d(x, w, padding=1))

    jacobian = mr.jacobian(g, x).data.reshape(48, 32)
    np.testing.assert_allclose(
        mr.jvp(g, x, v)[1].data.ravel(), jacobian @ v.data.ravel(), atol=1e-12
    )


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda x: mr.vjp(lambda x: x, x, t([1.0])), ShapeError, r"shape \(2,\), got \(1,\)"),
        (lambda x: mr.vjp(lambda x: x, x), ShapeError, "needs a scalar"),
        (lambda x: mr.vjp(lambda x: (x, x), x), DTypeError, "returns one tensor, got tuple"),
        (lambda x: mr.vjp(lambda x: x, [1.0]), DTypeError, "tensors as inputs, got float"),
        (lambda x: mr.vjp(lambda x: x, mr.tensor([1])), DTypeError, "floating-point"),
        (lambda x: mr.jvp(lambda x: x, x, t([1.0])), ShapeError, r"jvp: expected v of shapes"),
        (lambda x: mr.jvp(lambda x, w: x, [x, x], [x]), ShapeError, "jvp: expected v of shapes"),
        (lambda x: mr.hvp(lambda x: x, x, x), ShapeError, "hvp: expected .* scalar"),
        (lambda x: mr.hessian(lambda x: x, x), ShapeError, "hessian: expected .* scalar"),
    ],
)
def test_errors(act, error, words):
    with pytest.raises(error, match=words):
        act(t([1.0, 2.0]))


# **** parity ****


@pytest.fixture
def functional():
    torch = pytest.importorskip("torch")
    return lambda name, function, inputs, *args: getattr(torch.autograd.functional, name)(
        function, tuple(map(torch.tensor, inputs)), *(tuple(map(torch.tensor, a)) for a in args)
    )


def close(mine, theirs):
    for a, b in zip(mine, theirs):
        assert a.shape == tuple(b.shape)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)


def test_parity_of_jacobian_and_products(functional):
    import torch

    rng = np.random.default_rng(1)
    vx, vw, u = (rng.standard_normal(s) for s in ((3,), (2, 3), (2, 3)))
    inputs = [t(X), t(W)]
    close(mr.jacobian(f, inputs), functional("jacobian", f, (X, W)))
    y, d = mr.jvp(f, inputs, [t(vx), t(vw)])
    close((y, d), functional("jvp", f, (X, W), (vx, vw)))
    y, g = mr.vjp(f, inputs, t(u))
    expected, gradients = torch.autograd.functional.vjp(
        f, (torch.tensor(X), torch.tensor(W)), torch.tensor(u)
    )
    close((y, *g), (expected, *gradients))
    y, h = mr.hvp(scalar, inputs, [t(vx), t(vw)])
    expected, products = functional("hvp", scalar, (X, W), (vx, vw))
    close((y, *h), (expected, *products))


def test_parity_of_hessian(functional):
    def function(x):
        return (x.exp() * x).sum() ** 2 + x[0] * x[1] * x[2]

    ((theirs,),) = functional("hessian", function, (X,))
    close([mr.hessian(function, t(X))], [theirs])
