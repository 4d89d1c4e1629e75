"""Threads: how one kernel runs on several cores.

A kernel is a function of a *task*, a number from 0 on, that does one share of the work and touches
no output of another task. :func:`run` calls it for all tasks, on as many threads as
:func:`set_num_threads` says. How the work is cut into tasks depends on its sizes alone, never on
the number of threads, and sums are taken within a task and over tasks in order: the same bits come
out for any number of threads, whichever of them does a task.

There is one loop over tasks in all of minires, compiled once (:mod:`.pool`). It gets a kernel by
its address and the kernel's arguments in an array (:mod:`.launch`), and it takes any number of
launches, one after another: those of a captured graph (:class:`Launches`) follow each other without
Python between them.
"""

from __future__ import annotations

import functools
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ... import arguments as checks
from ...errors import DeviceError
from ...forks import in_children, new_lock_in_children
from ..work import Work
from . import compiler
from .launch import LAUNCH
from .pool import Pool

_launching = threading.RLock()
_here = threading.local()  # .count: threads that kernels of this Python thread run on, if chosen
_chosen = False  # whether any thread has chosen
_default = _most = 0  # threads that kernels run on, and at most: as many as Numba's, if 0
_pool: Pool | None = None  # of this process, once a kernel has run
_broken_by_fork = False


def run(name: str, address: int, arrays: int, arguments: array[int], tasks: int) -> None:
    """Run a compiled kernel for every task from 0 to ``tasks`` - 1, and return when all are done.

    ``arguments`` are words of 64 bits: numbers, and where a bit of ``arrays`` is set, addresses of
    NumPy arrays (``id(x)``), which the caller holds. One kernel runs at a time: two that share the
    cores gain nothing.
    """
    check_process(name)
    launch = array("q", (address, *arguments.buffer_info(), arrays, tasks))
    with _launching:
        (_pool or _start())(launch.buffer_info()[0], 1, get_num_threads())


class Launches:
    """Launches that follow each other: calling it runs them, and returns when all are done."""

    def __init__(self, name: str) -> None:
        self._name = name  # of the first kernel, for messages
        self._launches = array("q")
        self._arguments: list[array[int]] = []
        self._works: list[Work] = []

    def add(
        self, kernel: Any, tasks: int, arguments: tuple[Any, ...], reaches: Sequence[Any] = ()
    ) -> None:
        """Launch one more kernel, which ran with these arguments just now. The row names arrays by
        where their data begins: it does not hold them, or nobody could use their memory again."""
        words = array("q")
        for a in arguments:
            is_array = type(a) is np.ndarray
            words.append(a.__array_interface__["data"][0] if is_array else a)
        address = kernel.address(arguments)
        self._launches.extend((address, *words.buffer_info(), 0, tasks))
        self._arguments.append(words)
        self._works.append(kernel.work(arguments, reaches))

    def __call__(self) -> None:
        self._run(0, len(self._arguments))

    def one_by_one(self) -> Iterator[tuple[Work, Callable[[], None]]]:
        """Of each launch what it works on, and what runs it alone."""
        for place, work in enumerate(self._works):
            yield work, functools.partial(self._run, place, 1)

    def _run(self, first: int, count: int) -> None:
        check_process(self._name)
        with _launching:
            pool = _pool or _start()
            pool(self._launches.buffer_info()[0] + first * LAUNCH, count, get_num_threads())


def check_process(name: str) -> None:
    """Refuse a kernel of this name in a child process that cannot run any.

    Raises:
        DeviceError: the process is a fork of one in which a thread was compiling.
    """
    if _broken_by_fork:
        raise DeviceError(
            f"{name}: expected a process that was not forked while a thread compiled kernels, got "
            "such a fork, in which nothing can be compiled. Start workers with "
            "multiprocessing.get_context('spawn'), or fork before."
        )


def _start() -> Pool:
    global _pool
    _pool = Pool(_limit())
    return _pool


def _limit() -> int:
    """The most threads that kernels can run on."""
    return _most or int(compiler.config.NUMBA_NUM_THREADS)


def _after_fork() -> None:
    global _pool, _broken_by_fork
    _pool = None  # its threads do not exist here
    # a thread that was compiling is gone, too, and never gives Numba's lock back
    _broken_by_fork = compiler.compiling()


in_children(_after_fork)
new_lock_in_children(globals(), "_launching")


def limit(n: int) -> None:
    """Run kernels on ``n`` threads where :func:`set_num_threads` was not told otherwise: the cores
    are shared with other processes. It has no more than that, unless some kernel has run before."""
    global _default, _most
    _default = n = min(n, _limit())
    if _pool is None and not _chosen:
        _most = n


def set_num_threads(n: int) -> None:
    """Run the kernels that this Python thread starts on ``n`` threads, from now on; those that
    others start run on all. Results do not depend on it, to the last bit.

    Raises:
        ArgumentError: ``n`` is no whole number, below 1, or above the number the process started
            with.
    """
    global _chosen
    fix = "Set NUMBA_NUM_THREADS before starting Python for more."
    _here.count = checks.integer("set_num_threads", "n", n, 1, _limit(), fix=fix)
    _chosen = True


def get_num_threads() -> int:
    """How many threads kernels run on."""
    count = getattr(_here, "count", None)
    return count or _default or _limit()
