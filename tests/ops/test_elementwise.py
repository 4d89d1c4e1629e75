"""Entry-by-entry operations: values against NumPy, first and second derivatives, errors."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays, check_gradients

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.gradcheck import check, check2
from minires.ops.elementwise import weigh

SHAPES = [
    [(2, 3)],
    [()],
    [(1,)],
    [(1, 1, 3)],
]
PAIRS = [
    [(2, 3), (2, 3)],
    [(2, 3), (3,)],
    [(2, 1), (1, 3)],
    [(), (2, 2)],
    [(1, 1, 1), (2,)],
    [(3, 1, 2), (2, 1)],
]
LAYOUTS = {
    "contiguous": np.copy,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a.copy(),
    "reversed": lambda a: np.flip(a).copy()[(slice(None, None, -1),) * a.ndim],
    "transposed": lambda a: a.T.copy().T,
}

# name: (function, NumPy's, domain). Positive keeps away from where a function has no derivative.
UNARY = {
    "neg": (lambda x: -x, np.negative, "any"),
    "exp": (mr.exp, np.exp, "any"),
    "log": (mr.log, np.log, "positive"),
    "sqrt": (mr.sqrt, np.sqrt, "positive"),
    "abs": (mr.abs, np.abs, "any"),
    "tanh": (mr.tanh, np.tanh, "any"),
    "sigmoid": (mr.sigmoid, lambda x: 1 / (1 + np.exp(-x)), "any"),
    "clip": (lambda x: mr.clip(x, -0.4, 0.7), lambda x: np.clip(x, -0.4, 0.7), "any"),
    "clip min": (lambda x: x.clamp(min=0.1), lambda x: np.maximum(x, 0.1), "any"),
    "clip max": (lambda x: x.clip(max=0.1), lambda x: np.minimum(x, 0.1), "any"),
    "square": (lambda x: x**2, np.square, "any"),
    "cube": (lambda x: x**3.0, lambda x: x**3, "any"),
    "root": (lambda x: x**0.5, np.sqrt, "positive"),
    "inverse": (lambda x: 1 / x, lambda x: 1 / x, "positive"),
    "power of two": (lambda x: 2**x, lambda x: 2**x, "any"),
    "zeroth power": (lambda x: x**0 + x, lambda x: 1 + x, "any"),
    "affine": (lambda x: 3 - x * 2 / 5 + 1, lambda x: 4 - x * 0.4, "any"),
    "maximum 0": (lambda x: mr.maximum(x, 0), lambda x: np.maximum(x, 0), "any"),
    "minimum 0": (lambda x: mr.minimum(0.0, x), lambda x: np.minimum(x, 0), "any"),
    "clone": (mr.clone, np.copy, "any"),
    "where": (lambda x: mr.where(x > 0, x * x, -x), lambda x: np.where(x > 0, x * x, -x), "any"),
}
BINARY = {
    "add": (mr.add, np.add, "any"),
    "sub": (mr.sub, np.subtract, "any"),
    "mul": (mr.mul, np.multiply, "any"),
    "div": (mr.div, np.divide, "positive"),
    "pow": (mr.pow, np.power, "positive"),
    "maximum": (mr.maximum, np.maximum, "any"),
    "minimum": (mr.minimum, np.minimum, "any"),
    "where": (
        lambda x, y: mr.where(mr.tensor(True), x, y) + mr.where(x > y, y, x),
        lambda x, y: np.where(True, x, y) + np.where(x > y, y, x),
        "any",
    ),
}
CASES = [
    *((name, *UNARY[name], shapes) for name in UNARY for shapes in SHAPES),
    *((name, *BINARY[name], shapes) for name in BINARY for shapes in PAIRS),
]
IDS = [f"{name} {shapes}" for name, *_, shapes in CASES]


def draw(shapes, domain, seed=0):
    """Distinct values away from 0 and from each other, so that no kink or tie is near."""
    rng = np.random.default_rng(seed)
    total = sum(int(np.prod(s)) for s in shapes)
    values = (rng.permutation(total) - total / 2 + 0.53) * 0.23
    if domain == "positive":
        values = np.abs(values) + 0.4
    parts = np.split(values, np.cumsum([int(np.prod(s)) for s in shapes])[:-1])
    return [p.reshape(s) for p, s in zip(parts, shapes)]


def leaves(arrays):
    return [mr.from_numpy(a).requires_grad_() for a in arrays]


@pytest.mark.parametrize(("name", "f", "reference", "domain", "shapes"), CASES, ids=IDS)
def test_values_and_derivatives(name, f, reference, domain, shapes):
    arrays = draw(shapes, domain)
    before = [a.copy() for a in arrays]
    y = f(*leaves(arrays))
    np.testing.assert_allclose(y.detach().data, reference(*arrays), rtol=1e-14, atol=1e-15)
    check(f, leaves(arrays)).assert_ok()
    check2(f, leaves(arrays)).assert_ok()
    for array, old in zip(arrays, before):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_layouts_and_float32(name, layout):
    f, reference, domain = (UNARY | BINARY)[name]
    shapes = [(3, 4)] if name in UNARY and f is UNARY[name][0] else [(3, 4), (3, 4)]
    arrays = [LAYOUTS[layout](a) for a in draw(shapes, domain)]
    np.testing.assert_allclose(
        f(*map(mr.from_numpy, arrays)).data, reference(*arrays), rtol=1e-14, atol=1e-15
    )
    singles = [mr.from_numpy(a.astype("float32")).requires_grad_() for a in arrays]
    y = f(*singles)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.detach().data, reference(*arrays), rtol=2e-6, atol=2e-6)
    for g in mr.grad(y.sum(), singles):
        assert g.dtype == np.float32


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_zero_size(name):
    f, _, _ = (UNARY | BINARY)[name]
    shapes = [(0, 3)] if name in UNARY and f is UNARY[name][0] else [(0, 3), (1, 3)]
    xs = [mr.zeros(s, dtype="float64", requires_grad=True) for s in shapes]
    y = f(*xs)
    assert y.shape == (0, 3)
    for g, x in zip(mr.grad(y.sum(), xs), xs):
        assert g.shape == x.shape
        assert not g.data.any()


# **** where the derivative needs a convention ****


def gradient(f, *values):
    xs = [mr.tensor(v, dtype="float64", requires_grad=True) for v in values]
    return [g.tolist() for g in mr.grad(f(*xs).sum(), xs)]


def test_conventions_at_kinks_and_ties():
    assert gradient(mr.abs, [0.0, -0.0]) == [[0, 0]]
    assert gradient(mr.maximum, [1.0, 2.0], [1.0, 3.0]) == [[1, 0], [0, 1]]
    assert gradient(mr.minimum, [1.0, 2.0], [1.0, 3.0]) == [[1, 1], [0, 0]]
    assert gradient(lambda x: mr.clip(x, 0, 1), [-1.0, 0.0, 0.5, 1.0, 2.0]) == [[0, 1, 1, 1, 0]]


def test_powers_at_zero():
    assert gradient(lambda x: x**0, [0.0, 2.0]) == [[0, 0]]
    assert gradient(lambda x: x**1, [0.0]) == [[1]]
    assert gradient(lambda x: x**2, [0.0]) == [[0]]
    assert gradient(mr.pow, [0.0, 0.0, 0.0], [0.0, 1.0, 2.0]) == [[0, 1, 0], [0, 0, 0]]
    assert gradient(lambda y: 0.0**y, [2.0]) == [[0]]
    assert np.isnan(gradient(mr.pow, [-1.0], [2.0])[1]).all()
    assert gradient(mr.pow, [-1.0], [2.0])[0] == [-2]
    assert np.isnan(gradient(lambda y: (-2.0) ** y, [2.0])[0]).all()


def test_at_exponent_zero_the_slope_still_depends_on_the_exponent():
    x = mr.tensor([0.5, 3.0], dtype="float64", requires_grad=True)
    y = mr.tensor([0.0, 0.0], dtype="float64", requires_grad=True)
    (gx,) = mr.grad((x**y).sum(), x, create_graph=True)  # y x^(y-1)
    assert gx.tolist() == [0, 0]
    assert mr.grad(gx.sum(), y)[0].tolist() == pytest.approx([2, 1 / 3])  # 1 / x
    check2(mr.pow, [x, y], reference="richardson").assert_ok()


def test_infinities_come_without_warnings():
    zero = mr.tensor([0.0, -1.0], requires_grad=True)
    big = mr.tensor([1e38, 1e38])
    assert str(mr.log(zero).tolist()) == "[-inf, nan]"
    assert str(mr.sqrt(zero).tolist()) == "[0.0, nan]"
    assert str((1 / zero).tolist()) == "[inf, -1.0]"
    assert str((zero / 0).tolist()) == "[nan, -inf]"
    assert (big * 10).tolist() == [np.inf] * 2
    assert (big + big + big + big).tolist() == [np.inf] * 2
    assert mr.exp(big).tolist() == [np.inf] * 2
    assert (zero**-1).tolist() == [np.inf, -1]
    assert mr.sigmoid(mr.tensor([-1e4, 1e4])).tolist() == [0, 1]
    assert mr.tanh(mr.tensor([-1e4, 1e4])).tolist() == [-1, 1]
    inf = mr.tensor([np.inf])
    for y in (inf - inf, inf * 0, inf / inf, inf % 2):
        assert np.isnan(y.item())
    (1 / zero).sum().backward()
    assert zero.grad.tolist() == [-np.inf, -1]


def test_nan_goes_through():
    x = mr.tensor([np.nan, 1.0])
    for y in (
        mr.maximum(x, 0.5), mr.minimum(0.5, x), mr.clip(x, 0, 2), mr.abs(x), mr.relu(x), x**2
    ):  # fmt: skip
        assert y.isnan().tolist() == [True, False]
    assert x.isfinite().tolist() == [False, True]
    assert (x == x).tolist() == [False, True]


def test_the_branch_not_taken_gets_zero_even_where_the_gradient_is_infinite():
    x = mr.tensor([0.0, 2.0], requires_grad=True)
    y = mr.where(x > 0, x, mr.tensor([1.0, 1.0]))
    (1 / (y - 1 + (x.detach() > 0).float() - 0)).sum().backward()
    assert x.grad[0].item() == 0


def test_a_mask_may_be_reused():
    mask = np.array([True, False])
    x = mr.tensor([1.0, 2.0], requires_grad=True)
    y = mr.where(mask, x, 0.0)
    mask[:] = [False, True]
    y.sum().backward()
    assert x.grad.tolist() == [1, 0]


# **** where ****


def test_where_takes_tensors_arrays_and_numbers():
    mask = mr.tensor([True, False])
    x = mr.tensor([1.0, 2.0])
    assert mr.where(mask, x, 0).tolist() == [1, 0]
    assert mr.where(mask, 5, x).tolist() == [5, 2]
    assert mr.where(mask, 1.0, 0.0).tolist() == [1, 0]
    assert mr.where(np.array([True, False]), x, -x).tolist() == [1, -2]
    assert mr.where([[True], [False]], x, 0.0).tolist() == [[1, 2], [0, 0]]
    assert x.where(mask, x * 10).tolist() == [1, 20]
    assert mr.where(mask, 5, x).dtype == np.float32


# **** copies and casts ****


def test_clone_and_cast():
    x = mr.tensor([1.5, 2.5], requires_grad=True)
    assert not np.shares_memory(x.clone().data, x.data)
    (g,) = mr.grad((x.double() ** 2).sum(), x)
    assert g.dtype == np.float32
    assert g.tolist() == [3, 5]
    y = mr.zeros(2, 3)
    assert y.copy_(mr.tensor([1, 2, 3])) is y
    assert y.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert y.fill_(mr.tensor(4.0)).tolist() == [[4, 4, 4], [4, 4, 4]]
    assert y.zero_().tolist() == [[0, 0, 0], [0, 0, 0]]
    assert mr.tensor([-1.0, 3.0]).clamp_(0, 2).tolist() == [0, 2]
    assert mr.tensor([-1.0, 0.0, 2.0]).sign().tolist() == [-1, 0, 1]


def test_allclose():
    x = mr.tensor([1.0, 2.0])
    assert mr.allclose(x, x + 1e-7)
    assert not mr.allclose(x, x + 1e-2)
    assert mr.allclose(x, x + 1e-2, atol=0.1)


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: mr.exp(1.0), DTypeError, r"exp: expected a tensor, got float.*tensor\(x\)"),
        (lambda: mr.log(mr.tensor([1])), DTypeError, r"log: expected a floating.*x\.float\(\)"),
        (lambda: mr.neg(3), DTypeError, "neg: expected a tensor of numbers, got int"),
        (lambda: -mr.tensor([True]), DTypeError, r"neg: .* got bools\. Use ~x\."),
        (
            lambda: abs(mr.tensor([True])),
            DTypeError,
            "abs: expected a tensor of numbers, got bools",
        ),
        (lambda: mr.clip(mr.ones(2)), ArgumentError, "min, max or both"),
        (lambda: mr.clip(mr.ones(2), 2, 1), ArgumentError, "min <= max, got 2 and 1"),
        (lambda: mr.clip(mr.ones(2), mr.ones(2).long()), DTypeError, "expected one dtype"),
        (lambda: mr.clip(mr.ones(2), mr.ones(3)), ShapeError, "shapes that broadcast"),
        (lambda: mr.clip(mr.tensor([1]), 0.5), DTypeError, "do not mix"),
        (lambda: mr.maximum(1, 2), DTypeError, "maximum: expected a tensor, got int"),
        (lambda: mr.maximum(mr.ones(2), mr.ones(3)), ShapeError, "maximum: expected shapes"),
        (lambda: mr.where(mr.ones(2), mr.ones(2), 0), DTypeError, "a bool condition, got float32"),
        (
            lambda: mr.where(mr.ones(2) > 0, mr.ones(3), 0),
            ShapeError,
            r"where: .* got \(2,\), \(3,\) and \(\)",
        ),
        (
            lambda: mr.where(mr.ones(1) > 0, mr.ones(1), np.zeros(1)),
            DTypeError,
            "float32 .* and float64",
        ),
        (lambda: mr.ones(2).astype("complex256"), DTypeError, "dtype: expected"),
        (lambda: mr.allclose(mr.ones(2), mr.ones(3)), ShapeError, "allclose"),
    ],
)
def test_errors(act, error, words):
    with pytest.raises(error, match=words):
        act()


# **** parity ****


PARITY = {
    "exp": lambda lib, x, w: lib.exp(x),
    "log": lambda lib, x, w: lib.log(x),
    "sqrt": lambda lib, x, w: lib.sqrt(x),
    "abs": lambda lib, x, w: abs(x),
    "tanh": lambda lib, x, w: lib.tanh(x),
    "sigmoid": lambda lib, x, w: lib.sigmoid(x),
    "clip": lambda lib, x, w: lib.clip(x, -1.0, 1.0),
    "clamp min": lambda lib, x, w: x.clamp(min=0.0),
    "relu": lambda lib, x, w: lib.relu(x),
    "square": lambda lib, x, w: x**2,
    "root": lambda lib, x, w: x**0.5,
    "zeroth power": lambda lib, x, w: x**0,
    "inverse": lambda lib, x, w: 1 / x,
    "remainder of a number": lambda lib, x, w: 2 - x,
    "div": lambda lib, x, w: x / w,
    "where": lambda lib, x, w: lib.where(x > w, x * w, w / x),
    "pow, its base": lambda lib, x, w: x ** w.detach(),
    "pow, its exponent": lambda lib, x, w: abs(x.detach()) ** w,
    "double": lambda lib, x, w: (x * w).exp() * w + x,
}


@pytest.mark.parametrize("name", PARITY)
def test_parity_at_special_values(name):
    torch = pytest.importorskip("torch")
    values = np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])

    def run(lib, make, grad, **options):
        x, w = make(values[:, None]), make(values)
        y = PARITY[name](lib, x, w)
        return [y, *(g for g in grad(y.sum(), [x, w], **options) if g is not None)]

    mine = run(mr, lambda v: mr.tensor(v, requires_grad=True), mr.grad, allow_unused=True)
    theirs = run(
        torch,
        lambda v: torch.tensor(v, requires_grad=True),
        torch.autograd.grad,
        allow_unused=True,
    )
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs):
        np.testing.assert_allclose(a.detach().data, b.detach().numpy(), rtol=1e-13)


@pytest.mark.parametrize("upstream", [np.inf, -np.inf, np.nan])
def test_gradients_that_are_not_let_through_may_be_anything(upstream):
    """An entry that was not chosen has gradient 0, and not 0 times an infinity or NaN."""
    x = mr.tensor([-np.inf, -1.0, 0.0, 2.0, np.inf, np.nan], requires_grad=True)
    up = mr.full(6, upstream)
    bound = mr.full(6, 0.5)
    for y, let_through in (
        (x.clip(-0.5, 1.5), [0, 0, 1, 0, 0, 0]),
        (mr.maximum(x, bound), [0, 0, 0, 1, 1, 1]),
        (mr.minimum(x, bound), [1, 1, 1, 0, 0, 1]),
        (mr.maximum(bound, x), [0, 0, 0, 1, 1, 1]),
        (mr.where(mr.tensor([True, False] * 3), x, 0.0), [1, 0, 1, 0, 1, 0]),
        (x**0, [0, 0, 0, 0, 0, 0]),
    ):
        (g,) = mr.grad(y, x, up)
        np.testing.assert_array_equal(g.numpy(), [upstream if let else 0 for let in let_through])


def test_a_weight_of_zero_makes_nothing_of_an_infinity():
    inf, nan = np.inf, np.nan
    x = mr.tensor([0.0, inf, -inf, 2.0, nan, 0.0, inf], requires_grad=True)
    y = mr.tensor([inf, 0.0, 0.0, inf, 0.0, nan, -inf], requires_grad=True)
    z = weigh(x, y)
    np.testing.assert_array_equal(z.detach().numpy(), [0, 0, 0, inf, nan, nan, -inf])
    gx, gy = mr.grad(z.sum(), [x, y])
    np.testing.assert_array_equal(gx.numpy(), y.detach().numpy())
    np.testing.assert_array_equal(gy.numpy(), x.detach().numpy())
    (gx,) = mr.grad(weigh(x, y), x, mr.tensor([0.0, inf, 1, 0, 0, 0, 0]))
    np.testing.assert_array_equal(gx.numpy(), [0, 0, 0, 0, 0, nan, 0])
    a, b = arrays((2, 3), (3,))
    check_gradients(weigh, [a, b])
