"""Fusion: threads that build, look and fork while work is deferred."""

from __future__ import annotations

import os
import signal
import sys
import threading

import numpy as np
import pytest
from ops.fused import Chain, close, follow, is_lazy, same, values

import minires as mr
from minires.autograd.lazy import Lazy, computing
from minires.device import CPU


@pytest.fixture
def impatient():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*functions):
    """Run these at the same moment in a thread each; what they returned."""
    barrier, found, errors = threading.Barrier(len(functions)), {}, []

    def run(index, f):
        try:
            barrier.wait()
            found[index] = f()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [found[index] for index in range(len(functions))]


def without_graph(f):
    with mr.no_grad():
        return f()


@pytest.mark.slow
def test_threads_that_look_at_one_tensor(impatient):
    chain = Chain(training=False)
    with mr.no_grad():
        expected = chain.net.b1(chain.net.c1(chain.x)).relu().sum().item()
        for _ in range(500):
            y = chain.net.b1(chain.net.c1(chain.x)).relu()
            assert together(*[lambda: y.sum().item()] * 3) == [expected] * 3  # noqa: B023


def test_a_tensor_that_another_thread_has_just_finished():
    """Its array was not there when this thread looked, and is when it asks for the reason."""
    chain = Chain()
    y = chain.step("conv1")
    array = y._array
    assert not is_lazy(y)
    assert y.__getattr__("_array") is array
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = y.colour


@pytest.mark.slow
def test_one_thread_builds_on_what_another_looks_at(impatient):
    chain = Chain(training=False)
    net, x = chain.net, chain.x
    with mr.no_grad():
        h = net.b1(net.c1(x))
        expected = [values(t) for t in (h.relu(), h + x, net.c2(h.relu()))]
        for _ in range(200):
            h = net.b1(net.c1(x))
            r = h.relu()
            found = together(
                lambda: values(h),  # noqa: B023
                lambda: without_graph(lambda: values(h.relu())),  # noqa: B023
                lambda: without_graph(lambda: values(h + x)),  # noqa: B023
                lambda: values(r),  # noqa: B023
                lambda: without_graph(lambda: values(net.c2(r))),  # noqa: B023
            )
            for a, b in zip([found[1], found[2], found[4]], expected):
                close(a, b)
            close(found[3], expected[0])


def test_threads_with_a_network_each(impatient):
    def run():
        return [follow("relu1", lambda chain, t: t.sum().item())[1]["grads"] for _ in range(5)]

    expected = run()
    for found in together(run, run, run):
        for one in found:
            same(one, expected[0])


class Known(Lazy):
    def _compute(self):
        return np.ones(self.shape, self.dtype)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own, for forks with threads
def test_a_fork_while_another_thread_computes():
    begun, end = threading.Event(), threading.Event()

    def compute():
        with computing:
            begun.set()
            end.wait(0.2)

    thread = threading.Thread(target=compute)
    thread.start()
    begun.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(int(Known((2,), np.float32, CPU).realize().sum()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    end.set()
    thread.join()
