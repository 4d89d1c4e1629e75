"""Starts the processes of a test, each run with an end: what hangs fails, with what was said.

The launcher gives each rank a session of its own, so that no signal to a group reaches them all.
They are found by a variable of their environment, and killed one by one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PROGRAMS = Path(__file__).parent / "programs"
MARK = "MINIRES_TEST_JOB"  # the variable by which a job's processes are known
# What is said of kernels that nobody has compiled yet; tests begin with none, or with all.
COMPILING = re.compile(r"^minires: (compiling kernels for|waiting for another process).*\n", re.M)
NOT_OURS = ("PMI_", "PMIX_", "OMPI_", "SLURM_", "MPI_")  # of a launcher that started these tests


class Done(NamedTuple):
    """What came of a job."""

    rc: int
    stdout: str
    stderr: str

    def passed(self) -> str:
        """What it printed; the test fails, and shows all of it, if it failed or complained."""
        if self.rc or self.stderr:
            pytest.fail(f"exit code {self.rc}\n{self.shown()}")
        return self.stdout

    def ended_with(self, code) -> bool:
        """Whether the job ended with this exit code. MPICH's launcher kills what is left, and now
        and then gives the code of that, 9, as the job's."""
        return self.rc in (code, 9)

    def shown(self) -> str:
        return f"** stdout **\n{self.stdout}\n** stderr **\n{self.stderr}"


def mpiexec() -> str:
    """The launcher beside this Python, or else on the path."""
    found = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    if found is None:
        pytest.skip("needs mpiexec: pip install 'minires[test]'")
    return found


def script(n, program, *arguments, timeout=60, cwd=None, before=(), **environment) -> Done:
    """Run a program on ``n`` ranks; without a launcher if ``n`` is 0. A warning is an error in it.
    Ranks print into one file: what is printed with ``flush=True`` as one string stays together.

    Args:
        program: its text; or a Path, a file of the folder ``programs``.
        timeout: seconds after which the test fails.
        before: words in front of the program, such as ``taskset``.
        environment: variables; what is None is taken away.
    """
    what = [PROGRAMS / program] if isinstance(program, Path) else ["-c", program]
    words = [*before, sys.executable, "-W", "error", *what, *arguments]
    return _run(n, words, timeout, cwd, environment)


def minires(n, *words, timeout=60, cwd=None, **environment) -> Done:
    """Run ``minires`` with these words on ``n`` ranks; without a launcher if ``n`` is 0."""
    return _run(n, [sys.executable, "-m", "minires", *words], timeout, cwd, environment)


def _run(n, words, timeout, cwd, environment) -> Done:
    with started(n, words, cwd=cwd, **environment) as job:
        return job.wait(timeout)


class Job:
    """A launcher and its ranks, or one process, at work."""

    def __init__(self, n, words, cwd, environment, folder: Path):
        launcher = [mpiexec(), "-n", str(n)] if n else []
        self.name = uuid.uuid4().hex
        kept = {k: v for k, v in os.environ.items() if not k.startswith(NOT_OURS)}
        kept.pop("PYTHONUNBUFFERED", None)  # with it, the end of a line is written by itself
        changed = {**kept, **environment, MARK: self.name}
        env = {k: str(v) for k, v in changed.items() if v is not None}
        self.out, self.err = folder / "out", folder / "err"
        # Files, not pipes: a process that outlives the launcher would keep a pipe open.
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                [*launcher, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )

    def said(self) -> Done:
        rc = self.process.poll()
        out, err = (path.read_text("utf-8", "replace") for path in (self.out, self.err))
        return Done(-1 if rc is None else rc, out, COMPILING.sub("", err))

    def wait(self, timeout) -> Done:
        """What came of the job; the test fails if it is not over after ``timeout`` seconds."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._fail(f"the job was not over after {timeout} s")
        return self.said()

    def until(self, text, timeout=30) -> Done:
        """Wait until the job has said something; the test fails if it does not."""
        deadline = time.monotonic() + timeout
        while text not in "".join(self.said()[1:]):
            if time.monotonic() > deadline:
                self._fail(f"the job had not said {text!r} after {timeout} s")
            if self.process.poll() is not None and text not in "".join(self.said()[1:]):
                self._fail(f"the job ended without having said {text!r}")
            time.sleep(0.02)
        return self.said()

    def _fail(self, what):
        said = self.said()
        self.end()
        pytest.fail(f"{what}\n{said.shown()}")

    def signal(self, number=signal.SIGINT):
        """Send a signal to the launcher, as Ctrl-C on a terminal does."""
        self.process.send_signal(number)

    def processes(self) -> list[int]:
        """The numbers of its processes that live: launcher, its helpers, ranks (Linux alone)."""
        mark, found = f"{MARK}={self.name}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def end(self):
        """Leave no process behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        while numbers := self.processes():  # a killed one is there for a moment
            for number in numbers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.01)


@contextlib.contextmanager
def started(n, words, cwd=None, **environment) -> Iterator[Job]:
    """A job that a test does something to; it ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(n, words, cwd, environment, Path(folder))
        try:
            yield job
        finally:
            job.end()
