"""The reading order keeps its word: its numbers of lines, and what the afternoon leaves for later.

Its two tables list files with what to read of them, ``all`` or names of definitions, and the
number of lines. ``python tests/test_reading_order.py`` writes the numbers anew.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from test_layout import import_graph

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reading_order.md"
ROW = re.compile(r"^\| `([\w/.]+)` \| (.+?) \| ([\d,]+) \|$", re.MULTILINE)
TOTAL = re.compile(r"^\| \*\*(.+?)\*\* \| \| \*\*([\d,]+)\*\* \|$", re.MULTILINE)
SECOND_DAY = ("minires.fusion", "minires.captured", "minires.kernels.numba", "minires.kernels.cuda")


def parts():
    """The page's two parts: the afternoon and the second day."""
    first, second = PAGE.read_text(encoding="utf-8").split("\n# Part ")[1:]
    return {"The afternoon": first, "The second day": second}


def lines(path, what):
    """How many lines of a file are to be read: all, or its docstring and these definitions."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if what == "all":
        return len(text.splitlines())
    docstring, *statements = ast.parse(text).body
    sizes = {}
    for node in statements:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            sizes[node.name] = node.end_lineno - first + 1
    return docstring.end_lineno + sum(sizes[name] for name in re.findall(r"`(\w+)`", what))


def number(text):
    return int(text.replace(",", ""))


@pytest.mark.parametrize("part", ["The afternoon", "The second day"])
def test_the_lines_are_counted(part):
    rows = ROW.findall(parts()[part])
    assert len(rows) > 10
    for path, what, told in rows:
        counted = lines(path, what)
        stale = f"{path} has {counted}: python tests/test_reading_order.py writes it"
        assert abs(number(told) - counted) <= max(5, counted // 20), stale
    (name, total), *others = TOTAL.findall(parts()[part])
    assert not others
    assert name == part
    assert number(total) == sum(number(told) for _, _, told in rows)


def test_an_afternoon_is_enough():
    afternoon, second = (number(TOTAL.findall(part)[0][1]) for part in parts().values())
    assert 2_000 < afternoon < 2_700
    assert f"about {round(afternoon, -2):,} lines" in PAGE.read_text(encoding="utf-8")
    architecture = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert f"about {round(afternoon, -2):,} lines for the afternoon" in architecture
    assert f"about {round(second, -2):,} for the second day" in architecture
    assert f"{round(afternoon, -2):,} lines" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_afternoon_needs_nothing_of_the_second_day():
    graph = import_graph()
    for path, _, _ in ROW.findall(parts()["The afternoon"]):
        module = path.removesuffix(".py").replace("/", ".")
        later = [name for name in graph[module] if name.startswith(SECOND_DAY)]
        assert not later, f"{path} imports {later}"


def write():
    """Write the numbers of lines anew, in the rows and in the totals."""
    page = PAGE.read_text(encoding="utf-8")
    for part in parts().values():
        new = ROW.sub(lambda m: f"| `{m[1]}` | {m[2]} | {lines(m[1], m[2]):,} |", part)
        total = sum(number(told) for _, _, told in ROW.findall(new))
        new = TOTAL.sub(lambda m, total=total: f"| **{m[1]}** | | **{total:,}** |", new)
        page = page.replace(part, new)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write()
