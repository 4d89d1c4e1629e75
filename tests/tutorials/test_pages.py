"""A tutorial's page shows the code of its script, not a copy that has grown old.

That the blocks of the pages run is the business of tests/test_docs.py.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
SCRIPTS = {
    "pytorch_way": ["resnet_pytorch.py"],
    "d2l_way": ["d2l_way.py", "d2l_exercises.py"],
    "mnist_way": ["mnist_way.py"],
    "keras_way": ["keras_way.py"],
}


def definitions(source: str) -> dict[str, str]:
    """Functions, classes and CONSTANTS at the top of a source, with their text."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = ast.get_source_segment(source, node) or ""
        elif isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
            if name.isupper() and len(name) > 1:  # X is a batch
                found[name] = ast.get_source_segment(source, node) or ""
    return found


def shown(page: str) -> dict[str, str]:
    text = (TUTORIALS / f"{page}.md").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found |= definitions(block)
    return found


@pytest.mark.parametrize("page", SCRIPTS)
def test_what_a_page_shows_is_what_its_script_runs(page):
    written: dict[str, str] = {}
    for script in SCRIPTS[page]:
        written |= definitions((TUTORIALS / script).read_text(encoding="utf-8"))
    on_page = shown(page)
    assert len(on_page) >= 4
    for name, text in on_page.items():
        assert written.get(name) == text, f"{page}.md shows another {name} than its script has"


def test_the_plain_file_is_shown_whole():
    source = (TUTORIALS / "resnet_pytorch.py").read_text(encoding="utf-8")
    assert set(shown("pytorch_way")) == set(definitions(source))


def test_every_page_has_a_test_here():
    assert {path.stem for path in TUTORIALS.glob("*.md")} == set(SCRIPTS)
