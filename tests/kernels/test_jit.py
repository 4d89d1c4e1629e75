"""Compiling and launching: the cache, threads, concurrent callers, forked children."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from harness import arrays, raises

import minires as mr
from minires.errors import ArgumentError
from minires.kernels import jit


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cache_is_where_it_is_said_and_used_again(tmp_path):
    code = (
        "import numpy as np\n"
        "from minires.ops.relu.kernel_numba import _fwd, relu_fwd\n"
        "relu_fwd(np.ones(3), np.ones(3))\n"
        "stats = _fwd.compiled.stats\n"
        "print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))\n"
    )
    assert run_python(code, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["0", "1"]
    assert list(tmp_path.glob("minires-*/**/*.nbc"))
    assert run_python(code, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["1", "0"]


def test_other_peoples_kernels_keep_their_cache():
    code = (
        "import numba\n"
        "before = numba.config.CACHE_DIR\n"
        "import minires.ops.relu.kernel_numba\n"
        "print(numba.config.CACHE_DIR == before)\n"
    )
    assert run_python(code).strip() == "True"


def test_the_environment_is_left_as_it_was():
    code = (
        "import os\n"
        "import minires as mr\n"
        "mr.relu(mr.ones(3))\n"
        "print(os.environ.get('OMP_WAIT_POLICY'))\n"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=True
    )
    assert done.stdout.strip() == "None"


@pytest.mark.parametrize("first", ["mr.get_num_threads()", "mr.set_num_threads(1)", "describe()"])
def test_threads_start_patient_whoever_starts_them(first):
    """The variable is set while libgomp is loaded, which is when it is read, and gone after."""
    code = (
        "import os, sys\n"
        "import minires as mr\n"
        "from minires.environment import describe\n"
        "from minires.kernels import jit\n"
        "seen = []\n"
        "real = jit.numba.get_num_threads\n"
        "def spy():\n"
        "    seen.append(os.environ.get('OMP_WAIT_POLICY'))\n"
        "    return real()\n"
        "jit.numba.get_num_threads = spy\n"
        f"{first}\n"
        "print(seen[0], os.environ.get('OMP_WAIT_POLICY'))\n"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=True
    )
    assert done.stdout.split() == ["PASSIVE", "None"]


def test_a_cache_that_cannot_be_written_is_mentioned(tmp_path):
    (tmp_path / "file").write_text("")
    code = "import minires as mr; mr.relu(mr.ones(2)); print('done')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file")},
        check=True,
    )
    assert done.stdout.strip() == "done"
    assert "cannot be kept in" in done.stderr
    assert "NUMBA_CACHE_DIR" in done.stderr


def test_many_threads_may_call_kernels_at_once():
    x, w = arrays((3, 4, 9, 8), (5, 4, 3, 3))
    expected = mr.conv2d(mr.tensor(x), mr.tensor(w), padding=1).data

    def work(_):
        tensors = [mr.tensor(v, requires_grad=True) for v in (x, w)]
        y = mr.conv2d(*tensors, padding=1)
        y.relu().sum().backward()
        return y.detach().data, tensors[1].grad.data

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(64)))
    for y, gw in results:
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(gw, results[0][1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("first", ["mr.relu(mr.ones(3))", "mr.get_num_threads()"])
def test_a_forked_child_gets_an_error_and_not_a_hang(first):
    code = (
        "import os, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "import minires as mr\n"
        f"{first}\n"
        "import numba\n"
        "layer = numba.threading_layer()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        mr.relu(mr.ones(3))\n"
        "        print('worked', flush=True)\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "mr.relu(mr.ones(3))\n"
        "print(layer)\n"
    )
    said, layer = run_python(code).splitlines()
    if layer == "omp":
        assert "a fork of it" in said
        assert "spawn" in said
    else:
        assert said == "worked"


def test_threads_are_set_and_checked():
    before = mr.get_num_threads()
    try:
        mr.set_num_threads(1)
        assert mr.get_num_threads() == 1
    finally:
        mr.set_num_threads(before)
    for wrong in (0, -1, 10**6, 1.5):
        with raises(ArgumentError, "set_num_threads: expected 1 to", str(wrong)):
            mr.set_num_threads(wrong)


def test_the_cache_folder_follows_the_shared_code(monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "somewhere")
    assert str(jit.cache_folder()).startswith("somewhere")
    assert jit.cache_folder().name.startswith("minires-")
