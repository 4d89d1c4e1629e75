"""Killed, or out of disk, before each operation on files; gone on with, the numbers are the same.

Every write point of a tiny study and a tiny training is tried, each in a process of its own that
really ends there, and then gone on with in another one. Afterwards nothing is left over.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest

from minires.interop.safetensors_ import read_safetensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
]

WORKER = Path(__file__).with_name("worker.py")
KILLED = 77
GROWING = ("open", "write", "fsync", "replace", "mkdir")

STUDY = ["depth", "--depths", "8", "--epochs", "2"]
TRAINING = ["train", "cifar_plain8", "--epochs", "2", "--optimizer", "adam", "--lr", "0.01"]


class Workers:
    """Processes that have minires imported and run one command at a time each, in a fork."""

    def __init__(self, number):
        self.idle, self.all = SimpleQueue(), []
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        for _ in range(number):
            self.all.append(
                subprocess.Popen(
                    [sys.executable, str(WORKER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
            self.idle.put(self.all[-1])

    def run(self, folder, arguments, kind=None, at=-1):
        worker = self.idle.get()
        try:
            job = {"folder": str(folder), "arguments": arguments, "kind": kind, "at": at}
            worker.stdin.write(json.dumps(job) + "\n")
            worker.stdin.flush()
            return json.loads(worker.stdout.readline())
        finally:
            self.idle.put(worker)

    def close(self):
        for worker in self.all:
            worker.stdin.close()
            worker.wait(60)
            worker.stdout.close()


@pytest.fixture(scope="module")
def workers():
    workers = Workers(2)
    yield workers
    workers.close()


def resume(arguments, folder):
    """The command that goes on in a folder; the first one again if nothing was begun there."""
    begun = [name for name in ("results.json", "run.toml") if (folder / name).exists()]
    if not begun:
        return [*arguments, "--out", str(folder)]
    if arguments[0] == "depth":
        return [*arguments, "--resume", str(folder)]
    return [*arguments, "--out", str(folder), "--resume"]


TIMES = ("seconds", "created", "command", "checksum")


def timeless(value):
    """A JSON value without what differs between two runs of the same."""
    if isinstance(value, dict):
        return {name: timeless(entry) for name, entry in value.items() if name not in TIMES}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def contents(folder):
    """Everything a run leaves, by name, without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                found[name] = [timeless(row) for row in csv.DictReader(file)]
        elif path.suffix == ".safetensors":
            arrays, metadata, _, verified = read_safetensors(path, "test")
            assert verified
            found[name] = {key: (a.dtype.str, a.tobytes()) for key, a in arrays.items()}
            if "content" in metadata:  # a checkpoint, not weights alone
                metadata["content"] = timeless(json.loads(metadata["content"]))
            found[name]["metadata"] = {k: v for k, v in metadata.items() if k != "checksum"}
        else:
            found[name] = path.name
    return found


def temporary(folder):
    return [path.name for path in folder.rglob(".*")]


def disturb(workers, arguments, folder, kind, at, must_fail, tried):
    """Stop the command at one point, go on, and say what is wrong with it: nothing, let us hope.

    Where the disk was full, most points leave the same files, and the command goes on from each of
    these states (``tried``) once.
    """
    start = [*arguments, "--out", str(folder)]
    first = workers.run(folder, start, kind, at)
    if kind == "kill":
        if first["code"] != KILLED:
            return f"not killed: {first}"
    else:
        if first["code"] != (1 if must_fail else 0):
            return f"exit code {first['code']}: {first['err']}"
        lines = first["err"].splitlines()
        if must_fail and (len(lines) != 1 or not lines[0].startswith("error: ")):
            return f"not one line: {first['err']}"
        if temporary(folder):
            return f"left {temporary(folder)}"
        state = repr(contents(folder)) if folder.exists() else ""
        if tried.setdefault(state, at) != at:
            return None
    begun = resume(arguments, folder)
    if not must_fail and arguments[0] == "depth":  # only the last removals were left
        begun = [*arguments, "--resume", str(folder)]
    second = workers.run(folder, begun)
    if second["code"]:
        return f"resumed with exit code {second['code']}: {second['err']}"
    return ""


@pytest.fixture(scope="module", params=[STUDY, TRAINING], ids=["study", "training"])
def undisturbed(request, workers, tmp_path_factory):
    """A command, the operations it makes on files, and what it leaves."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = workers.run(folder, [*request.param, "--out", str(folder)], "count")
    assert done["code"] == 0, done["err"]
    assert done["err"] == ""
    assert temporary(folder) == []
    return request.param, done["seen"], contents(folder)


def test_the_worker_sees_every_kind_of_operation(undisturbed):
    arguments, seen, found = undisturbed
    kinds = {line.split()[0] for line in seen}
    assert kinds >= {"open", "write", "fsync", "replace", "unlink", "mkdir"}
    assert len(seen) > (100 if arguments is STUDY else 40)
    for name in found:
        assert any(line.startswith("replace") and f".{Path(name).name}." in line for line in seen)


@pytest.mark.parametrize("kind", ["kill", "full"])
def test_every_write_point(undisturbed, workers, tmp_path, kind):
    arguments, seen, expected = undisturbed
    tried = {}

    def attempt(at):
        folder = tmp_path / str(at)
        must_fail = any(line.split()[0] in GROWING for line in seen[at:])
        wrong = disturb(workers, arguments, folder, kind, at, must_fail, tried)
        if wrong == "":
            found = contents(folder)
            differ = [k for k in {**found, **expected} if found.get(k) != expected.get(k)]
            wrong = f"differs in {differ}" if differ else ""
        return f"{at} ({seen[at]}): {wrong}" if wrong else ""

    points = range(len(seen))
    if kind == "kill":  # to force to the disk changes no file that another process sees
        points = [at for at in points if at == 0 or not seen[at - 1].startswith("fsync")]
    with ThreadPoolExecutor(len(workers.all)) as pool:
        wrong = [text for text in pool.map(attempt, points) if text]
    assert not wrong, "\n".join(wrong)
    assert (len(tried) > 5) == (kind == "full")


def test_an_undisturbed_run_is_the_same_twice(undisturbed, workers, tmp_path):
    """What is compared above does not differ by itself, and does differ with the numbers."""
    arguments, seen, expected = undisturbed
    again = workers.run(tmp_path / "run", [*arguments, "--out", str(tmp_path / "run")], "count")
    assert len(again["seen"]) == len(seen)
    assert contents(tmp_path / "run") == expected
    other = [*arguments, "--seeds" if arguments is STUDY else "--seed", "1"]
    workers.run(tmp_path / "other", [*other, "--out", str(tmp_path / "other")])
    found = contents(tmp_path / "other")
    assert len(found) == len(expected)
    assert found != expected
