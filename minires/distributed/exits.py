"""What ends a job: an error that nobody caught, Ctrl-C, a command that failed.

A rank that ends by itself would leave the others waiting for it. So whatever ends one ends all:
it says why, with its rank in front, and aborts. Where several ranks fail alike, one of them
speaks: the one that :meth:`Group.agree` chose, or else rank 0. The others wait for :data:`TURN`
seconds, in which it ends them, and only then speak for themselves.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from minires.distributed.launch import told
from minires.errors import DistributedError
from minires.starting import STOPPED

TURN = 0.5  # seconds that a rank waits for the one that speaks


class Job(NamedTuple):
    """The ranks that end together.

    Attributes:
        rank: this one.
        size: how many there are; None if not known yet.
        abort: ends all ranks with an exit code.
        process: the number of this process; its forks are no ranks.
    """

    rank: int
    size: int | None
    abort: Callable[[int], None]
    process: int


_begun: Job | None = None
_hook: Any = None
_process = 0  # in which the hook was installed


def _job() -> Job | None:
    """The job, once the group has begun; None before, and in a fork."""
    return _begun if _begun is not None and _begun.process == os.getpid() else None


def install() -> None:
    """Let an exception that nobody catches end all ranks, from now on."""
    global _hook, _process
    before = sys.excepthook
    if before is _hook:
        return

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not end_by(error, before):
            before(kind, error, trace)

    _hook, _process = end, os.getpid()
    sys.excepthook = end


def watch(rank: int, size: int, abort: Callable[[int], None]) -> None:
    """Let what ends this process end all, from now on: the group has begun.

    Args:
        abort: ends all ranks with an exit code.
    """
    global _begun
    _begun = Job(rank, size, abort, os.getpid())
    install()  # once more: the program may have put another hook into its place


def end_by(error: BaseException, hook: Any = sys.__excepthook__) -> bool:
    """End all ranks by an error that nobody caught, and say it. Returns only if it is left to
    Python: False if this process is no rank, True if there never was a group.

    Args:
        hook: prints a traceback, as ``sys.excepthook`` does.
    """
    job = _job()
    if job is None and (os.getpid() != _process or told().size == 1):
        return False
    stopped = isinstance(error, KeyboardInterrupt)
    try:
        wait_for_turn(error)
        if not stopped or job is not None or _rank() == 0:  # else no rank could end another yet
            text = "Stopped.\n" if stopped else _formatted(hook, error)
            sys.stderr.write(f"{prefix(always=True)}{text}")
    finally:
        if job is not None:
            end_all(STOPPED if stopped else 1)
        elif stopped:  # as all the others are
            _flush()
            os._exit(STOPPED)
        elif not isinstance(error, DistributedError):  # that of a group which could not begin
            _end_early()
    return True


def _end_early() -> None:
    """End this process so that its launcher ends the others. They may wait for it to start MPI. To
    exit is not enough: MPICH's launcher takes it for a program that needs no MPI."""
    _flush()
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)


def _formatted(hook: Any, error: BaseException) -> str:
    """What a hook prints, which may be one of the user's, as one text: what two ranks say does not
    mix."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text):
        hook(type(error), error, error.__traceback__)
    return text.getvalue()


def end_all(code: int) -> None:
    """End all ranks with this exit code, if the group has begun; else return. Why has been said."""
    job = _job()
    if job is not None:
        _flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # MPI's own words add nothing
        job.abort(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
            stream.flush()


def name_speaker(error: BaseException, rank: int) -> None:
    """Note on an error, which several ranks raise, which of them is to speak."""
    vars(error)["_speaker"] = rank


def wait_for_turn(error: BaseException | None = None) -> None:
    """Wait until this rank may say by which error it ends; it may be ended before that."""
    speaker = None
    while error is not None and speaker is None:
        speaker = vars(error).get("_speaker")
        error = error.__cause__ or error.__context__
    if _rank() != (speaker or 0):
        with contextlib.suppress(KeyboardInterrupt):  # one more: then it is time to end
            time.sleep(TURN)


def _rank() -> int:
    job = _job()
    return told().rank if job is None else job.rank


def prefix(always: bool = False) -> str:
    """What stands before a message that rank 0 does not say for all: "[rank 1 of 2] "."""
    rank, job = _rank(), _job()
    size = told().size if job is None else job.size
    of = "" if size is None else f" of {size}"
    return f"[rank {rank}{of}] " if rank or always else ""
