"""The pytest plugin: the fixture, the added tests, and runs that want neither."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from minires.kernels.numba.compiler import cache_folder

pytest_plugins = ["pytester"]

KERNELS = str(cache_folder().parent)
# Runs are processes of their own: what a run inside this one imports, later tests would lose.
OURS = ("-p", "minires.pytest_plugin", "-p", "no:cacheprovider", "-W", "error")


@pytest.fixture(autouse=True)
def _compiled_kernels(pytester, monkeypatch):
    """pytester gives its runs another home; they need not compile everything again."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", KERNELS)


USER_TESTS = """
import minires as mr

class Wrong(mr.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gy):
        return gy * 2.002

def inputs():
    return [mr.tensor([0.5, -1.5], dtype="float64", requires_grad=True)]

def test_right(gradcheck):
    assert gradcheck(mr.tanh, inputs(), second_order=True).ok

def test_wrong(gradcheck):
    gradcheck(Wrong.apply, inputs(), names=["x"])

def test_module(gradcheck):
    report = gradcheck(mr.nn.Linear(2, 3), mr.randn(4, 2, requires_grad=True), second_order=True)
    assert report.ok
"""


@pytest.mark.slow
def test_fixture_fails_with_the_text_of_the_report(pytester):
    pytester.makepyfile(USER_TESTS)
    result = pytester.runpytest_subprocess(*OURS)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            '>       gradcheck(Wrong.apply, inputs(), names=[[]"x"[]])',
            "E       minires.errors.GradcheckError: Wrong on numba: the gradient is wrong",
            "E       x [[]2[]]: 2 of 4 entries disagree",
            "*ratio 1.001*",
        ]
    )
    result.stdout.no_fnmatch_line("*raise GradcheckError*")


@pytest.mark.slow
def test_the_catalogue_as_tests(pytester):
    pytester.makepyfile("def test_of_the_user(): pass")
    result = pytester.runpytest_subprocess(
        *OURS, "-v", "--minires-gradcheck", "-k", "relu or OptionA or user"
    )
    result.stdout.fnmatch_lines(
        [
            "*of_the_user PASSED*",
            "minires::gradcheck[[]relu-numpy[]] PASSED*",
            "minires::gradcheck[[]relu-numba[]] PASSED*",
        ]
    )
    outcomes = result.parseoutcomes()
    # relu and ReLU on two backends, their leaky kin and OptionA on one, and the user's
    assert outcomes["passed"] == 8
    assert outcomes["deselected"] > 50
    result.stdout.fnmatch_lines(
        [f"*collected {outcomes['passed'] + outcomes['deselected']} items*"]
    )


WRONG_KERNEL = """
from minires.device import _kernel_module

kernel = _kernel_module("max_pool2d", "numba")
good = kernel.max_pool2d_bwd_x

def bad(gy, index, gx, geometry):
    good(gy, index, gx, geometry)
    gx *= -1

kernel.max_pool2d_bwd_x = bad
"""

MISSING_KERNEL = """
import sys

from minires.errors import KernelMissing

def missing(op, name):
    raise KernelMissing(f"{op}: no kernel for {name}")

sys.modules["minires.device"]._kernel_module = missing
"""


@pytest.mark.slow
def test_a_wrong_gradient_is_a_failing_test(pytester):
    pytester.makeconftest(WRONG_KERNEL)
    result = pytester.runpytest_subprocess(*OURS, "--minires-gradcheck", "-k", "max_pool2d")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (1, 1)
    result.stdout.fnmatch_lines(["max_pool2d, 2x2 on numba: the gradient is wrong"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.slow
def test_a_missing_kernel_is_a_skipped_test(pytester):
    pytester.makeconftest(MISSING_KERNEL)
    result = pytester.runpytest_subprocess(
        *OURS, "-rs", "--minires-gradcheck", "-k", "max_pool2d-numpy"
    )
    assert result.parseoutcomes()["skipped"] == 1
    result.stdout.fnmatch_lines(["SKIPPED*max_pool2d: no kernel for numpy*"])


def test_other_peoples_runs_load_neither_kernels_nor_the_checker(pytester):
    pytester.makepyfile(
        "import sys\n"
        "def test_it():\n"
        "    heavy = {'minires.gradcheck', 'minires.selfcheck', 'matplotlib', 'numba'}\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    result = pytester.runpytest_subprocess(*OURS, "-p", "no:hypothesispytest")
    assert result.ret == 0
    result.assert_outcomes(passed=1)


def test_the_plugin_is_registered_on_installation():
    root = Path(__file__).parent.parent
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert config["project"]["entry-points"]["pytest11"] == {
        "minires.pytest_plugin": "minires.pytest_plugin"
    }
