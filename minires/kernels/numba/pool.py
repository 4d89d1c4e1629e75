"""The threads that kernels run on, and how they wait for each other.

A launch cuts its tasks into one range for each thread. A thread takes the tasks of its own range
one after another, and then those that are left in the others': where another program holds a core,
the tasks meant for it are done elsewhere, and nobody waits for a thread that has not begun. Whoever
launches takes part, and could do all of it alone.

Between two launches of a training step pass some 0.1 ms, and the system takes about as long as a
small kernel to wake a thread that sleeps. So a thread first waits awake, for :data:`PATIENCE` at
most, and then asleep. Waiting awake is worth it only while nobody else wants the cores: a thread
that does nothing else then holds the core that a working one waits for. That somebody wants them
shows in two ways. Time passes between two looks at the clock in which a waiting thread did not run;
or the thread that launches was ready to run and did not for more than :data:`DELAYED` of the time,
which Linux counts. Then all threads wait asleep, for :data:`SHORTEST`, and each time it shows again
soon after that, for twice as long.

What threads tell each other stands in words of one block of memory (:mod:`.words`)::

    line 0    GENERATION                        grows with each launch: threads wait for that
    line 1    CURRENT, TAKING_PART              the launch, and how many threads do it
    line 2    REMAINING                         tasks not done: whoever launches waits for 0
    line 3    CALM_UNTIL, CALM                  until when nobody waits awake
    line 4    STOPPED, functions and times      what hardly ever changes
    line 5    RANGE of thread 0                 its next task and its end, in one word
    line 6    ASLEEP, LOCK of thread 0
    line 7    RANGE of thread 1
    ...

Each line is a line of the cache. A core that writes a line takes it away from all others, so what
is written often by different threads must not share one.

A launch, seen from both sides::

    who launches                                 a thread of the pool
                                                 wait until GENERATION is new
    write CURRENT, REMAINING, all RANGEs
    add 1 to GENERATION; wake who sleeps   --->  sees it
    take tasks, its own first                    take tasks, its own first, then others'
    wait until REMAINING is 0              <---  subtract what it did; wake who launched, if asleep
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from array import array
from typing import Any

import numpy as np
from numba import types

from . import compiler
from .launch import LAUNCH, TASKS, run_task
from .words import add, load, lock, pause, replace, store, ticks

PATIENCE = 400e-6  # seconds that a thread waits awake
LOOKS = 16  # at a word, between two looks at the clock
GAP = 150e-6  # seconds between two looks at the clock: somebody else had the core
DELAYED = 0.03  # the share of time in which the launching thread was kept from running
ASKED = 0.01  # seconds between two questions to the system for it
SHORTEST, LONGEST = 0.02, 1.0  # seconds that all threads wait asleep

LINE = 64  # bytes that cores fetch together: what one thread writes often has a line to itself

# What all threads share, by its place in the block
GENERATION = 0  # grows with every launch
CURRENT, TAKING_PART = LINE, LINE + 8  # where the launch stands, and how many threads it is for
REMAINING = 2 * LINE  # tasks that are not done
CALM_UNTIL, CALM = 3 * LINE, 3 * LINE + 8  # nobody waits awake before this tick; since how many
STOPPED = 4 * LINE  # set when the process ends; beside it what never changes
ACQUIRE, RELEASE = STOPPED + 8, STOPPED + 16  # Python's functions for locks
PATIENCE_TICKS, GAP_TICKS = STOPPED + 24, STOPPED + 32
SHORTEST_TICKS, LONGEST_TICKS = STOPPED + 40, STOPPED + 48
OWN = 5 * LINE  # from here on two lines for each thread, first for the one that launches

# What belongs to one thread, by its place in its two lines
RANGE = 0  # the next task (lower half of the word) and the end (upper half)
ASLEEP, LOCK = LINE, LINE + 8  # whether it waits asleep, and in which of Python's locks
SIZE = 2 * LINE

HALF = 32  # bits
LOWER = (1 << HALF) - 1


@compiler.device_function
def calm(block, now):
    """Have all threads wait asleep for a while: somebody else wants the cores."""
    length = load(block + CALM)
    if now - load(block + CALM_UNTIL) < length:  # so soon after the last time
        length = min(2 * length, load(block + LONGEST_TICKS))
    else:
        length = load(block + SHORTEST_TICKS)
    store(block + CALM, length)
    store(block + CALM_UNTIL, now + length)


@compiler.device_function
def wait(block, me, place, value, equal):
    """Wait until the word at ``place`` is ``value`` (``equal`` is 1) or is another one (0)."""
    # Awake: look LOOKS times, then at the clock. Nobody waits awake in calm times (patience 0).
    begun = last = ticks()
    patience = load(block + PATIENCE_TICKS) if begun >= load(block + CALM_UNTIL) else 0
    while True:
        for _ in range(LOOKS):
            if (load(place) == value) == equal:
                return
            pause()
        now = ticks()
        if now - last > load(block + GAP_TICKS):  # this thread did not run for a while
            calm(block, now)
            break
        if now - begun >= patience:
            break
        last = now

    # Asleep: in a lock that is taken from the beginning, so that whoever acquires it waits until
    # another thread releases it.
    while (load(place) == value) != equal:
        store(me + ASLEEP, 1)
        # Whoever changes the word looks who is asleep after that. So if the word is still the
        # same, this thread will be woken; if not, it may or may not have been seen asleep.
        if (load(place) == value) == equal and replace(me + ASLEEP, 1, 0):
            return
        lock(load(block + ACQUIRE), load(me + LOCK), 1)


@compiler.device_function
def wake(block, thread):
    """Wake a thread if it sleeps."""
    if load(thread + ASLEEP) == 1 and replace(thread + ASLEEP, 1, 0):
        lock(load(block + RELEASE), load(thread + LOCK), 0)


@compiler.device_function
def take_part(block, first):
    """Do tasks of the current launch until none is left, from the range of thread ``first`` on."""
    threads, done = load(block + TAKING_PART), 0
    for k in range(threads):  # ranges: its own, then those of the threads behind it
        place = block + OWN + SIZE * ((first + k) % threads) + RANGE
        while True:
            # The word is both the next task and the end, so that what is taken belongs to one
            # launch, be it one that began after this thread looked for work. While a task of a
            # launch is not done, no other launch begins.
            taken = add(place, 1)
            task = taken & LOWER
            if task >= taken >> HALF:
                break
            run_task(load(block + CURRENT), task)
            done += 1
    # ``add`` returns the old number: if that was ``done``, these were the last tasks of the launch
    if done > 0 and add(block + REMAINING, -done) == done:
        wake(block, block + OWN)


def _work(block, number):
    """What a thread of the pool does all its life."""
    me, generation = block + OWN + SIZE * number, 0
    while load(block + STOPPED) == 0:
        wait(block, me, block + GENERATION, generation, 0)
        generation = load(block + GENERATION)
        if number < load(block + TAKING_PART):
            take_part(block, number)


def _launch(block, launches, number, threads):
    """Do ``number`` launches, one after another, on as many threads as said."""
    for launch in range(launches, launches + number * LAUNCH, LAUNCH):
        tasks = load(launch + TASKS)
        if tasks == 1 or threads == 1:  # nothing to share out
            for task in range(tasks):
                run_task(launch, task)
            continue
        # Everything is written before GENERATION, by which other threads see that it is there. The
        # ranges are written last of that: a thread that is late in looking for work of the launch
        # before, and finds some, finds the launch it belongs to as well.
        store(block + CURRENT, launch)
        store(block + REMAINING, tasks)
        store(block + TAKING_PART, threads)
        for k in range(threads):
            begin, end = tasks * k // threads, tasks * (k + 1) // threads
            store(block + OWN + SIZE * k + RANGE, end << HALF | begin)
        add(block + GENERATION, 1)  # go
        for k in range(1, threads):
            wake(block, block + OWN + SIZE * k)
        take_part(block, 0)
        wait(block, block + OWN, block + REMAINING, 0, 1)


def _ask(block, delayed):
    """Have threads wait asleep if this one was delayed while they did not; returns the tick."""
    now = ticks()
    if delayed == 1 and now >= load(block + CALM_UNTIL):
        calm(block, now)
    return now


_WORD = types.int64
_working: Any = compiler.lazily(_work, types.void(_WORD, _WORD))
_launching: Any = compiler.lazily(_launch, types.void(_WORD, _WORD, _WORD, _WORD))
_asking: Any = compiler.lazily(_ask, _WORD(_WORD, _WORD))


def _delay() -> int:
    """Nanoseconds in which this thread was ready to run and did not, since it began; 0 where the
    system does not tell."""
    try:
        with open(f"/proc/self/task/{threading.get_native_id()}/schedstat", "rb") as file:
            return int(file.read().split()[1])
    except OSError:
        return 0


def _python_locks() -> tuple[Any, Any, Any]:
    """Python's own functions for locks, which every system has and which need no interpreter."""
    address = ctypes.c_void_p
    kinds = {"allocate": (), "acquire": (address, ctypes.c_int), "release": (address,)}
    functions = []
    for name, arguments in kinds.items():
        function: Any = ctypes.pythonapi[f"PyThread_{name}_lock"]
        function.argtypes, function.restype = arguments, address if name == "allocate" else None
        functions.append(function)
    return tuple(functions)


