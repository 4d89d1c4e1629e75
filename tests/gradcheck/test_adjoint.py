"""The dot-product test: passes for linear operations, fails for a wrong adjoint."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays, raises

import minires as mr
from minires.errors import ArgumentError, GradcheckError
from minires.gradcheck import check_adjoint
from minires.models import OptionA
from minires.ops.conv2d.op import Conv2dGeometry, Conv2dInput, Conv2dWeight
from minires.ops.layout import channels_last


def leaf(*shape, seed=0):
    return mr.tensor(arrays(shape, seed=seed)[0], requires_grad=True)


X, W = (2, 4, 7, 5), (6, 2, 3, 2)
OPTIONS = {"stride": (2, 3), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
GEOMETRY = Conv2dGeometry.from_shapes(X, W, *OPTIONS.values())
Y = (2, 6, GEOMETRY.h_out, GEOMETRY.w_out)
x, w, gy = (mr.tensor(a) for a in arrays(X, W, Y))
x, gy = channels_last(x), channels_last(gy)  # as the kernels want them

LINEAR = {
    "conv2d of x": (lambda u: mr.conv2d(u, w, **OPTIONS), X),
    "conv2d of w": (lambda u: mr.conv2d(x, u, **OPTIONS), W),
    "input gradient of gy": (lambda u: Conv2dInput.apply(channels_last(u), w, GEOMETRY), Y),
    "input gradient of w": (lambda u: Conv2dInput.apply(gy, u, GEOMETRY), W),
    "weight gradient of gy": (lambda u: Conv2dWeight.apply(channels_last(u), x, GEOMETRY), Y),
    "weight gradient of x": (lambda u: Conv2dWeight.apply(gy, channels_last(u), GEOMETRY), X),
    "avg_pool2d": (lambda u: mr.avg_pool2d(u, 3, stride=2, padding=1), X),
    "pad": (lambda u: mr.ops.pad(u, (1, 2, 0, 3)), X),
    "slice": (lambda u: u[:, ::2, 1:, ::-1], X),
    "shortcut A": (OptionA(4, 6, 2), X),
    "sum": (lambda u: u.sum((0, 2)), X),
    "expand": (lambda u: u.expand(3, 2, 4), (2, 1)),
    "matmul": (lambda u: u @ mr.tensor(np.ones((5, 2))), X),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operations_pass(name, backend):
    f, shape = LINEAR[name]
    report = check_adjoint(f, leaf(*shape))
    assert report.error < 1e-14, report


def test_the_pair_of_convolution_gradients():
    """<conv(x, w), gy> = <x, conv_dx(gy, w)> = <w, conv_dw(gy, x)>, three sums of one thing."""
    y = mr.conv2d(x, w, **OPTIONS)
    one = (y * gy).sum().item()
    assert (x * Conv2dInput.apply(gy, w, GEOMETRY)).sum().item() == pytest.approx(one, rel=1e-12)
    assert (w * Conv2dWeight.apply(gy, x, GEOMETRY)).sum().item() == pytest.approx(one, rel=1e-12)


def test_a_wrong_adjoint_is_caught(monkeypatch):
    from minires.ops.conv2d import kernel_numba

    right = kernel_numba.conv2d_bwd_input

    def wrong(gy, w, gx, g):
        right(gy, w, gx, g)
        gx[:, :, -1] *= 1 + 1e-9

    monkeypatch.setattr(kernel_numba, "conv2d_bwd_input", wrong)
    with raises(GradcheckError, "not the adjoint", "<Ju, v> =", "<u, Jᵀv> =", "difference"):
        check_adjoint(lambda u: mr.conv2d(u, w, **OPTIONS), leaf(*X)).assert_ok()


def test_jointly_linear_inputs():
    assert check_adjoint(lambda a, b: 2 * a - b.sum(), [leaf(2, 3), leaf(4)])


@pytest.mark.parametrize(
    "f", [mr.relu, lambda u: u + 1, lambda u: mr.conv2d(u, w, mr.tensor(np.ones(6)), **OPTIONS)]
)
def test_what_is_not_linear_is_refused(f):
    with raises(ArgumentError, "to be linear in its inputs", "Close over all but one factor"):
        check_adjoint(f, leaf(*X))


def test_pairs():
    with raises(ArgumentError, "pairs an integer >= 1 and <= 10000, got 0"):
        check_adjoint(lambda u: u * 2, leaf(2), pairs=0)
