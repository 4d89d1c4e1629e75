import math

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, ShapeError
from minires.nn import init


@pytest.fixture(autouse=True)
def _seed():
    mr.manual_seed(0)


def big():
    return nn.Parameter(mr.zeros(64, 32, 3, 5))  # fan_in 480, fan_out 960


@pytest.mark.parametrize(
    ("fill", "std"),
    [
        (lambda w: init.kaiming_normal_(w, nonlinearity="relu"), math.sqrt(2 / 480)),
        (
            lambda w: init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
            math.sqrt(2 / 960),
        ),
        (lambda w: init.kaiming_normal_(w, a=2.0), math.sqrt(2 / (1 + 4) / 480)),
        (lambda w: init.kaiming_normal_(w, nonlinearity="linear"), math.sqrt(1 / 480)),
        (lambda w: init.xavier_normal_(w, gain=3.0), 3 * math.sqrt(2 / 1440)),
        (lambda w: init.normal_(w, mean=0.0, std=0.1), 0.1),
    ],
)
def test_normal_rules(fill, std):
    w = big()
    assert fill(w) is w
    assert w.data.mean() == pytest.approx(0, abs=5 * std / math.sqrt(w.numel()))
    assert w.data.std() == pytest.approx(std, rel=0.02)
    assert np.abs(w.data).max() > 3 * std  # a normal has tails, a uniform of this std has none


@pytest.mark.parametrize(
    ("fill", "bound"),
    [
        (lambda w: init.kaiming_uniform_(w, a=math.sqrt(5)), 1 / math.sqrt(480)),
        (
            lambda w: init.kaiming_uniform_(w, mode="fan_out", nonlinearity="relu"),
            math.sqrt(6 / 960),
        ),
        (lambda w: init.xavier_uniform_(w), math.sqrt(6 / 1440)),
        (lambda w: init.uniform_(w, -0.5, 0.5), 0.5),
    ],
)
def test_uniform_rules(fill, bound):
    w = big()
    assert fill(w) is w
    assert np.abs(w.data).max() <= bound * (1 + 1e-6)
    assert w.data.max() > 0.999 * bound
    assert w.data.min() < -0.999 * bound
    assert w.data.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_constants_and_mean():
    w = nn.Parameter(mr.zeros(3))
    assert init.ones_(w).tolist() == [1, 1, 1]
    assert init.zeros_(w).tolist() == [0, 0, 0]
    assert init.constant_(w, 2.5).tolist() == [2.5, 2.5, 2.5]
    init.normal_(w, mean=100.0, std=0.0)
    assert w.tolist() == [100, 100, 100]
    assert w.requires_grad
    assert w.grad_fn is None


def test_gains():
    assert init.calculate_gain("relu") == pytest.approx(math.sqrt(2))
    assert init.calculate_gain("leaky_relu", 0.5) == pytest.approx(math.sqrt(2 / 1.25))
    assert init.calculate_gain("tanh") == pytest.approx(5 / 3)
    with pytest.raises(ArgumentError, match="unknown nonlinearity 'rel': did you mean relu"):
        init.calculate_gain("rel")


def test_one_seed_is_one_network_in_both_precisions():
    mr.manual_seed(3)
    single = init.normal_(mr.zeros(4, 4))
    mr.manual_seed(3)
    double = init.normal_(mr.zeros(4, 4).astype(np.float64))
    assert double.dtype == np.float64
    np.testing.assert_array_equal(single.numpy(), double.numpy().astype(np.float32))


def test_errors():
    with pytest.raises(ShapeError, match=r"at least 2 dimensions.*got shape \(3,\)"):
        init.kaiming_normal_(mr.zeros(3))
    with pytest.raises(ArgumentError, match="unknown mode 'fan'"):
        init.kaiming_normal_(mr.zeros(3, 3), mode="fan")
    with pytest.raises(ArgumentError, match="normal_: expected std a finite number >= 0, got -1"):
        init.normal_(mr.zeros(3), std=-1)
    with pytest.raises(ArgumentError, match="normal_: expected std a number >= 0, got 'x'"):
        init.normal_(mr.zeros(3), std="x")
    for fill in (init.zeros_, init.ones_, init.normal_, init.uniform_, init.trunc_normal_):
        words = "_: expected a tensor to fill, got NoneType. A layer with bias=False has no bias"
        with pytest.raises(ArgumentError, match=words):
            fill(nn.Conv2d(1, 1, 1, bias=False).bias)
    with pytest.raises(ArgumentError, match="constant_: expected a tensor to fill, got list"):
        init.constant_([1.0], 2.0)
    with pytest.raises(ArgumentError, match="init: expected a tensor to fill, got NoneType"):
        init.kaiming_normal_(None)
    with pytest.raises(ArgumentError, match="uniform_: expected b - a a finite number >= 0"):
        init.uniform_(mr.zeros(3), 1, 0)


def test_default_layers_use_pytorchs_bound():
    layer = nn.Conv2d(64, 64, 3)
    bound = 1 / math.sqrt(64 * 9)
    for tensor in (layer.weight, layer.bias):
        assert np.abs(tensor.data).max() <= bound
        assert np.abs(tensor.data).max() > 0.9 * bound
    assert np.abs(nn.Linear(10000, 4).weight.data).max() <= 0.01


def test_init_is_seen_by_saved_tensor_versions():
    layer = nn.Linear(2, 2)
    x = mr.ones(1, 2)
    x.requires_grad = True
    loss = layer(x).sum()
    layer.reset_parameters()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_truncated_normal_stays_inside():
    w = big()
    assert init.trunc_normal_(w, mean=1.0, std=2.0, a=0.0, b=4.0) is w
    assert 0 <= w.data.min() < 0.01
    assert 3.99 < w.data.max() <= 4
    # N(1, 2²) from -1/2 to 3/2 standard deviations: Johnson, Kotz, Balakrishnan (1994), 13.10
    density = [math.exp(-z * z / 2) / math.sqrt(2 * math.pi) for z in (-0.5, 1.5)]
    mass = (math.erf(1.5 / math.sqrt(2)) + math.erf(0.5 / math.sqrt(2))) / 2
    assert w.data.mean() == pytest.approx(1 + 2 * (density[0] - density[1]) / mass, abs=0.02)


def test_truncated_normal_errors():
    with pytest.raises(ArgumentError, match="expected std a finite number > 0, got 0"):
        init.trunc_normal_(big(), std=0.0)
    with pytest.raises(ArgumentError, match=r"with 1 % of N\(0, 1²\) or more, got \[3.0, 4.0\]"):
        init.trunc_normal_(big(), a=3.0, b=4.0)


def test_the_array_of_a_tensor_is_filled_too():
    w = big()
    init.kaiming_normal_(w.data, mode="fan_out", nonlinearity="relu")
    assert w.data.std() == pytest.approx(math.sqrt(2 / 960), rel=0.02)
    init.constant_(w.data, 3.0)
    assert (w.data == 3).all()
