"""The benchmark beside other programs: what it runs, divides and refuses."""

from __future__ import annotations

import csv
import os

import pytest


@pytest.fixture
def busy(load):
    return load("busy")


def test_ratios_are_of_the_same_round(busy):
    line = busy.row([1.0, 2.0, 4.0], [2.0, 2.0, 12.0])
    assert line == {
        "seconds": "2",
        "ratio": "2.000",
        "ratio_p20": "1.400",
        "ratio_p80": "2.600",
        "rounds": 3,
    }


def test_others_are_there_and_gone_after(busy):
    with busy.beside(2) as others:
        assert all(other.poll() is None for other in others)
    assert all(other.returncode is not None for other in others)


@pytest.mark.slow
def test_a_line_for_each_work_and_load_a_column_for_each_side(busy, tmp_path, capsys, monkeypatch):
    small = busy.STEPS.replace("cifar_resnet20", "cifar_resnet8")  # four processes run it
    assert small != busy.STEPS
    monkeypatch.setattr(busy, "STEPS", small)
    options = ["--works", "infer-resnet20-1", "--busy", "0", "1", "--rounds", "1"]
    busy.main([*options, "--seconds", "0.05", "--results", str(tmp_path)])
    head, _, idle, loaded = capsys.readouterr().out.strip().splitlines()
    assert head == "| work | busy programs | own | passive |"
    assert idle.startswith("| infer-resnet20-1 | 0 | ")
    assert loaded.startswith("| infer-resnet20-1 | 1 | ")
    with open(tmp_path / "busy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["busy"], row["side"]) for row in rows] == [
        ("0", "own"), ("0", "passive"), ("1", "own"), ("1", "passive"),
    ]  # fmt: skip
    assert all(float(row["seconds"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--works", "train"], "unknown work 'train': did you mean train-resnet20"),
        (["--rounds", "0"], "busy: expected rounds >= 1"),
        (["--seconds", "nan"], "busy: expected rounds >= 1"),
        (["--busy", "-1"], "busy: expected rounds >= 1"),
        (["--against", os.devnull], "--against: expected a checkout of minires, got"),
    ],
)
def test_bad_options_are_one_line(busy, options, said):
    with pytest.raises(SystemExit, match=f"^error: {said}"):
        busy.main(options)
