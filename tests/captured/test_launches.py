"""What a recording is made of: launches in a row, and looks at what parameters alone decide."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import minires as mr
from minires import models, nn
from minires.kernels.numba import compiler
from minires.kernels.numba.threads import Launches
from minires.nn import functional as F

compiled = pytest.mark.skipif(
    compiler.config.DISABLE_JIT, reason="interpreted kernels are no launches"
)


def images(*shape, calls=5):
    rng = np.random.default_rng(0)
    return [mr.tensor(rng.standard_normal(shape), dtype=np.float32) for _ in range(calls)]


def nodes_of(captured):
    (call,) = captured._calls.values()
    return call._graph.nodes


def assert_repeats(function, *state, inputs):
    """A captured function gives, call after call, what the function gives; returns it."""
    captured = mr.capture(function, *state)
    start = [{name: t.numpy().copy() for name, t in part.state_dict().items()} for part in state]
    with mr.no_grad():
        found = [captured(x).numpy() for x in inputs]
        for part, values in zip(state, start):
            part.load_state_dict({name: mr.tensor(value) for name, value in values.items()})
        for x, y in zip(inputs, found):
            np.testing.assert_array_equal(function(x).numpy(), y)
    assert "recordings=1" in repr(captured)
    return captured


@compiled
def test_kernels_that_follow_each_other_are_one_step():
    net = models.cifar_resnet(8, shortcut="B", num_classes=5)
    net(images(4, 3, 16, 16)[0])
    net.eval()
    captured = assert_repeats(net, net, inputs=images(4, 3, 16, 16))
    launches = [step for step in nodes_of(captured) if type(step) is Launches]
    assert sum(len(step._arguments) for step in launches) >= 9  # convolutions, pooling
    assert len(launches) <= 2


@compiled
@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: mr.ops.cross_entropy(x[:, :, 0, 0], mr.tensor([0, 1, 2, 0]), reduction="none"),
    ],
    ids=["max pooling", "average pooling", "cross entropy"],
)
def test_hand_written_operations_leave_launches(function):
    """Not a call that makes its result anew, in memory of its own, and copies it."""
    steps = nodes_of(assert_repeats(function, inputs=images(4, 3, 9, 8)))
    assert type(steps[-1]) is Launches


class Writing(nn.Module):
    """Writes to a weight before it uses it, after it was used in another form."""

    def __init__(self, before):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.before = before

    def forward(self, x):
        if self.before:
            self.second.weight.mul_(0.5)
        x = self.second(self.first(x))
        self.second.weight.mul_(-1.5)
        return self.second(x).relu()


@pytest.mark.parametrize("before", [False, True])
def test_weights_that_the_function_writes_are_read_when_they_are_used(before):
    net = Writing(before)
    assert_repeats(net, net, inputs=images(2, 3, 9, 8))


@pytest.mark.parametrize(
    "weight",
    [
        lambda w, x: w * x.mean(),
        lambda w, x: (w - w.mean()) / w.std(),
        lambda w, x: x[:, :, :3, :3],
    ],
    ids=["of the input and a parameter", "of a parameter", "of the input"],
)
@pytest.mark.parametrize("grad", [False, True])
def test_weights_that_are_computed_are_up_to_date(weight, grad):
    class Depending(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.bn = nn.Parameter(mr.randn(2, 3, 3, 3)), nn.BatchNorm2d(2)

        def forward(self, x):
            return self.bn(F.conv2d(x, weight(self.w, x))).relu()

    net = Depending()
    net(images(2, 3, 9, 8)[0])
    net.train(grad)
    captured = mr.capture(net, net)
    twin = Depending()
    for x in images(2, 3, 9, 8):
        twin.load_state_dict(net.state_dict())
        twin.train(grad)
        with mr.set_grad_enabled(grad):
            expected, found = twin(x), captured(x)
        np.testing.assert_array_equal(found.detach().numpy(), expected.detach().numpy())
    assert "recordings=1" in repr(captured)


def test_parameters_written_between_calls_are_seen():
    net = nn.Sequential(nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.ReLU())
    net(images(4, 3, 9, 8)[0])
    net.eval()
    captured = mr.capture(net)
    with mr.no_grad():
        for number, x in enumerate(images(2, 3, 9, 8, calls=8)):
            if number % 2:
                net[0].weight.mul_(1.25)
                net[1].running_mean.add_(0.1)
            np.testing.assert_array_equal(captured(x).numpy(), net(x).numpy())
        array = net[0].weight.detach().numpy()  # from here on it may be written unseen
        for x in images(2, 3, 9, 8):
            array *= 0.75
            np.testing.assert_array_equal(captured(x).numpy(), net(x).numpy())
    assert "recordings=1" in repr(captured)


def test_references_inside_of_a_captured_function_are_repeated_as_calls():
    def pooled(x):
        with mr.backend("numpy"):
            return F.avg_pool2d(F.max_pool2d(x, 3, stride=2, padding=1), 2)

    assert_repeats(pooled, inputs=images(2, 3, 9, 8))


IN_A_CALL = """
import faulthandler, os, threading, time
import numpy as np
import minires as mr

pooled = mr.capture(lambda x: mr.max_pool2d(x, 3).sum())
x = mr.tensor(np.random.default_rng(0).standard_normal((16, 8, 64, 64)), dtype=np.float32)
for factor in (1.0, 2.0, 3.0):
    pooled(x * factor)
done = []

def keep_calling():
    while not done:
        pooled(x)

thread = threading.Thread(target=keep_calling)
thread.start()
time.sleep(0.05)
for _ in range(5):
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(10, exit=True)
        try:
            pooled(x)
        except mr.errors.DeviceError as error:
            os._exit(7 if "got a fork" in str(error) else 1)
        os._exit(7)  # a threading layer that survives a fork
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
done.append(True)
thread.join()
print("no child hung")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_during_a_call_of_another_thread_does_not_hang():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_CALL],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "no child hung\n", done.stderr


def test_a_first_call_that_fails_is_not_remembered():
    net = nn.Linear(4, 3)

    def loss(x, y):
        return F.cross_entropy(net(x), y)

    captured = mr.capture(loss, net)
    bad, good = mr.tensor([0, 77]), mr.tensor([0, 1])
    batches = [mr.tensor(x._array[:, :, 0, 0]) for x in images(2, 4, 1, 1)]
    with mr.no_grad():
        for labels in (bad, good, good, bad, good):
            if labels is bad:
                with pytest.raises(mr.errors.ArgumentError, match=r"labels in 0\.\.2, got 77"):
                    captured(batches[0], labels)
            else:
                for x in batches:
                    assert captured(x, labels).item() == loss(x, labels).item()
    assert "recordings=1" in repr(captured)


def test_captures_that_share_parameters_record_one_at_a_time():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    before = [p.detach().numpy().copy() for p in net.parameters()]
    failed = []

    def record():
        try:
            with mr.no_grad():
                for _ in range(10):
                    captured = mr.capture(net)
                    for x in images(2, 3, 6, 6, calls=3):
                        captured(x)
        except mr.errors.CaptureError as error:
            failed.append(error)

    threads = [threading.Thread(target=record) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for p, value in zip(net.parameters(), before):
        np.testing.assert_array_equal(p.detach().numpy(), value)
