"""Fusion: long chains, what is released when, and too little memory."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from ops.fused import STAGES, Chain, both_ways, is_lazy, values

import minires as mr
from minires.autograd.version import MANY
from minires.kernels.numba import allocator


def test_two_thousand_layers_without_looking():
    net, x = Chain(training=False).net, mr.randn(1, 4, 3, 3, dtype="float64")
    with mr.no_grad():
        for _ in range(2000):
            x = net.b1(net.c1(x)).relu()
        assert x.shape == (1, 4, 3, 3)
        assert x.sum().item() >= 0


LONG = {
    "sums": lambda net, x, y: net.b1(y) + x,
    "sums the other way": lambda net, x, y: x + net.b1(y),
    "in place": lambda net, x, y: x.add_(net.b1(y)),
    "batch norms": lambda net, x, y: net.b1(x),
    "rectified": lambda net, x, y: net.b1(x).relu(),
    "relus": lambda net, x, y: x.relu(),
    "convolutions": lambda net, x, y: net.c1(x),
    "blocks": lambda net, x, y: (net.b1(net.c1(x)) + x).relu(),
    "shortcuts": lambda net, x, y: (net.b2(net.c2(net.b1(net.c1(x)).relu())) + x).relu(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_long_chains_do_not_recurse(name):
    """Longer than Python's stack is deep."""
    chain = Chain(training=False)
    with mr.no_grad():
        y = mr.randn(1, 4, 2, 2, dtype="float64")
        x = chain.net.b1(chain.net.c1(y))
        for _ in range(1200):
            x = LONG[name](chain.net, x, y)
        assert not np.isnan(x.sum().item()) or name in ("convolutions", "shortcuts", "blocks")


@pytest.mark.slow
def test_a_tensor_with_many_consumers():
    w = mr.ones(3, requires_grad=True)
    h = w * 1
    total = mr.zeros(())
    for i in range(1500):
        total = total + (h * float(i)).sum() + (w * 2.0).sum()
    total.backward()
    assert w.grad.tolist() == [1500 * 1499 / 2 + 3000.0] * 3


def test_many_gradients_are_not_all_held():
    """They are added up as they come: a weight that is used a hundred times has one gradient."""
    x = mr.zeros(1, 4, 64, 64, requires_grad=True)
    w = mr.ones(4, 4, 1, 1)
    peak = []
    before = allocator.in_use()
    total = mr.zeros(())
    for _ in range(20):
        y = mr.conv2d(x, w)
        y.register_hook(lambda g: peak.append(allocator.in_use() - before))
        total = total + y.sum()
    del y
    total.backward()
    assert len(peak) == 20
    assert x.grad._array[0, 0, 0, 0] == 80
    assert peak[-1] - peak[0] <= 4 * allocator.size_class(x._array.nbytes)


@pytest.mark.slow
def test_graphs_leave_no_garbage():
    chain = Chain()
    chain.x = chain.leaf

    def build(count):
        seen = []
        for i in range(count):
            chain.made.clear()
            for stage in STAGES[: 1 + i % 7]:
                t = chain.step(stage)
            if i % 3 == 0:
                t.sum().backward()
            elif i % 3 == 1:
                _ = t._array
            if i % 50 == 0:
                seen.append((weakref.ref(t), weakref.ref(t._lazy or t)))
        chain.made.clear()
        return seen

    build(21)  # what kernels leave behind when they are loaded is not meant
    gc.collect()
    gc.disable()
    try:
        seen = build(700)
        assert all(ref() is None for refs in seen for ref in refs)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_dropped_tensors_are_not_remembered():
    """By the memory that they would have read."""
    chain = Chain(training=False)
    with mr.no_grad():
        for _ in range(1000):
            chain.net.b1(chain.net.c1(chain.x))
        kept = [chain.net.c1(chain.x) for _ in range(50)]
        assert all(not y.isnan().any() for y in kept)  # looked at: they read nothing any more
        last = chain.net.c1(chain.x)
    assert is_lazy(last)
    for read in (chain.x, chain.net.c1.weight):
        assert len(read._version._readers or ()) <= 100 + MANY  # twice those that are kept


def test_not_enough_memory():
    with mr.no_grad():
        w = mr.ones(1, 1, 1, 1)
        y = mr.conv2d(mr.ones(1, 1, 1, 1), w, padding=10**6)
        for _ in range(2):  # it is not broken: the next one to look is told the same
            with pytest.raises(MemoryError, match=r"expected room for an array of 15360.00 GiB"):
                y.sum()
            assert y.shape == (1, 1, 2 * 10**6 + 1, 2 * 10**6 + 1)
        z = mr.batch_norm(y, mr.zeros(1), mr.ones(1)).relu()
        with pytest.raises(MemoryError, match=r"15360.00 GiB"):
            _ = z._array
        with pytest.raises(MemoryError, match=r"15360.00 GiB"):
            mr.batch_norm(y, None, None, training=True)
        assert is_lazy(y)


def test_memory_that_was_short_for_a_moment(monkeypatch):
    """What failed once is computed when there is room again."""
    from minires.fusion import forward

    def full(shape, dtype, like):
        raise MemoryError("full")

    def run():
        chain = Chain()
        with monkeypatch.context() as patch:
            patch.setattr(forward, "allocate", full)
            y = chain.net.c1(chain.x)
            if is_lazy(y):
                with pytest.raises(MemoryError, match="full"):
                    chain.net.b1(y)
                with pytest.raises(MemoryError, match="full"):
                    y.sum()
        z = chain.net.b1(y).relu()
        z.sum().backward()
        return [values(z), values(chain.leaf.grad), values(chain.net.b1.running_mean)]

    both_ways(run)
