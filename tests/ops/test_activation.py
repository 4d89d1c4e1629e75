"""Activations: against the formulas, at the ends of the number line, and against PyTorch."""

import math

import numpy as np
import pytest
from harness import against_torch, arrays, check_gradients, raises

import minires as mr
from minires.errors import ArgumentError, DTypeError

POINTS = np.concatenate(
    [
        [0.0, -0.0, 1e-300, 5.99, 6.0, 6.01, -6.0, 7.0, -7.0, 30.0, 1e300, np.inf, -np.inf],
        np.arange(-100, 101) / 32,  # on the grid of the series and half way between
        np.random.default_rng(0).normal(0, 2, 2000),
    ]
)


@pytest.mark.parametrize(("dtype", "ulps"), [(np.float64, 2), (np.float32, 4)])
def test_erf_to_the_last_digits(dtype, ulps):
    x = POINTS[:10] if dtype == np.float32 else POINTS
    x = np.concatenate([x, POINTS[13:]]).astype(dtype)
    y = mr.erf(mr.from_numpy(x)).numpy()
    expected = np.array([math.erf(v) for v in x])
    assert y.dtype == dtype
    spacing = np.spacing(np.abs(expected).astype(dtype)).astype(np.float64)
    assert (np.abs(y - expected) <= ulps * np.maximum(spacing, np.finfo(dtype).tiny)).all()


def test_erf_of_nan_and_of_a_scalar():
    assert np.isnan(mr.erf(mr.tensor(float("nan"))).item())
    assert mr.erf(mr.tensor(0.5)).item() == pytest.approx(math.erf(0.5), rel=1e-6)
    assert mr.erf(mr.zeros(0, 3)).shape == (0, 3)


FORMULAS = {
    "gelu": (mr.gelu, lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2),
    "gelu tanh": (
        lambda x: mr.gelu(x, "tanh"),
        lambda v: v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2,
    ),
    "silu": (mr.silu, lambda v: v / (1 + math.exp(-v))),
    "softplus": (mr.softplus, lambda v: math.log(1 + math.exp(v))),
    "leaky_relu": (lambda x: mr.leaky_relu(x, 0.2), lambda v: v if v > 0 else 0.2 * v),
    "square": (mr.square, lambda v: v * v),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients(name):
    function, formula = FORMULAS[name]
    (x,) = arrays((3, 5))
    y = function(mr.from_numpy(x)).numpy()
    np.testing.assert_allclose(y, np.vectorize(formula)(x), rtol=1e-13, atol=1e-15)
    check_gradients(function, [x])
    single = function(mr.from_numpy(x.astype(np.float32))).numpy()
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, y, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FORMULAS)
def test_large_arguments_do_not_overflow(name):
    x = mr.tensor([-1e4, -88.0, 0.0, 88.0, 1e4], dtype="float32", requires_grad=True)
    y = FORMULAS[name][0](x)
    y.sum().backward()
    assert np.isfinite(y.detach().numpy()).all()
    assert np.isfinite(x.grad.numpy()).all()


def test_softplus_keeps_small_values():
    assert mr.softplus(mr.tensor(np.array([-50.0]))).item() == pytest.approx(math.exp(-50))


def test_slopes_at_zero():
    x = mr.zeros(1, requires_grad=True)
    for function, slope in ((lambda x: mr.leaky_relu(x, 0.3), 0.3), (mr.softplus, 0.5)):
        assert mr.grad(function(x).sum(), [x])[0].item() == pytest.approx(slope)


def test_errors():
    whole = mr.tensor([1, 2])
    for function in (mr.erf, mr.gelu, mr.silu, mr.softplus, mr.leaky_relu):
        with raises(DTypeError, "expected a floating-point tensor, got int64", "x.float()"):
            function(whole)
    with raises(ArgumentError, "unknown approximate 'tan': did you mean tanh"):
        mr.gelu(mr.ones(1), "tan")
    with raises(ArgumentError, "leaky_relu: expected negative_slope a number, got '0.1'"):
        mr.leaky_relu(mr.ones(1), "0.1")


def test_parity_with_pytorch():
    functional = pytest.importorskip("torch.nn.functional")
    (x,) = arrays((4, 6))
    x[0, :2] = 0  # where the rules at a kink show
    for name in ("gelu", "silu", "softplus", "leaky_relu"):
        against_torch(getattr(mr, name), getattr(functional, name), [x])
    against_torch(
        lambda x: mr.gelu(x, "tanh"), lambda x: functional.gelu(x, approximate="tanh"), [x]
    )
