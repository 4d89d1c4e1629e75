"""The words of the study in every language: the same keys and numbers, and a report in each."""

from __future__ import annotations

import dataclasses
import io
import re
import string

import pytest
from harness import Page
from rich.console import Console

from minires.errors import ArgumentError, CheckpointError
from minires.study import (
    PROTOCOLS,
    Protocol,
    StudyConfig,
    figures,
    report,
    resume_study,
    run_study,
    store,
    tables,
    words,
)

OTHERS = sorted(words.LANGUAGES.keys() - {"en"})
# What is the same word, or no word at all, in both languages.
ALIKE = {"plot.epoch", "epochs.one", "network.seed", "recipe.seeds"}


def placeholders(text: str) -> list[tuple[str, str]]:
    """The names in braces, each with its format."""
    parts = string.Formatter().parse(text)
    return sorted((name, spec or "") for _, name, spec, _ in parts if name is not None)


@pytest.mark.parametrize("lang", OTHERS)
def test_languages_have_the_same_keys_placeholders_and_markup(lang):
    table = words.LANGUAGES[lang]
    assert table.keys() == words.ENGLISH.keys()
    for key, text in words.ENGLISH.items():
        other = table[key]
        assert set(placeholders(other)) == set(placeholders(text)), key
        tags = re.compile(r"<[^>]+>")
        assert sorted(tags.findall(other)) == sorted(tags.findall(text)), key
        assert other != text or key in ALIKE, key


def test_vietnamese_is_written_with_its_letters():
    text = "".join(words.VIETNAMESE.values())
    assert text.isprintable() or "\n" in text
    # composed letters, as fonts and searches expect them: no letter with a combining mark
    assert not re.search("[\u0300-\u036f]", text)
    for term in ("huấn luyện", "kết nối tắt", "chuẩn hóa theo batch", "tiêu biến", "tích chập"):
        assert term in text


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_every_setting_of_a_protocol_has_a_name(lang):
    for field in dataclasses.fields(Protocol):
        if field.name != "description":
            assert f"recipe.{field.name}" in words.LANGUAGES[lang], field.name
    for name, protocol in PROTOCOLS.items():
        assert protocol.description == words.ENGLISH[f"about.{name}"]


def cells(html: str) -> list[list[str]]:
    return Page(html).rows


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d[\d,.]*\d|\d", text))


@pytest.mark.parametrize("lang", OTHERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seeds": (0, 1, 2)},
        {"depths": (8,), "kinds": ("plain",), "epochs": 1},
        {"done": {("plain", 56, 0): 7, ("residual", 56, 0): None}},
        {"depths": (8,), "done": {("plain", 8, 0): None, ("residual", 8, 0): None}},
    ],
)
def test_the_report_has_the_same_numbers_in_every_language(
    make_results, monkeypatch, lang, options
):
    monkeypatch.setattr(figures, "render", lambda *_, **__: b"<svg/>")
    results = make_results(**options)
    results["config"]["protocol"]["description"] = PROTOCOLS["quick"].description
    english, other = report.html(results), report.html({**results, "lang": lang})
    assert '<html lang="en">' in english
    assert f'<html lang="{lang}">' in other
    for ours, theirs in zip(cells(other), cells(english), strict=True):
        assert numbers(" ".join(ours)) == numbers(" ".join(theirs))
    for ours, theirs in zip(
        tables.findings({**results, "lang": lang}), tables.findings(results), strict=True
    ):
        assert set(numbers(ours)) == set(numbers(theirs))


def test_no_english_is_left_in_the_report_in_vietnamese(make_results, monkeypatch):
    monkeypatch.setattr(figures, "render", lambda *_, **__: b"<svg/>")
    results = {**make_results(seeds=(0, 1)), "lang": "vi"}
    results["config"]["protocol"]["description"] = PROTOCOLS["quick"].description
    text = " ".join("".join(Page(report.html(results)).text).split())
    text = text.partition("Môi trường")[0]
    for word in (" the ", " and ", " of ", "network", "training", "error", "seeds", "residual"):
        assert word not in text, word
    assert "Mạng thường và mạng phần dư: digits" in text
    assert "Hình 1. Lỗi huấn luyện tích lũy" in text


def test_figures_are_in_the_language(make_results):
    results = make_results(depths=(8, 20), epochs=2)
    for name, english, vietnamese in [
        ("curves", "running training error, test error (%)", "lỗi huấn luyện tích lũy"),
        ("error_by_depth", "depth (layers with weights)", "độ sâu (số tầng có trọng số)"),
        ("gradient_norms", "Plain networks, start of training", "Mạng thường, đầu huấn luyện"),
    ]:
        svg = figures.render({**results, "lang": "vi"}, name, "svg").decode()
        assert vietnamese in svg
        assert english not in svg


def test_the_table_is_in_the_language(make_results):
    results = {**make_results(seeds=(0, 1)), "lang": "vi"}
    out = io.StringIO()
    tables.print_table(results, Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for word in ("độ sâu", "thường", "phần dư", "tham số", "mất mát", "Lỗi: trung bình ±"):
        assert word in text
    assert "error" not in text


TINY = StudyConfig(
    depths=(8,), kinds=("plain",), limit=32, protocol=PROTOCOLS["quick"].with_epochs(1)
)


def test_a_resumed_study_keeps_its_language_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "render", lambda *_, **__: b"<svg/>")
    folder = tmp_path / "run"

    def page() -> str:
        return (folder / "report.html").read_text(encoding="utf-8")

    run_study(TINY, folder, lang="vi")
    assert '<html lang="vi">' in page()
    before = (folder / "results.csv").read_bytes()
    resume_study(folder)
    assert '<html lang="vi">' in page()
    resume_study(folder, lang="en")
    assert '<html lang="en">' in page()
    assert store.load(folder)["lang"] == "en"
    assert (folder / "results.csv").read_bytes() == before


def test_a_study_from_before_there_were_languages_is_english(make_results):
    results = make_results(depths=(8,), epochs=1)
    assert "lang" not in results
    assert words.of(results).lang == "en"


@pytest.mark.parametrize("wrong", ["vn", "", "Vietnamese", 3])
def test_an_unknown_language_is_an_error_that_names_the_known_ones(tmp_path, wrong):
    folder = tmp_path / "run"
    with pytest.raises(ArgumentError, match=r"language.*en.*vi"):
        run_study(TINY, folder, lang=wrong)
    assert not folder.exists()
    with pytest.raises(ArgumentError, match=r"language.*en.*vi"):
        resume_study(folder, lang=wrong)


def test_a_stored_language_is_checked(make_results, tmp_path):
    results = {**make_results(depths=(8,), epochs=1), "lang": "xx"}
    store.save(results, tmp_path)
    with pytest.raises(CheckpointError, match="lang"):
        store.load(tmp_path)
