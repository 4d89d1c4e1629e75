"""A child process that a fork makes: it never waits for a thread that it does not have."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

# Another thread holds every lock there is, and then wants one that a fork takes before all others.
HOLD = """
import contextlib, faulthandler, importlib, logging, os, threading
import numpy as np
import minires as mr
from minires import random
from minires.autograd import lazy
from minires.captured import function as captured
from minires.kernels.numba import allocator, compiler, threads
matmul = importlib.import_module("minires.ops.matmul")  # not the operation

held, done = threading.Event(), threading.Event()

def hold():
    with contextlib.ExitStack() as stack:
        for lock in (LOCKS):
            stack.enter_context(lock)
        held.set()
        done.wait(0.5)
        logging.getLogger("another").isEnabledFor(10)  # takes the lock of logging

thread = threading.Thread(target=hold)
thread.start()
assert held.wait(20)
child = os.fork()
if child == 0:
    faulthandler.dump_traceback_later(10, exit=True)
    try:
        CHILD
    except mr.errors.DeviceError as error:
        print(error, flush=True)
    os._exit(7)
done.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
LOCKS = (
    "lazy.computing, allocator._lock, threads._launching, matmul._product, captured._serving, "
    "random.generator().bit_generator.lock"
)


def run(locks, child):
    code = HOLD.replace("LOCKS", locks).replace("CHILD", child)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    "child",
    [
        "mr.randn(3); random.get_state(); mr.manual_seed(1)",
        "mr.ones(64, 64) @ mr.ones(64, 64)",
        "allocator.allocate((1 << 20,), 'uint8')",
        "mr.capture(lambda x: x * 2)(mr.ones(2))",
        "x = mr.ones(1, 2, 5, 5); (mr.conv2d(x, mr.ones(2, 2, 3, 3)) + 1).relu().numpy()",
    ],
)
def test_locks_of_another_thread_are_free_in_the_child(child):
    assert run(LOCKS, child)[-1] == "7"


def test_the_generator_goes_on_where_it_was():
    child = "print(mr.randn(1).item() == expected, flush=True)"
    before = "state = random.get_state(); expected = mr.randn(1).item(); random.set_state(state); "
    found = run(LOCKS, before + child)
    assert found == ["True", "7"]


def test_a_fork_while_another_thread_compiles():
    """Numba's own lock stays held: nothing can be compiled in the child."""
    child = "mr.conv2d(mr.ones(1, 2, 5, 5), mr.ones(2, 2, 3, 3)).numpy()"
    said, code = run("compiler.own_settings(),", child)
    assert code == "7"
    assert "expected a process that was not forked while a thread compiled kernels" in said