class Pool:
    """``count`` threads that do launches: one less than that, and the thread that launches.

    With ``OMP_WAIT_POLICY=passive``, which tells programs with OpenMP to do so, they never wait
    awake.
    """

    def __init__(self, count: int) -> None:
        self._memory = np.zeros((OWN + SIZE * count + LINE) // 8, np.int64)
        self._begin = self._memory.ctypes.data
        self._block = -(-self._begin // LINE) * LINE  # the next line
        self._launch, self._ask, work = _launching(), _asking(), _working()
        self._asked, self._delay, self._asker = time.perf_counter(), _delay(), 0
        passive = os.environ.get("OMP_WAIT_POLICY", "").strip().lower() == "passive"
        seconds = {
            PATIENCE_TICKS: 0 if passive else PATIENCE,
            GAP_TICKS: GAP,
            SHORTEST_TICKS: SHORTEST,
            LONGEST_TICKS: LONGEST,
        }
        for place, value in seconds.items():
            self._set(place, round(value * self._ticks_per_second()))
        allocate, acquire, release = _python_locks()
        self._set(ACQUIRE, ctypes.cast(acquire, ctypes.c_void_p).value)
        self._set(RELEASE, ctypes.cast(release, ctypes.c_void_p).value)
        for number in range(count):
            lock = allocate()
            acquire(lock, 1)  # who waits for it waits for its release
            self._set(OWN + SIZE * number + LOCK, lock)
        self._process = os.getpid()
        self._threads: list[threading.Thread] = []
        atexit.register(self._stop)
        self._begin_working(work, count)

    def _begin_working(self, work: Any, count: int) -> None:
        """Start the threads. Where the system has none left, the others do all of the work."""

        def hold_and_work(number: int) -> None:
            work(self._block, number)  # on memory that is there as long as this function runs

        for k in range(1, count):
            name = f"minires-{k}"
            thread = threading.Thread(target=hold_and_work, args=(k,), name=name, daemon=True)
            self._threads.append(thread)
            try:
                thread.start()
            except RuntimeError:
                self._threads.pop()
                return

    def __call__(self, launches: int, number: int, threads: int) -> None:
        """Do ``number`` launches, of which the first begins at this address."""
        now = time.perf_counter()
        if now - self._asked > ASKED:
            self._look_around(now)
        self._launch(self._block, launches, number, threads)

    def _look_around(self, now: float) -> None:
        """See whether this thread was kept from running since the last time."""
        delay, asker = _delay(), threading.get_native_id()
        kept = 1e-9 * (delay - self._delay) if asker == self._asker else 0.0
        self._ask(self._block, kept > DELAYED * (now - self._asked))
        self._asked, self._delay, self._asker = now, delay, asker

    def _ticks_per_second(self) -> float:
        begin, first = time.perf_counter(), self._ask(self._block, 0)
        time.sleep(0.002)
        last, end = self._ask(self._block, 0), time.perf_counter()
        return (last - first) / (end - begin)

    def _set(self, place: int, value: Any) -> None:
        self._memory[(self._block + place - self._begin) // 8] = value

    def _stop(self) -> None:
        """End the threads before Python takes away the code that they run. What is launched after
        that is done by the thread that launches it."""
        if os.getpid() != self._process:  # a fork, where they do not exist
            return
        self._set(STOPPED, 1)
        nothing = array("q", [0] * (LAUNCH // 8))  # a launch without tasks wakes everyone
        self(nothing.buffer_info()[0], 1, len(self._threads) + 1)
        for thread in self._threads:
            if thread.is_alive():  # not one whose start was interrupted
                thread.join(1)
