"""Threads: how many, whose, and that results depend neither on them nor on who else computes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from harness import arrays, raises

import minires as mr
from minires.errors import ArgumentError

HASHES = """
import hashlib
import numpy as np
import minires as mr
from minires import nn, optim
from minires.models import BasicBlock

def digest(threads):
    mr.set_num_threads(threads)
    mr.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), BasicBlock(16, 16), nn.MaxPool2d(2),
                        BasicBlock(16, 40, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(40, 10))
    optimizer = optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    x = mr.randn(13, 3, 17, 18)
    for _ in range(2):
        optimizer.zero_grad()
        mr.cross_entropy(net(x), mr.arange(13) % 10).backward()
        optimizer.step()
    state = net.state_dict().values()
    return hashlib.sha256(b"".join(np.ascontiguousarray(t.data).tobytes() for t in state))

print(*(digest(threads).hexdigest()[:16] for threads in (1, 2, 3, 1)))
"""


@pytest.mark.slow
def test_the_same_bits_for_any_number_of_threads(python):
    cache = os.environ.get("NUMBA_CACHE_DIR", "")  # what this process has compiled serves, too
    runs = {python.run(HASHES, NUMBA_NUM_THREADS="3", NUMBA_CACHE_DIR=cache).stdout for _ in "12"}
    assert len(runs) == 1
    digests = runs.pop().split()
    assert len(digests) == 4
    assert len(set(digests)) == 1


def test_threads_are_set_and_checked():
    before = mr.get_num_threads()
    try:
        for one in (1, np.int64(1)):
            mr.set_num_threads(one)
            assert type(mr.get_num_threads()) is int
            assert mr.get_num_threads() == 1
    finally:
        mr.set_num_threads(before)
    for wrong in (0, -1, 10**6, 1.5, True, "2", None):
        with raises(ArgumentError, "expected n an integer >= 1 and <= ", f"got {wrong!r}"):
            mr.set_num_threads(wrong)


def test_every_task_runs_once(python):
    code = (
        "import numpy as np\n"
        "from doubling import double\n"
        "for tasks in (1, 2, 7, 1000):\n"
        "    x, y = np.arange(tasks, dtype='f8'), np.zeros(tasks)\n"
        "    double(tasks, x, y, 1)\n"
        "    assert (y == 2 * x).all()\n"
    )
    python.run(code)


def test_many_threads_may_call_kernels_at_once():
    x, w = arrays((3, 4, 9, 8), (5, 4, 3, 3))
    expected = mr.conv2d(mr.tensor(x), mr.tensor(w), padding=1).data

    def work(_):
        tensors = [mr.tensor(v, requires_grad=True) for v in (x, w)]
        y = mr.conv2d(*tensors, padding=1)
        y.relu().sum().backward()
        return y.detach().data, tensors[1].grad.data

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(64)))
    for y, gw in results:
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(gw, results[0][1])


FORK = """
import os, warnings
warnings.simplefilter("ignore")
import minires as mr
import doubling
FIRST
child = os.fork()
if child == 0:
    print(*doubling.run(), flush=True)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(*doubling.run())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("first", ["", "doubling.run()", "mr.get_num_threads()"])
def test_a_forked_child_has_threads_of_its_own(python, first):
    said = python.run(FORK.replace("FIRST", first)).stdout.splitlines()
    assert said == ["0.0 2.0 4.0 6.0 8.0 10.0", "7", "0.0 2.0 4.0 6.0 8.0 10.0"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_launches_does_not_hang(python):
    """The child inherits a lock that a thread held which the child does not have."""
    code = (
        "import os, threading, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "import doubling\n"
        "from minires.kernels.numba import threads\n"
        "doubling.run()\n"
        "held, done = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with threads._launching:\n"
        "        held.set(); done.wait()\n"
        "thread = threading.Thread(target=hold); thread.start(); held.wait()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(int(doubling.run()[1]) + 5)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "done.set(); thread.join()\n"
    )
    assert python.run(code).stdout.split() == ["7"]
