"""The pages keep their word: their code runs, their commands parse, their links lead somewhere.

Three rules for the ```python blocks of a page, which run in order, in one namespace, in a new
folder, in an interpreter of their own where a warning is an error:

* there is no way to opt out of being run;
* a line ``print(...)  # text`` must print that text (``...`` stands for anything) if what it
  prints is one line;
* a block whose first line is a comment with a file name, ``# ops/softplus/op.py``, is that file:
  it is written to the folder instead of being run, and later blocks can import it. So is a ```cpp
  block with ``// ops/softplus/kernel_cuda.cu``.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import minires

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks/README.md",
]
LANGUAGES = {"python", "bash", "text", "cpp"}
NEEDS = {"docs/export.md": ("onnx", "onnxruntime")}  # packages of the extra "parity"

RUNNER = r"""
import ast, contextlib, doctest, io, json, sys, tokenize

blocks = json.load(sys.stdin)
names = {"__name__": "__page__"}
check = doctest.OutputChecker().check_output
for page, source in blocks:
    comments = {
        token.start[0]: token.string.lstrip("# ") + "\n"
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for statement in ast.parse(source).body:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module([statement], []), page, "exec"), names)
        got, want = printed.getvalue(), comments.get(statement.end_lineno)
        is_print = ast.unparse(statement).startswith("print(")
        if is_print and want and got.count("\n") == 1:
            if not check(want, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE):
                sys.exit(f"{page}:{statement.lineno}: expected {want!r}, printed {got!r}")
