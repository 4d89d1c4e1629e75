"""Threads: how one kernel runs on several cores.

A kernel is a function of a *task*, a number from 0 on, that does one share of the work and touches
no output of another task. :func:`run` calls it for all tasks, on as many threads as
:func:`set_num_threads` says. How the work is cut into tasks depends on its sizes alone, never on
the number of threads, and sums are taken within a task and over tasks in order: the same bits come
out for any number of threads.

There is one parallel loop in all of minires, compiled once. It gets a kernel by its address and
the kernel's arguments in an array, because compiling a parallel loop takes Numba about a second
and compiling a plain function a fraction of that. And it takes any number of launches, one after
another: those of a recording (:class:`Launches`) follow each other without Python between them.
"""

from __future__ import annotations

import os
import threading
from array import array
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from ..errors import ArgumentError, DeviceError, message
from ..forks import in_children, new_lock_in_children
from . import jit
from .simd import INDEX

MOST_ARGUMENTS = 32
SPIN = "50000"  # turns, some 0.1 ms

_launching = threading.RLock()
_here = threading.local()  # .count: Numba's number of threads, asked for once in each thread
_started = False  # the threads that kernels run on, in this process
_broken_by_fork = False

# The words of a launch: where the kernel is, where its arguments are, how many, which are arrays,
# and for how many tasks.
ADDRESS, ARGUMENTS, COUNT, ARRAYS, TASKS = range(5)
WORD, LAUNCH = 8, 5 * 8  # bytes

# A NumPy array begins, after what every Python object begins with, with the address of its data
# (the NumPy C-API's PyArrayObject): asking for it by Python's means takes twenty times as long.
_DATA = object.__basicsize__


def _call(context, address, arguments, count, arrays, task):  # type: ignore[no-untyped-def]
    """Call the compiled kernel at ``address`` with ``task`` and the ``count`` arguments.

    Each is one word, passed as it is; or, where its bit in ``arrays`` is set, the address of a
    NumPy array, passed as that of its data.
    """
    signature = types.void(*[types.int64] * 5)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        address, arguments, count, arrays, task = args
        words = builder.inttoptr(arguments, INDEX.as_pointer())

        def value(k):  # type: ignore[no-untyped-def]
            word = builder.gep(words, [ir.Constant(INDEX, k)])
            data = builder.add(builder.load(word), ir.Constant(INDEX, _DATA))
            bit = builder.and_(arrays, ir.Constant(INDEX, 1 << k))
            is_array = builder.icmp_unsigned("!=", bit, ir.Constant(INDEX, 0))
            at = builder.select(is_array, builder.inttoptr(data, INDEX.as_pointer()), word)
            return builder.load(at)

        end = builder.append_basic_block("end")
        switch = builder.switch(count, end)
        for n in range(MOST_ARGUMENTS + 1):
            block = builder.append_basic_block(f"with_{n}")
            switch.add_case(ir.Constant(INDEX, n), block)
            builder.position_at_end(block)
            kind = ir.FunctionType(ir.VoidType(), [INDEX] * (n + 1))
            values = [value(k) for k in range(n)]
            builder.call(builder.inttoptr(address, kind.as_pointer()), [task, *values])
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return signature, generate


