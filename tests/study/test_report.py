"""The report: self-contained, escaped, computed from the numbers, plain about what is missing."""

from __future__ import annotations

import base64
import re
from html import unescape

import pytest
from harness import Page

from minires.study import figures, report, tables


@pytest.fixture
def no_drawing(monkeypatch):
    """The words do not depend on the pictures, which take their time."""
    monkeypatch.setattr(figures, "render", lambda *_, **__: b"<svg/>")


def _text(html):
    return " ".join("".join(Page(html).text).split())


def _set(results, kind, depth, **values):
    for run in results["runs"]:
        if (run["kind"], run["depth"]) == (kind, depth):
            run.update(values)


@pytest.mark.usefixtures("no_drawing")
def test_write_report_writes_one_file(make_results, tmp_path):
    results = make_results(depths=(8, 20), epochs=2)
    path = report.write_report(results, tmp_path)
    assert path == tmp_path / "report.html"
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text(encoding="utf-8") == report.html(results)


@pytest.mark.slow
def test_nothing_outside_is_loaded(make_results):
    html = report.html(make_results(depths=(8, 20), epochs=2))
    page = Page(html)
    sources = [v for tag, name, v in page.attributes if name in ("src", "srcset")]
    assert len(sources) == 6
    for source in sources:
        head, _, data = source.partition(",")
        assert head == "data:image/svg+xml;base64"
        svg = base64.b64decode(data, validate=True).decode()
        assert "<svg" in svg
        assert not re.search(r'(href|src)="(?!#)', svg)
    links = [v for tag, name, v in page.attributes if name == "href"]
    assert set(links) == {"https://arxiv.org/abs/1512.03385"}
    assert "script" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'; img-src data:" in html


@pytest.mark.usefixtures("no_drawing")
def test_finding_table_and_recipe_are_the_numbers(make_results):
    results = make_results()
    _set(results, "plain", 56, train_error=0.8306, test_error=0.86, train_loss=2.2)
    _set(results, "residual", 56, train_error=0.0190)
    html = report.html(results)
    text, cells = _text(html), Page(html).rows
    for sentence in tables.findings(results):
        assert sentence in text
    assert "trains 81.2 points worse (one seed)" in text
    row = next(cells for cells in cells if cells[:2] == ["56", "plain"])
    assert row[2:6] == ["220,714", "83.06", "86.00", "2.2000"]
    assert row[7] == "22.50 M"
    for pair in (
        ["data set", "digits"],
        ["images", "1,500 for training, 297 for testing"],
        ["learning rate", "0.1"],
        ["weight decay", "0.0001"],
        ["warm-up epochs", "2"],
        ["cpu", "Example CPU @ 3 GHz"],
        ["commit", "unknown"],
        ["numpy", "2.4.6"],
    ):
        assert pair in cells
    assert "Command: minires depth" in text
    assert "A short schedule for a laptop." in text
    assert "one image is 0.067 and 0.34 points" in text
    assert "He et al. (2015, arXiv:1512.03385, Sec. 4.2 and Fig. 6)" in text
    assert "Not every run has finished" not in text


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    ("deepest", "words"),
    [
        (0.80, "It is in these results: the deepest plain network ends 79.0 points of final"),
        (0.015, "These results hardly show it: the deepest plain network ends 0.5 points"),
        (0.01, "It is not in these results: the deepest plain network trains no worse"),
        (0.0, "It is not in these results: the deepest plain network trains no worse"),
    ],
)
def test_degradation_is_claimed_only_where_it_is(make_results, deepest, words):
    results = make_results(depths=(8, 20), epochs=2)
    _set(results, "plain", 8, train_error=0.01)
    _set(results, "plain", 20, train_error=deepest)
    assert words in _text(report.html(results))


@pytest.mark.usefixtures("no_drawing")
def test_captions_are_computed(make_results):
    results = make_results(depths=(8, 20), epochs=2)
    _set(results, "plain", 8, train_error=0.01)
    _set(results, "plain", 20, train_error=0.031)
    _set(results, "residual", 8, train_error=0.02)
    _set(results, "residual", 20, train_error=0.005)
    _set(results, "plain", 20, gradient_norms={"start": [1500.0, *[7.0] * 17, 0.5]})
    _set(results, "residual", 20, gradient_norms={"start": [1.2, *[7.0] * 17, 0.5]})
    text = _text(report.html(results))
    assert "The deepest plain network trains 2.1 points worse than the best shallower one." in text
    assert "The deepest residual network trains 1.5 points better than the best shallower" in text
    assert "first layer over that of the last is 3,000 in plain-20 and 2.4 in residual-20" in text


@pytest.mark.usefixtures("no_drawing")
def test_seeds_change_the_words(make_results):
    one = _text(report.html(make_results(depths=(8,), epochs=2)))
    three = _text(report.html(make_results(depths=(8,), epochs=2, seeds=(0, 1, 2))))
    assert "with one seed there is no telling how much of a difference is luck" in one
    assert "3 seeds show the size of the spread" in three
    assert "mean ± standard deviation over the finished seeds" in three
    assert "bands their range" in three
    assert "±" not in one


@pytest.mark.usefixtures("no_drawing")
def test_unfinished_runs_are_named(make_results):
    results = make_results(done={("plain", 56, 0): 7, ("residual", 56, 0): None})
    html = report.html(results)
    assert "plain-56 (7 of 12 epochs), residual-56 (not started)" in _text(html)
    assert ["56", "plain", "220,714", "–", "–", "–", "–", "22.50 M"] in Page(html).rows


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    "options",
    [
        {"depths": (8,), "kinds": ("residual",), "epochs": 1},
        {"depths": (8,), "kinds": ("plain",), "done": {("plain", 8, 0): 3}},
        {"depths": (8,), "done": {("plain", 8, 0): None, ("residual", 8, 0): None}},
    ],
)
def test_small_studies_make_a_whole_report(make_results, options):
    text = _text(report.html(make_results(**options)))
    for heading in ("Final numbers", "Figures", "How to read these figures", "Recipe"):
        assert heading in text
    assert "too few finished plain networks" in text
    assert "nan" not in text.lower().split()


@pytest.mark.usefixtures("no_drawing")
def test_everything_from_the_results_is_escaped(make_results):
    evil = "<script>alert(\"&'1')</script>"
    results = make_results(depths=(8,), epochs=2)
    results["command"] = f"minires depth --out {evil}"
    results["config"]["dataset"] = evil
    results["config"]["shortcut"] = evil
    results["config"]["protocol"]["description"] = evil
    results["config"]["protocol"][evil] = evil
    results["environment"]["cpu"] = evil
    results["environment"][evil] = evil
    html = report.html(results)
    assert "<script" not in html
    assert unescape(_text(html)).count(evil) >= 8
