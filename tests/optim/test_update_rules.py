"""The numbers each optimiser gives, by hand and by a scalar loop; see also tests/parity."""

import math

import numpy as np
import pytest

from minires.optim import SGD, Adam, AdamW
from minires.tensor import from_numpy


def run(optimizer, p, gradients):
    """The values of the one-entry parameter after each step."""
    values = []
    for g in gradients:
        p.grad = from_numpy(np.array([g]))
        optimizer.step()
        values.append(float(p.data[0]))
    return values


def test_sgd_by_hand(param):
    p = param([1.0])
    assert run(SGD([p], lr=0.5), p, [1.0, -0.5]) == [0.5, 0.75]


def test_sgd_momentum_by_hand(param):
    # v: 1, 0.5 * 1 + 1 = 1.5, 0.5 * 1.5 + 1 = 1.75
    p = param([0.0])
    assert run(SGD([p], lr=1.0, momentum=0.5), p, [1.0] * 3) == [-1.0, -2.5, -4.25]


def test_sgd_dampening_spares_the_first_step(param):
    # v: 1 (not 0.5), then 0.5 * 1 + 0.5 * 1 = 1
    p = param([0.0])
    assert run(SGD([p], lr=1.0, momentum=0.5, dampening=0.5), p, [1.0] * 2) == [-1.0, -2.0]


def test_sgd_nesterov_by_hand(param):
    # steps g + 0.5 v: 1 + 0.5 = 1.5; v = 1.5: 1 + 0.75 = 1.75
    p = param([0.0])
    assert run(SGD([p], lr=1.0, momentum=0.5, nesterov=True), p, [1.0] * 2) == [-1.5, -3.25]


def test_sgd_weight_decay_goes_through_the_momentum(param):
    # g + 0.5 p: 0.5, p = 0.5; v = 0.5 * 0.5 + 0.25 = 0.5, p = 0
    p = param([1.0])
    assert run(SGD([p], lr=1.0, momentum=0.5, weight_decay=0.5), p, [0.0] * 2) == [0.5, 0.0]


def test_the_learning_rate_stands_outside_of_the_velocity(param):
    # Were it inside, the second step would be 0.5 * 1 + 0.1 = 0.6, not 0.1 * 1.5.
    p = param([0.0])
    optimizer = SGD([p], lr=1.0, momentum=0.5)
    run(optimizer, p, [1.0])
    optimizer.param_groups[0]["lr"] = 0.1
    assert run(optimizer, p, [1.0]) == pytest.approx([-1.15], abs=1e-15)


def test_adam_first_step_is_lr_whatever_the_gradient(param):
    for g in (1e-3, 1.0, -1e3):
        p = param([0.0])
        assert run(Adam([p], lr=0.1, eps=0.0), p, [g]) == pytest.approx([-math.copysign(0.1, g)])


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_against_the_papers_loop(param, kind, amsgrad):
    lr, b1, b2, eps, decay = 0.1, 0.8, 0.9, 1e-3, 0.05
    gradients = np.random.default_rng(0).normal(size=20) * np.linspace(4, 0.2, 20)
    theta, m, v, largest, expected = 1.0, 0.0, 0.0, 0.0, []
    for t, g in enumerate(gradients, 1):
        if kind is AdamW:
            theta -= lr * decay * theta
        else:
            g += decay * theta
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        largest = max(largest, v)
        v_used = largest if amsgrad else v
        theta -= lr * (m / (1 - b1**t)) / (math.sqrt(v_used / (1 - b2**t)) + eps)
        expected.append(theta)
    p = param([1.0])
    optimizer = kind([p], lr, (b1, b2), eps, decay, amsgrad)
    assert run(optimizer, p, gradients) == pytest.approx(expected, rel=1e-12)


def test_adamw_decays_where_the_gradient_is_zero(param):
    p = param([1.0])
    assert run(AdamW([p], lr=0.1, weight_decay=0.5), p, [0.0]) == [0.95]
    assert AdamW([p]).defaults["weight_decay"] == 0.01
