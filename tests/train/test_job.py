"""A training in a folder: one process at a time, whoever came first."""

from __future__ import annotations

import pytest
from harness import raises

import minires as mr
from minires.errors import CheckpointError
from minires.files import claimed
from minires.study import StudyConfig, run_study
from minires.train.job import TrainingJob

JOB = TrainingJob("cifar_plain8", limit=8, batch_size=8, epochs=1)


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
    assert sorted(before) == ["checkpoint.safetensors", "history.csv", "job.json"]
    with raises(CheckpointError, "holds a run already", "--resume"):
        second.run()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = [".checkpoint.safetensors.0123abcd.tmp", ".history.csv.89abcdef.tmp"]
    for name in (*left, ".mine.0123abcd.tmp"):
        (tmp_path / name).write_text("half")
    JOB.prepare(tmp_path).run()
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [".mine.0123abcd.tmp", "checkpoint.safetensors", "history.csv", "job.json"]
