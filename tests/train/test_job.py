"""A training in a folder: one process at a time, whoever came first."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
from fuzz.judge import boxed, fault
from fuzz.values import BAD
from harness import raises

import minires as mr
from minires import cli
from minires.errors import ArgumentError, CheckpointError
from minires.files import claimed
from minires.study import StudyConfig, run_study
from minires.train.job import TrainingJob

JOB = TrainingJob("cifar_plain8", limit=8, batch_size=8, epochs=1)
FILES = ["best.safetensors", "checkpoint.safetensors", "history.csv", "result.json", "run.toml"]


@pytest.fixture(autouse=True)
def _references():
    """Nothing here is about speed, and kernels would have to be compiled."""
    with mr.backend("numpy"):
        yield


def test_two_trainings_do_not_share_a_folder(tmp_path):
    prepared = JOB.prepare(tmp_path)
    with claimed(tmp_path, "train"), raises(CheckpointError, "train: another process works in"):
        prepared.run()
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path, "train"), raises(CheckpointError, "study: another process works in"):
        run_study(StudyConfig(depths=(8,)), tmp_path)  # nor a training and a study
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_another_finished_meanwhile_is_not_overwritten(tmp_path):
    first, second = JOB.prepare(tmp_path), JOB.prepare(tmp_path)
    first.run()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == FILES
    with raises(CheckpointError, "holds a run already", "--resume"):
        second.run()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
def test_a_training_killed_in_its_first_epoch_goes_on_with_its_own_settings(tmp_path, capsys):
    command = ["train", "cifar_plain8", "--limit", "8", "--batch-size", "1", "--epochs", "500"]
    command += ["--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "minires", *command], stdout=-1, stderr=-1)
    end = time.monotonic() + 60
    while not (tmp_path / "run.toml").exists() and time.monotonic() < end:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    if (tmp_path / "checkpoint.safetensors").exists():
        (tmp_path / "checkpoint.safetensors").unlink()  # it was quick: as if killed an epoch before
    assert process.returncode == -9
    started = (tmp_path / "run.toml").read_text()
    for other in (["--lr", "0.3"], ["--seed", "5"], ["--augment", "flip"], ["--schedule", "steps"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command, "--resume", *other])
        assert stop.value.code == 1
        assert "error: train: expected the settings that" in capsys.readouterr().err
    assert (tmp_path / "run.toml").read_text() == started
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = [".checkpoint.safetensors.0123abcd.tmp", ".history.csv.89abcdef.tmp"]
    for name in (*left, ".mine.0123abcd.tmp"):
        (tmp_path / name).write_text("half")
    JOB.prepare(tmp_path).run()
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [".mine.0123abcd.tmp", *FILES]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainingJob)])
def test_every_field_is_checked_before_anything_is_built(name, tmp_path):
    """Whatever stands there: a job that can begin, or an error of ours in one short line."""
    with boxed():
        for n, (label, make) in enumerate(BAD.items()):
            job = dataclasses.replace(JOB, **{name: make()})
            found = fault(lambda n=n, job=job: job.prepare(tmp_path / str(n)))
            assert found is None, f"{name} = {label}: {found}"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", 0, "epochs an integer >= 1"),
        ("batch_size", 2.0, "batch_size an integer >= 1"),
        ("lr", float("nan"), "lr a finite number >= 0"),
        ("momentum", 1, "momentum a finite number >= 0 and < 1"),
        ("warmup_epochs", float("inf"), "warmup_epochs a finite number >= 0"),
        ("augment", 1, "augment names of resized-crop, rotate, color, erase, crop, flip, got 1"),
        ("augment", ["flop"], "unknown augmentation 'flop': did you mean flip"),
        ("ema", 1.0, "ema"),
        ("validation", 0.6, "validation"),
        ("patience", -1, "patience"),
        ("data", "x", "either a data set or a folder of pictures"),
        ("limit", 0, "limit an integer >= 1"),
        ("seed", -1, "seed an integer"),
        ("optimizer", ["sgd"], "unknown optimizer"),
        ("schedule", None, "unknown schedule"),
    ],
)
def test_fields_out_of_range(name, value, expected, tmp_path):
    with raises(ArgumentError, expected):
        dataclasses.replace(JOB, dataset="digits", **{name: value}).prepare(tmp_path)


def test_fields_are_kept_as_plain_numbers(tmp_path):
    job = dataclasses.replace(JOB, epochs=np.int64(1), lr=np.float32(0.5))
    assert job.prepare(tmp_path).job == dataclasses.replace(
        JOB, lr=0.5, momentum=0.9, dataset="digits", warmup_epochs=1.0
    )
    job.prepare(tmp_path).run()
    job.prepare(tmp_path, resume=True)
