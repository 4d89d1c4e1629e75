"""Pages: values are escaped, nothing is loaded, and what is missing is an error."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import jinja2
import pytest
from harness import Page

from minires.report import page

TEMPLATES = sorted((Path(page.__file__).parent / "templates").glob("*.html"))
HOSTILE = (
    "</title></style></main><script>alert(\"&'1')</script>\"' onload=x {{ title }} {% block %}"
)


@pytest.fixture
def rendered(monkeypatch):
    """Renders the text of a template that stands beside the real ones."""
    environment = page._environment()
    real = environment.loader

    def render(template, /, **values):
        beside = jinja2.DictLoader({"mine.html": template})
        monkeypatch.setattr(environment, "loader", jinja2.ChoiceLoader([beside, real]))
        environment.cache.clear()
        return page.render("mine.html", **values)

    yield render
    environment.cache.clear()


BODY = '{% extends "page.html" %}{% block body %}<p id="{{ text }}">{{ text }}</p>{% endblock %}'


def test_values_are_never_markup(rendered):
    html = rendered(BODY, title=HOSTILE, text=HOSTILE)
    parsed = Page(html)  # tags nest
    assert "<script" not in html
    assert "".join(parsed.text).count(HOSTILE) == 3  # title, heading, body
    assert ("p", "id", HOSTILE) in parsed.attributes
    assert not [name for _, name, _ in parsed.attributes if name == "onload"]


FACTS = (
    '{% extends "page.html" %}{% from "parts.html" import facts, figure %}'
    "{% block body %}{{ facts(rows) }}{{ figure(svg, svg, text, text, text, text) }}{% endblock %}"
)


def test_parts_escape_as_well(rendered):
    rows = [(HOSTILE, "1"), ("2", HOSTILE)]
    html = rendered(FACTS, title="t", rows=rows, svg=b"<svg/>", text=HOSTILE)
    parsed = Page(html)
    assert "<script" not in html
    assert parsed.rows == [[HOSTILE, "1"], ["2", HOSTILE]]
    assert ("figure", "id", HOSTILE) in parsed.attributes
    assert ("img", "alt", HOSTILE) in parsed.attributes
    (caption,) = re.findall("<figcaption>.*</figcaption>", html)
    assert "".join(Page(caption).text) == f"{HOSTILE} {HOSTILE}"


def test_pictures_are_in_the_page(rendered):
    html = rendered(FACTS, title="t", rows=[], svg=b"<svg>\xe2\x88\x82</svg>", text="")
    (wide,) = (v for tag, name, v in Page(html).attributes if (tag, name) == ("img", "src"))
    (narrow,) = (v for tag, name, v in Page(html).attributes if name == "srcset")
    head, _, data = wide.partition(",")
    assert wide == narrow
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(data, validate=True) == b"<svg>\xe2\x88\x82</svg>"


def test_nothing_may_be_loaded(rendered):
    policies = [
        value
        for tag, name, value in Page(rendered(BODY, title="t", text="x")).attributes
        if (tag, name) == ("meta", "content") and "default-src" in value
    ]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


@pytest.mark.parametrize("text", ["{{ absent }}", "{{ row.absent }}", "{% if absent %}{% endif %}"])
def test_what_is_missing_is_an_error(rendered, text):
    with pytest.raises(jinja2.UndefinedError, match="absent"):
        rendered(text, row={})


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_leave_escaping_on(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe\b|autoescape|\bMarkup\b", text)
    assert "<script" not in text
    assert max(map(len, text.splitlines())) <= 100
