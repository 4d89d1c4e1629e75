"""The study's rows, sentences, printed table and CSV, against numbers worked out by hand."""

from __future__ import annotations

import copy
import csv
import io

import pytest

from minires.study import tables


def _set(results, kind, depth, seed, **values):
    for run in results["runs"]:
        if (run["kind"], run["depth"], run["seed"]) == (kind, depth, seed):
            run.update(values)


def _printed(results, width=80):
    from rich.console import Console

    stream = io.StringIO()
    tables.print_table(results, Console(file=stream, width=width))
    return stream.getvalue()


def _one_line(text):
    return " ".join(text.split())


def test_rows_are_ordered_and_aggregated_over_seeds(make_results):
    results = make_results(depths=(20, 8), seeds=(2, 0, 1))
    for seed, error in enumerate((0.01, 0.02, 0.06)):
        _set(results, "plain", 8, seed, train_error=error, seconds=10.0 * (seed + 1))
    rows = tables.rows(results)
    order = [(row["depth"], row["kind"]) for row in rows]
    assert order == [(8, "plain"), (8, "residual"), (20, "plain"), (20, "residual")]
    row = rows[0]
    assert (row["parameters"], row["seeds"], row["unfinished"]) == (28_714, 3, 0)
    # sum of squared deviations from 0.03: 0.0004 + 0.0001 + 0.0009, over n - 1 = 2
    expected = {"mean": 0.03, "min": 0.01, "max": 0.06, "std": 0.0007**0.5}
    assert row["train_error"] == pytest.approx(expected)
    assert row["seconds"] == pytest.approx({"mean": 20, "min": 10, "max": 30, "std": 10})


def test_a_single_seed_has_no_spread(make_results):
    row = tables.rows(make_results(depths=(8,), kinds=("residual",)))[0]
    for measure in ("train_error", "test_error", "train_loss", "seconds"):
        assert row[measure]["mean"] == row[measure]["min"] == row[measure]["max"]
        assert row[measure]["std"] == 0


def test_unfinished_runs_do_not_enter_the_means(make_results):
    results = make_results(seeds=(0, 1), done={("plain", 56, 1): 7})
    full = {(r["depth"], r["kind"]): r for r in tables.rows(results)}
    assert (full[56, "plain"]["seeds"], full[56, "plain"]["unfinished"]) == (1, 1)
    seed_0 = next(r for r in results["runs"] if (r["kind"], r["depth"]) == ("plain", 56))
    assert full[56, "plain"]["train_error"]["mean"] == seed_0["train_error"]


def test_unfinished_names_every_planned_run_without_a_result(make_results):
    results = make_results(done={("plain", 56, 0): 7, ("residual", 56, 0): None})
    assert tables.unfinished(results) == ["plain-56 (7 of 12 epochs)", "residual-56 (not started)"]
    several = make_results(depths=(8,), seeds=(0, 1), done={("plain", 8, 1): 1})
    assert tables.unfinished(several) == ["plain-8 seed 1 (1 of 12 epochs)"]
    assert tables.unfinished(make_results()) == []


def test_the_headline_compares_the_deepest_pair(make_results):
    results = make_results()
    _set(results, "plain", 56, 0, train_error=0.8306)
    _set(results, "residual", 56, 0, train_error=0.0190)
    _set(results, "plain", 8, 0, train_error=0.0)
    _set(results, "residual", 8, 0, train_error=0.019)
    assert tables.findings(results) == [
        "Plain-56 ends with 83.1% final training error and residual-56 with 1.9%: with the same "
        "recipe, the plain network trains 81.2 points worse (one seed).",
        "The final training error of plain networks rises from 0.0% at depth 8 to 83.1% at depth "
        "56; that of residual networks is 1.9% both at depth 8 and at depth 56.",
    ]


@pytest.mark.parametrize(
    ("plain", "residual", "words"),
    [
        (0.10, 0.30, "the plain network trains 20.0 points better (one seed)"),
        (0.1001, 0.1004, "both train equally well to a tenth of a point (one seed)"),
    ],
)
def test_the_headline_says_what_the_numbers_say(make_results, plain, residual, words):
    results = make_results(depths=(8,))
    _set(results, "plain", 8, 0, train_error=plain)
    _set(results, "residual", 8, 0, train_error=residual)
    (headline,) = tables.findings(results)
    assert words in headline


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ((0.5, 0.4), "mean of 2 seeds, no overlap between the kinds"),
        ((0.5, 0.1), "mean of 2 seeds, the kinds' ranges overlap"),
    ],
)
def test_several_seeds_are_weighed(make_results, plain, words):
    results = make_results(depths=(8,), seeds=(0, 1))
    for seed in (0, 1):
        _set(results, "plain", 8, seed, train_error=plain[seed])
        _set(results, "residual", 8, seed, train_error=(0.05, 0.2)[seed])
    assert words in tables.findings(results)[0]


def test_falling_errors_are_called_falling(make_results):
    results = make_results(depths=(8, 20), kinds=("residual",))
    _set(results, "residual", 8, 0, train_error=0.2)
    _set(results, "residual", 20, 0, train_error=0.1, test_error=0.15)
    assert tables.findings(results) == [
        "Residual-20 ends with 10.0% final training error and 15.0% final test error (one seed).",
        "The final training error of residual networks falls from 20.0% at depth 8 to 10.0% at "
        "depth 20.",
    ]


