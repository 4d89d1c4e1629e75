"""The house rules: where things are, what imports what, one signature for all kernels."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minires"
OPS = sorted(p.parent.name for p in (PACKAGE / "ops").glob("*/op.py"))

# From the ground up; each may import those before it, and its own.
STOREYS = [
    {"errors", "forks", "arguments", "files", "mode", "starting", "notebook"},
    {"device", "random", "autograd", "cuda"},
    {"tensor", "creation", "draws"},
    {"kernels", "ops"},
    {"derivatives"},
    {"nn", "optim", "data", "utils", "environment", "html", "drawing", "streams"},
    {"captured"},
    {"models", "train", "interop"},
    {"gradcheck"},
    {"study", "console"},
    {"cli", "__main__", "pytest_plugin"},
]
CORE = ("errors", "mode", "device", "random", "autograd", "tensor")


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    """The part of the package that a file belongs to: ``ops`` for ``minires/ops/shape.py``."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path):
    """Every module of minires that a file imports, at the top or inside functions."""
    package = ["minires", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                base = [*base, *(node.module.split(".") if node.module else [])]
            else:
                base = (node.module or "").split(".")
            if base[0] == "minires":
                yield from ([base[1]] if len(base) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "minires" and len(parts) > 1:
                    yield parts[1]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    own = room(path)
    if own == "__init__":
        return
    height = {name: level for level, names in enumerate(STOREYS) for name in names}
    assert own in height, f"{own} has no storey: add it to STOREYS"
    for other in imports(path):
        if other != own and other in height:
            assert height[other] <= height[own], f"{path.name} ({own}) imports {other} above it"


def test_the_storeys_are_the_documented_ones():
    """Each storey is one or two lines of the page, from the top down."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawn = [
        line[:36].split() for line in page.split("```text\n", 1)[1].split("\n```")[0].split("\n")
    ]
    rooms = [room for line in drawn for room in line]
    assert sorted(rooms) == sorted(set().union(*STOREYS) - {"__main__"})
    height = {name: level for level, names in enumerate(STOREYS) for name in names}
    assert [height[room] for room in rooms] == sorted((height[r] for r in rooms), reverse=True)


@pytest.mark.parametrize("name", CORE)
def test_core_names_no_operation(name):
    paths = [p for p in modules() if room(p) == name]
    assert paths
    for path in paths:
        assert "ops" not in set(imports(path))
        functions = {
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert not functions & {"conv2d", "relu", "add", "matmul", "batch_norm"}


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_its_files_test_and_benchmark(op):
    for name in ("__init__.py", "op.py", "kernel_numpy.py", "kernel_numba.py"):
        assert (PACKAGE / "ops" / op / name).exists(), f"{op} lacks {name}"
    assert (ROOT / "tests" / "ops" / f"test_{op}.py").exists()
    assert (ROOT / "benchmarks" / "ops" / f"bench_{op}.py").exists()


def kernels(op, backend):
    module = import_module(f"minires.ops.{op}.kernel_{backend}")
    return {
        name: list(inspect.signature(value).parameters)
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


@pytest.mark.parametrize("op", OPS)
def test_kernels_have_one_signature(op):
    reference = kernels(op, "numpy")
    assert reference, f"{op} has no kernels"
    assert kernels(op, "numba") == reference
    for name in reference:
        assert name.startswith(op), f"kernel {name} is not named after {op}"


def test_ops_are_these():
    assert OPS == ["avg_pool2d", "batch_norm", "conv2d", "cross_entropy", "max_pool2d", "relu"]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path):
    """A file is one room with one purpose. Raise a limit only with a reason."""
    limits = {
        "elementwise.py": 600,  # a list of one-line derivatives
        "tensor.py": 550,  # the class, and the ways to make one
    }
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limits.get(path.name, 500)


def test_no_assert_on_user_input_and_no_silent_except():
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno} catches everything"
                only = node.body[0]
                assert not isinstance(only, ast.Pass), f"{path}:{node.lineno} passes over an error"
