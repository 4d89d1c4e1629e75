"""What ends one rank ends the job in seconds, with one message that names the rank.

With three ranks the launcher's exit code may be that of a rank which it killed.
"""

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from distributed import harness
from distributed.harness import PROGRAMS

from minires.distributed import deaths

SOON = 20  # seconds, on a busy machine; where a job hung it would not end at all


def ended(way, n=2):
    """How the job ends, of which a rank does this."""
    return harness.script(n, Path("exits.py"), way, timeout=SOON)


@pytest.mark.parametrize("way", ["raise", "raise while others wait for its object"])
def test_an_exception_ends_the_job(way):
    done = ended(way)
    assert done.ended_with(1)
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


def test_an_exception_on_all_ranks_is_said_once_as_the_users_hook_formats_it():
    done = ended("a hook of the user's", 3)
    assert done.rc != 0
    assert done.stderr == "[rank 0 of 3] hooked: planted\n"


def test_an_error_that_ranks_agreed_on_is_said_by_the_one_that_had_it():
    done = ended("agree", 3)
    assert done.rc != 0
    assert done.stderr.startswith("[rank 1 of 3] Traceback")
    assert done.stderr.endswith("\nminires.errors.NaNError: planted\n")
    assert done.stderr.count("[rank ") == 1


def test_a_rank_that_left_is_named_by_the_others():
    done = ended("exit")
    assert done.ended_with(1)
    assert done.stderr.startswith("[rank 0 of 2] Traceback (most recent call last):\n")
    assert done.stderr.endswith(
        "\nminires.errors.DistributedError: distributed barrier: expected all 2 ranks to take "
        "part, got rank 1 that has ended. All ranks must do the same collective operations, in "
        "the same order.\n"
    )


def test_ranks_that_wait_in_different_operations_are_named():
    """MPI itself would let them wait for ever."""
    done = ended("a step left out", 3)
    assert done.rc not in (0, -1)
    assert done.stderr.count("[rank ") == 1
    found = re.search(
        r"DistributedError: distributed: expected the same operation on all ranks, got (.*) on "
        r"rank (\d) and (.*) on rank 2\. All ranks must do the same collective operations, in the "
        r"same order\.\n",
        done.stderr,
    )
    assert found, done.shown()
    assert found[1] == "gather (24 bytes)"
    assert found[2] in "01"
    assert found[3] == "reduce (40 bytes)"


def test_a_rank_that_the_system_ends_ends_the_job():
    """``test_train_command.py`` has one that is killed."""
    done = ended("segfault")
    assert done.rc not in (0, -1)
    said = [line for line in done.stderr.splitlines() if line.startswith("[rank ")]
    assert len(said) == 1
    assert re.fullmatch(r"\[rank 1 of 2\] died: killed, or crashed \(process \d+\)\.", said[0])


@pytest.fixture
def witness():
    """A witness of three ranks, whose launcher ends nobody: what makes a line, and the thread."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"")
        listener.listen()
        at_work = threading.Thread(target=deaths.witness, args=(listener, 3, 0.1))
        at_work.start()

        def line(rank, process):
            made = socket.socket(socket.AF_UNIX)
            made.connect(listener.getsockname())
            made.sendall(f"{rank} {process}\n".encode())
            assert made.recv(1)
            lines.append(made)
            return made

        lines = []
        yield line, at_work
        for made in lines:
            made.close()
        at_work.join(SOON)


@pytest.mark.skipif(sys.platform != "linux", reason="the witness is for Linux")
def test_a_launcher_that_lets_ranks_wait_for_the_dead_is_helped(witness, capfd):
    line, at_work = witness
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        first, second, third = line(0, 1234), line(1, 2345), line(2, other.pid)
        first.sendall(b"bye\n")
        first.close()
        second.close()
        assert other.wait(SOON) == -signal.SIGKILL
        third.close()
    at_work.join(SOON)
    assert not at_work.is_alive()
    said = "[rank 1 of 3] died: killed, or crashed (process 2345).\n"
    assert capfd.readouterr().err == said


@pytest.mark.skipif(sys.platform != "linux", reason="the witness is for Linux")
def test_a_job_that_ends_as_it_should_leaves_no_witness(witness, capfd):
    line, at_work = witness
    lines = [line(rank, 1234) for rank in range(3)]
    for one in lines:
        one.sendall(b"bye\n")
    for one in lines:
        one.close()
    at_work.join(SOON)
    assert not at_work.is_alive()
    assert capfd.readouterr().err == ""


def test_an_interrupt_of_one_rank_ends_the_job():
    done = ended("interrupt")
    assert done.ended_with(130)
    assert done.stderr == "[rank 1 of 2] Stopped.\n"


def test_ctrl_c_ends_the_job_with_one_message():
    words = [sys.executable, PROGRAMS / "exits.py", "work"]
    with harness.started(2, words) as job:
        job.until("at work\nat work")
        job.signal(signal.SIGINT)
        done = job.wait(SOON)
    assert done.ended_with(130)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("[mpiexec@")]
    assert lines == ["[rank 0 of 2] Stopped."]


@pytest.mark.parametrize(("rank", "said"), [(0, "[rank 0 of 2] Stopped.\n"), (1, "")])
def test_ctrl_c_before_the_group_has_begun_is_told_by_one(rank, said):
    code = "from minires.distributed import exits; exits.install(); raise KeyboardInterrupt"
    variables = {"PMI_SIZE": "2", "PMI_RANK": str(rank)}
    done = harness.script(0, code, **variables)
    assert (done.rc, done.stderr) == (130, said)
