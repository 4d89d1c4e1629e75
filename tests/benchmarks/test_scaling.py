"""The benchmark of several processes: what it divides, shows, checks and refuses."""

from __future__ import annotations

import csv

import pytest


@pytest.fixture
def scaling(load):
    return load("scaling")


def test_ratios_are_of_the_same_round(scaling):
    rounds = [
        {"2 ranks": (1.0, 0.1, 1e-15), "1 process": (2.0, 0.0, 0.0)},
        {"2 ranks": (2.0, 0.3, 1e-14), "1 process": (2.0, 0.0, 0.0)},
        {"2 ranks": (3.0, 0.2, 0.0), "1 process": (1.0, 0.0, 0.0)},
    ]
    line = scaling.row("step", rounds)
    assert (line["seconds"], line["other_seconds"], line["rounds"]) == ("2", "2", 3)
    assert (line["ratio"], line["ratio_p20"], line["ratio_p80"]) == ("1.000", "0.700", "2.200")
    assert line["difference"] == "1e-14"
    share = scaling.row("share", [{"2 ranks": each["2 ranks"]} for each in rounds])
    assert (share["ratio"], share["other"]) == ("0.200", "")


def test_every_work_has_its_sides_and_its_limit(scaling):
    assert set(scaling.WORKS) == set(scaling.SIDES) == set(scaling.MUST)


@pytest.mark.slow
def test_two_ranks_agree_with_the_reference_before_they_are_timed(
    scaling, tmp_path, capsys, monkeypatch
):
    small = scaling.STEPS.replace("128, np.float32, 20, 32", "16, np.float32, 8, 16")
    assert small != scaling.STEPS
    monkeypatch.setattr(scaling, "STEPS", small)
    options = ["--works", "share", "--rounds", "1", "--seconds", "0.1"]
    scaling.main([*options, "--results", str(tmp_path)])
    head, _, line = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| work | busy programs |")
    assert line.startswith("| share: 2 ranks | 0 | ")
    with open(tmp_path / "scaling.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["ratio"]) < 1
    assert 0 < float(row["difference"]) < 1e-12  # equal bits would mean that nothing was compared

    monkeypatch.setattr(scaling, "STEPS", small.replace("LIMIT = 1e-12", "LIMIT = 0.0"))
    with pytest.raises(SystemExit, match=r"scaling: expected one process's weights to 0\.0, got"):
        scaling.main([*options, "--results", str(tmp_path)])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--works", "steps"], "unknown work 'steps': did you mean step"),
        (["--rounds", "0"], "scaling: expected rounds >= 1"),
        (["--seconds", "nan"], "scaling: expected rounds >= 1"),
        (["--busy", "-1"], "scaling: expected rounds >= 1"),
    ],
)
def test_bad_options_are_one_line(scaling, options, said):
    with pytest.raises(SystemExit, match=f"^error: {said}"):
        scaling.main(options)
