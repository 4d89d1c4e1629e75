"""The checker catches planted errors, names them, and refuses what it cannot check."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays, raises

import minires as mr
from minires.errors import ArgumentError, DTypeError, GradcheckError, GraphError, NaNError
from minires.gradcheck import check, check2
from minires.ops import batch_norm


def leaf(*shape, seed=0):
    return mr.tensor(arrays(shape, seed=seed)[0], requires_grad=True)


class Planted(mr.Function):
    """y = 3 x0 x1, with a backward that is wrong in one way."""

    @staticmethod
    def forward(ctx, x, w, fault):
        ctx.save(x, w)
        ctx.fault = fault
        return 3 * x * w

    @staticmethod
    def backward(ctx, gy):
        x, w = ctx.saved
        gx, gw = gy * w * 3, gy * x * 3
        if ctx.fault == "zero":
            gx = gx * 0
        elif ctx.fault == "sign":
            gx = -gx
        elif ctx.fault == "factor":
            gx = gx / 3
        elif ctx.fault == "swapped":
            gx, gw = gw, gx
        elif ctx.fault == "one entry":
            spoiled = gx.data.copy()
            spoiled[1, 2] *= 1.001
            gx = mr.tensor(spoiled)
        elif ctx.fault == "ignores gy":
            gx = mr.ones_like(gy) * w * 3
        elif ctx.fault == "not linear in gy":
            gx = gy * gy * w * 3
        return gx, gw, None


FAULTS = ["zero", "sign", "factor", "swapped", "one entry", "ignores gy", "not linear in gy"]


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_errors_are_caught(fault):
    x, w = leaf(2, 3), leaf(2, 3, seed=1)
    report = check(lambda x, w: Planted.apply(x, w, fault), [x, w], names=["x", "w"])
    assert not report
    with raises(GradcheckError, "gradients disagree", "x (2, 3)", "analytic", "numeric", "ratio"):
        report.assert_ok()


def test_the_right_gradient_passes():
    x, w = leaf(2, 3), leaf(2, 3, seed=1)
    report = check(lambda x, w: Planted.apply(x, w, None), [x, w], names=["x", "w"])
    report.assert_ok()
    assert [a.entries for a in report.arguments] == [36, 36]


def test_the_worst_offender_is_named():
    x, w = leaf(2, 3), leaf(2, 3, seed=1)
    report = check(lambda x, w: Planted.apply(x, w, "one entry"), [x, w], names=["x", "w"])
    worst = report.arguments[0]
    assert (worst.name, worst.failures, worst.worst) == ("x", 1, ((1, 2), (1, 2)))
    assert worst.analytic / worst.numeric == pytest.approx(1.001, rel=1e-6)
    assert "∂output[1, 2] / ∂x[1, 2]" in str(report)
    assert report.arguments[1].failures == 0


def test_a_batch_norm_without_its_x_hat_term_is_caught():
    """The error that every check with ones as upstream gradient lets through."""

    class Wrong(mr.Function):
        @staticmethod
        def forward(ctx, x):
            mean, std = x.mean(0), x.std(0)
            ctx.save_constants(std)
            return (x - mean) / std

        @staticmethod
        def backward(ctx, gy):
            return (gy - gy.mean(0)) / mr.tensor(ctx.constants[0])

    assert not check(Wrong.apply, leaf(5, 2))
    check(lambda x: batch_norm(x, None, None, training=True), leaf(5, 2)).assert_ok()


def test_second_order_is_checked():
    class Flat(mr.Function):
        """x³ whose first derivative is right and whose second is missing a factor."""

        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return x**3

        @staticmethod
        def backward(ctx, gy):
            (x,) = ctx.saved
            return gy * 3 * x * x.detach()

    x = leaf(3)
    check(Flat.apply, x).assert_ok()
    assert not check2(Flat.apply, x)
    check2(lambda x: x**3, x).assert_ok()


def test_inputs_are_restored():
    x = leaf(2, 3)
    before = x.data.copy()
    check(mr.tanh, x)
    np.testing.assert_array_equal(x.data, before)


def test_an_input_without_influence_has_gradient_zero():
    check(lambda x, w: w * 2, [leaf(2), leaf(3)]).assert_ok()
    check(lambda x: mr.ones(2, dtype="float64"), leaf(2)).assert_ok()


ERRORS = {
    "float32": (mr.tanh, mr.ones(2, requires_grad=True), DTypeError, ["float32", ".double()"]),
    "no_grad": (mr.tanh, mr.ones(2, dtype="float64"), GraphError, ["requires grad"]),
    "array": (mr.tanh, [np.ones(2)], DTypeError, ["input 0 to be a float64 tensor", "ndarray"]),
    "result": (lambda x: 1.0, leaf(2), DTypeError, ["return one tensor, got float"]),
    "nan": (lambda x: (x * 0 - 1).log(), leaf(2), NaNError, ["NaN or infinity"]),
    "random": (
        lambda x: mr.ops.dropout(x * 100, 0.5),
        leaf(20),
        ArgumentError,
        ["two calls", "dropout"],
    ),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_check_errors(case):
    f, x, kind, words = case
    with raises(kind, *words):
        check(f, x)
