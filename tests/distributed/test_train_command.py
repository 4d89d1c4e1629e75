"""``mpiexec -n 2 minires train``: one run, one folder, one display; stopped, killed and resumed."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from distributed import harness

from minires import interop
from minires.errors import CheckpointError
from minires.train import load_run
from minires.train.job import TrainingJob

JOB = TrainingJob("cifar_resnet8", epochs=4, limit=300, batch_size=64, sync_bn=True)
RECIPE = ["train", JOB.model, "--epochs", "4", "--limit", "300", "--batch-size", "64", "--sync-bn"]


def bits(folder):
    state = interop.load(folder / "checkpoint.safetensors")
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in state.items():
        found.update(name.encode() + tensor.detach().numpy().tobytes())
    return found.hexdigest()


def rows(folder):
    with open(folder / "history.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def result(folder):
    return json.loads((folder / "result.json").read_text())


@contextlib.contextmanager
def begun(folder):
    """A run of two ranks that has some of its epochs behind it, and more before it."""
    words = [sys.executable, "-m", "minires", *RECIPE, "--out", folder]
    with harness.started(2, words) as job:
        deadline = time.monotonic() + 40
        while not (folder / "checkpoint.safetensors").exists():
            assert time.monotonic() < deadline
            assert job.process.poll() is None, job.said()
            time.sleep(0.005)
        yield job


def rank_of(number):
    """Which rank a process is."""
    entries = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
    return next((int(e.split(b"=")[1]) for e in entries if e.startswith(b"PMI_RANK=")), None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = harness.minires(2, *RECIPE, "--out", folder)
    assert done.rc == 0, done.stderr
    return folder, done


def test_a_run_of_two_ranks_is_one_run(whole):
    folder, done = whole
    assert [done.stdout.count(f"epoch {n} of 4") for n in range(1, 5)] == [1] * 4
    assert done.stdout.count("cifar_resnet8 on digits") == 1
    assert done.stdout.count("2 ranks train it together. To go on after a stop: ") == 1
    assert done.stdout.count("Test error ") == 1
    assert result(folder)["ranks"] == 2
    assert len(rows(folder)) == result(folder)["epochs"] == 4
    assert result(folder)["test_images"] == 297
    assert {path.name for path in folder.iterdir()} == {
        "best.safetensors", "checkpoint.safetensors", "history.csv", "result.json", "run.toml"
    }  # fmt: skip


def test_synchronised_norms_are_a_setting_of_the_run(whole):
    folder, _ = whole
    assert "sync_bn = true" in (folder / "run.toml").read_text()
    names = {type(module).__name__ for module in load_run(folder).network.modules()}
    assert "SyncBatchNorm" not in names  # a network to use is one like all others
    with pytest.raises(CheckpointError, match="sync_bn True there and None here"):
        dataclasses.replace(JOB, sync_bn=False).prepare(folder, resume=True)
    assert "sync_bn" not in TrainingJob("cifar_resnet8").settings()  # as it was before


def test_a_killed_run_goes_on_to_the_bits_of_one_that_was_not(whole, tmp_path):
    killed, moved = tmp_path / "killed", tmp_path / "moved"
    with begun(killed) as job:
        numbers = {rank_of(number): number for number in job.processes()}
        os.kill(numbers[1], signal.SIGKILL)
        start = time.monotonic()
        done = job.wait(30)
        assert time.monotonic() - start < 15
        assert done.rc != 0
        death = f"[rank 1 of 2] died: killed, or crashed (process {numbers[1]}).\n"
        assert done.stderr.count("[rank ") == done.stderr.count(death) == 1
        assert job.processes() == []
    assert not (killed / "result.json").exists()
    shutil.copytree(killed, moved)
    done = harness.minires(2, *RECIPE, "--resume", "--out", killed)
    assert done.rc == 0, done.stderr
    assert "note:" not in done.stderr
    assert bits(killed) == bits(whole[0])
    assert rows(killed) == rows(whole[0])

    with pytest.warns(UserWarning, match="was on 2 ranks so far and goes on on 1 rank: sums over"):
        history = JOB.prepare(moved, resume=True).run()
    assert len(history) == len(rows(moved)) == 4
    assert result(moved)["ranks"] == 1


def test_ctrl_c_says_one_line_and_leaves_a_run_that_goes_on(tmp_path):
    with begun(tmp_path / "run") as job:
        job.signal(signal.SIGINT)
        done = job.wait(30)
    assert done.ended_with(130)
    assert done.stderr.count("Stopped.") == 1
    assert "The same command with --resume goes on." in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
