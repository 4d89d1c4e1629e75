"""A study whose networks are spread over several processes."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
from types import SimpleNamespace

import pytest
from distributed import harness

from minires.study import PROTOCOLS, StudyConfig, resume_study, run_study, runner

TIMES = ("seconds", "created", "command", "checksum", "environment", "resumed_with")

START = """
import dataclasses, os, signal, sys, time, warnings
from minires.cli import main
from minires.distributed import current_group
from minires.errors import MiniresError, NaNError
from minires.study import PROTOCOLS, StudyConfig, network, resume_study, run_study, runner, spread
runner.figures.render = lambda *args, **options: b"<svg/>"
group, out = current_group(), sys.argv[1]
config = StudyConfig(
    depths=(8,), limit=96, protocol=PROTOCOLS["quick"].with_epochs(2), seeds=(0, 1)
)

def say(*words):
    print(f"rank {group.rank}:", *words, flush=True)

def on_rank(rank, what):
    '''Let ``what(name)`` happen on a rank, after the first epoch of each network there.'''
    fit = network.fit
    def changed(*args, on_epoch, checkpoint, **options):
        first = True
        def after(row):
            nonlocal first
            on_epoch(row)
            if group.rank == rank and first:
                first = False
                what(checkpoint.name)
        return fit(*args, on_epoch=after, checkpoint=checkpoint, **options)
    network.fit = changed
    return fit
"""

# What one start can show, since a study ends alike on all ranks, whatever it ends by.
MANY = """
results, folder = run_study(config, f"{out}/two")
say("has", folder, [run["finished"] for run in results["runs"]])

def complain(name):
    for _ in range(2):
        warnings.warn("this is odd", UserWarning, stacklevel=1)
    if name.startswith("plain-8-seed0"):
        raise NaNError("epoch 2: the loss is nan")
fit = on_rank(1, complain)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    run_study(config, f"{out}/odd")
say("was warned of", sorted(str(each.message) for each in caught))
network.fit = fit

def fail(name):
    raise KeyError("planted")
on_rank(1, fail)
try:
    run_study(config, f"{out}/failed")
except Exception as error:
    say("fails:", type(error).__name__, error)
network.fit = fit

def refused(name, changed, *, device="cpu"):
    try:
        run_study(changed, f"{out}/refused", device=device)
    except MiniresError as error:
        say(name, type(error).__name__, error)

refused("settings", dataclasses.replace(config, seeds=(group.rank,)))
refused("depth", dataclasses.replace(config, depths=(8 + group.rank,)))
load = runner._load
runner._load = lambda config: [part.limit(90 - group.rank) for part in load(config)]
refused("images", config)
runner._load = load

main(["depth", "--depths", "8", "--kinds", "plain", "--epochs", "1", "--limit", "32",
      "--out", f"{out}/one"])