def _word(context, address):  # type: ignore[no-untyped-def]
    """The word at an address."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(builder.inttoptr(args[0], INDEX.as_pointer()))

    return types.int64(types.int64), generate


call: Any = intrinsic(_call)
word: Any = intrinsic(_word)


def _all_launches(launches, number):  # type: ignore[no-untyped-def]
    for at in range(launches, launches + number * LAUNCH, LAUNCH):
        address, arguments = word(at + WORD * ADDRESS), word(at + WORD * ARGUMENTS)
        count, arrays = word(at + WORD * COUNT), word(at + WORD * ARRAYS)
        tasks = word(at + WORD * TASKS)
        if tasks == 1:
            call(address, arguments, count, arrays, 0)
        else:
            for task in prange(tasks):
                call(address, arguments, count, arrays, task)


def _one_task(launch):  # type: ignore[no-untyped-def]
    address, arguments = word(launch + WORD * ADDRESS), word(launch + WORD * ARGUMENTS)
    call(address, arguments, word(launch + WORD * COUNT), word(launch + WORD * ARRAYS), 0)


_in_parallel: Any = jit.lazily(_all_launches, types.void(types.int64, types.int64), parallel=True)
_in_order: Any = jit.lazily(_one_task, types.void(types.int64))


def run(name: str, address: int, arrays: int, arguments: array[int], tasks: int) -> None:
    """Run a compiled kernel for every task from 0 to ``tasks`` - 1, and return when all are done.

    ``arguments`` are words of 64 bits: numbers, and where a bit of ``arrays`` is set, addresses of
    NumPy arrays (``id(x)``), which the caller holds. One kernel runs at a time: Numba's portable
    threading layer aborts the process when two Python threads launch at once, and two kernels that
    share the cores gain nothing.
    """
    check_process(name)
    launch = array("q", (address, *arguments.buffer_info(), arrays, tasks))
    with _launching:
        if tasks == 1:
            _in_order()(launch.buffer_info()[0])
        else:
            start()
            _in_parallel()(launch.buffer_info()[0], 1)


class Launches:
    """Launches that follow each other: calling it runs them, and returns when all are done."""

    def __init__(self, name: str) -> None:
        self._name = name  # of the first kernel, for messages
        self._launches = array("q")
        self._arguments: list[array[int]] = []

    def add(self, address: int, arguments: array[int], tasks: int) -> None:
        """Launch one more kernel; its ``arguments`` are numbers and addresses of data."""
        self._launches.extend((address, *arguments.buffer_info(), 0, tasks))
        self._arguments.append(arguments)

    def __call__(self) -> None:
        check_process(self._name)
        with _launching:
            start()
            _in_parallel()(self._launches.buffer_info()[0], len(self._arguments))


def check_process(name: str) -> None:
    """Refuse a kernel of this name in a child process that cannot run any.

    Raises:
        DeviceError: the process is a fork of one that had started the threads of kernels.
    """
    if _broken_by_fork:
        raise DeviceError(
            f"{name}: expected to run in the process that started the kernel threads, got a fork "
            "of it, where those threads do not exist. Start workers with "
            "multiprocessing.get_context('spawn'), or use threads."
        )


def start() -> None:
    """Start the threads that kernels run on, before anything else makes Numba do so.

    Idle OpenMP threads wait for the next kernel by spinning, for milliseconds by default. On a
    machine that does anything else besides, they then hold the core that the working thread waits
    for, and small kernels become up to fifty times slower. Threads that sleep at once take a few
    microseconds to wake, which costs small networks a quarter of their speed. So they spin for the
    time between two kernels, :data:`SPIN`, unless the user chose otherwise. The setting is read
    once, when the threads start: the variable is gone again afterwards.
    """
    global _started
    if _started:
        return
    chosen = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not chosen:
        os.environ["GOMP_SPINCOUNT"] = SPIN
    try:
        numba.get_num_threads()  # asking starts them
    finally:
        if not chosen:
            del os.environ["GOMP_SPINCOUNT"]
    _started = True


def _after_fork() -> None:
    global _broken_by_fork
    try:
        lacks_threads = numba.threading_layer() == "omp"
    except ValueError:  # no threads were started before the fork, by minires or anyone
        lacks_threads = False
    # a thread that was compiling is gone, too, and never gives Numba's lock back
    _broken_by_fork = lacks_threads or jit.compiling()


in_children(_after_fork)
new_lock_in_children(globals(), "_launching")


def set_num_threads(n: int) -> None:
    """Run the kernels that this Python thread starts on ``n`` threads, from now on; those that
    others start run on all. Results do not depend on it, to the last bit.

    Raises:
        ArgumentError: ``n`` is no whole number, below 1, or above the number the process started
            with.
    """
    limit = jit.config.NUMBA_NUM_THREADS
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or not 1 <= n <= limit:
        raise ArgumentError(
            message(
                "set_num_threads",
                f"a whole number from 1 to {limit}",
                repr(n),
                fix="Set NUMBA_NUM_THREADS before starting Python for more.",
            )
        )
    start()
    numba.set_num_threads(int(n))
    _here.count = int(n)


def get_num_threads() -> int:
    """How many threads kernels run on."""
    try:
        return _here.count  # type: ignore[no-any-return]
    except AttributeError:
        start()
        _here.count = numba.get_num_threads()
        return _here.count  # type: ignore[no-any-return]
