"""Training for a while: the same bits however it runs, no growth, and forks do it no harm."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

import minires as mr
from minires import models, optim
from minires.nn import functional as F

TRAIN = """
import hashlib, os, sys, threading
import numpy as np
import minires as mr
from minires import models, optim
from minires.kernels.numba import threads
from minires.nn import functional as F

rng = np.random.default_rng(0)
x, y = rng.standard_normal((6, 3, 9, 8)).astype("f4"), rng.integers(0, 5, 6)

def train(steps, captured):
    mr.manual_seed(0)
    net = models.cifar_resnet(8, num_classes=5)
    opt = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    def step(x, y):
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
    if captured:
        step = mr.capture(step, net, opt)
    for k in range(steps):
        step(mr.tensor(np.roll(x, k, 0)), mr.tensor(np.roll(y, k)))
    state = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
    return hashlib.sha256(state).hexdigest()
"""
EVERY_WAY = """
for n in (1, 2, 3, 4):
    threads.set_num_threads(n)
    print(train(3, False), train(3, True))
"""
FORKS = """
alone, found = train(40, True), []
thread = threading.Thread(target=lambda: found.append(train(40, True)))
thread.start()
for _ in range(10):
    child = os.fork()
    if not child:
        mr.randn(3)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
thread.join()
print(found == [alone])
"""


def printed(code, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAIN + code],
        env={**os.environ, "NUMBA_NUM_THREADS": "4", **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_the_same_bits_on_any_threads_of_any_layer_captured_or_not():
    found = [printed(EVERY_WAY, NUMBA_THREADING_LAYER=layer) for layer in ("omp", "workqueue")]
    assert [len(each) for each in found] == [8, 8]
    assert len({*found[0], *found[1]}) == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forks_while_another_thread_trains():
    assert printed(FORKS) == ["True"]


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_steps_leave_nothing_behind(captured):
    net = models.cifar_plain(8, num_classes=5)
    opt = optim.Adam(net.parameters())

    def step(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        return loss

    if captured:
        step = mr.capture(step, net, opt)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 5, 4)).astype("f4"), rng.integers(0, 5, 2)

    def objects(steps):
        for k in range(steps):
            step(mr.tensor(x + k), mr.tensor(y))
        gc.collect()
        return len(gc.get_objects())

    before = objects(10)
    assert objects(60) - before < 30  # not one in each step
