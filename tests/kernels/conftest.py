"""A module with one kernel, in a folder of its own, for interpreters with a cache of theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

MODULE = """
import numpy as np
from minires.kernels.numba.kernel import kernel


@kernel
def double(task, x, y, size):
    for i in range(task * size, task * size + size):
        y[i] = FACTOR * x[i]


def run(dtype="float32"):
    x, y = np.arange(6).astype(dtype), np.empty(6, dtype)
    double(3, x, y, 2)
    return y.tolist()
"""


class Interpreters:
    """Starts interpreters that can ``import doubling`` and keep kernels below ``cache``."""

    def __init__(self, folder, cache):
        self.folder, self.cache = folder, cache
        self.write(2)

    def write(self, factor):
        self.folder.joinpath("doubling.py").write_text(MODULE.replace("FACTOR", str(factor)))

    def run(self, code, check=True, **environment):
        unset = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "NUMBA_NUM_THREADS")
        inherited = {k: v for k, v in os.environ.items() if k not in unset}
        paths = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        settings = {"NUMBA_CACHE_DIR": str(self.cache), "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
            env={**inherited, **settings, **environment},
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """For all tests: their module is new to it, the loop over tasks need not be."""
    return tmp_path_factory.mktemp("kernels") / "cache"


@pytest.fixture
def python(tmp_path, cache):
    return Interpreters(tmp_path, cache)


@pytest.fixture
def python_alone(tmp_path):
    """With an empty cache."""
    return Interpreters(tmp_path, tmp_path / "cache")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    python = Interpreters(tmp_path_factory.mktemp("module"), tmp_path_factory.mktemp("cache"))
    python.run("import doubling\nfor dtype in ('float32', 'float64'): doubling.run(dtype)")
    return python


@pytest.fixture
def python_warm(compiled, tmp_path):
    """With a cache of its own that has ``double`` for both dtypes, and what launches it."""
    shutil.copytree(compiled.cache, tmp_path / "cache")
    return Interpreters(compiled.folder, tmp_path / "cache")
