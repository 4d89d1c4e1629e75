"""The report of the command: the same facts as a page and as data, and errors before the work."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from harness import Page, raises

from minires.device import _kernel_module
from minires.errors import ArgumentError, CheckpointError
from minires.identity import singular_values
from minires.identity.figures import example_split
from minires.selfcheck import gallery, page, plan


@pytest.fixture(scope="module")
def result():
    return plan(["relu", "neg", "ReLU"]).run()


@pytest.fixture
def failing(monkeypatch):
    kernel = _kernel_module("relu", "numba")
    good = kernel.relu_bwd_x

    def bad(gy, y, gx):
        good(gy, y, gx)
        gx *= 3

    monkeypatch.setattr(kernel, "relu_bwd_x", bad)
    return plan(["relu"]).run()


def test_page_has_every_line_and_refers_to_nothing_outside(result, tmp_path):
    path = tmp_path / "a" / "report.html"
    page.write(path, result, "minires gradcheck <all>")
    html = path.read_text(encoding="utf-8")
    parsed = Page(html)
    text = " ".join("".join(parsed.text).split())
    assert "Operations" in text
    assert "Layers" in text
    assert result.summary() in text
    assert "minires gradcheck <all>" in text
    assert "What fails" not in text
    lines = [row for row in parsed.rows if len(row) == 10 and row[1] in ("numpy", "numba")]
    assert len(lines) == len(result.rows())
    entries = f"{result.rows()[0].entries:,}"
    assert ["x", "numpy", "ok", entries, "0", "complex", "0"] == lines[0][:7]
    assert lines[1][0] == ""  # the argument's name is said once
    assert "default-src 'none'" in html
    for tag, name, value in parsed.attributes:
        if name in ("src", "srcset"):
            assert value.startswith("data:"), f"{tag} loads {value}"
        assert name != "onload"


def test_page_shows_failures(failing, tmp_path):
    path = tmp_path / "report.html"
    page.write(path, failing, "minires gradcheck relu")
    parsed = Page(path.read_text(encoding="utf-8"))
    text = "".join(parsed.text)
    assert "What fails" in text
    assert failing.failures()[0] in text
    assert [row[2] for row in parsed.rows if len(row) == 10][1:] == ["ok", "FAIL"]
    assert ("p", "class", "warning") in parsed.attributes


def test_json_has_the_same_facts(failing, tmp_path):
    path = tmp_path / "report.json"
    page.write(path, failing, "minires gradcheck relu")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["command"] == "minires gradcheck relu"
    assert data["ok"] is False
    assert data["failures"] == failing.failures()
    assert [(r["name"], r["argument"], r["backend"], r["ok"]) for r in data["rows"]] == [
        ("relu", "x", "numpy", True),
        ("relu", "x", "numba", False),
    ]
    assert data["rows"][0]["references"] == ["complex step"]
    assert "numpy" in data["environment"]


@pytest.fixture(scope="module")
def small_gallery():
    """Little numbers and no pictures; the real ones have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "to_bytes", lambda *_: b"<svg/>")
        patch.setattr(gallery.identity, "singular_values", small_spectra)
        patch.setattr(gallery.figures, "example_split", small_split)
        return gallery.hang({"PreActBlock", "CifarNet"})


def small_spectra(**options):
    return singular_values((2, 3), shape=(2, 2, 2), **options)


def small_split(**options):
    return example_split(8, 2, 1, **options)


@pytest.mark.slow
def test_identity_path_on_the_page(result, small_gallery, tmp_path):
    path = tmp_path / "report.html"
    page.write(path, result, "minires gradcheck", small_gallery)
    parsed = Page(path.read_text(encoding="utf-8"))
    text = " ".join("".join(parsed.text).split())
    assert "In 12 blocks both sides were compared, entry by entry." in text
    for number, title in enumerate(
        ("The Jacobian of PreActBlock", "Singular values", "The gradient by path length"), 1
    ):
        assert f"Figure {number}. {title}" in text
    rows = [row for row in parsed.rows if len(row) == 9][1:]
    assert len(rows) == 12  # shortcut x stride x mode
    assert rows[0][:6] == ["train", "A", "1", "identity", rows[0][4], "yes"]
    assert {row[-1] for row in rows} == {"ok"}
    pictures = [a for a in parsed.attributes if a[1] in ("src", "srcset")]
    assert len(pictures) == 2 * (3 + 1)  # and the errors


@pytest.mark.slow
def test_a_proof_that_fails_is_on_the_page(result, small_gallery, tmp_path):
    broken = replace(small_gallery.proofs[3], bitwise=False, faults=("the skip is dropped",))
    failing = replace(small_gallery, proofs=[*small_gallery.proofs[:3], broken])
    assert not failing.ok
    path = tmp_path / "report.html"
    page.write(path, result, "minires gradcheck", failing)
    text = " ".join("".join(Page(path.read_text(encoding="utf-8")).text).split())
    assert "1 of 4 proofs do not hold." in text
    assert "What fails" in text
    assert "the skip is dropped" in text
    page.write(tmp_path / "report.json", result, "minires gradcheck", failing)
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["ok"] is False
    assert [proof["ok"] for proof in data["identity"]["proofs"]] == [True, True, True, False]
    assert data["identity"]["path_lengths"]["paths"] == [1, 3, 3, 1]
    assert data["identity"]["singular_values"]["depths"] == [2, 3]


def test_json_is_strict(result, tmp_path, monkeypatch):
    rows = result.rows()
    rows[0].relative, rows[0].second = float("nan"), float("inf")
    monkeypatch.setattr(type(result), "rows", lambda self: rows)
    page.write(tmp_path / "report.json", result, "minires gradcheck")

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert (data["rows"][0]["relative"], data["rows"][0]["second"]) == ("nan", "inf")


def test_paths_are_checked_before_the_work(tmp_path):
    for name in ("report.pdf", "report", "report.HTML.txt"):
        with raises(ArgumentError, "--report", ".html or .json", name):
            page.check_path(tmp_path / name)
    (tmp_path / "file").write_text("")
    with raises(CheckpointError, str(tmp_path / "file")):
        page.check_path(tmp_path / "file" / "report.html")
    (tmp_path / "folder.json").mkdir()
    with raises(CheckpointError, "folder.json"):
        page.check_path(tmp_path / "folder.json")
    page.check_path(tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()
