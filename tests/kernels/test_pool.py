"""The pool: every task once, whoever sleeps, is late or never comes; no core is held in vain."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from minires.kernels.numba import pool as pools
from minires.kernels.numba import threads
from minires.kernels.numba.kernel import kernel

STRESS = """
import random, time
import numpy as np
import minires as mr
from minires.kernels.numba import threads
from doubling import double

random.seed(0)
double(2, np.ones(2), np.ones(2), 1)  # compiled
end, launches = time.monotonic() + 3, 0
while time.monotonic() < end:
    tasks, size = random.choice([1, 2, 3, 5, 8, 64, 1000]), random.choice([1, 7, 500])
    mr.set_num_threads(random.choice([1, 2, 3, 5]))
    x, y = np.arange(tasks * size, dtype="f8"), np.zeros(tasks * size)
    double(tasks, x, y, size)
    assert (y == 2 * x).all(), (tasks, size)
    launches += 1
    time.sleep(random.choice([0] * 50 + [1e-5] * 10 + [1e-4] * 5 + [2e-3]))
print(launches)
"""


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["", "passive"])
def test_every_task_once_asleep_and_awake_with_more_threads_than_cores(python, policy):
    done = python.run(STRESS, NUMBA_NUM_THREADS="5", OMP_WAIT_POLICY=policy)
    assert int(done.stdout) > 100


@kernel
def double(task, x, y, size):
    for i in range(task * size, task * size + size):
        y[i] = 2 * x[i]


def some(tasks, size=3):
    x, y = np.arange(tasks * size, dtype="f8"), np.zeros(tasks * size)
    double(tasks, x, y, size)
    np.testing.assert_array_equal(y, 2 * x)


@pytest.fixture
def new_pool(monkeypatch):
    """Makes pools in place of the process's own."""
    made = []

    def make(count):
        pool = pools.Pool(count)
        made.append(pool)
        monkeypatch.setattr(threads, "_pool", pool)
        monkeypatch.setattr(threads._here, "count", count, raising=False)
        return pool

    yield make
    for pool in made:
        pool._stop()


def test_nobody_waits_for_a_thread_that_does_not_come(new_pool, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    new_pool(3)._threads.clear()
    for tasks in (1, 2, 3, 4, 1000):
        some(tasks)


FEW_THREADS = """
import resource, threading
from pathlib import Path
import numpy as np
import minires as mr

threading.stack_size(2**28)
present = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (present + 2**29 + 2**27,) * 2)  # for two stacks
x = mr.ones(1000, 1000)
assert x.relu().sum().item() == 10**6
print(sum(thread.name.startswith("minires-") for thread in threading.enumerate()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is not limited elsewhere")
def test_kernels_run_on_the_threads_that_the_system_has(python):
    assert int(python.run(FEW_THREADS, NUMBA_NUM_THREADS="6").stdout) in (1, 2)


def test_threads_of_a_pool_whose_making_was_interrupted_keep_its_memory(monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    made = []
    monkeypatch.setattr(pools.atexit, "register", made.append)
    with pytest.raises(KeyboardInterrupt):
        pools.Pool(3)
    (stop,) = made  # it is known already how to end them
    (thread,) = stop.__self__._threads
    known = weakref.ref(stop.__self__)
    del stop
    made.clear()
    gc.collect()
    assert known() is not None
    assert thread.is_alive()
    known()._stop()
    thread.join(10)
    assert not thread.is_alive()
    gc.collect()
    assert known() is None


@pytest.mark.parametrize("count", [1, 2, 4])
def test_tasks_are_done_after_the_threads_have_ended(new_pool, count):
    pool = new_pool(count)
    some(7)
    pool._stop()
    assert not any(thread.is_alive() for thread in pool._threads)
    some(7)


def word(pool, place):
    return int(pool._memory[(pool._block + place - pool._begin) // 8])


def test_threads_wait_asleep_where_the_launching_one_was_kept_from_running(new_pool, monkeypatch):
    pool = new_pool(2)
    delays = iter([0, 10**6, 2 * 10**6, 2 * 10**6])  # ns
    monkeypatch.setattr(pools, "_delay", lambda: next(delays))
    assert word(pool, pools.CALM_UNTIL) == 0
    pool._look_around(pool._asked + 0.01)  # begins to count for this thread
    assert word(pool, pools.CALM_UNTIL) == 0
    pool._look_around(pool._asked + 0.01)  # 1 ms of 10 ms
    until = word(pool, pools.CALM_UNTIL)
    assert until > pool._ask(pool._block, 0)
    assert word(pool, pools.CALM) == word(pool, pools.SHORTEST_TICKS)
    pool._look_around(pool._asked + 0.01)  # nothing new while they do
    assert word(pool, pools.CALM_UNTIL) == until
    some(5)


def test_they_wait_asleep_for_longer_each_time_and_at_first_after_a_quiet_while(new_pool):
    pool = new_pool(2)
    shortest, longest = word(pool, pools.SHORTEST_TICKS), word(pool, pools.LONGEST_TICKS)
    pool._ask(pool._block, 1)
    lengths = [word(pool, pools.CALM)]
    for _ in range(8):
        pool._set(pools.CALM_UNTIL, pool._ask(pool._block, 0))  # just over
        pool._ask(pool._block, 1)
        lengths.append(word(pool, pools.CALM))
    assert lengths == [min(shortest * 2**k, longest) for k in range(9)]
    pool._set(pools.CALM_UNTIL, pool._ask(pool._block, 0) - 3 * longest)
    pool._ask(pool._block, 1)
    assert word(pool, pools.CALM) == shortest


def test_the_shortest_is_a_time_and_not_a_number_of_turns(new_pool):
    pool = new_pool(1)
    begin, first = time.perf_counter(), pool._ask(pool._block, 0)
    time.sleep(0.1)
    ticks, seconds = pool._ask(pool._block, 0) - first, time.perf_counter() - begin
    measured = word(pool, pools.PATIENCE_TICKS) / (ticks / seconds)
    assert measured == pytest.approx(
        0 if os.environ.get("OMP_WAIT_POLICY") == "passive" else pools.PATIENCE, rel=0.1
    )


IDLE = """
import time
import minires as mr
from doubling import run
run()
time.sleep(0.05)
before = time.process_time()
time.sleep(0.5)
print(time.process_time() - before)
"""


@pytest.mark.slow
def test_a_pool_without_work_takes_no_time(python):
    assert float(python.run(IDLE).stdout) < 0.1


AT_EXIT = """
import atexit
atexit.register(lambda: print(run()))  # after the pool has ended: the last comes first
import minires as mr
from doubling import run
run()
"""


@pytest.mark.slow
def test_kernels_run_until_the_very_end(python):
    assert python.run(AT_EXIT).stdout.strip() == "[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]"
