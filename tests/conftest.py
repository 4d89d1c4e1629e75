"""What every test runs under: a fixed seed, poisoned fresh memory, and global state left alone."""

from __future__ import annotations

import contextlib
import os
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import cudasim
import numpy as np
import pytest
from gpu import CUDA, REAL, gpu
from harness import on

import minires as mr
from minires import ops
from minires.device import _backend, array_module, cupy
from minires.errors import DeviceError
from minires.memory import allocate


class _PoisonedNumPy:
    """NumPy, but fresh memory comes full of NaN: an output entry that a kernel forgets to write
    is then seen, whatever was in memory before."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def empty(*args, **options):
        return _poison(np.empty(*args, **options))

    @staticmethod
    def empty_like(*args, **options):
        return _poison(np.empty_like(*args, **options))


def _poison(array):
    if array.dtype.kind in "fc":
        array.fill(np.nan)
    return array


@pytest.fixture(autouse=True, scope="session")
def _poisoned_memory():
    """Outputs are allocated in op.py, by the array module or by allocate: poison both.

    NumPy itself stays as it is, since Numba looks up its functions while it compiles.
    """
    poisoned = _PoisonedNumPy()

    def poisoned_module(array):
        module = array_module(array)
        return poisoned if module is np else module

    def poisoned_allocate(*args):
        return _poison(allocate(*args))

    with pytest.MonkeyPatch.context() as patch:
        for path in Path(ops.__file__).parent.glob("*/op.py"):
            module = import_module(f"minires.ops.{path.parent.name}.op")
            if path.parent.name == "update":  # has no outputs: it changes arrays in place
                continue
            assert "array_module" in vars(module) or "allocate" in vars(module)
            for name, stand_in in (
                ("array_module", poisoned_module),
                ("allocate", poisoned_allocate),
            ):
                if name in vars(module):
                    patch.setattr(module, name, stand_in)
        yield


@pytest.fixture(autouse=True)
def _global_state():
    """Start from one seed, and fail a test that leaves a mode changed."""
    mr.manual_seed(0)
    yield
    assert mr.is_grad_enabled(), "the test left gradients disabled"
    assert _backend.get().value == "auto", "the test left another backend set"


@pytest.fixture(params=["numpy", "auto"])
def backend(request):
    """Each test once on the references and once on the fast kernels."""
    with mr.backend(request.param):
        yield request.param


@pytest.fixture(params=["numpy", "auto", CUDA])
def anywhere(request):
    """Each test on the references, on the fast kernels, and on a GPU."""
    if request.param == "cuda":
        with gpu(), on("cuda"):
            yield request.param
    else:
        with mr.backend(request.param):
            yield request.param


@pytest.fixture(params=[CUDA])
def on_gpu(request):
    """Tests of a GPU alone."""
    with gpu(), on("cuda"):
        yield request.param


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    """Each test on the CPU and on a GPU."""
    with gpu() if request.param == "cuda" else contextlib.nullcontext(), on(request.param):
        yield request.param


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config):
    """Folders of tests are shared out over the cores, four at most: compilers take most of the
    time, and have one thread each. Single files run here, as does what has one process by its
    nature: a debugger, a terminal, a GPU."""
    # Tests start hundreds of interpreters: what one has compiled the others read.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in ("COLUMNS", "LINES"):  # readline gives the terminal's size to all processes
        os.environ.pop(name, None)
    option = config.option
    if (
        not config.pluginmanager.hasplugin("xdist")
        or hasattr(config, "workerinput")  # this is one of the processes
        or (option.numprocesses, option.dist, option.tx) != (None, "no", [])  # -n says how many
        or (option.usepdb, option.collectonly, option.capture) != (False, False, "fd")
        or option.markexpr == "gpu"
        or not any(Path(argument).is_dir() for argument in config.args)
    ):
        return
    option.numprocesses, option.dist = "logical", "worksteal"
    option.maxprocesses = option.maxprocesses or 4
    # Threads of one process that wait leave the cores to the others.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_terminal_summary(terminalreporter):
    """How much of tests/parity agreed; here, since only this file is read by the process that
    shares out the tests."""
    passed = [
        report.nodeid
        for report in terminalreporter.stats.get("passed", [])
        if report.nodeid.startswith("tests/parity/") and "[" in report.nodeid
    ]
    refused = sum("refuse" in nodeid.partition("[")[0] for nodeid in passed)
    if passed:
        terminalreporter.write_line(
            f"parity: {len(passed) - refused:,} cases agree with PyTorch, "
            f"{refused:,} wrong calls are refused"
        )


def pytest_collection_modifyitems(config, items):
    """On a GPU a test runs the cases that its mark ``gpu_cases`` leaves: kernels are compiled for
    each of them, and simulated where there is no GPU."""
    if config.option.markexpr == "gpu" and not REAL:
        try:
            cupy()
        except DeviceError as error:
            pytest.exit(f"-m gpu: {error}", pytest.ExitCode.NO_TESTS_COLLECTED)
    dropped = []
    for item in items:
        mark = item.get_closest_marker("gpu_cases")
        if mark is None or "cuda" not in item.callspec.params.values():
            continue
        only, without = mark.kwargs.get("only", ("",)), mark.kwargs.get("without", ())
        case = f"-{item.callspec.id}-"
        if not any(f"-{name}" in case for name in only) or any(f"-{n}-" in case for n in without):
            dropped.append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """``pytest -m gpu`` needs NumPy, Numba and CuPy alone: files of tests that need something else
    are skipped there where it is missing."""
    report = yield
    missing = re.search(r"No module named '(\w+)", str(report.longrepr)) if report.failed else None
    if missing and collector.config.option.markexpr == "gpu" and not find_spec(missing[1]):
        report.outcome = "skipped"
        report.longrepr = str(collector.path), None, f"Skipped: needs {missing[1]}"
    return report


@pytest.fixture(autouse=True)
def _numpys_warnings_are_on():
    yield
    assert np.geterr()["over"] == "warn", "the test left NumPy's warnings switched off"


@pytest.fixture(params=[CUDA] if REAL else cudasim.ALL_CONDITIONS, ids=str)
def conditions(request):
    """Tests of kernels: on a GPU, or in the simulator with its threads in several orders, and once
    with every access to memory looked at."""
    with gpu(), on("cuda"), contextlib.nullcontext() if REAL else cudasim.running(request.param):
        yield
