"""Each kind of bad input has a message that says what is wrong and what to do."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays, raises

import minires as mr
from minires import nn
from minires.errors import ArgumentError, DTypeError, GraphError, NaNError
from minires.gradcheck import check, check2, check_adjoint, check_module, taylor
from minires.gradcheck.demands import overlaps


def leaf(*shape, seed=0, dtype="float64"):
    return mr.tensor(arrays(shape, seed=seed)[0].astype(dtype), requires_grad=True)


def shared(array):
    tensor = mr.from_numpy(array)
    tensor.requires_grad = True
    return tensor


class Half(mr.Function):
    @staticmethod
    def forward(ctx, x):
        return x.astype(np.float16)


class Spoiler(mr.Function):
    """Its forward leaves its mark on its input."""

    @staticmethod
    def forward(ctx, x):
        x *= 2
        return x + 1


x, single = leaf(3), mr.ones(3)
ERRORS = {
    "no inputs": (mr.tanh, [], ArgumentError, ["at least one input, got none"]),
    "array": (
        mr.tanh,
        [np.ones(2)],
        DTypeError,
        ["x to be a tensor, got ndarray", "minires.tensor(x, requires_grad=True)"],
    ),
    "integers": (
        mr.tanh,
        mr.tensor([1, 2]),
        DTypeError,
        ["x to be a floating-point tensor, got int64", "closure"],
    ),
    "float16": (
        lambda x: Half.apply(x),
        leaf(2),
        DTypeError,
        ["to return float64, got float16", "a cast on the way loses digits"],
    ),
    "complex": (
        mr.tanh,
        mr.tensor(np.ones(2, np.complex128)),
        DTypeError,
        ["to be float64 or float32, got complex128", "x.real"],
    ),
    "does not require grad": (
        mr.tanh,
        mr.ones(2, dtype="float64"),
        GraphError,
        ["x to be a leaf that requires grad, got one that does not", ".requires_grad_()"],
    ),
    "not a leaf": (mr.tanh, leaf(2) * 2, GraphError, ["the result of an operation", ".detach()"]),
    "nan input": (
        mr.tanh,
        mr.tensor([1.0, float("nan")], dtype="float64", requires_grad=True),
        NaNError,
        ["finite numbers in x", "Check at another point"],
    ),
    "infinite input": (
        mr.tanh,
        mr.tensor([1.0, float("inf")], dtype="float64", requires_grad=True),
        NaNError,
        ["finite numbers in x"],
    ),
    "stride 0": (
        mr.tanh,
        shared(np.broadcast_to(np.ones((3, 1)), (3, 4))),
        ArgumentError,
        ["memory for each entry", "(3, 4) with strides (8, 0)", "x.clone(), and expand inside f"],
    ),
    "overlapping windows": (
        mr.tanh,
        shared(np.lib.stride_tricks.sliding_window_view(np.arange(5.0), 3)),
        ArgumentError,
        ["entries share it"],
    ),
    "the same tensor twice": (
        lambda a, b: a * b,
        [x, x],
        ArgumentError,
        ["got the same one as a and b", "clone"],
    ),
    "names": (mr.tanh, leaf(2), ArgumentError, ["expected 1 names, got 'ab'"], {"names": "ab"}),
    "no tensor": (lambda x: 1.0, leaf(2), DTypeError, ["to return one tensor, got float"]),
    "two tensors": (
        lambda x: (x, x),
        leaf(2),
        DTypeError,
        ["one tensor, got tuple", "one at a time, or minires.concatenate"],
    ),
    "integer result": (lambda x: x.argmax(), leaf(2), DTypeError, ["float64, got int64"]),
    "nan result": (
        lambda x: (x * 0 - 1).log(),
        leaf(2),
        NaNError,
        ["finite results of <lambda>", "detect_anomaly()"],
    ),
    "infinite result": (lambda x: 1 / (x * 0), leaf(2), NaNError, ["NaN or infinity"]),
    "random": (
        lambda x: mr.ops.dropout(x * 100, 0.5),
        leaf(20),
        ArgumentError,
        ["two calls of <lambda>", "dropout or an unseeded random generator", "check_module"],
    ),
    "input written": (
        lambda x: Spoiler.apply(x),
        leaf(2),
        ArgumentError,
        ["<lambda> to leave its inputs as they are", "writes into input 0, of shape (2,)", "copy"],
    ),
    "no dependence": (
        lambda x, w: w * 2,
        [leaf(2), leaf(3)],
        GraphError,
        ["a result of <lambda> that depends on x", "Leave x out of the inputs"],
    ),
    "constant": (lambda x: mr.ones(2, dtype="float64"), leaf(2), GraphError, ["depends on x"]),
    "reference": (
        mr.tanh,
        leaf(2),
        ArgumentError,
        ["unknown reference 'complex': did you mean complex step?"],
        {"reference": "complex"},
    ),
    "inputs": (mr.tanh, None, DTypeError, ["a list of tensors, as inputs, got NoneType"]),
    "float32 inside": (
        lambda x: x * single,
        leaf(3, dtype="float32"),
        DTypeError,
        ["one dtype, got float64 (3,) and float32", "reaches a float32 tensor", "an input, too"],
    ),
    "cast inside": (
        lambda x: x.float().tanh(),
        leaf(3),
        DTypeError,
        ["to return float64, got float32", "a cast on the way loses digits"],
    ),
    "seed": (
        mr.tanh,
        leaf(2),
        ArgumentError,
        ["seed an integer >= 0 and <= 18446744073709551615, got -1"],
        {"seed": -1},
    ),
    "probes": (
        mr.tanh,
        leaf(2),
        ArgumentError,
        ["probes an integer >= 1 and <= 1000000, got 0"],
        {"probes": 0},
    ),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_bad_input(case):
    f, inputs, kind, words, *options = case
    with raises(kind, *words):
        check(f, inputs, **(options[0] if options else {}))


@pytest.mark.parametrize("name", ["array", "integers", "nan input", "stride 0", "no tensor"])
@pytest.mark.parametrize("checker", [check2, taylor, check_adjoint])
def test_every_checker_refuses(checker, name):
    f, inputs, kind, _ = ERRORS[name]
    with pytest.raises(kind):
        checker(f, inputs)


def test_float16_is_refused_where_a_tensor_is_made():
    with raises(DTypeError, "float32, float64", "got float16", "array.astype('float32')"):
        mr.tensor(np.ones(2, np.float16), requires_grad=True)


def test_a_module_refuses_too():
    with raises(GraphError, "x to be a leaf that requires grad"):
        check_module(nn.Linear(2, 3), mr.ones(4, 2))
    with raises(DTypeError, "expected a Module, got function", "Use check for a function"):
        check_module(mr.tanh, leaf(3))
    with raises(DTypeError, "one tensor, got tuple"):

        class Two(nn.Module):
            def forward(self, x):
                return x, x

        check_module(Two(), leaf(3))


def test_a_value_of_another_dtype_inside_says_so():
    w = mr.ones(3)  # float32, met by the float64 that is checked
    with raises(DTypeError, "one dtype", "float32"):
        check(lambda x: x * w, leaf(3))


def test_nothing_is_changed_by_an_error():
    x = leaf(3, dtype="float32")

    def broken(y):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check(broken, x)
    assert x.dtype == np.float32
    assert mr.is_grad_enabled()


def test_overlap_is_of_addresses_and_not_of_strides():
    a = np.arange(24.0).reshape(2, 3, 4)
    assert not overlaps(a)
    assert not overlaps(a[:, ::-1, ::2])
    assert not overlaps(a.transpose(2, 0, 1))
    assert not overlaps(np.ones((1, 1)))
    assert not overlaps(np.zeros((0, 3)))
    assert not overlaps(np.broadcast_to(np.ones((3, 1)), (3, 1)))
    strided = np.lib.stride_tricks.as_strided
    assert overlaps(strided(a, (3, 3), (8, 8)))
    assert overlaps(strided(a, (2, 5), (32, 8)))
    # rows interleave and never meet: strides alone do not tell
    assert not overlaps(strided(a, (3, 2), (16, 24)))
