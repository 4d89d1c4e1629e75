"""Engines: what they are asked for, how they stand around each other, and how they go again."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

import minires as mr
from minires import models
from minires.anomaly import NaNGuard
from minires.autograd import Around, Eager, current, memo
from minires.autograd.engine import EAGER, around
from minires.errors import CaptureError
from minires.fusion import FUSING


class Counting(Around):
    """Counts what it is asked for, and lets the engine inside answer."""

    def __init__(self, inner, asked):
        super().__init__(inner)
        self.asked = asked

    def __getattr__(self, name):
        if name in ("backward", "add_gradients", "call", "launch", "memo", "part", "host_read"):
            self.asked[name] += 1
        return getattr(self.inner, name)

    def run(self, function, *rest):
        self.asked[function.__name__] += 1
        return self.inner.run(function, *rest)


def counting(asked):
    return around("counting", lambda engine: Counting(engine, asked))


def test_the_engine_is_asked_for_everything():
    net, asked = models.cifar_resnet(8), Counter()
    x, y = mr.randn(4, 3, 8, 8), mr.arange(4)
    with counting(asked):
        loss = mr.cross_entropy(net(x), y)
        loss.backward()
        loss.item()
        net.eval()
        with mr.no_grad():
            net(x)
    for name in ("backward", "add_gradients", "call", "launch", "memo", "part", "host_read"):
        assert asked[name], name
    assert asked["CrossEntropy"] == 1
    assert not asked["Conv2d"]  # deferred by the engine inside
    before = asked.copy()
    mr.cross_entropy(net(x), y)
    assert asked == before


@pytest.mark.parametrize("engine", [EAGER, FUSING], ids=["eager", "fusing"])
def test_engines_agree(engine):
    """Bits differ where passes are shared; what is asked for does not."""
    net = models.cifar_resnet(8).to("float64")
    x, y = mr.randn(4, 3, 8, 8, dtype="float64"), mr.arange(4)
    loss = mr.cross_entropy(net(x), y)
    with around("engine", lambda _: engine):
        assert current() is engine
        again = mr.cross_entropy(net(x), y)
    np.testing.assert_allclose(again.item(), loss.item(), rtol=1e-12)


def test_plain_is_without_rules_and_keeps_what_is_around():
    asked = Counter()
    assert FUSING.rules
    assert not FUSING.plain().rules
    assert EAGER.plain() is EAGER
    with counting(asked), mr.no_fusion():
        assert isinstance(current(), Counting)
        assert not current().rules
        mr.relu(mr.ones(3))
    assert asked["ReLU"] == 1


def test_modes_that_end_in_another_order():
    """Each mode's engine stands around the one below: also when that one goes first."""
    guard, plain, asked = mr.detect_anomaly(), mr.no_fusion(), Counter()
    count = counting(asked)
    guard.__enter__()
    plain.__enter__()
    count.__enter__()
    assert isinstance(current().inner, NaNGuard)
    guard.__exit__(None, None, None)
    assert isinstance(current(), Counting)
    assert not isinstance(current().inner, NaNGuard)
    assert not current().rules  # no_fusion holds
    plain.__exit__(None, None, None)
    assert isinstance(current(), Counting)
    assert current().rules
    count.__exit__(None, None, None)
    assert current() is FUSING


def test_an_engine_is_that_of_its_thread():
    seen = []
    with mr.no_fusion():
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
    assert seen == [FUSING]


def test_a_rule_takes_the_place_of_forward_or_declines():
    class Twice(mr.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gy):
            return gy * 2

    def rule(ctx, x):
        return None if x.shape == (3,) else x * 20

    class Ruled(Eager):
        rules = {Twice: rule}  # noqa: RUF012

    with around("ruled", lambda _: Ruled()):
        assert Twice.apply(mr.ones(3)).tolist() == [2, 2, 2]
        x = mr.ones(2, requires_grad=True)
        y = Twice.apply(x)
        assert y.tolist() == [20, 20]
    y.sum().backward()
    assert x.grad.tolist() == [2, 2]  # recorded is what was called


def test_what_is_memoised_is_made_once_for_each_version():
    x, made = mr.ones(3), []

    def make():
        made.append(x._array.sum())
        return made[-1]

    assert [memo("sum", [x], make) for _ in range(3)] == [3, 3, 3]
    x.add_(1.0)
    assert [memo("sum", [x], make) for _ in range(3)] == [6, 6, 6]
    assert len(made) == 2
    memo("another", [x], make)
    memo("another", [x], make, by=made)
    assert len(made) == 4
    x.data[0] = 5  # from here on anybody may write
    assert memo("sum", [x], make) == memo("sum", [x], make) == 9
    assert len(made) == 6


def test_host_reads_are_refused_where_launches_are_written_down():
    double = mr.capture(lambda x: x * x.sum().item())
    double(mr.randn(3))
    with pytest.raises(CaptureError, match=r"the value of a tensor at .*test_engine.py"):
        double(mr.randn(3))
    assert current() is FUSING
