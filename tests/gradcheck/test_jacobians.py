"""Whole Jacobians, by backward and by numbers, and the ladder of references."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays, host, raises, tensor

import minires as mr
from minires import nn
from minires.errors import ArgumentError
from minires.gradcheck import analytic_jacobian, numeric_jacobian
from minires.gradcheck.numeric import Slope, complex_slope, real_slope


def leaf(*shape, seed=0):
    return tensor(arrays(shape, seed=seed)[0], requires_grad=True)


def test_a_matrix_is_its_own_jacobian(anywhere):
    a = arrays((3, 4))[0]
    x = leaf(4)
    rtol = 1e-11 if anywhere == "cuda" else 1e-14  # products on a GPU: no complex ones, differences
    for jacobian in (analytic_jacobian, numeric_jacobian):
        found = jacobian(lambda x: tensor(a) @ x, [x], x)
        np.testing.assert_allclose(host(found), a, rtol=rtol)


@pytest.mark.parametrize("reference", ["complex step", "richardson", "central"])
def test_a_parameter_behind_a_closure(reference):
    layer = nn.Linear(3, 2).double()
    x = leaf(4, 3)
    exact = analytic_jacobian(layer, [x], layer.weight)
    found = numeric_jacobian(layer, [x], layer.weight, reference)
    np.testing.assert_allclose(found, exact, atol=1e-8)
    assert found.shape == (8, 6)


def test_columns_of_a_batch_are_taken_together_where_the_images_are_independent(monkeypatch):
    from minires.gradcheck.point import Point

    calls = []
    at = Point.at
    monkeypatch.setattr(Point, "at", lambda *a, **k: calls.append(1) or at(*a, **k))
    x, w = leaf(3, 2, 4, 5), mr.tensor(arrays((2, 2, 3, 3), seed=1)[0])

    def independent(x):
        return mr.conv2d(x, w, padding=1).tanh()

    def coupled(x):
        return mr.ops.batch_norm(independent(x), None, None, training=True)

    for f, few in ((independent, True), (coupled, False)):
        calls.clear()
        found = numeric_jacobian(f, [x], x)
        assert (len(calls) < 60) is few  # 120 entries, one by one
        np.testing.assert_allclose(found, analytic_jacobian(f, [x], x), atol=1e-12)


def test_references_are_checked():
    x = leaf(3)
    with raises(ArgumentError, "unknown reference 'forward'"):
        numeric_jacobian(mr.tanh, [x], x, "forward")

    class Opaque(mr.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    with raises(ArgumentError, "no complex step here: Opaque not marked complex_safe"):
        numeric_jacobian(Opaque.apply, [x], x, "complex step")


# **** the rungs, on curves of one variable ****


def curve(f, switches=lambda t: 0):
    return lambda t: (np.atleast_1d(f(t)), (("s", bytes([switches(t)])),))


def test_complex_step_to_the_last_digit():
    slope = complex_slope(curve(lambda t: np.exp(np.sin(1 + t))))
    assert slope.value[0] == pytest.approx(np.exp(np.sin(1)) * np.cos(1), rel=1e-15)


@pytest.mark.parametrize("sharpness", [1, 30, 3000])
def test_richardson_shrinks_its_step_where_the_function_bends(sharpness):
    slope = real_slope(curve(lambda t: np.tanh(sharpness * (t + 0.3 / sharpness))))
    assert slope.reference == "richardson"
    assert slope.value[0] == pytest.approx(sharpness / np.cosh(0.3) ** 2, rel=1e-6)


@pytest.mark.parametrize(
    ("distance", "reference"),
    [(1e-2, "richardson"), (1e-3, "richardson"), (1e-4, "richardson"), (1e-5, "central"),
     (3e-6, "one-sided"), (0.0, "one-sided")],
)  # fmt: skip
def test_the_rung_depends_on_how_near_the_switch_is(distance, reference):
    """x² left of the switch and x³ + 5 x right of it, seen from the left."""

    def f(t):
        return (1 + t) ** 2 if t <= distance else (1 + t) ** 3 + 5 * t

    slope = real_slope(curve(f, lambda t: int(t > distance)))
    assert slope.reference == reference
    assert slope.value[0] == pytest.approx(2, rel=1e-6)
    assert slope.kink == (("s",) if reference == "one-sided" else ())


def test_at_a_corner_of_its_own_only_an_interval_is_known():
    slope = real_slope(curve(lambda t: abs(t) + t, lambda t: int(np.sign(t) + 1)))
    assert slope.reference == "interval"
    assert np.isnan(slope.value[0])
    assert slope.low[0] == pytest.approx(0, abs=1e-9)
    assert slope.high[0] == pytest.approx(2)


def test_between_many_switches_nothing_is_known():
    slope = real_slope(curve(lambda t: abs(t), lambda t: hash(t) % 251))
    assert np.isnan(slope.low[0])


def test_steps_that_leave_the_domain_are_not_taken():
    slope = real_slope(curve(lambda t: np.log(1e-3 + t) if t > -1e-3 else np.nan))
    assert slope.value[0] == pytest.approx(1e3, rel=1e-6)
    assert isinstance(slope, Slope)
