"""What `import minires` loads, in a clean interpreter, and how long it takes."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

HEAVY = [
    *("numba", "llvmlite", "cupy", "matplotlib", "jinja2", "PIL", "rich", "typer"),
    *("safetensors", "torch", "sklearn"),
]


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_nothing_heavy():
    code = f"import sys, minires; print([m for m in {HEAVY} if m in sys.modules])"
    assert run(code) == "[]"


def test_arrays_and_their_gradients_need_nothing_heavy():
    code = (
        "import sys, minires as mr\n"
        "x = mr.ones(2, requires_grad=True)\n"
        "(x.exp() * x[0] + mr.vjp(mr.tanh, mr.ones(2), mr.ones(2))[1]).sum().backward()\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_import_is_quick():
    code = (
        "import time, numpy\n"
        "start = time.perf_counter()\n"
        "import minires\n"
        "print(time.perf_counter() - start)"
    )
    assert statistics.median(float(run(code)) for _ in range(3)) < 1.0


def test_parts_are_imported_when_they_are_named():
    code = (
        "import sys, minires as mr\n"
        "assert 'minires.nn' not in sys.modules\n"
        "names = {'nn', 'optim', 'data', 'models', 'train', 'summary', 'Tensor', 'conv2d'}\n"
        "assert names <= set(dir(mr)), names - set(dir(mr))\n"
        "print(mr.nn.Linear.__name__, mr.nn is sys.modules['minires.nn'])\n"
        "try:\n"
        "    mr.no_such_name\n"
        "except AttributeError as error:\n"
        "    print(error)"
    )
    assert run(code).splitlines() == [
        "Linear True",
        "module 'minires' has no attribute 'no_such_name'",
    ]


def test_a_misspelt_name_gets_the_nearest():
    import minires as mr

    with pytest.raises(AttributeError, match="did you mean tensor"):
        mr.tensro  # noqa: B018