def test_nothing_finished_is_said(make_results):
    results = make_results(depths=(8,), kinds=("plain",), done={("plain", 8, 0): 3})
    assert tables.findings(results) == ["No run has finished yet, so there is nothing to compare."]
    assert tables.degradation(results) is None
    assert "Without a final result: plain-8 (3 of 12 epochs)." in _one_line(_printed(results))


def test_degradation_is_measured_against_the_best_shallower_network(make_results):
    results = make_results(depths=(8, 20, 32))
    for depth, error in ((8, 0.03), (20, 0.01), (32, 0.05)):
        _set(results, "plain", depth, 0, train_error=error)
    assert tables.degradation(results) == pytest.approx(4.0)
    _set(results, "plain", 32, 0, train_error=0.0)
    assert tables.degradation(results) == pytest.approx(-1.0)


def test_printed_table_of_one_seed(make_results):
    results = make_results()
    _set(results, "plain", 56, 0, train_error=0.83064, test_error=0.85, train_loss=2.25129)
    text = _printed(results)
    line = next(line for line in text.splitlines() if line.strip().startswith("56"))
    assert line.split()[:6] == ["56", "plain", "220,714", "83.06", "85.00", "2.2513"]
    assert sum(set(line.strip()) == {"─"} for line in text.splitlines()) == 4  # head, 3 x between
    assert text.splitlines()[0].strip() == "Plain versus residual networks: digits"
    assert tables.findings(results)[0] in _one_line(text)


def test_printed_table_of_several_seeds_fits_80_columns(make_results):
    text = _printed(make_results(seeds=(0, 1, 2), done={("plain", 56, 2): 5}))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "Errors: mean ± standard deviation over the finished seeds" in text
    assert "plain-56 seed 2 (5 of 12 epochs)" in _one_line(text)
    row = next(line for line in text.splitlines() if line.strip().startswith("56"))
    assert row.count("±") == 2


def test_user_text_is_not_read_as_markup(make_results):
    results = make_results(depths=(8,))
    results["config"]["dataset"] = "[red]x[/red]"
    assert "[red]x[/red]" in _printed(results)


def test_csv_has_every_epoch_exactly(make_results, tmp_path):
    results = make_results(seeds=(0, 1), done={("plain", 56, 1): 7})
    tables.write_csv(results, tmp_path / "results.csv")
    text = (tmp_path / "results.csv").read_bytes().decode()
    assert "\r" not in text
    assert text.splitlines()[0] == (
        "dataset,train_size,test_size,kind,depth,shortcut,seed,parameters,epoch,lr,train_loss,"
        "train_error,test_loss,test_error,seconds,protocol,protocol_epochs,protocol_batch_size,"
        "protocol_lr,protocol_momentum,protocol_weight_decay,protocol_schedule,"
        "protocol_warmup_epochs,protocol_warmup_rule,protocol_normalize,protocol_augment,"
        "protocol_optimizer,protocol_label_smoothing,"
        "minires,commit,python,numpy,numba,platform,cpu,threads"
    )
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 15 * 12 + 7
    by_key = {(r["kind"], int(r["depth"]), int(r["seed"]), int(r["epoch"])): r for r in lines}
    assert len(by_key) == len(lines)
    for run in results["runs"]:
        for epoch in run["epochs"]:
            line = by_key[run["kind"], run["depth"], run["seed"], epoch["epoch"]]
            for name in ("lr", "train_loss", "train_error", "test_loss", "test_error", "seconds"):
                assert line[name] == repr(epoch[name])
            assert line["parameters"] == str(run["parameters"])
            assert line["shortcut"] == ("A" if run["kind"] == "residual" else "none")
            assert (line["dataset"], line["protocol"]) == ("digits", "quick")
            assert (line["protocol_lr"], line["train_size"]) == ("0.1", "1500")
            assert (line["numpy"], line["commit"]) == ("2.4.6", "")


def test_csv_does_not_depend_on_the_order_of_the_runs(make_results, tmp_path):
    results = make_results(seeds=(0, 1))
    turned = {**results, "runs": results["runs"][::-1]}
    tables.write_csv(results, tmp_path / "a.csv")
    tables.write_csv(turned, tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_csv_shows_a_difference_in_the_last_bit(make_results, tmp_path):
    results = make_results(depths=(8,))
    other = copy.deepcopy(results)
    record = other["runs"][0]["epochs"][5]
    record["train_loss"] *= 1 + 2**-52
    tables.write_csv(results, tmp_path / "a.csv")
    tables.write_csv(other, tmp_path / "b.csv")
    a, b = ((tmp_path / f"{name}.csv").read_text().splitlines() for name in "ab")
    assert sum(x != y for x, y in zip(a, b)) == 1


def test_functions_leave_the_results_alone(make_results, tmp_path):
    results = make_results(seeds=(0, 1))
    before = copy.deepcopy(results)
    tables.write_csv(results, tmp_path / "a.csv")
    _printed(results)
    assert results == before
