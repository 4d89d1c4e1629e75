"""Memory that may only be read is never written, whatever it is given to, and nothing crashes.

Everything public is called on arrays that lie in a file mapped for reading: each of them by itself,
then all together (:mod:`fuzz.read_only`). A write there ends the process, so this is done in
others.
"""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.calls import CALLED

WORKER = Path(__file__).with_name("read_only.py")
UNCHECKED = """
import sys
import minires.autograd.variable
minires.autograd.variable.check_writeable = lambda *arguments: None
sys.path.insert(0, sys.argv.pop(1))
import read_only
read_only.main(sys.argv[1:])
"""
# networks are made of modules that are here by themselves
NAMES = [
    entry.name
    for entry in CALLED
    if not entry.name.startswith("models.") or inspect.isclass(entry.function)
]


def run(names, *program):
    """What a process says that calls these, and what it ended with: -11 for a crash."""
    done = subprocess.run(
        [sys.executable, *program, *names], capture_output=True, text=True, timeout=300
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    found = [line["fault"] for line in lines if "fault" in line]
    if done.returncode:
        last = [line["at"] for line in lines if "at" in line][-1:]
        found.append(f"{last}: ended with {done.returncode}\n{done.stderr[-2000:]}")
    return found


@pytest.mark.slow
def test_nothing_public_writes_into_read_only_memory():
    found = run(NAMES, WORKER)
    assert not found, "\n".join(found)


def test_a_write_would_be_seen():
    """Without its check, a batch norm ends the process."""
    (found,) = run(["nn.BatchNorm2d"], "-c", UNCHECKED, str(WORKER.parent))
    assert "nn.BatchNorm2d" in found
    assert f"ended with -{signal.SIGSEGV}" in found
