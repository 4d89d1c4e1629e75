"""The site: what its hooks make of the pages. That all of it builds is the business of .ci/run."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minires import Tensor, nn, ops, optim

pytest.importorskip("griffe")
pytest.importorskip("latex2mathml")

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of docs/site by its name, imported as MkDocs does."""
    monkeypatch.syspath_prepend(DOCS / "site")
    return importlib.import_module


def page(name: str) -> Any:
    return SimpleNamespace(file=SimpleNamespace(src_uri=name))


def reference(site: Any, name: str) -> str:
    text = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
    return site("hooks").on_page_markdown(text, page(f"reference/{name}.md"), None, None)


def test_the_reference_has_every_operation(site):
    text = reference(site, "operations")
    for name in dir(ops):
        thing = getattr(ops, name)
        if callable(thing) and name[0] != "_" and thing.__module__.startswith("minires"):
            assert f"{{ #minires.ops.{name} }}" in text, name
            assert f"{{ #minires.{name} }}" in text, name


@pytest.mark.parametrize(("name", "package"), [("nn", nn), ("optim", optim)])
def test_the_reference_has_every_class(site, name, package):
    text = reference(site, name)
    for member in package.__all__:
        thing = getattr(package, member)
        if isinstance(thing, type):
            assert f"::: {thing.__module__}.{thing.__qualname__}\n" in text, member


def test_the_reference_has_methods_that_operations_bind(site):
    text = reference(site, "tensors")
    for name in dir(Tensor):
        home = getattr(getattr(Tensor, name), "__module__", None) or ""
        if home.startswith("minires.ops"):
            assert name[0] == "_" or f"`{name}`" in text, name


def test_what_is_only_imported_is_not_offered(site):
    names = site("reference").public_names("minires.nn.init")
    assert "kaiming_normal_" in names
    assert "as_integer" not in names
    assert "is_array" not in names


def test_a_second_name_points_to_the_first(site):
    entry = site("reference")._entry("minires.ops", "cat")
    assert "Another name of [`concatenate`][minires.ops." in entry


def test_docstrings_become_markdown(site):
    text = site("docstrings").markdown(
        "As :func:`~minires.nn.Module.to` and :func:`fit`::\n\n    y = x\n\n>>> 1\n1\n\nEnd.", "a.b"
    )
    assert '<autoref optional identifier="minires.nn.Module.to"><code>to</code></autoref>' in text
    assert '<autoref optional identifier="a.b.fit"><code>fit</code></autoref>:\n\n    y' in text
    assert text.endswith("```pycon\n>>> 1\n1\n```\n\nEnd.")


def test_a_file_of_the_repository_is_a_page_with_its_own_links(site):
    text = site("hooks").on_page_markdown("", page("contributing.md"), None, None)
    assert "](architecture.md)" in text
    assert "](docs/" not in text
    moved = site("hooks")._moved
    link = site("hooks")._LINK.match
    for before, after in [
        ("[a](../docs/cuda.md#b)", "[a](cuda.md#b)"),
        ("[a](../CONTRIBUTING.md)", "[a](contributing.md)"),
        ("[a](#there)", "[a](#there)"),
        ("[a](https://arxiv.org/abs/1)", "[a](https://arxiv.org/abs/1)"),
        ("[a](harness.py)", "a"),
    ]:
        assert moved(link(before), "benchmarks") == after


def test_tutorials_lead_to_their_notebooks(site):
    def links(url):
        config = SimpleNamespace(repo_url=url)
        return site("hooks").on_page_markdown(
            "# T\n\nx", page("tutorials/d2l_way.md"), config, None
        )

    assert "# T\n\n[This page as a notebook](d2l_way.ipynb)" in links("")
    assert "colab" not in links("")
    address = "https://colab.research.google.com/github/a/b/blob/main/docs/tutorials/d2l_way.ipynb"
    assert f"[open it in Colab]({address})" in links("https://github.com/a/b")


def test_equations_are_mathml(site):
    html = r'<p><span class="arithmatex">\(x^2\)</span></p><div class="arithmatex">\[y\]</div>'
    made = site("hooks").on_page_content(html, None, None, None)
    assert made.count("<math") == 2
    assert "<msup>" in made
    assert 'display="block"' in made
    assert "arithmatex" not in made
    less = r'<span class="arithmatex">\(x &lt; y\)</span>'
    made = site("hooks").on_page_content(less, None, None, None)
    assert "<mo>&#x0003C;</mo>" in made  # one sign, not the letters of its escape


def test_pages_in_vietnamese_say_so(site):
    html = '<html lang="en" class="no-js">'
    assert 'lang="vi"' in site("hooks").on_post_page(html, page("vi/index.md"), None)
    assert site("hooks").on_post_page(html, page("index.md"), None) == html


def test_no_link_leaves_the_folder():
    for path in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if not re.match(r"https?://|mailto:", target):
                assert (path.parent / target).resolve().is_relative_to(DOCS), f"{path}: {target}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / ".mkdocs.yml").read_text(encoding="utf-8")
    for path in DOCS.rglob("*.md"):
        assert path.relative_to(DOCS).as_posix() in navigation, path


# -- notebooks


TUTORIALS = sorted(path.stem for path in (DOCS / "tutorials").glob("*.md"))


@pytest.mark.parametrize("name", TUTORIALS)
def test_notebooks_are_their_pages(site, name):
    pytest.importorskip("jupytext")
    written = (DOCS / "tutorials" / f"{name}.ipynb").read_text(encoding="utf-8")
    again = "python docs/site/notebooks.py writes it anew"
    assert json.loads(site("notebooks").text(name)) == json.loads(written), again


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_notebooks_run(site, name, tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DOCS / "tutorials"), str(ROOT)]))
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path))  # generated images
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(DOCS / "tutorials" / f"{name}.ipynb"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "generated images instead" in done.stdout


# in a process of its own: the client's loop and sockets warn when pytest takes them down
EXECUTE = """
import sys
import nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
where = {"metadata": {"path": sys.argv[2]}}
nbclient.NotebookClient(notebook, timeout=240, resources=where).execute()
cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
print("".join(output.get("text", "") for cell in cells for output in cell.outputs))
"""
