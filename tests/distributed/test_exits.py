"""What ends one rank ends the job in seconds, with one message that names the rank.

With three ranks the launcher's exit code may be that of a rank which it killed.
"""

import signal
import sys
import time
from pathlib import Path

import pytest
from distributed import harness
from distributed.harness import PROGRAMS

SOON = 20  # seconds, on a busy machine; where a job hung it would not end at all


def ended(way, n=2):
    """How the job ends, of which a rank does this."""
    return harness.script(n, Path("exits.py"), way, timeout=SOON)


@pytest.mark.parametrize("way", ["raise", "raise while others wait for its object"])
def test_an_exception_ends_the_job(way):
    done = ended(way)
    assert done.rc == 1
    assert done.stderr.startswith("[rank 1 of 2] Traceback (most recent call last):\n")
    assert done.stderr.endswith("\nValueError: planted\n")
    assert done.stderr.count("[rank ") == 1


@pytest.mark.parametrize(
    ("way", "rank"),
    [("raise before the group begins", 1), ("raise on all before the group begins", 0)],
)
def test_an_exception_before_the_group_begins_ends_the_job(way, rank):
    """The others wait for MPI to start, where nothing can tell them."""
    done = ended(way)
    assert done.rc not in (0, -1)
    assert done.stderr.startswith(f"[rank {rank} of 2] Traceback (most recent call last):\n")
    assert done.stderr.count("ValueError: planted\n") == done.stderr.count("[rank ") == 1


def test_an_exception_on_all_ranks_is_said_once():
    done = ended("raise on all", 3)
    assert done.rc != 0
    assert done.stderr.startswith("[rank 0 of 3] Traceback (most recent call last):\n")
    assert done.stderr.count("ValueError: planted\n") == 1


def test_the_users_hook_formats_it():
    done = ended("a hook of the user's")
    assert (done.rc, done.stderr) == (1, "[rank 0 of 2] hooked: planted\n")


def test_an_error_that_ranks_agreed_on_is_said_by_the_one_that_had_it():
    done = ended("agree", 3)
    assert done.rc != 0
    assert done.stderr.startswith("[rank 1 of 3] Traceback")
    assert done.stderr.endswith("\nminires.errors.NaNError: planted\n")
    assert done.stderr.count("[rank ") == 1


def test_an_error_that_ranks_agreed_on_can_be_caught():
    done = ended("catch")
    lines = ["rank 0 goes on after: rank 1: planted", "rank 1 goes on after: planted"]
    assert sorted(done.passed().splitlines()) == lines


def test_a_rank_that_left_is_named_by_the_others():
    done = ended("exit")
    assert done.rc == 1
    assert done.stderr.startswith("[rank 0 of 2] Traceback (most recent call last):\n")
    assert done.stderr.endswith(
        "\nminires.errors.DistributedError: distributed barrier: expected all 2 ranks to take "
        "part, got rank 1 that has ended. All ranks must do the same collective operations, in "
        "the same order.\n"
    )


@pytest.mark.parametrize("way", ["kill", "segfault"])
def test_a_rank_that_the_system_ends_ends_the_job(way):
    start = time.monotonic()
    assert ended(way).rc not in (0, -1)
    assert time.monotonic() - start < SOON


def test_an_interrupt_of_one_rank_ends_the_job():
    done = ended("interrupt")
    assert (done.rc, done.stderr) == (130, "[rank 1 of 2] Stopped.\n")


def test_ctrl_c_ends_the_job_with_one_message():
    words = [sys.executable, PROGRAMS / "exits.py", "work"]
    with harness.started(2, words) as job:
        job.until("at work\nat work")
        job.signal(signal.SIGINT)
        done = job.wait(SOON)
    assert done.rc == 130
    lines = [line for line in done.stderr.splitlines() if not line.startswith("[mpiexec@")]
    assert lines == ["[rank 0 of 2] Stopped."]
