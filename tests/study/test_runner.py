"""The study end to end on a few digits: outputs, resume after a kill, refusals."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from harness import raises

import minires as mr
from minires.errors import ArgumentError, CheckpointError, NaNError
from minires.files import claimed
from minires.models import cifar_plain
from minires.study import (
    PROTOCOLS,
    StudyConfig,
    network,
    resume_study,
    run_study,
    runner,
    store,
)
from minires.study.measures import conv_names, gradient_norms
from minires.train import fit

SMALL = StudyConfig(depths=(8,), limit=96, protocol=PROTOCOLS["quick"].with_epochs(2), seeds=(0, 1))
OUTPUTS = [
    "results.json",
    "results.csv",
    "report.html",
    *(
        f"{n}.{e}"
        for n in ("curves", "error_by_depth", "gradient_norms")
        for e in ("png", "svg", "pdf")
    ),
]


class Stop(BaseException):
    """An interrupt at a chosen moment."""


class StopAfter:
    """Progress that interrupts after so many training steps."""

    def __init__(self, steps):
        self.left = steps

    def plan(self, folder, total, done): ...
    def network(self, name, epochs, done, total, gone): ...
    def epoch(self, name, row): ...
    def evaluating(self, name): ...
    def finished(self, name, run): ...
    def diverged(self, name): ...

    def batch(self, name, work, running):
        self.left -= running.training
        if self.left == 0:
            raise Stop


def without_times(folder):
    with open(Path(folder) / "results.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def final_numbers(results):
    keys = ("kind", "depth", "seed", "train_error", "train_loss", "test_error", "gradient_norms")
    runs = [{key: run[key] for key in keys} for run in results["runs"]]
    return sorted(runs, key=lambda run: (run["depth"], run["kind"], run["seed"]))


def undraw(patch):
    """Figures are empty: drawing them takes most of the time of small studies."""
    patch.setattr(runner.figures, "render", lambda *args, **options: b"<svg/>")


@pytest.fixture
def undrawn(monkeypatch):
    undraw(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "run"
    with pytest.MonkeyPatch.context() as patch:
        undraw(patch)
        results, path = run_study(SMALL, folder)
    assert path == folder
    return results, folder


@pytest.mark.slow
def test_everything_is_written(finished):
    results, folder = finished
    for name in OUTPUTS:
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "results.json").read_text()) == results
    assert sorted(p.name for p in folder.iterdir()) == sorted(OUTPUTS)  # nothing is left over
    assert len(without_times(folder)) == 2 * 2 * 2
    for run in results["runs"]:
        assert run["finished"]
        assert run["parameters"] == 75_002
        assert len(run["layers"]) == 7
        for when in ("start", "end"):
            assert len(run["gradient_norms"][when]) == 7
            assert min(run["gradient_norms"][when]) > 0


def test_both_kinds_start_alike(finished):
    results, _ = finished
    plain, residual = (
        next(r for r in results["runs"] if r["kind"] == kind and r["seed"] == 0)
        for kind in ("plain", "residual")
    )
    assert plain["parameters"] == residual["parameters"]
    assert plain["multiply_adds"] == residual["multiply_adds"]
    assert plain["epochs"][0]["lr"] == residual["epochs"][0]["lr"]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.usefixtures("undrawn")
def test_resume_is_bit_for_bit(finished, tmp_path, steps):
    results, folder = finished
    with pytest.raises(Stop):
        run_study(SMALL, tmp_path, progress=StopAfter(steps))
    resumed, _ = resume_study(tmp_path)
    assert without_times(tmp_path) == without_times(folder)
    assert final_numbers(resumed) == final_numbers(results)


@pytest.mark.slow
def test_resume_after_kill_9(finished, tmp_path):
    """The command as users run it, its figures drawn."""
    results, folder = finished
    run = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "minires", "depth", "--depths", "8", "--limit", "96"),
        *("--seeds", "0,1", "--epochs", "2"),
    ]
    process = subprocess.Popen(
        [*command, "--out", str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/*.safetensors")):  # the first epoch is done
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        [*command, "--resume", str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in OUTPUTS:
        start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}.get(
            name.rpartition(".")[2], b""
        )
        assert (run / name).read_bytes().startswith(start), name
    stored = json.loads((run / "results.json").read_text())
    assert final_numbers(stored) == final_numbers(results)
    assert without_times(run) == without_times(folder)


@pytest.mark.usefixtures("undrawn")
def test_a_finished_study_resumes_to_itself(finished, tmp_path):
    results, folder = finished
    shutil.copy(folder / "results.json", tmp_path)
    again, _ = resume_study(tmp_path)
    assert again == results


@pytest.mark.usefixtures("undrawn")
def test_a_command_that_is_no_text_does_not_lose_the_report(finished, tmp_path):
    """A folder's name may be bytes that are not UTF-8: Python writes each as a lone surrogate."""
    folder = tmp_path / "run-\udcff" if sys.platform == "linux" else tmp_path / "run"
    folder.mkdir()
    results = json.loads((finished[1] / "results.json").read_text())
    results["command"] = "minires depth --out run-\udcff"
    store.save(results, folder)
    again, _ = resume_study(folder)
    assert again["command"] == results["command"]
    assert "--out run-\\udcff" in (folder / "report.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in folder.iterdir()) == sorted(OUTPUTS)


def test_a_folder_with_a_study_is_not_overwritten(finished):
    _, folder = finished
    with raises(CheckpointError, "holds a study already", "--resume"):
        run_study(SMALL, folder)


def test_a_folder_with_a_training_run_is_not_written_to(tmp_path):
    (tmp_path / "run.toml").write_text("")
    with raises(CheckpointError, "holds a training run. Choose another folder by --out"):
        run_study(SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_resume_with_other_settings_is_refused(finished):
    _, folder = finished
    for expect, words in (
        ({"depths": (20,)}, ["depths 8", "depths 20"]),
        ({"epochs": 3}, ["epochs 2", "epochs 3"]),
        ({"lr": 0.5}, ["lr 0.1", "lr 0.5"]),
        ({"augment": ("flip",)}, ["augment none", "augment flip"]),
        ({"protocol": "paper"}, ["protocol quick", "protocol paper"]),
        ({"shortcut": "B"}, ["shortcut A", "shortcut B"]),
    ):
        with raises(CheckpointError, "the settings it was started with", *words):
            resume_study(folder, expect=expect)


DAMAGE = {
    "no_json": (lambda text: text[: len(text) // 2], ["results.json is damaged"]),
    "empty": (lambda text: "", ["is damaged"]),
    "other_json": (lambda text: "[1, 2]", ["is damaged"]),
    "other_format": (lambda text: text.replace('"format": 1', '"format": 9'), ["format 1, got 9"]),
    "no_runs": (lambda text: text.replace('"kind"', '"kin"'), ["is damaged"]),
}


@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_resume_file_is_named(finished, tmp_path, case):
    _, folder = finished
    change, words = case
    (tmp_path / "results.json").write_text(change((folder / "results.json").read_text()))
    with raises(CheckpointError, *words):
        resume_study(tmp_path)


def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(tmp_path):
    with pytest.raises(Stop):
        run_study(SMALL, tmp_path, progress=StopAfter(2))
    before = (tmp_path / "results.json").read_text()
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with raises(CheckpointError, checkpoint.name):
        resume_study(tmp_path)
    assert (tmp_path / "results.json").read_text() == before


def test_no_study_there(tmp_path):
    with raises(CheckpointError, "no results.json"):
        resume_study(tmp_path / "nothing")


ERRORS = {
    "depth": ({"depths": (8, 21)}, ["6n+2", "21", "20 and 26"]),
    "kind": ({"kinds": ("plan",)}, ["unknown kind of network 'plan'", "did you mean plain"]),
    "shortcut": ({"shortcut": "C"}, ["unknown shortcut 'C'", "A, B"]),
    "dataset": ({"dataset": "digit"}, ["'digit'", "digits"]),
    "seeds": ({"seeds": (-1,)}, ["seed an integer >= 0"]),
    "none": ({"depths": ()}, ["at least one of depths"]),
    "twice": ({"depths": (8, 8)}, ["each of depths once"]),
    "limit": ({"limit": 5000}, ["1500"]),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_impossible_studies_are_refused_before_anything_is_written(tmp_path, case):
    options, words = case
    with raises(ArgumentError, *words):
        run_study(StudyConfig(**options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_share_a_folder(tmp_path):
    with claimed(tmp_path, "study"), raises(CheckpointError, "another process works in"):
        run_study(SMALL, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_studies_of_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {store.new_folder() for _ in range(5)}
    assert len(folders) == 5


def test_a_changed_number_is_noticed(finished, tmp_path):
    _, folder = finished
    text = (folder / "results.json").read_text()
    results = json.loads(text)
    results["runs"][0]["train_error"] = 0.5
    (tmp_path / "results.json").write_text(json.dumps(results))
    with raises(CheckpointError, "is damaged", "checksum"):
        resume_study(tmp_path)


@pytest.mark.slow
def test_a_diverging_network_does_not_cost_the_others_their_results(tmp_path, monkeypatch, request):
    def diverge(model, *args, **options):
        if "plain" in str(options["checkpoint"]):
            raise NaNError("epoch 1: the loss is nan")
        return fit(model, *args, **options)

    monkeypatch.setattr(network, "fit", diverge)
    config = dataclasses.replace(SMALL, seeds=(0,))
    with pytest.warns(UserWarning, match="plain-8: epoch 1: the loss is nan"):
        results, _ = run_study(config, tmp_path)
    plain, residual = results["runs"]
    assert plain["diverged"] == "epoch 1: the loss is nan"
    assert residual["finished"]
    assert (tmp_path / "report.html").exists()
    request.getfixturevalue("undrawn")
    again, _ = resume_study(tmp_path)  # by determinism it would diverge again: it is left alone
    assert again["runs"] == results["runs"]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_lost_checkpoint_is_mentioned(finished, tmp_path):
    results, _ = finished
    with pytest.raises(Stop):
        run_study(SMALL, tmp_path, progress=StopAfter(2))
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        checkpoint.unlink()
    with pytest.warns(UserWarning, match="is missing: plain-8 seed 0 starts again"):
        resumed, _ = resume_study(tmp_path)
    assert final_numbers(resumed) == final_numbers(results)


@pytest.mark.usefixtures("undrawn")
def test_other_versions_are_mentioned_and_kept(finished, tmp_path):
    results, _ = finished
    old = json.loads(json.dumps(results))
    old["environment"]["numpy"] = "1.0"
    store.save(old, tmp_path)
    with pytest.warns(UserWarning, match="numpy 1.0 → "):
        resumed, _ = resume_study(tmp_path)
    assert resumed["environment"]["numpy"] == "1.0"
    assert resumed["resumed_with"][0]["numpy"] == np.__version__


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with raises(CheckpointError, "file"):
        run_study(SMALL, tmp_path / "file" / "run")


def test_gradient_norms_leave_the_network_alone():
    net = cifar_plain(8, in_channels=1)
    x, y = mr.randn(6, 1, 8, 8), mr.tensor([0, 1, 2, 3, 4, 5])
    before = {name: t.data.copy() for name, t in net.state_dict().items()}
    norms = gradient_norms(net, x, y)
    for name, t in net.state_dict().items():
        np.testing.assert_array_equal(t.data, before[name])
    assert all(p.grad is None for p in net.parameters())
    net.train()
    mr.cross_entropy(net(x), y).backward()
    weights = dict(net.named_modules())
    expected = [np.linalg.norm(weights[n].weight.grad.data.ravel()) for n in conv_names(net)]
    np.testing.assert_allclose(norms, expected, rtol=1e-5)
