"""Activations: against the formulas, at the ends of the number line, and against PyTorch."""

import math

import numpy as np
import pytest
from harness import (
    against_torch,
    arrays,
    check_gradients,
    host,
    ones,
    place,
    raises,
    tensor,
    there,
    zeros,
)

import minires as mr
from minires.errors import ArgumentError, DTypeError
from minires.ops.activation import NormalDensity, NormalProbability, SigmoidSlope

POINTS = np.concatenate(
    [
        [0.0, -0.0, 1e-300, 5.99, 6.0, 6.01, -6.0, 7.0, -7.0, 30.0, 1e300, np.inf, -np.inf],
        np.arange(-100, 101) / 32,  # on the grid of the series and half way between
        np.random.default_rng(0).normal(0, 2, 2000),
    ]
)


@pytest.mark.parametrize(("dtype", "ulps"), [(np.float64, 2), (np.float32, 4)])
def test_erf_to_the_last_digits(dtype, ulps, device):
    x = POINTS[:10] if dtype == np.float32 else POINTS
    x = np.concatenate([x, POINTS[13:]]).astype(dtype)
    y = host(mr.erf(there(x)))
    expected = np.array([math.erf(v) for v in x])
    assert y.dtype == dtype
    spacing = np.spacing(np.abs(expected).astype(dtype)).astype(np.float64)
    assert (np.abs(y - expected) <= ulps * np.maximum(spacing, np.finfo(dtype).tiny)).all()


def test_erf_of_nan_and_of_a_scalar(device):
    assert np.isnan(mr.erf(tensor(float("nan"))).item())
    assert mr.erf(tensor(0.5)).item() == pytest.approx(math.erf(0.5), rel=1e-6)
    assert mr.erf(zeros(0, 3)).shape == (0, 3)


def test_erf_in_a_captured_function(device):
    function, values = mr.capture(mr.erf), (0.25, -1.5, 3.0, 0.5)
    for v in values:
        y = function(tensor([v, 1.0]))
        np.testing.assert_allclose(host(y), [math.erf(v), math.erf(1.0)], rtol=1e-6)


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
def test_values_and_gradients(name, device):
    function, formula = FORMULAS[name]
    (x,) = arrays((3, 5))
    y = host(function(there(x)))
    np.testing.assert_allclose(y, np.vectorize(formula)(x), rtol=1e-13, atol=1e-15)
    check_gradients(function, [x])
    single = host(function(there(x.astype(np.float32))))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, y, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FORMULAS)
def test_large_arguments_do_not_overflow(name, device):
    x = tensor([-1e4, -88.0, 0.0, 88.0, 1e4], dtype="float32", requires_grad=True)
    y = FORMULAS[name][0](x)
    y.sum().backward()
    assert np.isfinite(host(y.detach())).all()
    assert np.isfinite(host(x.grad)).all()


PI = np.longdouble("3.14159265358979323846264338327950288")


def whole_range(dtype):
    """Numbers of every size that a dtype has, closest where exponentials are neither 0 nor inf."""
    last, limits = (110 if dtype == np.float32 else 760), np.finfo(dtype)
    sizes = np.concatenate(
        [np.geomspace(1e3 * limits.tiny, 1, 400), np.geomspace(1, float(limits.max), 200)]
    )
    dense = np.linspace(-last, last, 4001)
    return np.concatenate([[0.0], dense, dense / 8, dense / 64, sizes, -sizes]).astype(dtype)


