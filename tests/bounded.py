"""Reads files in processes of their own that may take so much memory and time, and no more.

A process imports minires once and then makes a copy of itself for every file, so that a case
costs no second import. In the copy the system limits the address space and the CPU time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2**20
_CALLS = {
    "load": "import minires; minires.load({path!r})",
    "images": "from minires.data.readers import *; read_idx(Path({path!r}), 3, 'FIX')",
    "cifar": "from minires.data.readers import *; read_cifar10(Path({path!r}), 2, 'FIX')",
}


@dataclass
class Outcome:
    """What became of a file: ``peak`` bytes beyond those of the program, CPU ``seconds``, the kind
    of error ("" for none, a signal's number for a crash or the end of its time) and its text."""

    peak: int
    seconds: float
    kind: str
    text: str


class Bounded:
    """The process that reads; use it in a ``with``."""

    def __enter__(self) -> Bounded:
        self.worker: Any = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stdin.close()
        self.worker.stdout.close()
        self.worker.wait()

    def read(self, call: str, path: Path, *, memory: int, seconds: int) -> Outcome:
        """``call`` one of ``_CALLS``, with ``memory`` bytes and ``seconds`` at most."""
        code = _CALLS[call].format(path=str(path))
        print(json.dumps([code, memory, seconds]), file=self.worker.stdin, flush=True)
        return Outcome(**json.loads(self.worker.stdout.readline()))


def _work() -> None:
    exec("import minires, minires.data.readers")  # before the copies are made
    for line in sys.stdin:
        end, start = os.pipe()
        copy = os.fork()
        if copy == 0:
            os.write(start, json.dumps(_limited(*json.loads(line))).encode())
            os._exit(0)
        os.close(start)
        with open(end) as pipe:
            answer = pipe.read()
        _, status = os.waitpid(copy, 0)
        crash = {"peak": 0, "seconds": 0, "kind": f"signal {status}", "text": ""}
        print(answer or json.dumps(crash), flush=True)


def _limited(code: str, memory: int, seconds: int) -> dict[str, Any]:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    kind = text = ""
    try:
        exec(code, {})
    except BaseException as error:
        kind, text = type(error).__name__, str(error)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = time.process_time() - begin
    return {"peak": 1024 * (after - before), "seconds": taken, "kind": kind, "text": text}


if __name__ == "__main__":
    _work()
