"""Numbers beside tensors (of Python, of NumPy, 0-d arrays), and ``value in tensor``."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import minires as mr
from minires.errors import DTypeError, ShapeError

WHOLE = [2, np.int8(2), np.uint8(2), np.int64(2), np.uint64(2), np.array(2), mr.tensor(2).numpy()]
REAL = [2.0, np.float16(2), np.float32(2), np.float64(2), np.longdouble(2), np.array(2.0)]
SYMBOLS = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "**": operator.pow, "//": operator.floordiv, "%": operator.mod,
}  # fmt: skip


def kind(value):
    return f"{type(value).__name__} {getattr(value, 'shape', '')}"


@pytest.mark.parametrize("symbol", SYMBOLS)
@pytest.mark.parametrize("number", WHOLE + REAL, ids=kind)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_number_keeps_the_dtype_of_a_float_tensor(dtype, number, symbol):
    x = np.array([0.3, 1.7, 5.0], dtype)
    f, two = SYMBOLS[symbol], x.dtype.type(2)
    for got, expected in (
        (f(mr.tensor(x), number), f(x, two)),
        (f(number, mr.tensor(x)), f(two, x)),
    ):
        assert isinstance(got, mr.Tensor)
        assert got.dtype == dtype
        np.testing.assert_allclose(got.numpy(), expected, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("symbol", ["+", "-", "*", "**", "//", "%"])
@pytest.mark.parametrize("number", WHOLE, ids=kind)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_a_whole_number_keeps_the_dtype_of_an_integer_tensor(dtype, number, symbol):
    x = np.array([3, 7, 2], dtype)
    f, two = SYMBOLS[symbol], x.dtype.type(2)
    for got, expected in (
        (f(mr.tensor(x), number), f(x, two)),
        (f(number, mr.tensor(x)), f(two, x)),
    ):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("number", REAL, ids=kind)
def test_a_float_does_not_change_an_integer_tensor(number):
    for act in (lambda x: x * number, lambda x: number * x, lambda x: x + number):
        with pytest.raises(DTypeError, match=r"int64 tensor and the float 2\.0 do not mix"):
            act(mr.tensor([1, 2]))


@pytest.mark.parametrize("symbol", ["+", "-", "*", "/", "**", "<", "==", "!=", ">="])
def test_parity_of_numpy_scalars(symbol):
    torch = pytest.importorskip("torch")
    f = {**SYMBOLS, "<": operator.lt, "==": operator.eq, "!=": operator.ne, ">=": operator.ge}[
        symbol
    ]
    for dtype in ("float32", "float64"):
        x = np.array([0.3, 1.7, 2.0], dtype)
        for number in (np.float32(2), np.float64(2), np.float16(2), np.int64(2), np.int8(2)):
            for act in (lambda x, n=number: f(x, n), lambda x, n=number: f(n, x)):
                ours, theirs = act(mr.tensor(x)), act(torch.from_numpy(x))
                assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
                np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)


# **** value in tensor ****


X = mr.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, float("nan")]])


@pytest.mark.parametrize(
    ("value", "tensor", "expected"),
    [
        (3, X, True),
        (3.0, X, True),
        (3.5, X, False),
        (True, X, True),  # as 1
        (np.int64(5), X, True),
        (np.float32(5.5), X, False),
        (np.array(4.0), X, True),
        (mr.tensor(4.0), X, True),
        (mr.tensor([9.0, 5.0, 9.0]), X, True),  # some entry of some row
        (mr.tensor([9.0, 9.0, 9.0]), X, False),
        (X, X, True),
        (np.ones((2, 1), np.float32), X, True),
        (float("nan"), X, False),  # equal to nothing
        (float("inf"), X, False),
        (float("inf"), mr.tensor([float("inf")]), True),
        (2, mr.tensor([1, 2]), True),
        (1.5, mr.tensor([1, 2]), False),
        (True, mr.tensor([False, False]), False),
        (False, mr.tensor([True, False]), True),
        (1, mr.zeros(0), False),
        (2, mr.tensor(2), True),
        (2.0, mr.ones(2, 2, requires_grad=True) * 2, True),
    ],
)
def test_in(value, tensor, expected):
    found = value in tensor
    assert found is expected
    assert (value not in tensor) is not expected


@pytest.mark.parametrize("value", ["3", "", None, b"3", [3.0], (1, 2), {}, object(), 1j])
def test_in_of_what_no_entry_can_equal(value):
    words = f"in: expected a number, an array or a tensor to look for, got {type(value).__name__}"
    with pytest.raises(DTypeError, match=words):
        value in X  # noqa: B015


def test_in_of_a_tensor_that_does_not_fit():
    with pytest.raises(ShapeError, match="==: expected shapes that broadcast"):
        mr.ones(2) in X  # noqa: B015
    with pytest.raises(DTypeError, match="==: expected one dtype"):
        mr.ones(3, dtype="float64") in X  # noqa: B015