def sig(x):
    e = np.exp(-abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def phi(x):
    return np.exp(-x * x / 2) / np.sqrt(2 * PI)


def cdf(x):
    """The normal distribution function: its series near 0, Laplace's fraction in the tails."""
    near, far, fraction = np.clip(x, -2, 2), np.maximum(abs(x), 2), 0
    total, term = near, near
    for k in range(1, 100):
        term = term * near * near / (2 * k + 1)
        total = total + term
    for k in range(400, 0, -1):
        fraction = k / (far + fraction)
    tail = phi(far) / (far + fraction)
    return np.where(abs(x) <= 2, 0.5 + total * phi(near), np.where(x < 0, tail, 1 - tail))


def cubic(x):
    x = np.clip(x, -100, 100)
    return np.sqrt(8 / PI) * (x + np.longdouble("0.044715") * x**3)


def cubic_slope(x):
    x = np.clip(x, -100, 100)
    return np.sqrt(8 / PI) * (1 + np.longdouble("0.134145") * x**2)


def fading(x, slope):
    """x * slope, where the slope has gone to 0 before x * x could overflow."""
    return np.where(slope == 0, 0, np.clip(x, -1e3, 1e3) * slope)


def ulps(x):
    return np.full(len(x), 6.0)


# each in extended precision: value, and the terms whose sum is the slope; and how many units in
# the last place are allowed, where rounding x³ changes an exponent as much as rounding x does
SLOPES = {
    "sigmoid": (mr.sigmoid, sig, [lambda x: sig(x) * sig(-x)], ulps),
    "tanh": (mr.tanh, np.tanh, [lambda x: 4 * sig(2 * x) * sig(-2 * x)], ulps),
    "exp": (mr.exp, np.exp, [np.exp], ulps),
    "softplus": (mr.softplus, lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))), [sig], ulps),
    "silu": (mr.silu, lambda x: x * sig(x), [sig, lambda x: fading(x, sig(x) * sig(-x))], ulps),
    "gelu": (mr.gelu, lambda x: x * cdf(x), [cdf, lambda x: fading(x, phi(x))], lambda x: 12.0),
    "gelu tanh": (
        lambda x: mr.gelu(x, "tanh"),
        lambda x: x * sig(cubic(x)),
        [
            lambda x: sig(cubic(x)),
            lambda x: fading(x, sig(cubic(x)) * sig(-cubic(x)) * cubic_slope(x)),
        ],
        lambda x: 6 + 3 * np.minimum(abs(cubic(x)), 760),
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the reference: exponentials overflow
@pytest.mark.parametrize("order", ["row-major", "transposed", "reversed"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SLOPES)
def test_all_digits_over_the_whole_range(name, dtype, order, device):
    """Values and slopes by relative error; where a slope crosses 0, relative to its terms."""
    function, value, terms, allowed = SLOPES[name]
    x = whole_range(dtype)
    x = x[: len(x) // 2 * 2].reshape(2, -1)
    x = {"row-major": x, "transposed": x.T.copy().T, "reversed": x[:, ::-1].copy()[:, ::-1]}[order]
    leaf = there(x).requires_grad_()
    y = function(leaf)
    (g,) = mr.grad(y.sum(), leaf)
    exact, limits = x.astype(np.longdouble), np.finfo(dtype)
    parts = [np.where(np.isfinite(part(exact)), part(exact), 0) for part in terms]
    if name == "exp":
        parts = [np.exp(exact)]
    for found, expected, size in (
        (host(y.detach()), value(exact), abs(value(exact))),
        (host(g), sum(parts), sum(abs(part) for part in parts)),
    ):
        assert found.dtype == dtype
        fits = abs(expected) <= limits.max
        assert np.isinf(found[~fits]).all()
        # a product with a number below the normal ones has as few digits as that has; and a GPU
        # takes such a float32 for 0
        error = abs(found - expected)[fits] / np.maximum(size, limits.tiny * 1e3)[fits]
        if place() == "cuda" and dtype == np.float32:
            small = size[fits] < limits.tiny * 1e4
            assert (abs(found - expected)[fits][small] <= limits.tiny * 1e3).all()
            error = error[~small]
        assert error.max() <= (np.broadcast_to(allowed(exact.ravel()), x.size).max()) * limits.eps


def test_sigmoid_and_its_logarithm_of_large_negative_logits(device):
    for x, dtype in ((-20.0, "float32"), (-100.0, "float32"), (-740.0, "float64")):
        if place() == "cuda" and x == -100:
            continue  # exp(-100) is no normal float32, which a GPU takes for 0
        y = mr.sigmoid(tensor(x, dtype=dtype))
        assert -y.log().item() == pytest.approx(-x, rel=1e-3)  # -100 has few digits in float32
    assert mr.sigmoid(tensor(-20.0)).item() == pytest.approx(2.0611536e-09, rel=1e-6)
    assert mr.gelu(tensor(-10.0)).item() == pytest.approx(-7.6198530e-23, rel=1e-6)
    assert mr.gelu(tensor(-10.0, dtype="float64")).item() == pytest.approx(
        -10 * math.erfc(10 / math.sqrt(2)) / 2, rel=1e-14
    )


def test_infinities_and_nan_stay_where_they_are(device):
    x = tensor([-np.inf, np.inf, np.nan, 0.0], requires_grad=True)
    for function, ends, slopes in (
        (mr.sigmoid, [0, 1], [0, 0]),
        (mr.tanh, [-1, 1], [0, 0]),
        (mr.softplus, [0, np.inf], [0, 1]),
        (mr.exp, [0, np.inf], [0, np.inf]),
    ):
        y = function(x)
        (g,) = mr.grad(y.sum(), x)
        assert y.tolist()[:2] == ends
        assert g.tolist()[:2] == slopes
        assert (
            np.isnan(y.tolist()[2:]).tolist() == np.isnan(g.tolist()[2:]).tolist() == [True, False]
        )


def test_derivatives_of_slopes(device):
    (x,) = arrays((7,))
    for slope in (SigmoidSlope, NormalDensity, NormalProbability):
        check_gradients(slope.apply, [3 * x])


def test_softplus_keeps_small_values(device):
    assert mr.softplus(tensor(np.array([-50.0]))).item() == pytest.approx(math.exp(-50))


def test_slopes_at_zero(device):
    x = zeros(1, requires_grad=True)
    for function, slope in ((lambda x: mr.leaky_relu(x, 0.3), 0.3), (mr.softplus, 0.5)):
        assert mr.grad(function(x).sum(), [x])[0].item() == pytest.approx(slope)


def test_errors(device):
    whole = tensor([1, 2])
    for function in (mr.erf, mr.gelu, mr.silu, mr.softplus, mr.leaky_relu):
        with raises(DTypeError, "expected a floating-point tensor, got int64", "x.float()"):
            function(whole)
    with raises(ArgumentError, "unknown approximate 'tan': did you mean tanh"):
        mr.gelu(ones(1), "tan")
    with raises(ArgumentError, "leaky_relu: expected negative_slope a number, got '0.1'"):
        mr.leaky_relu(ones(1), "0.1")


@pytest.mark.slow
def test_parity_with_pytorch():
    functional = pytest.importorskip("torch.nn.functional")
    (x,) = arrays((4, 6))
    x[0, :2] = 0  # where the rules at a kink show
    for name in ("gelu", "silu", "softplus", "leaky_relu"):
        against_torch(getattr(mr, name), getattr(functional, name), [x])
    against_torch(
        lambda x: mr.gelu(x, "tanh"), lambda x: functional.gelu(x, approximate="tanh"), [x]
    )
