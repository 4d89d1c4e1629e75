"""What contributors are told, what runs before a commit and what .ci/run checks are the same."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from importlib.metadata import version
from pathlib import Path

import minires as mr

ROOT = Path(__file__).resolve().parent.parent
CHECKERS = {"ruff", "mypy"}


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def hooks():
    """The command of each hook, in order."""
    return [
        shlex.split(line) for line in re.findall(r"entry: (.+)", text(".pre-commit-config.yaml"))
    ]


def steps():
    """The commands of ``.ci/run`` that are programs of its virtual environment, in order."""
    script = text(".ci/run").replace("\\\n", " ")
    lines = re.findall(r'^"\$bin/(\w+)"(.*)$', script, re.MULTILINE)
    return [[program, *shlex.split(rest)] for program, rest in lines]


def told():
    """The commands in the bash blocks of CONTRIBUTING.md."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_the_hooks_are_the_checks_of_the_whole_run():
    checks = [step for step in steps() if step[0] in CHECKERS]
    assert checks == [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]]
    assert hooks() == [*checks, ["pytest", "tests/test_layout.py"]]
    assert ["pytest"] in steps()  # the whole suite, the layout test with it


def test_hooks_need_no_network_and_look_at_everything():
    config = text(".pre-commit-config.yaml")
    assert re.findall(r"repo: (.+)", config) == ["local"]
    for setting in ("language: system", "pass_filenames: false", "always_run: true"):
        assert config.count(setting) == len(hooks())


def test_the_page_names_the_same_commands():
    assert all(hook in told() for hook in hooks())
    assert ["pytest", "-m", "not slow"] in told()
    assert ["pytest"] in told()


def test_extras_of_the_page_exist_and_bring_the_tools():
    project = tomllib.loads(text("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    install = next(line for line in told() if line[:2] == ["pip", "install"])
    for extra in re.search(r"\[(.*)\]", install[-1])[1].split(","):
        assert extra in extras
    tools = {re.match(r"[\w-]+", need)[0] for need in extras["dev"]}
    assert CHECKERS | {"pre-commit"} <= tools


def test_the_version_is_the_one_that_the_changelog_ends_with():
    names = re.findall(r"^## \[(.+?)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert names[:2] == ["Unreleased", mr.__version__]
    assert version("minires") == mr.__version__


def fast(path):
    """Names of the tests of a file that are not marked slow."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def slow(node):
        return any("mark.slow" in ast.unparse(decorator) for decorator in node.decorator_list)

    for node in tree.body:
        names = [ast.unparse(name) for name in getattr(node, "targets", [])]
        if names == ["pytestmark"] and "mark.slow" in ast.unparse(node.value):
            return []
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [node.name for node in tests if node.name.startswith("test_") and not slow(node)]


def test_the_fast_selection_touches_every_room():
    """Of each folder and of each operation's own file; crashes take long."""
    missing = set()
    for folder in (path for path in (ROOT / "tests").iterdir() if path.is_dir()):
        files = sorted(folder.glob("test_*.py"))
        if files and not any(map(fast, files)):
            missing.add(folder.name)
    assert missing <= {"crash"}
    for path in (ROOT / "minires/ops").glob("*/op.py"):
        assert len(fast(ROOT / f"tests/ops/test_{path.parent.name}.py")) > 3, path
    for name in ("fusion", "fusion_gradients"):
        assert len(fast(ROOT / f"tests/ops/test_{name}.py")) > 3
    assert len(fast(ROOT / "tests/test_cli.py")) > 3