"""


SMALL = StudyConfig(depths=(8,), limit=96, protocol=PROTOCOLS["quick"].with_epochs(2), seeds=(0, 1))


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Figures are empty: drawing them takes most of the time of small studies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.figures, "render", lambda *args, **options: b"<svg/>")
        yield


@pytest.fixture(scope="module")
def one(tmp_path_factory, undrawn):
    """The folder of a study by one process."""
    _, folder = run_study(SMALL, tmp_path_factory.mktemp("one") / "run")
    return folder


@pytest.fixture
def expected(one):
    return timeless(stored(one))


def timeless(value):
    if isinstance(value, dict):
        return {name: timeless(entry) for name, entry in value.items() if name not in TIMES}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def stored(folder):
    return json.loads((folder / "results.json").read_text())


def said(done, rank, what):
    """What a rank said of something; it said it once."""
    (line,) = (each for each in done.stdout.splitlines() if each.startswith(f"rank {rank}: {what}"))
    return line.removeprefix(f"rank {rank}: {what} ")


def test_two_ranks_have_the_results_of_one_and_end_alike_whatever_it_is_by(tmp_path, one, expected):
    done = harness.script(2, START + MANY, tmp_path)
    note = "note: study: 1 network to train on 2 ranks: 1 rank has nothing to do."
    assert (done.rc, done.stderr) == (0, f"{note}\n")
    two = stored(tmp_path / "two")
    assert timeless(two) == expected
    assert two["environment"]["ranks"] == 2
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in one.iterdir()
    )
    for rank in (0, 1):
        assert said(done, rank, "has") == f"{tmp_path}/two [True, True, True, True]"

    odd = timeless(stored(tmp_path / "odd"))["runs"]
    assert odd[0]["diverged"] == "epoch 2: the loss is nan"
    assert odd[0]["epochs"] == expected["runs"][0]["epochs"][:1]
    assert odd[1:] == expected["runs"][1:]
    texts = ["plain-8: epoch 2: the loss is nan", "this is odd"]
    assert said(done, 0, "was warned of") == str(texts)
    assert said(done, 1, "was warned of") == "[]"

    assert said(done, 0, "fails:") == "DistributedError rank 1: KeyError: 'planted'"
    assert said(done, 1, "fails:") == "KeyError 'planted'"
    for what, fix in (
        ("settings", "Start all ranks with the same options."),
        ("images", "Give all ranks the same data sets."),
    ):
        for rank in (0, 1):
            text = f"study: expected the same {what} on all 2 ranks, got others on rank 1. {fix}"
            assert text in said(done, rank, what)
    assert said(done, 0, "depth").startswith("ArgumentError rank 1: ")
    assert "6n+2" in said(done, 1, "depth")
    assert not (tmp_path / "refused").exists()
    assert done.stdout.count("plain-8: epoch 1 of 1") == 1
    assert done.stdout.count("Report: ") == 1


COMMAND = ["depth", "--depths", "8", "--seeds", "0,1", "--epochs", "2", "--limit", "96"]
STOPPED = """
on_rank(group.rank, lambda name: time.sleep(60))
main()
"""
KILLED = """
on_rank(1, lambda name: os.kill(os.getpid(), signal.SIGKILL))
main()
"""


def test_a_study_that_was_stopped_goes_on_with_any_number_of_ranks(tmp_path, expected):
    folder = tmp_path / "run"
    words = [sys.executable, "-c", START + STOPPED, *COMMAND, "--out", folder]
    with harness.started(3, words) as job:
        job.until("epoch 1 of 2", timeout=60)
        while len(list(folder.glob("checkpoints/*.safetensors"))) < 3:
            time.sleep(0.05)
        job.signal(signal.SIGINT)
        done = job.wait(20)
    assert done.rc != 0  # 130, unless the launcher was told of a rank that it killed first
    hint = f"To go on after a stop: the same command, --resume {folder}."
    assert done.stdout.count(f"3 ranks share the networks out. {hint}") == 1
    assert done.stderr.count("Stopped.") == done.stderr.count("Go on with: minires depth") == 1
    assert not any(run["finished"] for run in stored(folder)["runs"])

    words = [sys.executable, "-c", START + KILLED, *COMMAND, "--resume", folder]
    with harness.started(2, words) as job:
        done = job.wait(60)
    assert done.rc != 0
    assert "seed 0: going on after epoch 1 of 2" in done.stdout
    assert not any("diverged" in run for run in stored(folder)["runs"])

    results, _ = resume_study(folder)
    assert timeless(results) == expected


def test_a_rank_that_is_stopped_does_not_say_that_nothing_was_saved(monkeypatch, capsys):
    def stopped(*args, **options):
        raise KeyboardInterrupt

    command = importlib.import_module("minires.cli.depth")
    monkeypatch.setattr("minires.study.run_study", stopped)
    for rank, words in ((0, "Stopped. Nothing was saved yet"), (1, "Stopped.\n")):
        monkeypatch.setattr(command, "current_group", lambda rank=rank: SimpleNamespace(rank=rank))
        with pytest.raises(SystemExit):
            command.depth()
        assert words in capsys.readouterr().err
