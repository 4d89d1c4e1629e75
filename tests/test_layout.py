"""The house rules: where things are, what imports what, one signature for all kernels."""

from __future__ import annotations

import ast
import functools
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minires"
BENCHMARKS = ROOT / "benchmarks"
OPS = sorted(p.parent.name for p in (PACKAGE / "ops").glob("*/op.py"))

# From the ground up; each may import those before it, and its own.
STOREYS = [
    {
        "errors",
        "forks",
        "arguments",
        "files",
        "interrupts",
        "mode",
        "starting",
        "notebook",
        "version",
        "ieee",
        "texttable",
        "ranges",
        "markup",
    },
    {"find_cupy"},
    {"device", "random", "precision", "cuda"},
    {"accelerator"},
    {"memory", "autograd"},
    {"kernels"},
    {"anomaly", "watcher", "profiler"},
    {"tensor", "creation"},
    {"distributed"},
    {"ops"},
    {"fusion", "derivatives"},
    {"nn", "optim", "data", "environment", "report", "bars", "streams"},
    {"captured"},
    {"models", "interop"},
    {"vision", "utils"},
    {"train"},
    {"gradcheck", "show"},
    {"identity"},
    {"selfcheck"},
    {"study", "console", "facts"},
    {"cli", "__main__", "pytest_plugin"},
]
# Above all of minires: what is measured; the harness; what is compared; scripts.
BENCHMARK_STOREYS = [
    {"benchmarks.shapes", "benchmarks.floors", "benchmarks.gpu_floors"},
    {"benchmarks.harness"},
    {"benchmarks.versus", "benchmarks.ops", "benchmarks.cubin"},
    {"benchmarks"},
]
CORE = ("errors", "mode", "device", "random", "autograd", "tensor")

