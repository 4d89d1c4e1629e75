"""The Taylor test: slope 2 for a right gradient, 1 for a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays, raises, tensor

import minires as mr
from minires.errors import GradcheckError
from minires.gradcheck import taylor


def leaf(*shape, seed=0, dtype="float64"):
    return tensor(arrays(shape, seed=seed)[0].astype(dtype), requires_grad=True)


def test_slopes_are_two(anywhere):
    x, w = leaf(4, 2, 3, 3, dtype="float32"), leaf(2, 2, 3, 3, seed=1, dtype="float32")

    def f(x, w):
        y = mr.conv2d(x, w, padding=1)
        return mr.ops.batch_norm(y, None, None, training=True).tanh()

    report = taylor(f, [x, w])
    assert report
    np.testing.assert_allclose(report.slopes[-3:], 2, atol=0.1)
    assert len(report.steps) == len(report.remainders) == 11
    assert "slope 2." in str(report) or "slope 1.9" in str(report)
    assert x.dtype == np.float32


def test_a_linear_function_has_no_remainder():
    report = taylor(lambda x: x * 3 + 1, leaf(2, 3))
    assert report
    assert report.exact
    assert "linear: no remainder above rounding error" in str(report)


def test_steps_stay_on_one_side_of_every_switch():
    x = mr.tensor([1e-3, -1e-3] * 5 + [1.0], dtype="float64", requires_grad=True)
    report = taylor(lambda x: (mr.relu(x) + 1) ** 3, x)
    assert report
    assert report.steps[0] < 1e-2


@pytest.mark.parametrize("error", [1e-1, 1e-3])
def test_a_wrong_gradient_has_slope_one(error):
    class Off(mr.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return np.exp(x)

        @staticmethod
        def backward(ctx, gy):
            (x,) = ctx.saved
            return gy * x.exp() * (1 + error)

    report = taylor(Off.apply, leaf(5), steps=14)
    assert report.slopes[-1] == pytest.approx(1, abs=0.3)
    with raises(GradcheckError, "does not fall with the square of the step", "remainder"):
        taylor(Off.apply, leaf(5), steps=20).assert_ok()
