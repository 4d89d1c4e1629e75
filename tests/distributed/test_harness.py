"""A job that hangs fails its test, and leaves nothing behind."""

import sys
import time

import pytest
from distributed import harness

HANG = """
import os, time
print(f"rank {os.environ['PMI_RANK']}", flush=True)
time.sleep(600)
"""


def test_a_job_that_hangs_fails_the_test_with_what_its_ranks_said():
    start = time.monotonic()
    with harness.started(2, [sys.executable, "-c", HANG]) as job:
        job.until("rank 0")
        job.until("rank 1")
        assert len(job.processes()) >= 3
        with pytest.raises(pytest.fail.Exception, match=r"not over after 0.1 s[^$]*rank [01]"):
            job.wait(0.1)
        assert job.processes() == []
    assert time.monotonic() - start < 30


def test_what_a_job_never_says_fails_the_test():
    with (
        harness.started(0, [sys.executable, "-c", "print('one')"]) as job,
        pytest.raises(pytest.fail.Exception, match=r"ended without having said 'two'[^$]*one"),
    ):
        job.until("two")


def test_variables_are_given_and_taken_away(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "7")
    monkeypatch.setenv("AWAY", "1")
    text = "import os; print(*(os.environ.get(n) for n in ('PMI_SIZE', 'AWAY', 'HERE')))"
    done = harness.script(0, text, AWAY=None, HERE=3)
    assert done == (0, "None None 3\n", "")