# What is still to be untangled, and nothing else: who removes one removes it here.
KNOWN_CIRCLES: set[tuple[str, ...]] = set()
KNOWN_UPWARD: set[tuple[str, str]] = set()


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    """The part of the package that a file belongs to: ``ops`` for ``minires/ops/shape.py``."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def dotted(path):
    """``minires.ops.shape`` for ``minires/ops/shape.py``, ``minires.ops`` for its __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def import_graph():
    """{module: modules it imports}, at the top, inside functions and for types, in minires and
    in the benchmarks. ``from package import name`` is an import of ``package.name`` where that
    is a module, else of the package's __init__."""
    paths = {dotted(path): path for path in [*modules(), *sorted(BENCHMARKS.rglob("*.py"))]}

    def known(name, importer):
        """The module's full name. Benchmarks name one another as the scripts they are."""
        for full in (name, f"benchmarks.{name}") if importer.startswith("bench") else (name,):
            if full in paths:
                return full
        return None

    graph = {}
    for name, path in paths.items():
        package = (name if path.name == "__init__.py" else name.rpartition(".")[0]).split(".")
        graph[name] = found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {known(alias.name, name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                found |= {
                    known(f"{base}.{alias.name}", name) or known(base, name) for alias in node.names
                }
        found.discard(None)
    return graph


def circles(graph):
    """Modules that import one another, each circle sorted: the strongly connected components of
    more than one module, and modules that import themselves (Tarjan, 1972)."""
    number, lowest, path, found = {}, {}, [], []

    def visit(module):
        number[module] = lowest[module] = len(number)
        path.append(module)
        for other in graph.get(module, ()):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in path:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            start = path.index(module)
            circle, path[start:] = tuple(sorted(path[start:])), []
            if len(circle) > 1 or module in graph.get(module, ()):
                found.append(circle)

    for module in sorted(graph):
        if module not in number:
            visit(module)
    return found


def room_of(module):
    """``minires.ops`` for ``minires.ops.shape``, ``benchmarks`` for ``benchmarks.busy``."""
    name = ".".join(module.split(".")[:2])
    if name.startswith("benchmarks") and name not in set().union(*BENCHMARK_STOREYS):
        return "benchmarks"
    return name


def room_graph():
    rooms = {}
    for module, others in import_graph().items():
        rooms.setdefault(room_of(module), set()).update(map(room_of, others))
    return {name: others - {name} for name, others in rooms.items()}


def heights():
    """{room: storey}. ``import minires`` itself, which names all, is for the top storey only."""
    storeys = [{f"minires.{name}" for name in names} for names in STOREYS]
    storeys = [*storeys[:-1], {"minires"}, storeys[-1], *BENCHMARK_STOREYS]
    return {name: level for level, names in enumerate(storeys) for name in names}


def upward():
    """Imports of a room above one's own: (importing module, imported module)."""
    height = heights()
    return [
        (module, other)
        for module, others in sorted(import_graph().items())
        for other in sorted(others)
        if height[room_of(other)] > height[room_of(module)]
    ]


def test_every_room_has_its_storey():
    missing = {room_of(module) for module in import_graph()} - set(heights())
    assert not missing, f"{missing} have no storey: add them to STOREYS"


def test_imports_point_downward():
    assert set(upward()) == KNOWN_UPWARD


def test_no_module_imports_in_a_circle():
    assert set(circles(import_graph())) == KNOWN_CIRCLES


def test_no_room_imports_in_a_circle():
    """Not even through different modules: of two rooms, one is the lower."""
    assert circles(room_graph()) == []


def test_circles_are_found():
    graph = {
        "a": {"b"},
        "b": {"c"},
        "c": {"a", "d"},
        "d": {"e"},
        "e": {"d"},
        "f": {"f"},
        "g": {"a"},
    }
    assert sorted(circles(graph)) == [("a", "b", "c"), ("d", "e"), ("f",)]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_all_kinds_of_imports_are_seen():
    graph = import_graph()
    assert "minires.autograd" in graph["minires.tensor"]  # at the top: a name of the package
    assert "minires.ops" in graph["minires"]  # relative
    assert "minires.nn.summary" in graph["minires"]  # under TYPE_CHECKING
    assert "minires.cli" in graph["benchmarks.plain_vs_residual"]
    assert "benchmarks.harness" in graph["benchmarks.versus.steps"]  # by the name scripts have
    assert "minires.ops.conv2d.op" in graph["benchmarks.ops.bench_conv2d"]  # in a function


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


REFERENCES = """
import importlib, sys
sys.modules |= dict.fromkeys(["numba", "llvmlite"])  # importing either is an error
for op in sys.argv[1:]:
    try:
        importlib.import_module(f"minires.ops.{op}.kernel_numpy")
        print(op, "needs nothing")
    except ImportError as error:
        print(op, error)
"""


@pytest.fixture(scope="module")
def references():
    """{operation: what importing its reference kernel needs}, in a clean interpreter in which
    neither Numba nor llvmlite can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", REFERENCES, *OPS], capture_output=True, text=True, check=True
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("op", OPS)
def test_a_reference_kernel_loads_no_compiler(op, references):
    assert references[op] == "needs nothing"


@pytest.mark.parametrize("name", CORE)
def test_core_names_no_operation(name):
    paths = [p for p in modules() if room(p) == name]
    assert paths
    for path in paths:
        assert "minires.ops" not in set(map(room_of, import_graph()[dotted(path)]))
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
    assert OPS == [
        "avg_pool2d",
        "batch_norm",
        "conv2d",
        "cross_entropy",
        "max_pool2d",
        "relu",
        "update",
    ]


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


if __name__ == "__main__":
    print(f"modules: {len(import_graph())}, rooms: {len(room_graph())}")
    for title, found in (
        ("circles of modules", [" <-> ".join(circle) for circle in circles(import_graph())]),
        ("circles of rooms", [" <-> ".join(circle) for circle in circles(room_graph())]),
        ("imports that run up", [" -> ".join(pair) for pair in upward()]),
    ):
        print(f"{title}: {len(found) or 'none'}", *found, sep="\n  ")