"""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """The fenced blocks of a page: line of the first line in it, language, content."""
    for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        yield text.count("\n", 0, match.start(2)) + 1, match.group(1).strip(), match.group(2)


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*\n(?:.*\n)*?```$", "", text, flags=re.MULTILINE)


def run_page(text: str, name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page's python blocks, as the rules above say."""
    import json

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    to_run = []
    for line, language, content in blocks(text):
        if language not in ("python", "cpp"):
            continue
        file = re.match(r"(?:#|//) ([\w/]+\.(?:py|cu))\n", content)
        if file:
            path = folder / file.group(1)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            # kernels of a file that is gone tomorrow do not belong into the user's cache
            environment["NUMBA_CACHE_DIR"] = str(folder / "cache")
        elif (
            language == "python"
        ):  # empty lines in front, so that a traceback names the page's own line
            to_run.append((name, "\n" * (line - 1) + content))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER],
        input=json.dumps(to_run),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    for package in NEEDS.get(name_of(page), ()):
        pytest.importorskip(package)
    done = run_page(page.read_text(encoding="utf-8"), name_of(page), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print(1 + 1)  # 3", "page.md:3: expected '3\\n', printed '2\\n'"),
        ("import warnings\nwarnings.warn('old')", "UserWarning: old"),
        ("x = 1\n```\n\n```python\nassert x == 2", 'page.md", line 7'),
    ],
)
def test_a_wrong_block_is_found(body: str, words: str, tmp_path: Path) -> None:
    done = run_page(f"# Page\n```python\n{body}\n```\n", "page.md", tmp_path)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_known_language(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") % 2 == 0, "a block is not closed"
    assert {language for _, language, _ in blocks(text)} <= LANGUAGES


# -- commands ----------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every ``minires ...`` in the bash blocks."""
    for _, language, content in blocks(text):
        if language == "bash":
            for line in content.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|;|\|", line):
                    words = shlex.split(part, comments=True)
                    if words and Path(words[0]).name == "minires":
                        yield words[1:]


def parse(arguments: list[str]) -> None:
    """Parse a command line without running it; raises what the command line would show."""
    import typer

    from minires.cli import app

    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and arguments and arguments[0] in command.commands:
        command, arguments = command.commands[arguments[0]], arguments[1:]
    assert not hasattr(command, "commands"), f"no such command: minires {shlex.join(arguments)}"
    command.make_context("minires", list(arguments))


COMMANDS = [
    pytest.param(arguments, id=f"{name_of(page)}: minires {shlex.join(arguments)}")
    for page in PAGES
    for arguments in commands(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_commands_parse(arguments: list[str]) -> None:
    parse(arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["depht"], "depht"),
        (["depth", "--layers", "8"], "--layers"),
        (["depth", "--epochs", "many"], "valid integer"),
    ],
)
def test_a_wrong_command_is_found(arguments: list[str], words: str) -> None:
    with pytest.raises(Exception, match=words):
        parse(arguments)


def test_the_main_commands_are_documented() -> None:
    shown = {arguments[0] for parameter in COMMANDS for arguments in [parameter.values[0]]}
    assert {"depth", "train", "data", "info"} <= shown


# -- links -------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = prose(page.read_text(encoding="utf-8"))
    return {slug(match.strip()) for match in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    for path in re.findall(r"`((?:minires|docs|tests|benchmarks)/[\w./]*)`", text):
        assert (ROOT / path).exists(), f"{name_of(page)} names {path}"


def test_readme_and_help_give_one_duration() -> None:
    import minires.cli

    told = re.compile(r"On two idle cores it takes .*? are compiled\.")
    texts = [(ROOT / "README.md").read_text(encoding="utf-8"), minires.cli.depth.__doc__ or ""]
    found = [told.search(" ".join(text.split())) for text in texts]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0][0] == found[1][0]


def test_the_page_counts_the_gradient_checks() -> None:
    from minires import selfcheck

    page = (ROOT / "docs/gradient_checks.md").read_text(encoding="utf-8")
    count = len(selfcheck.plan(device="cpu").jobs)
    assert f"\nAll {count} cases hold on numpy and numba:" in page, "take over a new run"


def test_every_page_can_be_reached() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                waiting.append((page.parent / target).resolve())
    assert set(PAGES) <= reached


def test_pictures_are_small() -> None:
    pictures = sorted((ROOT / "docs/images").iterdir())
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name


# -- public docstrings -------------------------------------------------------------------------

PUBLIC = (
    *("minires", "minires.nn", "minires.nn.functional", "minires.nn.init", "minires.optim"),
    *("minires.data", "minires.models", "minires.train", "minires.interop", "minires.study"),
    "minires.gradcheck",
)
FROM_PAPERS = (
    *("conv2d", "conv_transpose2d", "batch_norm", "layer_norm", "group_norm"),
    "cross_entropy",
)


def public_docstrings() -> dict[str, str]:
    """What ``help`` shows of every public function, class and method, by name."""
    found = {}
    for module in map(importlib.import_module, PUBLIC):
        for name in dir(module):
            thing = getattr(module, name)
            own = str(getattr(thing, "__module__", "")).startswith("minires")
            if name.startswith("_") or not callable(thing) or not own:
                continue
            found[f"{module.__name__}.{name}"] = inspect.getdoc(thing) or ""
            if inspect.isclass(thing):
                for method, value in vars(thing).items():
                    if not method.startswith("_"):
                        found[f"{module.__name__}.{name}.{method}"] = inspect.getdoc(value) or ""
    return found


def test_public_docstrings_stand_alone() -> None:
    """`help()` shows a docstring, and not the file that it stands in."""
    docstrings = public_docstrings()
    assert len(docstrings) > 300
    elsewhere = re.compile(
        r"this file|top of (this|the) (file|module)|(formulas?|see) (above|below)"
    )
    assert not [name for name, text in docstrings.items() if elsewhere.search(text)]


@pytest.mark.parametrize("name", FROM_PAPERS)
def test_operations_give_formula_and_source(name: str) -> None:
    text = inspect.getdoc(getattr(minires.ops, name)) or ""
    assert re.search(r"::\n\n +\S.* \+?= ", text), "a formula"
    assert re.search(r"\b(19|20)\d\d\b", text), "a source with its year"


# -- examples in docstrings --------------------------------------------------------------------

MODULES = ["minires", *(m.name for m in pkgutil.walk_packages(minires.__path__, "minires."))]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(module, optionflags=flags)
    assert result.failed == 0, capsys.readouterr().out
